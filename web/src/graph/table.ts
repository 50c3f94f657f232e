// The shown nodes as a sorted table.
import type { GraphView } from '../view/view'
import { KIND_WORDS, nodeName } from './words'

export const COLUMNS = ['name', 'kind', 'token', 'layer', 'influence', 'pinned'] as const
export type Column = (typeof COLUMNS)[number]

export interface Sorting {
  by: Column
  isDescending: boolean
}

/** How a column is sorted when its head is pressed first: numbers from large to small, words from a to z. */
export function firstSorting(by: Column): Sorting {
  return { by, isDescending: by === 'influence' || by === 'pinned' || by === 'layer' }
}

/** Rows in the order of a column; rows that are alike there stand by influence. */
export function sortedRows(
  view: GraphView, rows: Iterable<number>, sorting: Sorting, labels: ReadonlyMap<number, string>, pinned: ReadonlySet<number>,
): number[] {
  const numbers: Partial<Record<Column, (row: number) => number>> = {
    token: (row) => view.position[row],
    layer: (row) => layerOf(view, row),
    influence: (row) => Math.abs(view.influence[row]),
    pinned: (row) => (pinned.has(view.id[row]) ? 1 : 0),
  }
  const sign = sorting.isDescending ? -1 : 1
  const strongest = (a: number, b: number) => Math.abs(view.influence[b]) - Math.abs(view.influence[a]) || a - b
  const value = numbers[sorting.by]
  if (value) return [...rows].sort((a, b) => sign * (value(a) - value(b)) || strongest(a, b))
  const word = sorting.by === 'kind' ? (row: number) => KIND_WORDS[view.kindOf(row)] : (row: number) => nodeName(view, row, labels)
  const words = new Map([...rows].map((row) => [row, word(row).toLowerCase()]))
  const order = new Intl.Collator('en', { numeric: true })
  return [...words.keys()].sort((a, b) => sign * order.compare(words.get(a)!, words.get(b)!) || strongest(a, b))
}

/** Layers from the tokens (-1) to the targets, above the last. */
function layerOf(view: GraphView, row: number): number {
  return view.kindOf(row) === 'logit' ? view.header.n_layers : view.layer[row]
}

/** A layer as the table shows it: a dash for nodes that belong to none. */
export function layerWord(view: GraphView, row: number): string {
  const kind = view.kindOf(row)
  return kind === 'embedding' || kind === 'logit' || kind === 'bias' ? '–' : String(view.layer[row])
}
