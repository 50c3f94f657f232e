// Supernodes in the picture: a ring in the group's colour and pattern about each member, and one name tag near them.
import type { Supernode } from './core'
import { groupColour } from './colours'
import { trace, type Pen } from './glyphs'
import { Room, type Box } from './room'
import { contains, screenX, screenY, type Scene } from './scene'
import { cut } from './words'

/** Dashes of the rings, so that neighbouring groups differ without colour. */
const PATTERNS: readonly (readonly number[])[] = [[], [4, 2], [1.5, 2], [7, 2.5, 1.5, 2.5], [2.5, 4]]
/** Only groups of at most so many members, within so many pixels, are strung together: longer strings say nothing. */
const FEW = 6
const NEAR = 130
/** Nodes beyond this many are not kept clear of tags: it would take too long in every frame. */
const MOST_AROUND = 2500

const TAG_HEIGHT = 18
const FONT = '600 11.5px'
const SAMPLE = 4

/** The name tag of a group: its box, and where its members are thickest. */
export interface Tag {
  index: number
  text: string
  box: Box
  /** The member that the tag is tied to. */
  nearest: [number, number]
}

/** The pattern of the n-th supernode's rings. */
export function groupPattern(index: number): number[] {
  return [...PATTERNS[index % PATTERNS.length]]
}

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

/** Whether a group is small enough, and its members close enough, to be outlined as one. */
export function isClose(points: readonly [number, number][]): boolean {
  if (points.length < 2 || points.length > FEW) return false
  const span = (axis: 0 | 1) => {
    const values = points.map((point) => point[axis])
    return Math.max(...values) - Math.min(...values)
  }
  return Math.hypot(span(0), span(1)) <= NEAR
}

/** The rings of all members; they cover nothing. */
export function drawGroups(pen: Pen, scene: Scene, scale: number): void {
  scene.state.supernodes.forEach((group, index) => {
    const rows = membersOf(scene, group)
    const points = pointsOf(scene, rows)
    const radius = (row: number) => scene.layout.radius[row] * scale + 2.6
    pen.save()
    pen.lineCap = 'butt'
    pen.strokeStyle = groupColour(index, scene.palette.isDark)
    if (isClose(points)) {
      pen.lineWidth = 1.1
      pen.beginPath()
      for (const [from, to] of shortestString(points)) {
        between(pen, points[from], points[to], radius(rows[from]), radius(rows[to]))
      }
      pen.stroke()
    }
    pen.lineWidth = 2
    pen.setLineDash(groupPattern(index))
    pen.beginPath()
    rows.forEach((row, at) => {
      if (contains(scene.plot, ...points[at], 12)) trace(pen, 'feature', ...points[at], radius(row))
    })
    pen.stroke()
    pen.restore()
  })
}

/** A line from the rim of one ring to the rim of the next. */
function between(pen: Pen, [x0, y0]: [number, number], [x1, y1]: [number, number], from: number, to: number): void {
  const distance = Math.hypot(x1 - x0, y1 - y0)
  if (distance <= from + to) return
  const [dx, dy] = [(x1 - x0) / distance, (y1 - y0) / distance]
  pen.moveTo(x0 + dx * from, y0 + dy * from)
  pen.lineTo(x1 - dx * to, y1 - dy * to)
}

/** Where the name of each group stands: near its members, over no other tag and, where there is room, over no node. */
export function placeTags(scene: Scene, scale: number): Tag[] {
  const { plot, layout, palette } = scene
  if (!scene.state.supernodes.length) return []
  const [clear, tags] = [new Room(plot), new Room(plot)]
  const rows = layout.rows.length <= MOST_AROUND ? [...layout.rows] : scene.state.supernodes.flatMap((group) => membersOf(scene, group))
  for (const row of rows) {
    const [x, y, r] = [screenX(scene, row), screenY(scene, row), layout.radius[row] * scale + 3]
    if (contains(plot, x, y, r)) clear.take(x - r, y - r, x + r, y + r)
  }
  const found: Tag[] = []
  scene.state.supernodes.forEach((group, index) => {
    const points = pointsOf(scene, membersOf(scene, group)).filter((point) => contains(plot, ...point))
    if (!points.length) return
    const text = cut(group.name, 26)
    const width = scene.measure(text, `${FONT} ${palette.font}`) + 2 * SAMPLE + 16
    const middle = centre(points)
    const boxes = [...around(middle, width)]
    const box = boxes.find((one) => clear.isFree(...one)) ?? boxes.find((one) => tags.isFree(...one))
    if (!box) return
    for (const room of [clear, tags]) room.take(box[0] - 2, box[1] - 2, box[2] + 2, box[3] + 2)
    found.push({ index, text, box, nearest: nearestTo(points, box) })
  })
  return found
}

