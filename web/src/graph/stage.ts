// What stands on the canvas: the layout in force, the bitmaps of its layers, and from where one looks at it.
import type { GraphView } from '../view/view'
import { margins, tokenFont } from './axes'
import { readPalette } from './colours'
import type { GraphState } from './core'
import { drawBack, drawNodes, hidesNames } from './draw'
import { backgroundEdges, shownRows, strongestFirst } from './filter'
import { isAlike, Layer, put, type Joined } from './layers'
import { layout } from './layout'
import { Picker } from './picking'
import type { Scene } from './scene'
import { clamped, fitted, home, type Camera } from './zoom'

/** Milliseconds of a frame that the layers may take. */
const NODES_TIME = 4
const BACK_TIME = 5.5
/** A layer that takes no longer than this in all follows every movement; others wait for rest. */
const QUICK = 4
const REST = 90

/** How the reader looks: as at first, at all of it, or as they chose; a new size keeps the first two. */
type Stance = 'home' | 'all' | 'own'

export class Stage {
  scene: Scene | null = null
  isSloped = false
  picker: Picker | null = null
  stance: Stance = 'home'
  readonly layers = { back: new Layer(drawBack), nodes: new Layer(drawNodes) }
  private joined: Joined | null = null
  private order: Uint32Array = new Uint32Array()
  /** A scene with another layout, while its nodes are being drawn. */
  private next: { scene: Scene; isSloped: boolean } | null = null
  /** Where the reader stood in the graph that this view shows more of. */
  private kept: Camera | null = null
  private movedAt = -Infinity
  private isStale = { layout: true, nodes: false, back: false }

  constructor(
    private readonly host: HTMLElement, private readonly measure: Scene['measure'],
    private view: GraphView, private state: GraphState,
  ) {
    this.order = strongestFirst(view)
  }

  /** The same stage for another view; one that shows more of the same graph is looked at as before. */
  setView(view: GraphView): void {
    const [was, now] = [this.view.header, view.header]
    const isMore = was.prompt === now.prompt && was.tokens.length === now.tokens.length
    this.kept = isMore && this.stance === 'own' ? (this.scene?.camera ?? this.kept) : null
    if (!isMore) this.stance = 'home'
    this.view = view
    this.order = strongestFirst(view)
    this.next = this.scene = this.picker = null
    for (const layer of Object.values(this.layers)) layer.clear()
    this.isStale.layout = true
  }

  /** Take another state; what depends on it is drawn anew. */
  setState(state: GraphState): void {
    const before = this.state
    this.state = state
    const isOther = (...keys: (keyof GraphState)[]) => keys.some((key) => state[key] !== before[key])
    if (isOther('nodeShare', 'hiddenKinds', 'pinned', 'selected', 'path')) this.isStale.layout = true
    if (isOther('labels', 'supernodes', 'theme') || hidesNames(state) !== hidesNames(before)) this.isStale.nodes = true
    if (isOther('edgeShare', 'backgroundEdges', 'theme')) this.isStale.back = true
  }

  /** The host is of another size. */
  resize(): void {
    this.next = null
    this.isStale.layout = true
  }

  /** Look from elsewhere. */
  look(camera: Camera, now: number): void {
    if (!this.scene) return
    this.scene = { ...this.scene, camera }
    this.movedAt = now
  }

  get isLayoutStale(): boolean {
    return this.isStale.layout || this.next !== null
  }

  /** Whether anything is still to be drawn. */
  get isBusy(): boolean {
    const layers = Object.values(this.layers)
    const isDrawn = layers.every((layer) => !layer.isDrawing && !isAway(layer, this.scene))
    return this.isLayoutStale || !isDrawn || Object.values(this.isStale).some(Boolean)
  }

  /** The scene with the state and colours of now. */
  current(): Scene | null {
    return this.scene && { ...this.scene, state: this.state, palette: readPalette(this.host, this.state.theme) }
  }

  /** Draw for a part of a frame. True when another layout came into force. */
  step(now: number, start: number): boolean {
    const isResting = now - this.movedAt > REST
    if (this.isStale.layout && !this.layers.nodes.isDrawing) this.arrange()
    const isNew = this.stepNodes(isResting, start + NODES_TIME)
    if (this.scene && !this.layers.nodes.isDrawing) {
      this.stepBack(isResting, start + BACK_TIME)
    }
    return isNew
  }

