// One shape for each kind of node, so that kinds can be told apart without colour.
import type { Kind } from '../view/view'

/** What is drawn with: a canvas, or the writer of SVG in svg.ts. */
export type Pen = Pick<
  CanvasRenderingContext2D,
  | 'beginPath' | 'moveTo' | 'lineTo' | 'bezierCurveTo' | 'arc' | 'rect' | 'closePath' | 'fill' | 'stroke' | 'clip'
  | 'fillText' | 'strokeText' | 'save' | 'restore' | 'translate' | 'rotate' | 'setLineDash'
  | 'fillStyle' | 'strokeStyle' | 'lineWidth' | 'globalAlpha' | 'font' | 'textAlign' | 'textBaseline' | 'lineCap'
  | 'lineJoin'
>

/** Kinds whose shape has no inside. */
export const IS_HOLLOW: Record<Kind, boolean> = {
  feature: false, error: false, embedding: false, unexpanded: true, bias: true, logit: false,
}

/** Add the outline of a glyph of about the same area as a circle of this radius to the path. */
export function trace(pen: Pen, kind: Kind, x: number, y: number, r: number): void {
  if (kind === 'feature') {
    pen.moveTo(x + r, y)
    pen.arc(x, y, r, 0, 2 * Math.PI)
  } else if (kind === 'error') {
    polygon(pen, x, y, [0, -1.25, 1.25, 0, 0, 1.25, -1.25, 0], r)
  } else if (kind === 'unexpanded') {
    polygon(pen, x, y, [0, -1.2, 1.15, 0.85, -1.15, 0.85], r)
  } else if (kind === 'bias') {
    pen.moveTo(x - r, y)
    pen.lineTo(x + r, y)
    pen.moveTo(x, y - r)
    pen.lineTo(x, y + r)
  } else {
    polygon(pen, x, y, [-0.9, -0.9, 0.9, -0.9, 0.9, 0.9, -0.9, 0.9], r)
  }
}

function polygon(pen: Pen, x: number, y: number, corners: number[], r: number): void {
  pen.moveTo(x + corners[0] * r, y + corners[1] * r)
  for (let at = 2; at < corners.length; at += 2) pen.lineTo(x + corners[at] * r, y + corners[at + 1] * r)
  pen.closePath()
}
