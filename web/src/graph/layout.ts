// Where nodes stand: tokens from left to right, layers from the embeddings at the bottom to the targets on top.
import { KINDS, type GraphView } from '../view/view'

export interface Size {
  width: number
  height: number
}

/** The room of one token. `position` is -1 for the column of the bias, which belongs to no token. */
export interface Column {
  position: number
  left: number
  right: number
}

export interface Layout extends Size {
  /** Places and radii by row of the view; NaN for nodes that are not shown. */
  x: Float32Array
  y: Float32Array
  radius: Float32Array
  rows: Int32Array
  /** Rows of the targets among them. */
  targets: number[]
  isShown: Uint8Array
  columns: Column[]
  rowHeight: number
  /** 0 the embeddings, l + 1 layer l, the last the targets. */
  levels: number
}

export const PITCH = 9.5
export const WIDEST_PITCH = 19
export const NARROWEST_COLUMN = 20
export const LOWEST_ROW = 6
const GAP = 14

/** Which row of the picture a node stands in, from 0 (embeddings) up. */
export function levelOf(view: GraphView, row: number): number {
  const top = view.header.n_layers + 1
  const kind = KINDS[view.kind[row]]
  if (kind === 'logit') return top
  if (kind === 'embedding' || kind === 'bias') return 0
  return Math.min(Math.max(view.layer[row], -1) + 1, top)
}

/** Rows of room between the layers and the tokens below them, and the targets above. */
const APART = 0.9

/** Height of the middle of a level. */
export function levelY(layout: Pick<Layout, 'height' | 'rowHeight' | 'levels'>, level: number): number {
  const apart = level <= 0 ? 0 : level < layout.levels - 1 ? APART : 2 * APART
  return layout.height - (level + 0.5 + apart) * layout.rowHeight
}

/**
 * Places of the given rows in at least the given room. A column is as wide as its fullest row needs and shares what
 * room is left over; a long prompt makes the picture wider than the room.
 */
export function layout(view: GraphView, rows: Int32Array, room: Size): Layout {
  const levels = view.header.n_layers + 2
  const height = Math.max(room.height, levels * LOWEST_ROW)
  const rowHeight = height / (levels + 2 * APART)
  const first = rows.some((row) => view.position[row] < 0) ? -1 : 0
  const count = Math.max(1, view.header.tokens.length) - first
  const cells = cellsOf(view, rows, first, levels, count)
  const { columns, width, pitches } = columnsOf(cells, first, levels, count, room.width)
  const x = new Float32Array(view.n).fill(NaN)
  const y = new Float32Array(view.n).fill(NaN)
  const isShown = new Uint8Array(view.n)
  const placed = new Int32Array(cells.length)
  for (const row of rows) {
    const [place, level] = [placeOf(view, row, first, count), levelOf(view, row)]
    const cell = place * levels + level
    const { left, right } = columns[place]
    x[row] = (left + right) / 2 + (placed[cell]++ - (cells[cell] - 1) / 2) * pitches[place]
    y[row] = levelY({ height, rowHeight, levels }, level)
    isShown[row] = 1
  }
  const targets = [...rows].filter((row) => view.kindOf(row) === 'logit')
  const radius = radii(view, rows, (row) => pitches[placeOf(view, row, first, count)], rowHeight)
  return { width, height, x, y, radius, rows, targets, isShown, columns, rowHeight, levels }
}

function placeOf(view: GraphView, row: number, first: number, count: number): number {
  return Math.min(Math.max(view.position[row], first) - first, count - 1)
}

/** How many nodes stand in each cell of column x level. */
function cellsOf(view: GraphView, rows: Int32Array, first: number, levels: number, count: number): Int32Array {
  const cells = new Int32Array(count * levels)
  for (const row of rows) cells[placeOf(view, row, first, count) * levels + levelOf(view, row)]++
  return cells
}

function columnsOf(cells: Int32Array, first: number, levels: number, count: number, room: number) {
  const fullest = Array.from({ length: count }, (_, place) => cells.subarray(place * levels, (place + 1) * levels))
    .map((column) => column.reduce((most, many) => Math.max(most, many), 0))
  const wanted = fullest.map((many, place) => {
    const isBias = first < 0 && place === 0
    return isBias ? NARROWEST_COLUMN : Math.max(NARROWEST_COLUMN, many * PITCH + GAP)
  })
  const natural = wanted.reduce((sum, width) => sum + width, 0)
  // What is left over goes to all alike, and more of it to the full ones; the bias gets none.
  const spare = Math.max(0, room - natural)
  const sharing = first < 0 ? natural - wanted[0] : natural
  const columns: Column[] = []
  const pitches: number[] = []
  let left = 0
  wanted.forEach((wish, place) => {
    const isBias = first < 0 && place === 0
    const even = 0.5 / (count + (first < 0 ? -1 : 0))
    const width = isBias ? wish : wish + spare * (even + (0.5 * wish) / sharing)
    columns.push({ position: place + first, left, right: left + width })
    pitches.push(Math.min(WIDEST_PITCH, (width - GAP / 2) / Math.max(1, fullest[place])))
    left += width
  })
  return { columns, width: Math.max(left, room), pitches }
}

const SMALLEST = 2.6
const LARGEST = 6.4
const FIXED: Record<string, number> = { embedding: 4.6, logit: 5.4, bias: 3.6 }

/** Radii: the root of influence by the strongest feature or error; never so large that neighbours touch. */
function radii(view: GraphView, rows: Int32Array, pitch: (row: number) => number, rowHeight: number): Float32Array {
  const found = new Float32Array(view.n).fill(NaN)
  const strongest = rows.reduce(
    (most, row) => (KINDS[view.kind[row]] in FIXED ? most : Math.max(most, Math.abs(view.influence[row]))), 0,
  )
  for (const row of rows) {
    const share = strongest ? Math.min(1, Math.abs(view.influence[row]) / strongest) : 0
    const wish = FIXED[KINDS[view.kind[row]]] ?? SMALLEST + (LARGEST - SMALLEST) * Math.sqrt(share)
    found[row] = Math.min(wish, 0.47 * pitch(row), Math.max(2, 0.47 * rowHeight))
  }
  return found
}
