// How edges are drawn: from below, upwards, bowed a little where they stay at one token.
import type { Edge } from '../view/view'
import { FULL_SHARE } from './colours'
import type { Pen } from './glyphs'
import { screenX, screenY, type Area, type Focus, type Scene } from './scene'

const BOW = 46

/** Add the curve of an edge to the path. */
export function curve(pen: Pen, scene: Scene, source: number, target: number): void {
  const [x0, y0] = [screenX(scene, source), screenY(scene, source)]
  const [x1, y1] = [screenX(scene, target), screenY(scene, target)]
  const [dx, dy] = [x1 - x0, y1 - y0]
  // Straight up it would run through every node between; so it leans aside.
  const lean = Math.abs(dx) < BOW ? Math.min(BOW, Math.abs(dy) * 0.22) * (1 - Math.abs(dx) / BOW) : 0
  pen.moveTo(x0, y0)
  pen.bezierCurveTo(x0 - lean, y0 + dy * 0.4, x1 - lean, y1 - dy * 0.4, x1, y1)
}

/** Width of an edge in pixels: the root of its share. */
export function edgeWidth(share: number): number {
  return 0.6 + 4.4 * Math.sqrt(Math.min(1, Math.abs(share) / FULL_SHARE))
}

const BATCH = 20

/** Background edges, faint, the weakest first so that the strongest lie on top. Yields between batches. */
export function* drawBackgroundEdges(pen: Pen, scene: Scene, area: Area): Generator<void> {
  const { edges, view, palette } = scene
  pen.save()
  pen.strokeStyle = palette.edge
  for (let end = edges.length; end > 0; end -= BATCH) {
    const strength = 1 - end / edges.length
    pen.globalAlpha = (palette.isDark ? 0.8 : 1) * (0.024 + 0.14 * strength ** 4)
    // Lines of at most a pixel take a browser a fraction of the time.
    pen.lineWidth = 0.6 + 0.4 * strength ** 4
    pen.beginPath()
    for (let at = Math.max(0, end - BATCH); at < end; at++) {
      const [source, target] = [view.source[edges[at]], view.target[edges[at]]]
      if (isSeen(scene, area, source, target)) curve(pen, scene, source, target)
    }
    pen.stroke()
    yield
  }
  pen.restore()
}

function isSeen(scene: Scene, area: Area, source: number, target: number): boolean {
  const [x0, x1] = [screenX(scene, source), screenX(scene, target)]
  const [y0, y1] = [screenY(scene, source), screenY(scene, target)]
  if (Math.max(x0, x1) < area.left || Math.min(x0, x1) - BOW > area.left + area.width) return false
  return Math.max(y0, y1) >= area.top && Math.min(y0, y1) <= area.top + area.height
}

/** Edges coloured by sign (and dashed where negative), largest first in the list, which is drawn from its end. */
export function drawSigned(pen: Pen, scene: Scene, edges: readonly Edge[], alpha: number, scale = 1): void {
  // A node of many weak inputs would be a haze if all were as dark as the few that matter.
  const largest = Math.max(0.02, Math.abs(edges[0]?.share ?? 0))
  pen.save()
  pen.lineCap = 'round'
  for (let at = edges.length - 1; at >= 0; at--) {
    const { source, target, share } = edges[at]
    const width = edgeWidth(share) * scale
    pen.strokeStyle = share < 0 ? scene.palette.negative : scene.palette.positive
    pen.globalAlpha = alpha * (0.1 + 0.9 * (Math.abs(share) / largest) ** 0.6)
    pen.lineWidth = width
    pen.setLineDash(share < 0 ? [3 + width, 3 + 1.6 * width] : [])
    pen.beginPath()
    curve(pen, scene, source, target)
    pen.stroke()
  }
  pen.restore()
}

/** The signs of the strongest edges, on their way: nothing is said by colour alone. */
export function drawSigns(pen: Pen, scene: Scene, focus: Focus, most = 8): void {
  pen.save()
  pen.font = `700 13px ${scene.palette.font}`
  pen.textAlign = 'center'
  pen.textBaseline = 'middle'
  pen.lineWidth = 3.5
  pen.lineJoin = 'round'
  pen.strokeStyle = scene.palette.panel
  for (const edge of focus.edges.slice(0, most)) {
    const [x0, y0] = [screenX(scene, edge.source), screenY(scene, edge.source)]
    const [x1, y1] = [screenX(scene, edge.target), screenY(scene, edge.target)]
    if (Math.hypot(x1 - x0, y1 - y0) < 70) continue
    const dx = Math.abs(x1 - x0)
    const lean = dx < BOW ? Math.min(BOW, Math.abs(y1 - y0) * 0.22) * (1 - dx / BOW) : 0
    const [x, y] = [(x0 + x1) / 2 - 0.75 * lean, (y0 + y1) / 2]
    const sign = edge.share < 0 ? '−' : '+'
    pen.strokeText(sign, x, y)
    pen.fillStyle = edge.share < 0 ? scene.palette.negative : scene.palette.positive
    pen.fillText(sign, x, y)
  }
  pen.restore()
}

/** A path through the graph: a broad line with an arrow head at each node it reaches. */
export function drawPath(pen: Pen, scene: Scene, rows: readonly number[]): void {
  if (rows.length < 2) return
  pen.save()
  pen.lineCap = 'round'
  pen.strokeStyle = pen.fillStyle = scene.palette.accent
  for (const [width, alpha] of [[7, 0.25], [2.4, 1]] as const) {
    pen.lineWidth = width
    pen.globalAlpha = alpha
    pen.beginPath()
    for (let at = 1; at < rows.length; at++) curve(pen, scene, rows[at - 1], rows[at])
    pen.stroke()
  }
  pen.restore()
}
