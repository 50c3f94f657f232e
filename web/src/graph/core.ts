// The graph as it is drawn: tokens by layers on layered canvases. No framework: the page, notebooks and exported files
// use this class alike.
import type { Edge, GraphView } from '../view/view'
import { drawAxes } from './axes'
import { drawFocus } from './draw'
import { asPng, asSvg, paintFrame } from './export'
import { focusEdges, pinnedEdges, totalInfluence } from './filter'
import { Pointers } from './pointer'
import { screenX, screenY, type Focus, type Scene } from './scene'
import { Stage } from './stage'
import { told, Tooltip } from './tooltip'
import { alongEdges, beginning, neighbour, type Direction } from './walk'
import { cut, nodeName } from './words'
import { between, clamped, fitted, glyphScale, revealing, zoomed, type Camera } from './zoom'

export interface Supernode {
  id: string
  name: string
  nodes: number[]
}

/** Everything that decides what is drawn. Nodes are named by id (index in the whole graph). */
export interface GraphState {
  selected: number | null
  hovered: number | null
  pinned: ReadonlySet<number>
  supernodes: readonly Supernode[]
  /** Own names of nodes, by id. */
  labels: ReadonlyMap<number, string>
  /** Shares of influence that are shown: nodes and edges with a cumulative share up to these. */
  nodeShare: number
  edgeShare: number
  /** How many of the strongest edges are drawn faintly behind everything. */
  backgroundEdges: number
  linkType: 'input' | 'output' | 'either' | 'both'
  hiddenKinds: ReadonlySet<string>
  /** Nodes of a path that is highlighted, in order; empty for none. */
  path: readonly number[]
  theme: 'light' | 'dark'
}

export interface GraphEvents {
  onHover?(id: number | null): void
  /** A click: the node, or null beside all. `withKey` is set with Ctrl or Command: pin. `group` while g is held. */
  onSelect?(id: number | null, how: { withKey: boolean; group: boolean }): void
  /** A rectangle was dragged with Shift: the nodes inside. */
  onRegion?(ids: number[]): void
}

export const INITIAL: GraphState = {
  selected: null,
  hovered: null,
  pinned: new Set(),
  supernodes: [],
  labels: new Map(),
  nodeShare: 0.6,
  edgeShare: 0.98,
  backgroundEdges: 2000,
  linkType: 'either',
  hiddenKinds: new Set(),
  path: [],
  theme: 'light',
}

const EASE = 160

interface Glide {
  from: Camera
  to: Camera
  start: number
}

export class GraphCore {
  private readonly canvas = document.createElement('canvas')
  private readonly context: CanvasRenderingContext2D
  private readonly tooltip: Tooltip
  private readonly pointers: Pointers
  private readonly observer: ResizeObserver
  private state: GraphState = INITIAL
  private view: GraphView | null = null
  private stage: Stage | null = null
  private total = 1
  private focus: Focus | null = null
  private pairs: Edge[] = []
  private isFocusStale = false
  /** A node to bring into sight as soon as it is shown. */
  private awaited: number | null = null
  private glide: Glide | null = null
  private waiting = 0
  /** When (as performance.now() counts) the first picture of the view stood; 0 before. */
  painted = 0

  constructor(private readonly host: HTMLElement, private readonly events: GraphEvents = {}) {
    Object.assign(this.canvas.style, { display: 'block', width: '100%', height: '100%', touchAction: 'none', cursor: 'default' })
    this.canvas.setAttribute('role', 'img')
    if (getComputedStyle(host).position === 'static') host.style.position = 'relative'
    host.append(this.canvas)
    this.context = this.canvas.getContext('2d', { alpha: false })!
    this.tooltip = new Tooltip(host)
    this.pointers = new Pointers(this.canvas, {
      wake: () => this.wake(),
      click: (x, y, how) => this.click(x, y, how),
      doubleClick: () => this.fit(),
      region: (corners) => this.region(corners),
    })
    this.observer = new ResizeObserver(() => {
      this.stage?.resize()
      this.wake()
    })
    this.observer.observe(host)
  }

  /** Show another graph, or more of this one, which then stays where it is on screen; the state is kept. */
  setView(view: GraphView): void {
    this.view = view
    this.total = totalInfluence(view)
    this.focus = null
    this.isFocusStale = true
    this.painted = 0
    if (this.stage) this.stage.setView(view)
    else this.stage = new Stage(this.host, (text, font) => this.measured(text, font), view, this.state)
    this.canvas.setAttribute('aria-label', `Attribution graph of “${view.header.prompt}”: ${view.n} nodes`)
    this.wake()
  }

  /** Change what is drawn; only the layers that depend on what changed are drawn again. */
  setState(change: Partial<GraphState>): void {
    this.state = { ...this.state, ...change }
    this.stage?.setState(this.state)
    this.isFocusStale = true
    this.wake()
  }

  /** Show all of the graph. */
  fit(): void {
    this.move((scene) => fitted(scene.layout, scene.plot), 'all')
  }

