// From a reading to boxes and links: each supernode once, each other pinned node once, and how much of the inputs of
// one comes from another.
import type { Supernode } from '../graph/core'
import type { GraphView, Kind } from '../view/view'
import { count, token } from './words'

/** What a diagram is made of; a Reading is one. */
export interface Circuit {
  view: GraphView
  pinned: readonly number[]
  supernodes: readonly Supernode[]
  name(id: number): string
}

export interface Box {
  /** Id of the supernode, or of the node: the key of `positions` in the notes. */
  key: string
  name: string
  kind: 'supernode' | Kind
  /** Ids of all members, and how many of them this view leaves out. */
  nodes: number[]
  missing: number
  /** Rows of the members that this view has. */
  rows: number[]
  /** Mean layer, weighted by influence; tokens lie below layer 0, targets above the last. */
  depth: number
  /** What it is, in a few words: "3 features, layers 4–12". */
  detail: string
  /** A token or target that was not pinned but is shown because it is connected. */
  isAdded: boolean
}

/** A directed link between two boxes; see `linksOf` for `share`. */
export interface Link {
  from: string
  to: string
  share: number
  /** Edges of the graph that were added up. */
  edges: number
}

/** One box for each supernode and one for each other pinned node. A node of two supernodes counts in the first. */
export function boxesOf(circuit: Circuit): Box[] {
  const taken = new Set<number>()
  const boxes: Box[] = []
  for (const group of circuit.supernodes) {
    const nodes = group.nodes.filter((id) => !taken.has(id))
    if (!nodes.length) continue
    nodes.forEach((id) => taken.add(id))
    boxes.push(box(circuit, group.id, group.name, nodes, true))
  }
  for (const id of circuit.pinned) {
    if (taken.has(id)) continue
    taken.add(id)
    boxes.push(box(circuit, String(id), circuit.name(id), [id], false))
  }
  return boxes
}

/**
 * How much of the inputs of box T comes from box S: over the members t of T, the signed shares of t's absolute inputs
 * that come from members s of S, averaged by the size of t's influence on the answer,
 *
 *     share(S, T) = sum_t |influence_t| * (sum_s share_st) / sum_t |influence_t|
 *
 * ("Circuit Tracing", 2025: edges between supernodes). Over sources shares therefore add up; over targets they are a
 * mean. Members that the view leaves out count on neither side. Largest first.
 */
export function linksOf(view: GraphView, boxes: readonly Box[]): Link[] {
  const owner = new Map<number, string>()
  for (const one of boxes) for (const row of one.rows) owner.set(row, one.key)
  const links: Link[] = []
  for (const to of boxes) {
    const found = new Map<string, Link>()
    const weights = targetWeights(view, to.rows)
    to.rows.forEach((row, place) => {
      for (const edge of view.inputs(row)) {
        const from = owner.get(edge.source)
        if (from === undefined || from === to.key) continue
        const link = found.get(from) ?? { from, to: to.key, share: 0, edges: 0 }
        link.share += edge.share * weights[place]
        link.edges += 1
        found.set(from, link)
      }
    })
    links.push(...found.values())
  }
  return links.sort((a, b) => Math.abs(b.share) - Math.abs(a.share))
}

/** The part that each row has in its box; equal parts where none has influence. */
function targetWeights(view: GraphView, rows: readonly number[]): number[] {
  const sizes = rows.map((row) => Math.abs(view.influence[row]))
  const total = sizes.reduce((sum, size) => sum + size, 0)
  return sizes.map((size) => (total > 0 ? size / total : 1 / rows.length))
}

/** A box for each token and each target that is not in the circuit. */
export function endsOf(circuit: Circuit, boxes: readonly Box[]): Box[] {
  const { view } = circuit
  const known = new Set(boxes.flatMap((one) => one.rows))
  const ends: Box[] = []
  for (let row = 0; row < view.n; row++) {
    const kind = view.kindOf(row)
    if ((kind !== 'embedding' && kind !== 'logit') || known.has(row)) continue
    const id = view.id[row]
    ends.push({ ...box(circuit, String(id), circuit.name(id), [id], false), isAdded: true })
  }
  return ends
}

/** The links that are drawn, how many are not, and the boxes with those ends that a drawn link joins to the circuit. */
export interface Drawn {
  boxes: Box[]
  links: Link[]
  hidden: number
}

