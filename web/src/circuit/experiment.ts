// From what a reader wants to change to a request, and from its result to what the diagram and the history show.
import type { Change, Experiment, InterventionRequest, InterventionResult, SwapRequest } from '../api/schema'
import type { GraphView } from '../view/view'
import { type Box, featuresOf } from './diagram'
import { badge, deed } from './words'

export type Mode = NonNullable<InterventionRequest['mode']>

/** The modes of a run, and what each holds still. */
export const MODES: Record<Mode, string> = {
  free: 'Everything after the change runs as it likes, attention too: what the model really does.',
  constrained: 'MLPs up to the last changed layer are held as they were; attention patterns too.',
  iterative: 'As constrained, but features within the changed layers answer to the change as well.',
  frozen: 'All MLPs, norms and attention patterns are held: direct effects only, right by construction.',
}

/** What is done to a box, as the reader set it. */
export interface Draft {
  key: string
  name: string
  nodes: number[]
  kind: NonNullable<Change['kind']>
  value: number
}

export interface Settings {
  mode: Mode
  controls: number
  generate: number
}

export const SETTINGS: Settings = { mode: 'free', controls: 10, generate: 20 }

/** The request for some changes and swaps; every box with features is watched, under a name of its own. */
export function requestOf(
  graph: string,
  view: GraphView,
  boxes: readonly Box[],
  change: { drafts: readonly Draft[]; swaps: readonly SwapRequest[]; settings: Settings },
): InterventionRequest {
  const names = new Map<string, number>()
  const watch = boxes
    .map((box) => ({ name: box.name, nodes: featuresOf(view, box) }))
    .filter((one) => one.nodes.length > 0)
    .map(({ name, nodes }) => {
      const seen = (names.get(name) ?? 0) + 1
      names.set(name, seen)
      return { name: (seen > 1 ? `${name.slice(0, 180)} (${seen})` : name).slice(0, 200), nodes }
    })
  const changes = change.drafts.map(({ nodes, kind, value, name }) => ({ nodes, kind, value, name: name.slice(0, 200) }))
  return { graph, changes, swaps: [...change.swaps], ...change.settings, attention: null, watch, seed: 0 }
}

/** What stands in the way of a run, in words; "" if nothing does. */
export function obstacle(drafts: readonly Draft[], swaps: readonly SwapRequest[]): string {
  if (!drafts.length && !swaps.length) return 'Choose a box in the diagram to change it.'
  const none = drafts.find((draft) => draft.nodes.length === 0)
  if (none) return `“${none.name}” holds no feature; only features can be changed.`
  const odd = drafts.find((draft) => !Number.isFinite(draft.value))
  if (odd) return `Give “${odd.name}” a number.`
  const seen = new Set<number>()
  for (const node of [...drafts.flatMap((draft) => draft.nodes), ...swaps.flatMap((swap) => swap.out)]) {
    if (seen.has(node)) return 'A feature is changed twice; take one of the changes away.'
    seen.add(node)
  }
  return ''
}

/** What an experiment changed: "say “large” turned off; small × 2". */
export function title(request: InterventionRequest): string {
  const changes = (request.changes ?? []).map((change) => `${change.name || 'nodes'} ${deed(change)}`)
  const swaps = (request.swaps ?? []).map((swap) => `${swap.name || 'features'} swapped in`)
  return [...changes, ...swaps].join('; ')
}

/** An experiment as it is kept. */
export function experimentOf(id: string, request: InterventionRequest, result: InterventionResult, made: Date): Experiment {
  return { id, made: made.toISOString(), request, result }
}

/** What an experiment did to a box: share of its activation that is left, and its badge if it was changed. */
export interface BoxEffect {
  predicted: number | null
  measured: number | null
  badge: string
  /** Logits, for a target. */
  logits: { predicted: number | null; measured: number } | null
}

/** The effect on each box, by key; boxes that were not watched (made since) are left out. */
export function boxEffects(view: GraphView, boxes: readonly Box[], experiment: Experiment): Map<string, BoxEffect> {
  const { request, result } = experiment
  const watched = new Map((request.watch ?? []).map((one) => [sameNodes(one.nodes), one.name]))
  const effects = new Map<string, BoxEffect>()
  for (const box of boxes) {
    const nodes = featuresOf(view, box)
    const name = watched.get(sameNodes(nodes))
    const effect = name === undefined ? undefined : result.supernodes.find((one) => one.name === name)
    const change = (request.changes ?? []).find((one) => one.nodes.some((node) => box.nodes.includes(node)))
    const swap = (request.swaps ?? []).find((one) => one.out.some((node) => box.nodes.includes(node)))
    const target = box.kind === 'logit' ? targetOf(view, box, result) : undefined
    if (!effect && !change && !swap && !target) continue
    effects.set(box.key, {
      predicted: effect?.predicted ?? null,
      measured: effect?.measured ?? null,
      badge: change ? badge(change) : swap ? 'swapped' : '',
      logits: target ? { predicted: target.predicted, measured: target.measured } : null,
    })
  }
  return effects
}

function targetOf(view: GraphView, box: Box, result: InterventionResult) {
  const texts = box.rows.map((row) => view.text(row).trim())
  return result.targets.find((one) => texts.includes(one.text.trim()) || one.text.trim() === box.name)
}

function sameNodes(nodes: readonly number[]): string {
  return [...nodes].sort((a, b) => a - b).join(',')
}

/** A piece of a text, and whether the other text has it too. */
export interface Piece {
  text: string
  isSame: boolean
}

/** Both texts in pieces: what they share (longest common sequence of words) and what they do not. */
export function differences(before: string, after: string): { before: Piece[]; after: Piece[] } {
  const a = before.match(/\s*\S+|\s+$/g) ?? []
  const b = after.match(/\s*\S+|\s+$/g) ?? []
  const length = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1))
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      length[i][j] = a[i] === b[j] ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1])
  const found = { before: [] as Piece[], after: [] as Piece[] }
  let [i, j] = [0, 0]
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      add(found.before, a[i++], true)
      add(found.after, b[j++], true)
    } else if (j >= b.length || (i < a.length && length[i + 1][j] >= length[i][j + 1])) add(found.before, a[i++], false)
    else add(found.after, b[j++], false)
  }
  return found
}

function add(pieces: Piece[], text: string, isSame: boolean): void {
  const last = pieces.at(-1)
  if (last?.isSame === isSame) last.text += text
  else pieces.push({ text, isSame })
}

/** One Python file of the scripts of some experiments. Names are written as comments of one line. */
export function pythonOf(experiments: readonly Experiment[]): string {
  // A name may hold a line break: what follows it must not become code.
  const comment = (text: string) => `# ${text.replace(/[\p{Cc}\p{Zl}\p{Zp}]+/gu, ' ')}`
  return experiments
    .map((one) => `${comment(title(one.request))}\n${comment(`made ${one.made}`)}\n${one.result.python.trimEnd()}\n`)
    .join('\n\n')
}
