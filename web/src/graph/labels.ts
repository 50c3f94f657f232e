// Names beside nodes where there is room: no name covers a node or another name.
import { levelOf } from './layout'
import { contains, screenX, screenY, type Area, type Scene } from './scene'
import { cut, nodeName } from './words'

export interface Label {
  row: number
  text: string
  x: number
  y: number
  align: 'left' | 'right' | 'center'
}

const CELL = 5
const HEIGHT = 13

/** A coarse map of what is taken. */
class Room {
  private readonly across: number
  private readonly taken: Uint8Array

  constructor(private readonly area: Area) {
    this.across = Math.ceil(area.width / CELL) + 1
    this.taken = new Uint8Array(this.across * (Math.ceil(area.height / CELL) + 1))
  }

  take(x0: number, y0: number, x1: number, y1: number): void {
    this.each(x0, y0, x1, y1, (cell) => {
      this.taken[cell] = 1
      return true
    })
  }

  isFree(x0: number, y0: number, x1: number, y1: number): boolean {
    const { left, top, width, height } = this.area
    if (x0 < left || y0 < top || x1 > left + width || y1 > top + height) return false
    return this.each(x0, y0, x1, y1, (cell) => !this.taken[cell])
  }

  private each(x0: number, y0: number, x1: number, y1: number, visit: (cell: number) => boolean): boolean {
    const { left, top, width, height } = this.area
    const column = (x: number) => Math.floor(Math.min(Math.max(x - left, 0), width) / CELL)
    const line = (y: number) => Math.floor(Math.min(Math.max(y - top, 0), height) / CELL)
    for (let row = line(y0); row <= line(y1); row++) {
      for (let at = column(x0); at <= column(x1); at++) if (!visit(row * this.across + at)) return false
    }
    return true
  }
}

export interface LabelOptions {
  area: Area
  font: string
  scale: number
  /** Nodes that may not be covered. */
  around: Iterable<number>
  most: number
  /** How often the same name may stand. */
  repeats?: number
  letters?: number
}

/** Names of the given rows, in that order, as far as there is room. */
export function placeLabels(scene: Scene, rows: Iterable<number>, options: LabelOptions): Label[] {
  const { area, font, scale, most, repeats = 2, letters = 24 } = options
  const room = new Room(area)
  for (const row of options.around) {
    const [x, y] = [screenX(scene, row), screenY(scene, row)]
    const r = scene.layout.radius[row] * scale + 1
    if (contains(area, x, y, r)) room.take(x - r, y - r, x + r, y + r)
  }
  const seen = new Map<string, number>()
  const found: Label[] = []
  for (const row of rows) {
    if (found.length >= most) break
    const [x, y] = [screenX(scene, row), screenY(scene, row)]
    const text = cut(nodeName(scene.view, row, scene.state.labels), letters)
    if (!contains(area, x, y) || (seen.get(text) ?? 0) >= repeats) continue
    const width = scene.measure(text, font)
    const r = scene.layout.radius[row] * scale + 4
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

function boxOf(label: Label, width: number): [number, number, number, number] {
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