/**
 * Links of at least `threshold`, and the strongest way on from each box of the circuit, however weak: what a box is
 * for should show. Ends that no such link joins to the circuit are left out. `links` are largest first.
 */
export function drawn(boxes: readonly Box[], ends: readonly Box[], links: readonly Link[], threshold: number): Drawn {
  const pinned = new Map(boxes.map((one) => [one.key, one]))
  const depth = new Map([...boxes, ...ends].map((one) => [one.key, one.depth]))
  const hasWayOn = new Set<string>()
  const kept = links.filter((link) => {
    const leads = pinned.has(link.from) && !hasWayOn.has(link.from) && depth.get(link.to)! > depth.get(link.from)!
    if (leads) hasWayOn.add(link.from)
    return leads || Math.abs(link.share) >= threshold
  })
  const joined = new Set(boxes.map((one) => one.key))
  for (const { from, to } of kept) if (pinned.has(from) || pinned.has(to)) joined.add(from).add(to)
  const both = (link: Link) => joined.has(link.from) && joined.has(link.to)
  const shown = kept.filter(both)
  return {
    boxes: [...boxes, ...ends.filter((end) => joined.has(end.key))],
    links: shown,
    hidden: links.filter(both).length - shown.length,
  }
}

/** A threshold that leaves about two links for each box of the circuit, at most one part in ten. */
export function naturalThreshold(boxes: readonly Box[], links: readonly Link[]): number {
  const pinned = new Set(boxes.map((one) => one.key))
  const own = links.filter((link) => pinned.has(link.from) || pinned.has(link.to))
  const weakest = own[Math.min(own.length, Math.max(6, 2 * boxes.length)) - 1]
  return Math.max(0.001, Math.min(0.1, Math.abs(weakest?.share ?? 0)))
}

/** Members that an experiment can change or watch: features. */
export function featuresOf(view: GraphView, one: Box): number[] {
  return one.rows.filter((row) => view.kindOf(row) === 'feature').map((row) => view.id[row])
}

/** The member with the largest influence; the first where the view has none. */
export function strongest(view: GraphView, one: Box): number {
  let best = one.rows[0]
  for (const row of one.rows) if (Math.abs(view.influence[row]) > Math.abs(view.influence[best])) best = row
  return best === undefined ? one.nodes[0] : view.id[best]
}

function box(circuit: Circuit, key: string, name: string, nodes: number[], isGroup: boolean): Box {
  const { view } = circuit
  const rows = nodes.map((id) => view.row(id)).filter((row) => row >= 0)
  const kind = isGroup ? 'supernode' : rows.length ? view.kindOf(rows[0]) : 'feature'
  const shown = kind === 'embedding' || kind === 'logit' ? token(name) : name
  const missing = nodes.length - rows.length
  const weights = targetWeights(view, rows)
  const depth = rows.reduce((sum, row, place) => sum + weights[place] * depthOf(view, row), 0)
  return { key, name: shown, kind, nodes, missing, rows, depth, detail: detail(view, kind, rows, missing), isAdded: false }
}

function depthOf(view: GraphView, row: number): number {
  const kind = view.kindOf(row)
  if (kind === 'embedding') return -1
  return kind === 'logit' ? view.header.n_layers : view.layer[row]
}

const WORDS: Record<Kind, string> = {
  feature: 'feature',
  error: 'error node',
  embedding: 'token',
  unexpanded: 'not expanded',
  bias: 'bias',
  logit: 'answer',
}

function detail(view: GraphView, kind: Box['kind'], rows: readonly number[], missing: number): string {
  if (!rows.length) return 'not in this view'
  const left = missing ? `, ${missing} not in view` : ''
  if (kind === 'embedding') return `token ${view.position[rows[0]] + 1}${left}`
  if (kind === 'logit' || kind === 'bias') return WORDS[kind] + left
  const layers = rows.map((row) => view.layer[row])
  const low = Math.min(...layers)
  const high = Math.max(...layers)
  const where = low === high ? `layer ${low}` : `layers ${low}–${high}`
  if (kind === 'supernode') return `${count(rows.length, 'node')}, ${where}${left}`
  const place = view.position[rows[0]]
  return `${kind === 'feature' ? '' : `${WORDS[kind]}, `}${where}, at “${token(view.header.tokens[place] ?? '')}”${left}`
}