  /** Closer (above 1) or further by a factor, about the middle. */
  zoomBy(factor: number): void {
    this.move(({ camera, plot, layout }) => zoomed(camera, factor, plot.width / 2, plot.height / 2, layout, plot), 'own')
  }

  /** Bring a node into sight; one that is about to be shown, as soon as it is. */
  reveal(id: number): void {
    const row = this.shownRow(id)
    if (row < 0 || this.stage!.isLayoutStale) this.awaited = id
    const scene = this.stage?.scene
    if (row < 0 || !scene) return
    const { layout, camera, plot } = scene
    const goal = revealing(camera, layout.x[row], layout.y[row], layout, plot)
    if (goal.tx !== camera.tx || goal.ty !== camera.ty) this.move(() => goal, 'own')
  }

  /** The shown node next to one (null: where to begin), by the arrow keys; null where nothing is shown. */
  walk(id: number | null, direction: Direction): number | null {
    const layout = this.stage?.scene?.layout
    if (!this.view || !layout) return null
    const row = id === null ? -1 : this.shownRow(id)
    const found = row < 0 ? beginning(this.view, layout) : neighbour(this.view, layout, row, direction)
    return found < 0 ? null : this.view.id[found]
  }

  /** The next weaker (1) or stronger (-1) input or output of a node after `at`; null if it has none. */
  along(id: number, at: number | null, step: 1 | -1, type: 'input' | 'output'): number | null {
    const row = this.shownRow(id)
    const layout = this.stage?.scene?.layout
    if (!this.view || !layout || row < 0) return null
    const last = at === null ? -1 : this.view.row(at)
    const found = alongEdges(this.view, layout, row, last, step, type, this.state.edgeShare)
    return found < 0 ? null : this.view.id[found]
  }

  /** Whether g is held: a click then adds to a group. */
  get isGrouping(): boolean {
    return this.pointers.isGroupKeyDown
  }

  /** The picture as it stands, as SVG text. */
  svg(): string {
    const scene = this.settled()
    return scene ? asSvg(scene, this.focus, this.pairs, this.stage!.isSloped) : ''
  }

  /** The picture as it stands, as a PNG file, `scale` pixels to a point. */
  async png(scale = 2): Promise<Blob> {
    const scene = this.settled()
    return scene ? asPng(scene, this.focus, this.pairs, this.stage!.isSloped, scale) : new Blob()
  }

  destroy(): void {
    cancelAnimationFrame(this.waiting)
    this.observer.disconnect()
    this.pointers.destroy()
    this.tooltip.destroy()
    this.canvas.remove()
  }

  // --- frames --------------------------------------------------------------------------------------------

  private wake(): void {
    if (!this.waiting) this.waiting = requestAnimationFrame((now) => this.frame(now))
  }

  private frame(now: number): void {
    this.waiting = 0
    const { clientWidth, clientHeight } = this.host
    const { stage } = this
    // In a hidden panel there is nothing to draw; its size tells when it is back.
    if (!stage || clientWidth < 80 || clientHeight < 80) return
    const start = performance.now()
    this.gestures(now)
    this.gliding(now)
    if (stage.step(now, start)) this.arrived()
    if (stage.scene) {
      this.refocus()
      this.compose(stage)
      this.painted ||= performance.now()
    }
    if (stage.isBusy || this.glide) this.wake()
  }

  /** Another layout is in force. */
  private arrived(): void {
    this.isFocusStale = true
    this.glide = null
    if (this.awaited === null || this.shownRow(this.awaited) < 0) return
    const id = this.awaited
    this.awaited = null
    this.reveal(id)
  }

  /** Take what pointer and wheel did since the last frame. */
  private gestures(now: number): void {
    const { pan, zoom, hover } = this.pointers.take()
    const scene = this.stage?.scene
    if (!scene) return
    const { layout, plot } = scene
    if (pan || zoom) {
      let camera = scene.camera
      if (zoom) camera = zoomed(camera, zoom.factor, zoom.x - plot.left, zoom.y - plot.top, layout, plot)
      if (pan) camera = clamped({ ...camera, tx: camera.tx + pan[0], ty: camera.ty + pan[1] }, layout, plot)
      this.glide = null
      this.stage!.look(camera, now)
      this.stage!.stance = 'own'
    }
    if (hover === undefined) return
    const row = hover ? this.pick(...hover) : -1
    this.canvas.style.cursor = row >= 0 ? 'pointer' : this.pointers.isDragging ? 'grabbing' : 'default'
    this.hover(row < 0 ? null : this.view!.id[row])
  }

  private gliding(now: number): void {
    if (!this.glide) return
    const part = Math.min(1, (now - this.glide.start) / EASE)
    this.stage!.look(between(this.glide.from, this.glide.to, 1 - (1 - part) ** 3), now)
    if (part >= 1) this.glide = null
  }

