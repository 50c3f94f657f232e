// What pointer, wheel and the g key do, gathered until the next frame asks for it: a frame works once however many
// events came.

export interface Gestures {
  pan: [number, number] | null
  zoom: { factor: number; x: number; y: number } | null
  /** Where the pointer is; null when it left; undefined when it did not move. */
  hover: [number, number] | null | undefined
}

type Corners = [number, number, number, number]

export interface PointerEvents {
  wake(): void
  click(x: number, y: number, how: { withKey: boolean; group: boolean }): void
  doubleClick(): void
  region(corners: Corners): void
}

const STILL = 4

export class Pointers {
  isGroupKeyDown = false
  /** A rectangle being dragged with Shift: two corners. */
  rectangle: Corners | null = null
  private readonly down = new Map<number, [number, number]>()
  private start: [number, number] | null = null
  private hasMoved = false
  private isRegion = false
  private waiting: Gestures = { pan: null, zoom: null, hover: undefined }
  private readonly off = new AbortController()

  constructor(private readonly canvas: HTMLCanvasElement, private readonly events: PointerEvents) {
    const on = (target: EventTarget, name: string, listen: (event: never) => void, passive = true) =>
      // On the window before all others: a notebook's widget keeps keys from what is around it.
      target.addEventListener(name, listen as EventListener, { signal: this.off.signal, passive, capture: target === window })
    on(canvas, 'pointerdown', (event: PointerEvent) => this.press(event))
    on(canvas, 'pointermove', (event: PointerEvent) => this.move(event))
    on(canvas, 'pointerup', (event: PointerEvent) => this.release(event))
    on(canvas, 'pointercancel', (event: PointerEvent) => this.drop(event))
    on(canvas, 'pointerleave', (event: PointerEvent) => !event.shiftKey && this.set({ hover: null }))
    on(canvas, 'dblclick', () => this.events.doubleClick())
    on(canvas, 'wheel', (event: WheelEvent) => this.wheel(event), false)
    on(window, 'keydown', (event: KeyboardEvent) => this.key(event, true))
    on(window, 'keyup', (event: KeyboardEvent) => this.key(event, false))
    on(window, 'blur', () => void (this.isGroupKeyDown = false))
  }

  get isDragging(): boolean {
    return this.start !== null && this.hasMoved
  }

  /** What came since the last call. */
  take(): Gestures {
    const taken = this.waiting
    this.waiting = { pan: null, zoom: null, hover: undefined }
    return taken
  }

  destroy(): void {
    this.off.abort()
  }

  private set(change: Partial<Gestures>): void {
    Object.assign(this.waiting, change)
    this.events.wake()
  }

  private press(event: PointerEvent): void {
    if (event.button !== 0) return
    this.down.set(event.pointerId, [event.offsetX, event.offsetY])
    this.canvas.setPointerCapture(event.pointerId)
    if (this.down.size > 1) return
    this.start = [event.offsetX, event.offsetY]
    this.hasMoved = false
    this.isRegion = event.shiftKey
  }

  private move(event: PointerEvent): void {
    const [x, y] = [event.offsetX, event.offsetY]
    const before = this.down.get(event.pointerId)
    if (!before) {
      // Shift keeps what is hovered, so that its description can be read.
      if (!event.shiftKey && event.pointerType !== 'touch') this.set({ hover: [x, y] })
      return
    }
    if (this.down.size === 2) this.pinch(event.pointerId, before, [x, y])
    else if (this.start) this.drag(before, [x, y])
  }

  private drag(before: [number, number], [x, y]: [number, number]): void {
    const [x0, y0] = this.start!
    if (!this.hasMoved && Math.hypot(x - x0, y - y0) < STILL) return
    this.hasMoved = true
    for (const id of this.down.keys()) this.down.set(id, [x, y])
    if (this.isRegion) {
      this.rectangle = [x0, y0, x, y]
      return this.events.wake()
    }
    const [dx, dy] = this.waiting.pan ?? [0, 0]
    this.set({ pan: [dx + x - before[0], dy + y - before[1]], hover: null })
  }

  private pinch(id: number, before: [number, number], now: [number, number]): void {
    const other = [...this.down].find(([one]) => one !== id)![1]
    const far = (point: [number, number]) => Math.hypot(point[0] - other[0], point[1] - other[1]) || 1
    this.down.set(id, now)
    this.hasMoved = true
    const factor = (this.waiting.zoom?.factor ?? 1) * (far(now) / far(before))
    const [dx, dy] = this.waiting.pan ?? [0, 0]
    const pan: [number, number] = [dx + (now[0] - before[0]) / 2, dy + (now[1] - before[1]) / 2]
    this.set({ pan, zoom: { factor, x: (now[0] + other[0]) / 2, y: (now[1] + other[1]) / 2 } })
  }

  private release(event: PointerEvent): void {
    const [x, y] = [event.offsetX, event.offsetY]
    const how = { withKey: event.ctrlKey || event.metaKey, group: this.isGroupKeyDown }
    const [start, isRegion, hasMoved] = [this.start, this.isRegion, this.hasMoved]
    this.drop(event)
    if (!start || this.down.size) return
    if (isRegion && hasMoved) this.events.region([start[0], start[1], x, y])
    else if (!hasMoved) this.events.click(x, y, how)
  }

  private drop(event: PointerEvent): void {
    this.down.delete(event.pointerId)
    if (this.down.size) return
    this.start = null
    this.isRegion = false
    this.rectangle = null
    this.events.wake()
  }

  private wheel(event: WheelEvent): void {
    event.preventDefault()
    const unit = event.deltaMode === 1 ? 16 : event.deltaMode === 2 ? 400 : 1
    const isSideways = event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)
    if (isSideways && !event.ctrlKey) {
      const [dx, dy] = this.waiting.pan ?? [0, 0]
      return this.set({ pan: [dx - unit * (event.deltaX || event.deltaY), dy] })
    }
    // A pinch on a touch pad comes as a wheel with Ctrl, in smaller steps.
    const factor = Math.exp(-event.deltaY * unit * (event.ctrlKey ? 0.01 : 0.0016))
    this.set({ zoom: { factor: (this.waiting.zoom?.factor ?? 1) * factor, x: event.offsetX, y: event.offsetY } })
  }

  private key(event: KeyboardEvent, isDown: boolean): void {
    if (event.key !== 'g' && event.key !== 'G') return
    const target = event.composedPath()[0]
    const isTyping = target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName))
    this.isGroupKeyDown = isDown && !isTyping && !event.ctrlKey && !event.metaKey
  }
}
