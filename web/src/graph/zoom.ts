// From places of the layout to places on screen. The axes stretch each on their own: x is tokens, y is layers.
import type { Size } from './layout'

export interface Camera {
  kx: number
  ky: number
  tx: number
  ty: number
}

export const MOST_ZOOM = 24

/** All of the world in the room. */
export function fitted(world: Size, room: Size): Camera {
  return { kx: room.width / world.width, ky: room.height / world.height, tx: 0, ty: 0 }
}

/** What is seen first: all, unless that would squeeze a long prompt; then its end, where the answer is. */
export function home(world: Size, room: Size): Camera {
  const all = fitted(world, room)
  if (all.kx >= 0.72) return all
  return { ...all, kx: 0.9, tx: room.width - world.width * 0.9 }
}

/** No further out than all, no further in than the limit, and never past an edge of the world. */
export function clamped(camera: Camera, world: Size, room: Size): Camera {
  const all = fitted(world, room)
  const kx = Math.min(Math.max(camera.kx, all.kx), MOST_ZOOM)
  const ky = Math.min(Math.max(camera.ky, all.ky), MOST_ZOOM)
  return {
    kx, ky,
    tx: Math.min(0, Math.max(camera.tx, room.width - world.width * kx)),
    ty: Math.min(0, Math.max(camera.ty, room.height - world.height * ky)),
  }
}

/** Closer by a factor; the place under (x, y) of the room stays where it is. */
export function zoomed(camera: Camera, factor: number, x: number, y: number, world: Size, room: Size): Camera {
  const all = fitted(world, room)
  const kx = Math.min(Math.max(camera.kx * factor, all.kx), MOST_ZOOM)
  const ky = Math.min(Math.max(camera.ky * factor, all.ky), MOST_ZOOM)
  const tx = x - ((x - camera.tx) * kx) / camera.kx
  const ty = y - ((y - camera.ty) * ky) / camera.ky
  return clamped({ kx, ky, tx, ty }, world, room)
}

/** Moved so that a place of the world is inside the room, by as little as it takes. */
export function revealing(camera: Camera, x: number, y: number, world: Size, room: Size, margin = 40): Camera {
  const into = (at: number, size: number) => Math.min(Math.max(at, Math.min(margin, size / 2)), size - Math.min(margin, size / 2))
  const [sx, sy] = [x * camera.kx + camera.tx, y * camera.ky + camera.ty]
  const moved = { ...camera, tx: camera.tx + into(sx, room.width) - sx, ty: camera.ty + into(sy, room.height) - sy }
  return clamped(moved, world, room)
}

/** A part of the way from one camera to another. */
export function between(from: Camera, to: Camera, part: number): Camera {
  const mix = (a: number, b: number) => a + (b - a) * part
  return { kx: mix(from.kx, to.kx), ky: mix(from.ky, to.ky), tx: mix(from.tx, to.tx), ty: mix(from.ty, to.ty) }
}

/** How much larger glyphs are drawn: they grow slower than the space between them. */
export function glyphScale(camera: Camera): number {
  const k = Math.min(camera.kx, Math.max(camera.ky, 1))
  return k < 1 ? Math.max(0.5, k) : Math.min(2.2, Math.sqrt(k))
}
