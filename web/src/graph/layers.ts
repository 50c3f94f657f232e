// A layer is a picture kept as a bitmap. It is drawn a few milliseconds at a time into a spare bitmap, and shown, moved
// and stretched to where the reader has gone meanwhile, until the new one is done.
import type { Pen } from './glyphs'
import type { Area, Scene } from './scene'

type Draw = (pen: Pen, scene: Scene, area: Area) => Generator<void>

interface Sheet {
  canvas: HTMLCanvasElement
  context: CanvasRenderingContext2D
}

function sheet(): Sheet {
  const canvas = document.createElement('canvas')
  return { canvas, context: canvas.getContext('2d')! }
}

const probe = (): CanvasRenderingContext2D => {
  const { canvas, context } = sheet()
  canvas.width = canvas.height = 1
  return context
}

/** How far beyond the plot a layer is drawn, so that a short pan shows no blank edge. */
const BEYOND = 0.25

export class Layer {
  private front = sheet()
  private spare = sheet()
  private readonly probe = probe()
  private drawing: { steps: Generator<void>; scene: Scene; area: Area; ratio: number } | null = null
  private area: Area | null = null
  private ratio = 0
  private spent = 0
  /** The scene that the bitmap shows; null before the first. */
  shown: Scene | null = null
  /** Milliseconds that the last drawing took in all. */
  cost = 0

  constructor(private readonly draw: Draw) {}

  get isDrawing(): boolean {
    return this.drawing !== null
  }

  /** What is being drawn. */
  get coming(): Scene | null {
    return this.drawing?.scene ?? null
  }

  /** Begin to draw a scene; what was being drawn is dropped. */
  begin(scene: Scene): void {
    const ratio = devicePixelRatio || 1
    const area = areaOf(scene)
    const [width, height] = [Math.ceil(area.width * ratio), Math.ceil(area.height * ratio)]
    const { canvas, context } = this.spare
    context.setTransform(1, 0, 0, 1, 0, 0)
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height]
    else context.clearRect(0, 0, width, height)
    context.setTransform(ratio, 0, 0, ratio, -area.left * ratio, -area.top * ratio)
    this.drawing = { steps: this.draw(context, scene, area), scene, area, ratio }
    this.spent = 0
  }

  /** Show nothing until something is drawn. */
  clear(): void {
    this.drawing = this.shown = null
  }

  /** Leave off drawing. */
  drop(): void {
    this.drawing = null
  }

  /** Go on drawing until a time (as performance.now() counts); true when that finished it. */
  step(until: number): boolean {
    if (!this.drawing) return false
    const start = performance.now()
    let isDone = false
    do {
      isDone = this.drawing.steps.next().done ?? false
      // A browser only notes what is drawn; looking at one pixel makes it draw now, inside the time we watch.
      this.probe.drawImage(this.spare.canvas, 0, 0, 1, 1, 0, 0, 1, 1)
    } while (!isDone && performance.now() < until)
    this.spent += performance.now() - start
    if (!isDone) return false
    ;[this.front, this.spare] = [this.spare, this.front]
    this.area = this.drawing.area
    this.ratio = this.drawing.ratio
    this.shown = this.drawing.scene
    this.drawing = null
    this.cost = this.spent
    return true
  }

  /** Put the bitmap where it belongs as seen through a camera; before there is one, as much as is drawn of the first. */
  show(context: CanvasRenderingContext2D, to: Place): void {
    if (this.shown) put(context, this.front.canvas, { scene: this.shown, area: this.area!, ratio: this.ratio }, to)
    else if (this.drawing) put(context, this.spare.canvas, this.drawing, to)
  }

  /** One opaque bitmap of two layers that were drawn from the same place: it is put down in a third of the time. */
  static joined(below: Layer, above: Layer, ground: string, into: Joined | null): Joined | null {
    if (!below.shown || !above.shown || !isAlike(below.shown, above.shown) || below.ratio !== above.ratio) return null
    if (into?.below === below.shown && into.above === above.shown) return into
    const canvas = into?.canvas ?? document.createElement('canvas')
    const context = canvas.getContext('2d', { alpha: false })!
    const { width, height } = above.front.canvas
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height]
    context.fillStyle = ground
    context.fillRect(0, 0, width, height)
    context.drawImage(below.front.canvas, 0, 0)
    context.drawImage(above.front.canvas, 0, 0)
    return { canvas, below: below.shown, above: above.shown, area: above.area!, ratio: above.ratio }
  }
}

export interface Joined {
  canvas: HTMLCanvasElement
  below: Scene
  above: Scene
  area: Area
  ratio: number
}

/** Where a bitmap is to stand: as the present scene has it. */
type Place = Pick<Scene, 'plot' | 'camera' | 'layout'>

/**
 * Put a bitmap of an area of a scene where it belongs as seen through a camera. One of a layout of another size (a
 * panel was folded) is stretched to the present one until it has been drawn anew.
 */
export function put(
  context: CanvasRenderingContext2D, canvas: HTMLCanvasElement,
  { scene: from, area, ratio }: { scene: Scene; area: Area; ratio: number }, { plot, camera, layout }: Place,
): void {
  const sx = (camera.kx * layout.width) / (from.camera.kx * from.layout.width)
  const sy = (camera.ky * layout.height) / (from.camera.ky * from.layout.height)
  const x = plot.left + (area.left - from.plot.left - from.camera.tx) * sx + camera.tx
  const y = plot.top + (area.top - from.plot.top - from.camera.ty) * sy + camera.ty
  // Only moved, it is put on whole pixels: nothing is to be mixed then.
  const whole = (value: number, scale: number) => (scale === 1 ? Math.round(value * ratio) / ratio : value)
  context.drawImage(canvas, whole(x, sx), whole(y, sy), (canvas.width / ratio) * sx, (canvas.height / ratio) * sy)
}

/** Whether two scenes stand and are looked at alike. */
export function isAlike(a: Scene, b: Scene): boolean {
  const [one, other] = [a.camera, b.camera]
  return a.layout === b.layout && one.kx === other.kx && one.ky === other.ky && one.tx === other.tx && one.ty === other.ty
}

/** The plot and a margin, as far as there is anything to see. */
function areaOf(scene: Scene): Area {
  const { plot, layout, camera } = scene
  const span = (start: number, length: number, worldStart: number, worldLength: number) => {
    const from = Math.max(start - BEYOND * length, Math.min(start, worldStart))
    const to = Math.min(start + length + BEYOND * length, Math.max(start + length, worldStart + worldLength))
    return [Math.floor(from), Math.ceil(to) - Math.floor(from)]
  }
  const [left, width] = span(plot.left, plot.width, plot.left + camera.tx, layout.width * camera.kx)
  const [top, height] = span(plot.top, plot.height, plot.top + camera.ty, layout.height * camera.ky)
  return { left, top, width, height }
}
