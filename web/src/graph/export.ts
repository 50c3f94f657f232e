// The picture drawn once and whole: as SVG, as PNG, and the frame around it that the page uses too.
import type { Edge } from '../view/view'
import { drawAxes } from './axes'
import { drawBack, drawFocus, drawNodes } from './draw'
import type { Pen } from './glyphs'
import type { Focus, Scene } from './scene'
import { SvgPen } from './svg'

/** Fill the ground and draw something clipped to the plot. */
export function paintFrame(pen: Pen, scene: Scene, inside: () => void): void {
  const { size, plot, palette } = scene
  pen.fillStyle = palette.panel
  pen.beginPath()
  pen.rect(0, 0, size.width, size.height)
  pen.fill()
  pen.save()
  pen.beginPath()
  pen.rect(plot.left - 2, plot.top - 2, plot.width + 4, plot.height + 4)
  pen.clip()
  inside()
  pen.restore()
}

/** Run a drawing to its end. */
export function whole(steps: Generator<void>): void {
  while (!steps.next().done);
}

function paint(pen: Pen, scene: Scene, focus: Focus | null, between: readonly Edge[], isSloped: boolean): void {
  paintFrame(pen, scene, () => {
    whole(drawBack(pen, scene, scene.plot))
    whole(drawNodes(pen, scene, scene.plot))
    drawFocus(pen, scene, focus, between)
  })
  drawAxes(pen, scene, isSloped)
}

export function asSvg(scene: Scene, focus: Focus | null, between: readonly Edge[], isSloped: boolean): string {
  const pen = new SvgPen()
  paint(pen, scene, focus, between, isSloped)
  return pen.document(scene.size.width, scene.size.height, `Attribution graph of “${scene.view.header.prompt}”`)
}

export function asPng(
  scene: Scene, focus: Focus | null, between: readonly Edge[], isSloped: boolean, scale: number,
): Promise<Blob> {
  const canvas = document.createElement('canvas')
  canvas.width = Math.round(scene.size.width * scale)
  canvas.height = Math.round(scene.size.height * scale)
  const pen = canvas.getContext('2d')!
  pen.scale(scale, scale)
  paint(pen, scene, focus, between, isSloped)
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error('this browser could not make the PNG'))), 'image/png')
  })
}
