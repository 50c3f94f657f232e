// Which part of a picture is taken, so that no name covers a node or another name.
import type { Area } from './scene'

/** Left, top, right, bottom. */
export type Box = [number, number, number, number]

const CELL = 3

/** A coarse map of what is taken. */
export class Room {
  private readonly across: number
  private readonly taken: Uint8Array

  constructor(private readonly area: Area) {
    this.across = Math.ceil(area.width / CELL) + 1
    this.taken = new Uint8Array(this.across * (Math.ceil(area.height / CELL) + 1))
  }

  take(...[x0, y0, x1, y1]: Box): void {
    this.each(x0, y0, x1, y1, (cell) => {
      this.taken[cell] = 1
      return true
    })
  }

  /** Whether a box lies inside the area and nothing of it is taken. */
  isFree(...[x0, y0, x1, y1]: Box): boolean {
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