/** The member that stands nearest to all others' middle: the middle itself may lie in the void. */
function centre(points: readonly [number, number][]): [number, number] {
  const median = (axis: 0 | 1) => points.map((point) => point[axis]).sort((a, b) => a - b)[points.length >> 1]
  const [x, y] = [median(0), median(1)]
  return points.reduce((best, point) =>
    Math.hypot(point[0] - x, point[1] - y) < Math.hypot(best[0] - x, best[1] - y) ? point : best,
  )
}

/** Boxes about a point, the nearest first. */
function* around([x, y]: [number, number], width: number): Generator<Box> {
  const spots: [number, number, number][] = []
  for (let down = -8; down <= 8; down++) {
    for (let right = -6; right <= 6; right++) {
      const [dx, dy] = [(right * (width / 2 + 12)) / 2, down * 12]
      // What stands beside is read more easily than what stands far above.
      spots.push([Math.hypot(dx * 0.8, dy), dx, dy])
    }
  }
  spots.sort((a, b) => a[0] - b[0])
  for (const [, dx, dy] of spots) {
    const [left, top] = [x + dx - width / 2, y + dy - TAG_HEIGHT / 2]
    yield [left, top, left + width, top + TAG_HEIGHT]
  }
}

function nearestTo(points: readonly [number, number][], box: Box): [number, number] {
  const away = ([x, y]: [number, number]) => Math.hypot(...offset(x, y, box))
  return points.reduce((best, point) => (away(point) < away(best) ? point : best))
}

/** How far a point lies outside a box, along both axes. */
function offset(x: number, y: number, [left, top, right, bottom]: Box): [number, number] {
  return [Math.max(left - x, 0, x - right), Math.max(top - y, 0, y - bottom)]
}

/** The tags: a sample of the ring, the name, and a thin line to a member where the tag stands apart. */
export function drawTags(pen: Pen, scene: Scene, tags: readonly Tag[]): void {
  const { palette } = scene
  for (const { index, text, box, nearest } of tags) {
    const [left, top, right, bottom] = box
    const colour = groupColour(index, palette.isDark)
    pen.save()
    pen.strokeStyle = colour
    pen.lineWidth = 1
    const [x, y] = [Math.min(Math.max(nearest[0], left), right), Math.min(Math.max(nearest[1], top), bottom)]
    const distance = Math.hypot(nearest[0] - x, nearest[1] - y)
    if (distance > 12) {
      pen.beginPath()
      pen.moveTo(x, y)
      pen.lineTo(nearest[0] + ((x - nearest[0]) * 8) / distance, nearest[1] + ((y - nearest[1]) * 8) / distance)
      pen.stroke()
    }
    pen.fillStyle = palette.panel
    pen.beginPath()
    pen.rect(left, top, right - left, bottom - top)
    pen.fill()
    pen.stroke()
    pen.lineWidth = 1.8
    pen.setLineDash(groupPattern(index))
    pen.beginPath()
    trace(pen, 'feature', left + SAMPLE + 5, (top + bottom) / 2, SAMPLE)
    pen.stroke()
    pen.font = `${FONT} ${palette.font}`
    pen.textAlign = 'left'
    pen.textBaseline = 'middle'
    pen.fillStyle = colour
    pen.fillText(text, left + 2 * SAMPLE + 10, (top + bottom) / 2 + 0.5)
    pen.restore()
  }
}

function membersOf(scene: Scene, group: Supernode): number[] {
  return group.nodes.map((id) => scene.view.row(id)).filter((row) => row >= 0 && scene.layout.isShown[row])
}

function pointsOf(scene: Scene, rows: readonly number[]): [number, number][] {
  return rows.map((row) => [screenX(scene, row), screenY(scene, row)])
}
