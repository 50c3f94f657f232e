// Which node is meant by a place on screen.
import Flatbush from 'flatbush'
import type { Layout } from './layout'
import type { Camera } from './zoom'

export const REACH = 30

export class Picker {
  private readonly index: Flatbush | null
  private readonly rows: Int32Array

  constructor(private readonly layout: Layout) {
    this.rows = layout.rows
    this.index = this.rows.length ? new Flatbush(this.rows.length, 16, Float32Array) : null
    for (const row of this.rows) this.index?.add(layout.x[row], layout.y[row])
    this.index?.finish()
  }

  /** Row of the node nearest to (x, y) of the room, as seen through the camera, within reach; -1 for none. */
  nearest(x: number, y: number, camera: Camera, reach = REACH): number {
    let best = -1
    let least = reach * reach
    for (const row of this.inside(x - reach, y - reach, x + reach, y + reach, camera)) {
      const dx = this.layout.x[row] * camera.kx + camera.tx - x
      const dy = this.layout.y[row] * camera.ky + camera.ty - y
      const distance = dx * dx + dy * dy
      if (distance < least || (distance === least && best < 0)) [best, least] = [row, distance]
    }
    return best
  }

  /** Rows of the nodes in a rectangle of the room, ascending. */
  inside(x0: number, y0: number, x1: number, y1: number, camera: Camera): number[] {
    if (!this.index) return []
    const { kx, ky, tx, ty } = camera
    const found = this.index.search((x0 - tx) / kx, (y0 - ty) / ky, (x1 - tx) / kx, (y1 - ty) / ky)
    return found.map((place) => this.rows[place]).sort((a, b) => a - b)
  }
}
