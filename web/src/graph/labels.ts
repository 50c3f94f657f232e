// Names beside nodes where there is room: no name covers a node or another name.
import { levelOf } from './layout'
import { Room, type Box } from './room'
import { contains, screenX, screenY, type Area, type Scene } from './scene'
import { cut, pictureName } from './words'

export interface Label {
  row: number
  text: string
  x: number
  y: number
  align: 'left' | 'right' | 'center'
}

const HEIGHT = 13

export interface LabelOptions {
  area: Area
  font: string
  scale: number
  /** Nodes that may not be covered. */
  around: Iterable<number>
  /** What else is taken. */
  taken?: readonly Box[]
  most: number
  /** How often the same name may stand. */
  repeats?: number
  letters?: number
}

/** Names of the given rows, in that order, as far as there is room. */
export function placeLabels(scene: Scene, rows: Iterable<number>, options: LabelOptions): Label[] {
  const { area, font, scale, most, repeats = 2, letters = 24 } = options
  const room = new Room(area)
  // Pinned nodes have a ring.
  const ring = (row: number) => (scene.state.pinned.has(scene.view.id[row]) ? 3 : 0)
  for (const row of options.around) {
    const [x, y] = [screenX(scene, row), screenY(scene, row)]
    const r = scene.layout.radius[row] * scale + 1 + ring(row)
    if (contains(area, x, y, r)) room.take(x - r, y - r, x + r, y + r)
  }
  for (const box of options.taken ?? []) room.take(...box)
  const seen = new Map<string, number>()
  const found: Label[] = []
  for (const row of rows) {
    if (found.length >= most) break
    const [x, y] = [screenX(scene, row), screenY(scene, row)]
    const text = cut(pictureName(scene.view, row, scene.state.labels), letters)
    if (!text || !contains(area, x, y) || (seen.get(text) ?? 0) >= repeats) continue
    const width = scene.measure(text, font)
    const r = scene.layout.radius[row] * scale + 4 + ring(row)
    const label = spots(row, text, x, y, r).find((spot) => room.isFree(...boxOf(spot, width)))
    if (!label) continue
    room.take(...boxOf(label, width))
    seen.set(text, (seen.get(text) ?? 0) + 1)
    found.push(label)
  }
  return found
}

function spots(row: number, text: string, x: number, y: number, r: number): Label[] {
  return [
    { row, text, x: x + r, y, align: 'left' },
    { row, text, x: x - r, y, align: 'right' },
    { row, text, x, y: y - r - HEIGHT / 2 + 2, align: 'center' },
    { row, text, x, y: y + r + HEIGHT / 2 - 2, align: 'center' },
  ]
}

function boxOf(label: Label, width: number): Box {
  const left = label.align === 'left' ? label.x : label.align === 'right' ? label.x - width : label.x - width / 2
  // A little less than the line is high: names of neighbouring layers may nearly touch.
  return [left - 2, label.y - HEIGHT / 2 + 1.5, left + width + 2, label.y + HEIGHT / 2 - 1.5]
}

/** Shown features, most influential first: what is worth a name. Tokens and targets have theirs on the axes. */
export function worthNaming(scene: Scene): number[] {
  const { view, layout } = scene
  const features = [...layout.rows].filter((row) => view.kindOf(row) === 'feature' && levelOf(view, row) >= 0)
  return features.sort((a, b) => Math.abs(view.influence[b]) - Math.abs(view.influence[a])).slice(0, 240)
}
