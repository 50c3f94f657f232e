// Walking the graph with the keyboard: along a layer, up and down through layers, and along the edges of a node.
import type { GraphView } from '../view/view'
import { focusEdges } from './filter'
import { levelOf, type Layout } from './layout'

export type Direction = 'left' | 'right' | 'up' | 'down'

/** The shown row next to this one: left and right in its layer, up and down in the next layer that has any; itself at an end. */
export function neighbour(view: GraphView, layout: Layout, row: number, direction: Direction): number {
  const level = levelOf(view, row)
  const x = layout.x[row]
  if (direction === 'left' || direction === 'right') {
    const sign = direction === 'left' ? -1 : 1
    const ahead = [...layout.rows].filter((other) => levelOf(view, other) === level && (layout.x[other] - x) * sign > 0)
    return nearest(ahead, (other) => Math.abs(layout.x[other] - x), row)
  }
  const sign = direction === 'up' ? 1 : -1
  const beyond = [...layout.rows].filter((other) => (levelOf(view, other) - level) * sign > 0)
  const next = Math.min(...beyond.map((other) => Math.abs(levelOf(view, other) - level)))
  const there = beyond.filter((other) => Math.abs(levelOf(view, other) - level) === next)
  return nearest(there, (other) => Math.abs(layout.x[other] - x), row)
}

function nearest(rows: readonly number[], distance: (row: number) => number, otherwise: number): number {
  if (!rows.length) return otherwise
  return rows.reduce((best, row) => (distance(row) < distance(best) ? row : best))
}

/** Where to begin: the most influential target, or else the first node shown. */
export function beginning(view: GraphView, layout: Layout): number {
  const targets = [...layout.targets].sort((a, b) => (view.probability[b] || 0) - (view.probability[a] || 0))
  return targets[0] ?? layout.rows[0] ?? -1
}

/**
 * The input (or output) of a row one step weaker (1) or stronger (-1) than the one walked to last; the strongest when
 * none was; -1 where there is none.
 */
export function alongEdges(
  view: GraphView, layout: Layout, row: number, at: number, step: 1 | -1, type: 'input' | 'output', share: number,
): number {
  const edges = focusEdges(view, row, layout.isShown, share, type)
  const ends = edges.map((edge) => (type === 'input' ? edge.source : edge.target))
  if (!ends.length) return -1
  const place = ends.indexOf(at)
  return ends[place < 0 ? 0 : Math.min(Math.max(place + step, 0), ends.length - 1)]
}
