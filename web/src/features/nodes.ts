// Nodes of a view that are the same feature.
import { percent, signed } from '../state/numbers'
import type { GraphView } from '../view/view'

/** Ids of all nodes of a feature, by position. */
export function featureNodes(view: GraphView, layer: number, feature: number): number[] {
  const found: number[] = []
  for (let row = 0; row < view.n; row++) {
    if (view.feature[row] === feature && view.layer[row] === layer && view.kindOf(row) === 'feature') found.push(row)
  }
  return found.sort((a, b) => view.position[a] - view.position[b]).map((row) => view.id[row])
}

/** An influence as it is said: a share of the answer, or logits where the graph is ranked by attribution. */
export function influenceWords(view: GraphView, influence: number): string {
  return view.header.measure === 'influence' ? percent(influence) : `${signed(influence)} logits`
}
