// Which nodes and edges are shown. All functions are pure; a stricter share keeps a subset.
import { KINDS, type Edge, type GraphView } from '../view/view'
import type { GraphState } from './core'

const ALWAYS = new Set(['embedding', 'logit', 'bias'])

type Shown = Pick<GraphState, 'nodeShare' | 'hiddenKinds' | 'pinned' | 'selected' | 'path'>

/**
 * Rows that are drawn, ascending: those whose cumulative share of influence is at most the asked one; tokens, targets
 * and bias always; and whatever the reader holds in hand (pinned, selected, on the highlighted path).
 */
export function shownRows(view: GraphView, state: Shown): Int32Array {
  const isHidden = KINDS.map((kind) => state.hiddenKinds.has(kind))
  const isAlways = KINDS.map((kind) => ALWAYS.has(kind))
  const held = new Set<number>(state.pinned)
  if (state.selected !== null) held.add(state.selected)
  for (const id of state.path) held.add(id)
  const rows = new Int32Array(view.n)
  let count = 0
  for (let row = 0; row < view.n; row++) {
    const kind = view.kind[row]
    const isIn = !isHidden[kind] && (isAlways[kind] || view.cumulative[row] <= state.nodeShare)
    if (isIn || held.has(view.id[row])) rows[count++] = row
  }
  return rows.slice(0, count)
}

/** The largest share, to two decimals, at which at most `most` nodes are shown (at least 0.05). */
export function defaultNodeShare(view: GraphView, most = 150): number {
  const always = view.kind.reduce((count, kind) => count + (ALWAYS.has(KINDS[kind]) ? 1 : 0), 0)
  const ranked: number[] = []
  for (let row = 0; row < view.n; row++) if (!ALWAYS.has(KINDS[view.kind[row]])) ranked.push(view.cumulative[row])
  ranked.sort((a, b) => a - b)
  const room = Math.max(0, most - always)
  if (ranked.length <= room) return 1
  return Math.max(0.05, Math.ceil(ranked[room] * 100 - 1) / 100)
}

/** Edges by strength: `edgeCumulative` ascending. */
export function strongestFirst(view: GraphView): Uint32Array {
  // Positive floats are in the order of their bits; with the index behind them, plain numbers sort five times as fast.
  const bits = new Uint32Array(Float32Array.from(view.edgeCumulative).buffer)
  const keys = new Float64Array(view.nEdges)
  for (let edge = 0; edge < keys.length; edge++) keys[edge] = bits[edge] * 2 ** 21 + edge
  return Uint32Array.from(keys.sort(), (key) => key % 2 ** 21)
}

/** The `most` strongest edges between shown nodes within a share, strongest first. */
export function backgroundEdges(
  view: GraphView, order: Uint32Array, isShown: Uint8Array, share: number, most: number,
): Uint32Array {
  const found = new Uint32Array(Math.min(most, order.length))
  let count = 0
  for (const edge of order) {
    if (count >= found.length || view.edgeCumulative[edge] > share) break
    if (isShown[view.source[edge]] && isShown[view.target[edge]]) found[count++] = edge
  }
  return found.slice(0, count)
}

/** Edges of one node that are shown, by size of their share, largest first. */
export function focusEdges(
  view: GraphView, row: number, isShown: Uint8Array, share: number, type: GraphState['linkType'],
): Edge[] {
  if (row < 0 || type === 'both') return []
  const inputs = type === 'output' ? [] : view.inputs(row).filter((edge) => isShown[edge.source])
  const outputs = type === 'input' ? [] : view.outputs(row).filter((edge) => isShown[edge.target])
  return [...inputs, ...outputs]
    .filter((edge) => view.edgeCumulative[edge.edge] <= share)
    .sort((a, b) => Math.abs(b.share) - Math.abs(a.share))
}

/** Shown edges both of whose ends are pinned, by size of their share, largest first. */
export function pinnedEdges(view: GraphView, pinned: ReadonlySet<number>, isShown: Uint8Array, share: number): Edge[] {
  const found: Edge[] = []
  for (const id of pinned) {
    const row = view.row(id)
    if (row < 0 || !isShown[row]) continue
    for (const edge of view.inputs(row)) {
      const isBetween = isShown[edge.source] && pinned.has(view.id[edge.source])
      if (isBetween && view.edgeCumulative[edge.edge] <= share) found.push(edge)
    }
  }
  return found.sort((a, b) => Math.abs(b.share) - Math.abs(a.share))
}

/** The whole graph's influence, from the strongest node: its cumulative share is its own. */
export function totalInfluence(view: GraphView): number {
  let best = -1
  for (let row = 0; row < view.n; row++) {
    if (view.cumulative[row] > 0 && (best < 0 || view.cumulative[row] < view.cumulative[best])) best = row
  }
  return best < 0 ? 1 : Math.abs(view.influence[best]) / view.cumulative[best] || 1
}
