// A search in the nodes of a view, where no server can search the whole graph.
import { nodeName, type Reading } from '../state/reading.svelte'
import type { GraphView } from '../view/view'

/** Ids of the strongest nodes whose name, token or number holds the text. */
export function find(view: GraphView, labels: Reading['labels'], text: string, most: number): number[] {
  const wanted = text.trim().toLowerCase()
  if (!wanted) return []
  const found: number[] = []
  for (let row = 0; row < view.n; row++) {
    const id = view.id[row]
    const number = view.feature[row] >= 0 ? `L${view.layer[row]}/${view.feature[row]}` : ''
    const words = [labels[id] ?? '', nodeName(view, row), view.text(row), number].join('\n').toLowerCase()
    if (words.includes(wanted)) found.push(row)
  }
  return found
    .sort((a, b) => view.influence[b] - view.influence[a])
    .slice(0, most)
    .map((row) => view.id[row])
}
