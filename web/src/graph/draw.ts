// The layers of the picture: what lies behind, the nodes with their names, and what the reader looks at.
// All but the last are generators, so that a large graph can be drawn a few milliseconds at a time.
import { KINDS, type Edge, type GraphView, type Kind } from '../view/view'
import { drawBackgroundEdges, drawPath, drawSigned, drawSigns } from './edges'
import { shareColour } from './colours'
import type { GraphState } from './core'
import { IS_HOLLOW, trace, type Pen } from './glyphs'
import { drawGroups, drawTags, placeTags, type Tag } from './groups'
import { placeLabels, worthNaming, type Label } from './labels'
import { contains, levelOnScreen, screenX, screenY, type Area, type Focus, type Scene } from './scene'
import { glyphScale } from './zoom'

// --- behind ------------------------------------------------------------------------------------------------

export function* drawBack(pen: Pen, scene: Scene, area: Area): Generator<void> {
  drawGrid(pen, scene, area)
  yield* drawErrorMass(pen, scene, area)
  yield* drawBackgroundEdges(pen, scene, area)
}

/** A band for every other token, and a line between the layers and the tokens and targets. */
function drawGrid(pen: Pen, scene: Scene, area: Area): void {
  const { layout, camera, plot, palette } = scene
  pen.save()
  pen.fillStyle = palette.band
  pen.globalAlpha = palette.isDark ? 0.45 : 0.55
  pen.beginPath()
  layout.columns.forEach((column, place) => {
    if (place % 2) return
    const left = plot.left + column.left * camera.kx + camera.tx
    pen.rect(left, area.top, (column.right - column.left) * camera.kx, area.height)
  })
  pen.fill()
  pen.globalAlpha = 0.7
  pen.strokeStyle = palette.line
  pen.lineWidth = 1
  pen.beginPath()
  for (const level of [0, layout.levels - 1]) {
    const y = (levelOnScreen(scene, level) + levelOnScreen(scene, level ? level - 1 : 1)) / 2
    pen.moveTo(area.left, y)
    pen.lineTo(area.left + area.width, y)
  }
  pen.stroke()
  pen.restore()
}

const HATCH = 4.5

/**
 * Error mass where it sits: every layer and token whose error node is in the view is hatched, the denser the more of
 * the influence it carries, whether the node itself is shown or not.
 */
function* drawErrorMass(pen: Pen, scene: Scene, area: Area): Generator<void> {
  const { view, layout, plot, camera, palette } = scene
  const shares = errorShares(view)
  pen.save()
  pen.strokeStyle = palette.error
  pen.lineWidth = 1
  let done = 0
  for (const [row, share] of shares) {
    const column = layout.columns.find((one) => one.position === view.position[row])
    if (!column || share < 0.03) continue
    const y = levelOnScreen(scene, view.layer[row] + 1)
    const half = Math.max(1.5, layout.rowHeight * camera.ky * 0.36)
    const left = plot.left + column.left * camera.kx + camera.tx + 2
    const width = (column.right - column.left) * camera.kx - 4
    if (!contains(area, left + width / 2, y, width + half)) continue
    pen.globalAlpha = (palette.isDark ? 0.62 : 0.5) * share ** 0.8
    hatch(pen, left, y - half, width, 2 * half)
    if (++done % 60 === 0) yield
  }
  pen.restore()
}

/** Influence of the error nodes by that of the strongest one. */
function errorShares(view: GraphView): [number, number][] {
  const error = KINDS.indexOf('error')
  const rows: number[] = []
  for (let row = 0; row < view.n; row++) if (view.kind[row] === error) rows.push(row)
  const most = rows.reduce((top, row) => Math.max(top, Math.abs(view.influence[row])), 0) || 1
  return rows.map((row) => [row, Math.abs(view.influence[row]) / most])
}

function hatch(pen: Pen, left: number, top: number, width: number, height: number): void {
  pen.beginPath()
  for (let at = HATCH / 2; at < width + height; at += HATCH) {
    const [x0, y0] = at < width ? [at, 0] : [width, at - width]
    const [x1, y1] = at < height ? [0, at] : [at - height, height]
    pen.moveTo(left + x0, top + y0)
    pen.lineTo(left + x1, top + y1)
  }
  pen.stroke()
}

// --- nodes -------------------------------------------------------------------------------------------------

const BATCH = 250

export function* drawNodes(pen: Pen, scene: Scene, area: Area): Generator<void> {
  const { view, layout } = scene
  const scale = glyphScale(scene.camera)
  const byKind = KINDS.map((): number[] => [])
  for (const row of layout.rows) {
    if (contains(area, screenX(scene, row), screenY(scene, row), 12)) byKind[view.kind[row]].push(row)
  }
  for (const [kind, rows] of byKind.entries()) {
    for (let at = 0; at < rows.length; at += BATCH) {
      drawAlike(pen, scene, KINDS[kind], rows.slice(at, at + BATCH), scale)
      yield
    }
  }
  if (!hidesNames(scene.state)) drawLabels(pen, scene, nodeLabels(scene, area, scale), scene.palette.soft, '11px')
}

