// What a reader does with one graph: what is selected, pinned, grouped, named, shown; with undo and redo.
// Panels read these fields and call these methods; none reaches into another panel.
import type { Experiment, GraphDetail, Notes } from '../api/schema'
import type { Supernode } from '../graph/core'
import type { GraphView } from '../view/view'

export type { Supernode }

/** The part of a reading that undo and redo step through, and that is saved with the graph. */
interface Edited {
  pinned: number[]
  supernodes: Supernode[]
  labels: Record<string, string>
  positions: Record<string, [number, number]>
}

export class Reading {
  view: GraphView = $state.raw(undefined as unknown as GraphView)
  /** Scores, answers, whether experiments can be made; null where no server stands behind (a file, a notebook). */
  detail: GraphDetail | null = $state.raw(null)

  selected: number | null = $state(null)
  hovered: number | null = $state(null)
  /** The edge whose ends are compared, or null. */
  nodeShare = $state(0.6)
  edgeShare = $state(0.98)
  backgroundEdges = $state(2000)
  linkType: 'input' | 'output' | 'either' | 'both' = $state('either')
  hiddenKinds: string[] = $state([])
  path: number[] = $state.raw([])

  pinned: number[] = $state.raw([])
  supernodes: Supernode[] = $state.raw([])
  labels: Record<string, string> = $state.raw({})
  positions: Record<string, [number, number]> = $state.raw({})
  experiments: Experiment[] = $state.raw([])
  revision = $state(0)

  private past: Edited[] = $state.raw([])
  private future: Edited[] = $state.raw([])

  constructor(readonly graph: string, view: GraphView, detail: GraphDetail | null = null) {
    this.view = view
    this.detail = detail
  }

  // --- what can be asked -------------------------------------------------------------------------

  get canUndo(): boolean {
    return this.past.length > 0
  }

  get canRedo(): boolean {
    return this.future.length > 0
  }

  isPinned(id: number): boolean {
    return this.pinned.includes(id)
  }

  supernodeOf(id: number): Supernode | undefined {
    return this.supernodes.find((group) => group.nodes.includes(id))
  }

  /** How a node is called: own name, label, token, or layer/feature. Always text, never markup. */
  name(id: number): string {
    const row = this.view.row(id)
    return this.labels[id] || (row < 0 ? `node ${id}` : nodeName(this.view, row))
  }

  // --- what can be done --------------------------------------------------------------------------

  select(id: number | null): void {
    this.selected = id
  }

  togglePin(id: number): void {
    const isPinned = this.isPinned(id)
    this.edit({
      pinned: isPinned ? this.pinned.filter((other) => other !== id) : [...this.pinned, id],
      supernodes: isPinned ? without(this.supernodes, [id]) : this.supernodes,
    })
  }

  pin(ids: number[]): void {
    this.edit({ pinned: [...new Set([...this.pinned, ...ids])] })
  }

  /** Take nodes out of the circuit, and out of their supernodes. */
  unpin(ids: number[]): void {
    this.edit({
      pinned: this.pinned.filter((id) => !ids.includes(id)),
      supernodes: without(this.supernodes, ids),
    })
  }

  /** Put nodes into one supernode; they are pinned, and leave any other. Returns its id. */
  group(ids: number[], name = ''): string {
    // Not randomUUID: browsers offer it only over https and on this machine.
    const id = crypto.getRandomValues(new Uint32Array(1))[0].toString(16).padStart(8, '0')
    const made = { id, name: name || this.name(ids[0]), nodes: [...new Set(ids)] }
    this.edit({
      pinned: [...new Set([...this.pinned, ...ids])],
      supernodes: [...without(this.supernodes, ids), made],
    })
    return id
  }

  /** Add nodes to a supernode. */
  join(supernode: string, ids: number[]): void {
    const others = without(this.supernodes, ids, supernode)
    this.edit({
      pinned: [...new Set([...this.pinned, ...ids])],
      supernodes: others.map((group) =>
        group.id === supernode ? { ...group, nodes: [...new Set([...group.nodes, ...ids])] } : group,
      ),
    })
  }

  ungroup(supernode: string): void {
    this.edit({ supernodes: this.supernodes.filter((group) => group.id !== supernode) })
  }

  rename(supernode: string, name: string): void {
    this.edit({ supernodes: this.supernodes.map((g) => (g.id === supernode ? { ...g, name } : g)) })
  }

  /** Give a node an own name; empty takes it away. */
  label(id: number, text: string): void {
    this.labelAll([id], text)
  }

  /** Give nodes the same own name, as one step to undo. */
  labelAll(ids: number[], text: string): void {
    const labels = { ...this.labels }
    for (const id of ids) {
      if (text) labels[id] = text
      else delete labels[id]
    }
    this.edit({ labels })
  }

  place(key: string, at: [number, number]): void {
    this.edit({ positions: { ...this.positions, [key]: at } })
  }

  /** Forget where boxes were dragged to. */
  tidy(): void {
    this.edit({ positions: {} })
  }

  clear(): void {
    this.edit({ pinned: [], supernodes: [] })
  }

  undo(): void {
    const before = this.past.at(-1)
    if (!before) return
    this.past = this.past.slice(0, -1)
    this.future = [...this.future, this.edited()]
    Object.assign(this, before)
  }

  redo(): void {
    const after = this.future.at(-1)
    if (!after) return
    this.future = this.future.slice(0, -1)
    this.past = [...this.past, this.edited()]
    Object.assign(this, after)
  }

  // --- saved with the graph ----------------------------------------------------------------------

  notes(): Notes {
    return { revision: this.revision, ...this.edited(), experiments: this.experiments }
  }

  /** Take notes as they were saved; nothing to undo is left. */
  take(notes: Notes): void {
    this.revision = notes.revision ?? 0
    this.pinned = notes.pinned ?? []
    this.supernodes = notes.supernodes ?? []
    this.labels = notes.labels ?? {}
    this.positions = notes.positions ?? {}
    this.experiments = notes.experiments ?? []
    this.past = []
    this.future = []
  }

  private edited(): Edited {
    const { pinned, supernodes, labels, positions } = this
    return { pinned, supernodes, labels, positions }
  }

  private edit(change: Partial<Edited>): void {
    this.past = [...this.past.slice(-99), this.edited()]
    this.future = []
    Object.assign(this, change)
  }
}

/** How a node of a view is called: its label, its token, or layer/feature. */
export function nodeName(view: GraphView, row: number): string {
  const label = view.label(row)
  if (label) return label
  const kind = view.kindOf(row)
  if (kind === 'feature') return `L${view.layer[row]}/${view.feature[row]}`
  if (kind === 'error' || kind === 'unexpanded') return `${kind} L${view.layer[row]}`
  return view.text(row) || kind
}

/** Supernodes without these nodes (but for one of them), and without any that is left empty. */
function without(supernodes: Supernode[], ids: number[], but = ''): Supernode[] {
  return supernodes
    .map((g) => (g.id === but ? g : { ...g, nodes: g.nodes.filter((id) => !ids.includes(id)) }))
    .filter((g) => g.nodes.length > 0)
}