  private move(to: (scene: Scene) => Camera, stance: Stage['stance']): void {
    const scene = this.stage?.scene
    if (!scene) return
    const isReduced = window.matchMedia('(prefers-reduced-motion: reduce)').matches
    const start = performance.now()
    this.stage!.stance = stance
    if (isReduced) this.stage!.look(to(scene), start)
    else this.glide = { from: scene.camera, to: to(scene), start }
    this.wake()
  }

  private compose(stage: Stage): void {
    const { context, canvas } = this
    const scene = (stage.scene = { ...stage.scene!, state: this.state })
    const ratio = devicePixelRatio || 1
    const [width, height] = [Math.round(scene.size.width * ratio), Math.round(scene.size.height * ratio)]
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height]
    context.setTransform(ratio, 0, 0, ratio, 0, 0)
    paintFrame(context, scene, () => {
      stage.paint(context)
      drawFocus(context, scene, this.focus, this.pairs)
    })
    drawAxes(context, scene, stage.isSloped)
    this.drawRegion(scene)
    this.tell(scene)
  }

  private drawRegion(scene: Scene): void {
    if (!this.pointers.rectangle) return
    const [x0, y0, x1, y1] = this.pointers.rectangle
    this.context.strokeStyle = scene.palette.focus
    this.context.lineWidth = 1.5
    this.context.setLineDash([5, 3])
    this.context.strokeRect(Math.min(x0, x1), Math.min(y0, y1), Math.abs(x1 - x0), Math.abs(y1 - y0))
    this.context.setLineDash([])
  }

  // --- what is looked at ---------------------------------------------------------------------------------

  private refocus(): void {
    const layout = this.stage?.scene?.layout
    if (!this.isFocusStale || !this.view || !layout) return
    this.isFocusStale = false
    const { selected, hovered, linkType, edgeShare, pinned } = this.state
    const { isShown } = layout
    this.pairs = pinnedEdges(this.view, pinned, isShown, edgeShare)
    const isSelected = selected !== null && this.shownRow(selected) >= 0
    const id = isSelected ? selected : hovered
    const row = id === null ? -1 : this.shownRow(id)
    if (row < 0) return void (this.focus = null)
    const edges = focusEdges(this.view, row, isShown, edgeShare, linkType)
    const shares = new Map<number, number>()
    for (const edge of edges) {
      const other = edge.source === row ? edge.target : edge.source
      if (!shares.has(other)) shares.set(other, edge.share)
    }
    this.focus = { row, isSelected, edges, shares }
  }

  private tell(scene: Scene): void {
    const { hovered, selected, labels } = this.state
    const row = hovered === null || this.pointers.isDragging ? -1 : this.shownRow(hovered)
    if (row < 0) return this.tooltip.hide()
    const isOther = this.focus?.isSelected && this.focus.row !== row
    const edge = isOther ? this.focus!.edges.find((one) => one.source === row || one.target === row) : undefined
    const other = edge ? cut(nodeName(scene.view, scene.view.row(selected!), labels), 30) : ''
    const tie = edge ? { share: edge.share, isInput: edge.source === row, other } : null
    const r = scene.layout.radius[row] * glyphScale(scene.camera)
    this.tooltip.show(told(scene.view, row, this.total, labels, tie), screenX(scene, row), screenY(scene, row), r)
  }

  private hover(id: number | null): void {
    if (id === this.state.hovered) return
    this.setState({ hovered: id })
    this.events.onHover?.(id)
  }

  private pick(x: number, y: number): number {
    if (!this.stage?.scene || !this.stage.picker) return -1
    const { plot, camera } = this.stage.scene
    return this.stage.picker.nearest(x - plot.left, y - plot.top, camera)
  }

  private click(x: number, y: number, how: { withKey: boolean; group: boolean }): void {
    const row = this.pick(x, y)
    this.events.onSelect?.(row < 0 ? null : this.view!.id[row], how)
  }

  private region([x0, y0, x1, y1]: [number, number, number, number]): void {
    if (!this.stage?.scene || !this.stage.picker || !this.view) return
    const { plot, camera } = this.stage.scene
    const [left, right] = [Math.min(x0, x1) - plot.left, Math.max(x0, x1) - plot.left]
    const [top, bottom] = [Math.min(y0, y1) - plot.top, Math.max(y0, y1) - plot.top]
    const rows = this.stage.picker.inside(left, top, right, bottom, camera)
    this.events.onRegion?.(rows.map((row) => this.view!.id[row]))
  }

  private shownRow(id: number): number {
    const row = this.view?.row(id) ?? -1
    return row >= 0 && this.stage?.scene?.layout.isShown[row] ? row : -1
  }

  private measured(text: string, font: string): number {
    if (this.context.font !== font) this.context.font = font
    return this.context.measureText(text).width
  }

  /** The scene with everything that was still to be done. */
  private settled(): Scene | null {
    if (this.stage?.settle()) this.arrived()
    this.refocus()
    this.wake()
    return this.stage?.current() ?? null
  }
}