  /** Put the layers on a canvas, as they would look from where the reader is now. */
  paint(context: CanvasRenderingContext2D): void {
    const scene = this.scene!
    const { back, nodes } = this.layers
    const joined = Layer.joined(back, nodes, scene.palette.panel, this.joined)
    if (joined) {
      this.joined = joined
      return put(context, joined.canvas, { ...joined, scene: joined.above }, scene)
    }
    back.show(context, scene)
    nodes.show(context, scene)
  }

  /** Finish the layout at once. True when another came into force. */
  settle(): boolean {
    if (this.isStale.layout) this.arrange()
    if (!this.next) return false
    this.adopt()
    this.isStale.nodes = true
    return true
  }

  /** Work out another layout; it comes into force once its nodes are drawn. */
  private arrange(): void {
    this.isStale.layout = false
    const { view, scene, state, measure } = this
    const size = { width: this.host.clientWidth, height: this.host.clientHeight }
    const rows = shownRows(view, state)
    const isSameSize = scene?.size.width === size.width && scene.size.height === size.height
    const before = scene?.layout.rows
    if (isSameSize && rows.length === before?.length && rows.every((row, at) => row === before[at])) return
    const palette = readPalette(this.host, state.theme)
    const rough = layout(view, rows, { width: size.width - 64, height: size.height - 56 })
    const around = margins(view, rough, (size.width - 64) / rough.width, (text) => measure(text, tokenFont(palette.font)))
    const { left, top, right, bottom, isSloped } = around
    const plot = { left, top, width: Math.max(40, size.width - left - right), height: Math.max(40, size.height - top - bottom) }
    const placed = layout(view, rows, plot)
    const camera = this.stand({ layout: placed, plot })
    const edges = this.edges(placed.isShown)
    this.next = { scene: { view, state, layout: placed, camera, plot, size, palette, edges, measure }, isSloped }
  }

  /** From where a layout is looked at. */
  private stand({ layout, plot }: Pick<Scene, 'layout' | 'plot'>): Camera {
    const stood = this.scene?.camera ?? this.kept
    if (this.stance === 'home' || !stood) return home(layout, plot)
    return this.stance === 'all' ? fitted(layout, plot) : clamped(stood, layout, plot)
  }

  private edges(isShown: Uint8Array): Uint32Array {
    return backgroundEdges(this.view, this.order, isShown, this.state.edgeShare, this.state.backgroundEdges)
  }

  private adopt(): void {
    const { scene, isSloped } = this.next!
    this.scene = { ...scene, camera: this.stand(scene), state: this.state }
    this.isSloped = isSloped
    this.picker = new Picker(scene.layout)
    this.next = this.kept = null
    this.isStale.back = true
  }

  private stepNodes(isResting: boolean, until: number): boolean {
    const { nodes } = this.layers
    if (!nodes.isDrawing) {
      if (this.next) nodes.begin(this.next.scene)
      else if (this.scene && (this.isStale.nodes || this.isDue(nodes, isResting))) {
        this.isStale.nodes = false
        this.scene = this.current()!
        nodes.begin(this.scene)
      }
    }
    if (!nodes.step(until) || !this.next) return false
    this.adopt()
    return true
  }

  private stepBack(isResting: boolean, until: number): void {
    const { back } = this.layers
    // While the reader moves, what lies behind would be out of date before it is drawn.
    const isFree = isResting || back.cost < QUICK || back.shown?.layout !== this.scene!.layout
    if (!isFree && back.coming?.layout === this.scene!.layout) {
      back.drop()
      this.isStale.back = true
    }
    if (!back.isDrawing && isFree && (this.isStale.back || isAway(back, this.scene))) {
      this.isStale.back = false
      this.scene = { ...this.current()!, edges: this.edges(this.scene!.layout.isShown) }
      back.begin(this.scene)
    }
    back.step(until)
  }

  /** Whether a layer was drawn from elsewhere and can be drawn anew now. */
  private isDue(layer: Layer, isResting: boolean): boolean {
    return isAway(layer, this.scene) && (isResting || layer.cost < QUICK)
  }
}

/** Whether a layer was drawn for another layout or from elsewhere. */
function isAway(layer: Layer, scene: Scene | null): boolean {
  return scene !== null && (!layer.shown || !isAlike(layer.shown, scene))
}
