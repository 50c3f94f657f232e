// What stands around the picture: layers on the left, tokens below, targets on top.
import type { GraphView } from '../view/view'
import type { Pen } from './glyphs'
import type { Layout } from './layout'
import { contains, levelOnScreen, screenX, screenY, type Scene } from './scene'
import { cut, targetName, visible } from './words'

const SLOPE = (40 * Math.PI) / 180
const LETTERS = 16
const SIZE = 12

export const tokenFont = (font: string): string => `${SIZE}px ${font}`

/** Room that the axes need outside the plot. */
export interface Margins {
  left: number
  right: number
  top: number
  bottom: number
  isSloped: boolean
}

/** Margins for a layout: tokens and targets stand level where they fit, else sloped. */
export function margins(view: GraphView, layout: Layout, kx: number, measure: (text: string) => number): Margins {
  const widths = view.header.tokens.map((token) => measure(cut(visible(token), LETTERS)))
  const columns = layout.columns.filter((column) => column.position >= 0)
  const isSloped = columns.some((column, at) => (widths[at] ?? 0) + 6 > (column.right - column.left) * kx)
  const targets = layout.targets.map((row) => measure(targetName(view, row)))
  const longest = Math.max(0, ...widths)
  const top = targets.length > 1 ? Math.min(96, Math.max(...targets) * Math.SQRT1_2 + 16) : 28
  const bottom = isSloped ? longest * Math.sin(SLOPE) + 22 : 28
  return { left: 50, right: 14, top, bottom, isSloped }
}

export function drawAxes(pen: Pen, scene: Scene, isSloped: boolean): void {
  pen.save()
  drawLayers(pen, scene)
  drawTokens(pen, scene, isSloped)
  drawTargets(pen, scene)
  pen.restore()
}

function drawLayers(pen: Pen, scene: Scene): void {
  const { layout, camera, plot, palette } = scene
  const spacing = layout.rowHeight * camera.ky
  const step = [1, 2, 5, 10, 20, 50].find((every) => every * spacing >= 14) ?? 100
  pen.font = `11px ${palette.font}`
  pen.textAlign = 'right'
  pen.textBaseline = 'middle'
  pen.fillStyle = palette.soft
  const last = layout.levels - 1
  for (let level = 0; level <= last; level++) {
    const y = levelOnScreen(scene, level)
    if (y < plot.top - 1 || y > plot.top + plot.height + 1) continue
    const isEnd = level === 0 || level === last
    const isNearEnd = !isEnd && step > 1 && (Math.min(level, last - level) * spacing < 13)
    if (!isEnd && ((level - 1) % step || isNearEnd)) continue
    pen.fillText(level === 0 ? 'token' : level === last ? 'answer' : `L${level - 1}`, plot.left - 8, y)
  }
}

function drawTokens(pen: Pen, scene: Scene, isSloped: boolean): void {
  const { layout, camera, plot, palette, view, state } = scene
  const chosen = state.selected ?? state.hovered
  const row = chosen === null ? -1 : view.row(chosen)
  const marked = row < 0 ? -1 : view.position[row]
  pen.textBaseline = 'middle'
  for (const column of layout.columns) {
    const x = plot.left + ((column.left + column.right) / 2) * camera.kx + camera.tx
    if (x < plot.left - 2 || x > plot.left + plot.width + 2) continue
    const isBias = column.position < 0
    const text = isBias ? 'bias' : cut(visible(view.header.tokens[column.position]), LETTERS)
    pen.font = `${column.position === marked && !isBias ? '700 ' : ''}${tokenFont(palette.font)}`
    pen.fillStyle = isBias ? palette.soft : palette.ink
    pen.save()
    pen.translate(x, plot.top + plot.height + 13)
    pen.textAlign = isSloped ? 'right' : 'center'
    if (isSloped) pen.rotate(-SLOPE)
    pen.fillText(text, isSloped ? 4 : 0, 0)
    pen.restore()
  }
}

function drawTargets(pen: Pen, scene: Scene): void {
  const { layout, plot, palette, view } = scene
  const rows = [...layout.targets]
  pen.textBaseline = 'middle'
  pen.font = `600 ${tokenFont(palette.font)}`
  pen.fillStyle = palette.ink
  if (rows.length === 1) return drawTarget(pen, scene, rows[0])
  const placed: number[] = []
  // Where they would cover each other the more probable one stands.
  for (const row of rows.sort((a, b) => view.probability[b] - view.probability[a])) {
    const [x, y] = [screenX(scene, row), screenY(scene, row)]
    if (!contains(plot, x, y, 2) || placed.some((other) => Math.abs(other - x) < 14)) continue
    placed.push(x)
    pen.save()
    pen.translate(x, plot.top - 4)
    pen.rotate(Math.PI / 4)
    pen.textAlign = 'right'
    pen.fillText(targetName(view, row), 0, 0)
    pen.restore()
  }
}

function drawTarget(pen: Pen, scene: Scene, row: number): void {
  const { plot, view, size } = scene
  const x = screenX(scene, row)
  if (!contains(plot, x, plot.top, 2)) return
  const text = cut(targetName(view, row), 40)
  const half = scene.measure(text, pen.font) / 2
  pen.textAlign = 'center'
  pen.fillText(text, Math.min(Math.max(x, half + 4), size.width - half - 4), plot.top - 11)
}