/** Beside a chosen node or path only the names of what it is tied to stand. */
export function hidesNames(state: GraphState): boolean {
  return state.selected !== null || state.path.length > 1
}

/** Nodes of one kind in their plain colours. */
function drawAlike(pen: Pen, scene: Scene, kind: Kind, rows: readonly number[], scale: number): void {
  const { layout, palette } = scene
  pen.save()
  pen.beginPath()
  for (const row of rows) trace(pen, kind, screenX(scene, row), screenY(scene, row), layout.radius[row] * scale)
  if (IS_HOLLOW[kind]) {
    pen.strokeStyle = palette.soft
    pen.lineWidth = kind === 'bias' ? 2 : 1.4
    pen.stroke()
  } else {
    pen.fillStyle = plainColour(scene, kind)
    pen.fill()
    // An error is a gap in the account: its diamond is pale, with a firm outline.
    pen.strokeStyle = kind === 'error' ? palette.error : palette.panel
    pen.lineWidth = kind === 'error' ? 1.2 : 0.9
    pen.stroke()
  }
  pen.restore()
}

function plainColour(scene: Scene, kind: Kind): string {
  const { palette } = scene
  if (kind === 'error') return palette.pale
  if (kind === 'logit') return palette.accent
  return kind === 'embedding' ? palette.ink : palette.feature
}

function nodeLabels(scene: Scene, area: Area, scale: number): Label[] {
  const font = `11px ${scene.palette.font}`
  const most = Math.round((area.width * area.height) / 22_000)
  const taken = placeTags(scene, scale).map((tag) => tag.box)
  return placeLabels(scene, worthNaming(scene), { area, font, scale, around: scene.layout.rows, taken, most })
}

function drawLabels(pen: Pen, scene: Scene, labels: readonly Label[], colour: string, size: string): void {
  pen.save()
  pen.font = `${size} ${scene.palette.font}`
  pen.textBaseline = 'middle'
  pen.lineJoin = 'round'
  pen.lineWidth = 3
  pen.strokeStyle = scene.palette.panel
  pen.fillStyle = colour
  for (const label of labels) {
    pen.textAlign = label.align
    pen.strokeText(label.text, label.x, label.y)
    pen.fillText(label.text, label.x, label.y)
  }
  pen.restore()
}

// --- what the reader looks at ------------------------------------------------------------------------------

/** Beyond these many edges of one node a picture says nothing; the list of connections has them all. */
const MOST_EDGES = 240

export function drawFocus(pen: Pen, scene: Scene, focus: Focus | null, between: readonly Edge[]): void {
  const { view, state, layout } = scene
  const scale = glyphScale(scene.camera)
  const rowsOf = (ids: Iterable<number>) => [...ids].map((id) => view.row(id)).filter((row) => row >= 0 && layout.isShown[row])
  const pinned = rowsOf(state.pinned)
  drawVeil(pen, scene, focus)
  drawGroups(pen, scene, scale)
  drawSigned(pen, scene, between.slice(0, MOST_EDGES), focus ? 0.35 : 0.8, 0.8)
  if (focus) drawSigned(pen, scene, focus.edges.slice(0, MOST_EDGES), focus.isSelected ? 0.9 : 0.7)
  const path = rowsOf(state.path)
  drawPath(pen, scene, path)
  if (focus) drawConnected(pen, scene, focus, scale)
  for (const row of pinned) if (!focus?.shares.has(row)) drawNode(pen, scene, row, scale, plainColour(scene, view.kindOf(row)))
  for (const row of path) if (!focus?.shares.has(row)) drawNode(pen, scene, row, scale, scene.palette.accent)
  const grouped = new Set(state.supernodes.flatMap((group) => group.nodes))
  for (const row of pinned) if (!grouped.has(view.id[row])) ring(pen, scene, row, scale, scene.palette.ink, 2, 0.6)
  drawRings(pen, scene, scale)
  if (focus?.isSelected) drawSigns(pen, scene, focus)
  const tags = placeTags(scene, scale)
  drawFocusLabels(pen, scene, focus, { pinned, path, tags }, scale)
  drawTags(pen, scene, tags)
}

