// The shared outline of a supernode: beads around its members on the shortest string that joins them.
import type { Supernode } from './core'
import { groupColour } from './colours'
import { trace, type Pen } from './glyphs'
import { contains, screenX, screenY, type Scene } from './scene'
import { cut } from './words'

/** Pairs of points that join all of them with the least length (Prim). */
export function shortestString(points: readonly [number, number][]): [number, number][] {
  const near = points.map(() => ({ distance: Infinity, to: 0 }))
  const isIn = points.map(() => false)
  const pairs: [number, number][] = []
  let last = 0
  for (let step = 1; step < points.length; step++) {
    isIn[last] = true
    let next = -1
    points.forEach(([x, y], at) => {
      if (isIn[at]) return
      const distance = Math.hypot(x - points[last][0], y - points[last][1])
      if (distance < near[at].distance) near[at] = { distance, to: last }
      if (next < 0 || near[at].distance < near[next].distance) next = at
    })
    pairs.push([near[next].to, next])
    last = next
  }
  return pairs
}

/** Outlines of all supernodes; they cover nothing. */
export function drawGroups(pen: Pen, scene: Scene, scale: number): void {
  scene.state.supernodes.forEach((group, index) => {
    const rows = membersOf(scene, group)
    if (!rows.length) return
    const points = rows.map((row): [number, number] => [screenX(scene, row), screenY(scene, row)])
    const pairs = shortestString(points)
    const radius = (row: number) => scene.layout.radius[row] * scale + 3.2
    pen.save()
    pen.lineCap = 'round'
    pen.strokeStyle = groupColour(index, scene.palette.isDark)
    pen.lineWidth = 2.2
    pen.beginPath()
    for (const [from, to] of pairs) between(pen, points[from], points[to], radius(rows[from]), radius(rows[to]))
    rows.forEach((row, at) => {
      if (contains(scene.plot, ...points[at], 40)) trace(pen, 'feature', ...points[at], radius(row))
    })
    pen.stroke()
    pen.restore()
  })
}

/** A line from the rim of one bead to the rim of the next. */
function between(pen: Pen, [x0, y0]: [number, number], [x1, y1]: [number, number], from: number, to: number): void {
  const distance = Math.hypot(x1 - x0, y1 - y0)
  if (distance <= from + to) return
  const [dx, dy] = [(x1 - x0) / distance, (y1 - y0) / distance]
  pen.moveTo(x0 + dx * from, y0 + dy * from)
  pen.lineTo(x1 - dx * to, y1 - dy * to)
}

/** Names of supernodes, each above its topmost member. */
export function drawGroupNames(pen: Pen, scene: Scene, scale: number): void {
  pen.save()
  pen.font = `600 12px ${scene.palette.font}`
  pen.textAlign = 'center'
  pen.textBaseline = 'middle'
  pen.lineJoin = 'round'
  const { plot } = scene
  scene.state.supernodes.forEach((group, index) => {
    const rows = membersOf(scene, group)
    if (!rows.length) return
    const top = rows.reduce((best, row) => (scene.layout.y[row] < scene.layout.y[best] ? row : best))
    const text = cut(group.name, 28)
    const half = scene.measure(text, pen.font) / 2 + 3
    const x = Math.min(Math.max(screenX(scene, top), plot.left + half), plot.left + plot.width - half)
    const y = screenY(scene, top) - scene.layout.radius[top] * scale - 12
    if (!contains(plot, x, y)) return
    pen.strokeStyle = scene.palette.panel
    pen.lineWidth = 4
    pen.strokeText(text, x, y)
    pen.fillStyle = groupColour(index, scene.palette.isDark)
    pen.fillText(text, x, y)
  })
  pen.restore()
}

function membersOf(scene: Scene, group: Supernode): number[] {
  return group.nodes.map((id) => scene.view.row(id)).filter((row) => row >= 0 && scene.layout.isShown[row])
}
