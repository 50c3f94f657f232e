// What the sliders show of a view, as numbers. A node of share s is shown by a slider at s or beyond.
import { defaultNodeShare, shownRows } from '../graph/filter'
import type { GraphView } from '../view/view'
import type { Reading } from './reading.svelte'

/** How many nodes and edges of a view are shown, of how many in the whole graph, and what the hidden ones carry. */
export interface Shown {
  nodes: number
  nodesInGraph: number
  hidden: number
  /** Share of influence of the nodes that the share hides. */
  hiddenShare: number
  edges: number
  edgesInGraph: number
}

/** What decides which nodes are drawn. */
export type Selection = Pick<Reading, 'nodeShare' | 'edgeShare' | 'hiddenKinds' | 'pinned' | 'selected'>

/** 1 for every row that is drawn, else 0. */
export function shownMask(view: GraphView, choice: Selection): Uint8Array {
  const { nodeShare, selected } = choice
  const state = { nodeShare, selected, pinned: new Set(choice.pinned), hiddenKinds: new Set(choice.hiddenKinds), path: [] }
  const mask = new Uint8Array(view.n)
  for (const row of shownRows(view, state)) mask[row] = 1
  return mask
}

export function shown(view: GraphView, choice: Selection): Shown {
  const mask = shownMask(view, choice)
  let nodes = 0
  let reached = 0
  for (let row = 0; row < view.n; row++) {
    nodes += mask[row]
    if (view.cumulative[row] <= choice.nodeShare) reached = Math.max(reached, view.cumulative[row])
  }
  let edges = 0
  for (let edge = 0; edge < view.nEdges; edge++) {
    if (mask[view.source[edge]] && mask[view.target[edge]] && view.edgeCumulative[edge] <= choice.edgeShare) edges++
  }
  const { nodes_in_graph: nodesInGraph, edges_in_graph: edgesInGraph } = view.header
  return { nodes, nodesInGraph, hidden: nodesInGraph - nodes, hiddenShare: Math.max(0, 1 - reached), edges, edgesInGraph }
}

/** Where the slider of nodes begins: at most 150 nodes and at most 80 % of the influence. */
export function startShare(view: GraphView): number {
  return Math.min(0.8, defaultNodeShare(view))
}
