// Nodes of a view that are the same feature.
import { isReadable } from '../graph/words'
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

/** Features of one name at one token: the strongest, and how many more there are. */
export interface Strong {
  row: number
  more: number
}

/** The most influential features of a view whose name says something; those of one name at one token count once. */
export function strongestNamed(view: GraphView, most: number): Strong[] {
  const rows: number[] = []
  for (let row = 0; row < view.n; row++) if (view.kindOf(row) === 'feature' && saysSomething(view.label(row))) rows.push(row)
  rows.sort((a, b) => Math.abs(view.influence[b]) - Math.abs(view.influence[a]))
  const found = new Map<string, Strong>()
  for (const row of rows) {
    const key = JSON.stringify([view.position[row], view.label(row)])
    const before = found.get(key)
    if (before) before.more++
    else if (found.size < most) found.set(key, { row, more: 0 })
  }
  return [...found.values()]
}

/** Whether a label names something to read: not a mark such as `the mark "."`, and not what is called unclear. */
function saysSomething(label: string): boolean {
  return isReadable(label.replace(/^the mark "(.*)"$/, '$1')) && !/^unclear\b/.test(label)
}