/** What the focus leaves aside fades: one sheet over all is quicker than every node again. */
function drawVeil(pen: Pen, scene: Scene, focus: Focus | null): void {
  const { plot, palette, state } = scene
  const isChosen = focus?.isSelected || state.path.length > 1
  if (!isChosen && !focus) return
  pen.save()
  pen.globalAlpha = isChosen ? 0.66 : 0.3
  pen.fillStyle = palette.panel
  pen.beginPath()
  pen.rect(plot.left - 2, plot.top - 2, plot.width + 4, plot.height + 4)
  pen.fill()
  pen.restore()
}

/** Connected nodes, filled by their signed share. */
function drawConnected(pen: Pen, scene: Scene, focus: Focus, scale: number): void {
  const weakestFirst = [...focus.shares].sort((a, b) => Math.abs(a[1]) - Math.abs(b[1]))
  for (const [row, share] of weakestFirst) {
    drawNode(pen, scene, row, scale, shareColour(share, scene.palette.isDark), scene.palette.soft)
  }
  drawNode(pen, scene, focus.row, scale, plainColour(scene, scene.view.kindOf(focus.row)))
}

function drawNode(pen: Pen, scene: Scene, row: number, scale: number, fill: string, line = scene.palette.panel): void {
  const kind = scene.view.kindOf(row)
  const [x, y] = [screenX(scene, row), screenY(scene, row)]
  if (!contains(scene.plot, x, y, 12)) return
  pen.save()
  pen.beginPath()
  trace(pen, kind, x, y, scene.layout.radius[row] * scale)
  pen.fillStyle = fill
  pen.lineWidth = IS_HOLLOW[kind] ? 1.6 : kind === 'error' ? 1.2 : 0.9
  pen.strokeStyle = IS_HOLLOW[kind] ? fill : kind === 'error' ? scene.palette.error : line
  if (kind !== 'bias') pen.fill()
  pen.stroke()
  pen.restore()
}

function ring(
  pen: Pen, scene: Scene, row: number, scale: number, colour: string, width: number, gap: number, dash: number[] = [],
): void {
  const [x, y] = [screenX(scene, row), screenY(scene, row)]
  if (!contains(scene.plot, x, y, 12)) return
  pen.save()
  pen.strokeStyle = colour
  pen.lineWidth = width
  pen.setLineDash(dash)
  pen.beginPath()
  const kind = scene.view.kindOf(row)
  trace(pen, kind === 'bias' ? 'feature' : kind, x, y, scene.layout.radius[row] * scale + gap + width / 2)
  pen.stroke()
  pen.restore()
}

/** The selected node, the hovered one, and the other places of its feature. */
function drawRings(pen: Pen, scene: Scene, scale: number): void {
  const { view, state, layout, palette } = scene
  const selected = state.selected === null ? -1 : view.row(state.selected)
  const hovered = state.hovered === null ? -1 : view.row(state.hovered)
  const shown = hovered >= 0 ? hovered : selected
  if (shown >= 0 && view.kindOf(shown) === 'feature') {
    for (const row of layout.rows) {
      const isSame = view.feature[row] === view.feature[shown] && view.layer[row] === view.layer[shown]
      if (isSame && row !== shown && view.kindOf(row) === 'feature') ring(pen, scene, row, scale, palette.accent, 1.5, 2.5, [3, 2.5])
    }
  }
  if (selected >= 0 && layout.isShown[selected]) ring(pen, scene, selected, scale, palette.accent, 2.6, 1.8)
  if (hovered >= 0 && hovered !== selected && layout.isShown[hovered]) ring(pen, scene, hovered, scale, palette.ink, 1.6, 2.2)
}

function drawFocusLabels(
  pen: Pen, scene: Scene, focus: Focus | null, marked: { pinned: number[]; path: number[]; tags: Tag[] }, scale: number,
): void {
  const { pinned, path, tags } = marked
  const { view, layout, plot, palette, state } = scene
  const grouped = new Set(state.supernodes.flatMap((group) => group.nodes))
  const single = pinned.filter((row) => !grouped.has(view.id[row]))
  const named = (row: number) => view.kindOf(row) !== 'embedding' && view.kindOf(row) !== 'logit'
  const connected = focus?.isSelected ? [...focus.shares].sort((a, b) => Math.abs(b[1]) - Math.abs(a[1])).map(([row]) => row) : []
  const first = focus?.isSelected ? [focus.row] : []
  const rows = [...new Set([...first, ...path, ...single, ...connected.slice(0, 14)])].filter((row) => layout.isShown[row] && named(row))
  if (!rows.length) return
  const around = new Set([...rows, ...pinned, ...connected.slice(0, 40)])
  const font = `600 11.5px ${palette.font}`
  const options = { area: plot, font, scale, around, taken: tags.map((tag) => tag.box), most: 16, repeats: 99, letters: 28 }
  drawLabels(pen, scene, placeLabels(scene, rows, options), palette.ink, '600 11.5px')
}
