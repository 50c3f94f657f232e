// Where the boxes stand and how the links run: tokens in the bottom row, answers in the top row, every link that is
// shown upwards where its ends allow it.
import { Graph, layout as dagre } from '@dagrejs/dagre'
import type { Box, Link } from './diagram'

export interface Point {
  x: number
  y: number
}

/** A box with its centre and size; `row` counts from the bottom. */
export interface Place extends Point {
  box: Box
  width: number
  height: number
  row: number
}

/** A link as it is drawn: an SVG path, its end with the direction in degrees (0: upwards), where its number stands. */
export interface Route {
  link: Link
  path: string
  end: Point
  angle: number
  middle: Point
}

export interface Layout {
  places: Map<string, Place>
  routes: Route[]
  left: number
  top: number
  width: number
  height: number
}

export const MARGIN = 18

/** Links, strongest first, by which dagre orders the boxes; it is slow with many. */
const MOST = 150

/** Height of a token, and of a box that says no more than its name. */
export const LOW = 42

/** Width of a box by what it says; a target has room for its change in logits. */
export function boxWidth(box: Box): number {
  const letters = Math.max([...box.name].length * 7.6, [...box.detail].length * 6)
  const least = box.kind === 'logit' ? 160 : box.kind === 'embedding' ? 58 : 112
  return Math.round(Math.min(210, Math.max(least, letters + (box.kind === 'embedding' ? 16 : 24))))
}

/** Lay boxes out; those that were dragged stand where `positions` (centres) says. */
export function layout(
  boxes: readonly Box[],
  links: readonly Link[],
  options: { height: number; positions?: Readonly<Record<string, readonly [number, number]>> },
): Layout {
  const { positions = {} } = options
  const heightOf = (box: Box) => (box.kind === 'embedding' ? Math.min(LOW, options.height) : options.height)
  const rows = rowsOf(boxes, links)
  const graph = new Graph()
  const named = new Map(boxes.map((box) => [box.key, box]))
  // Dagre doubles ranks to make room for labels, hence the 2; nodes of its own stand below all.
  const ranker = (inner: typeof graph) =>
    inner.nodes().forEach((key) => (inner.node(key).rank = 2 * (rows.get(key) ?? -1)))
  graph.setGraph({ rankdir: 'BT', nodesep: 18, edgesep: 8, ranksep: 48, ranker: ranker as never })
  graph.setDefaultEdgeLabel(() => ({}))
  for (const box of boxes) graph.setNode(box.key, { width: boxWidth(box), height: heightOf(box) })
  for (const { from, to, share } of links.slice(0, MOST)) {
    const isUp = rows.get(from)! < rows.get(to)!
    if (isUp) graph.setEdge(from, to, { weight: 1 + Math.round(20 * Math.abs(share)) })
  }
  if (boxes.length) dagre(graph as never)
  const places = new Map<string, Place>()
  for (const [key, box] of named) {
    const [x, y] = positions[key] ?? [graph.node(key).x, graph.node(key).y]
    places.set(key, { box, x, y, width: boxWidth(box), height: heightOf(box), row: rows.get(key)! })
  }
  // A long link bends where it passes a row, not between rows.
  const levels = new Set([...named.keys()].map((key) => Math.round(graph.node(key).y)))
  const bends = (link: Link): Point[] => {
    if (positions[link.from] || positions[link.to]) return []
    const points: Point[] = graph.edge(link.from, link.to)?.points ?? []
    return points.slice(1, -1).filter((point) => levels.has(Math.round(point.y)))
  }
  return { places, routes: routesOf(links, places, bends), ...bounds([...places.values()]) }
}

/**
 * The row of each box, from the bottom. Boxes are taken by depth; each stands above all that link to it from below.
 * One without inputs stands just below what it feeds, one without links beside those of its depth.
 */
export function rowsOf(boxes: readonly Box[], links: readonly Link[]): Map<string, number> {
  const order = [...boxes].sort((a, b) => a.depth - b.depth)
  const place = new Map(order.map((box, index) => [box.key, index]))
  const up = links.filter(({ from, to }) => place.has(from) && place.has(to) && place.get(from)! < place.get(to)!)
  const inputs = by(up, 'to')
  const outputs = by(up, 'from')
  const base = boxes.some((box) => box.kind === 'embedding') ? 1 : 0
  const rows = new Map<string, number>()
  for (const box of order) {
    const below = (inputs.get(box.key) ?? []).map((link) => rows.get(link.from)! + 1)
    rows.set(box.key, box.kind === 'embedding' ? 0 : Math.max(base, ...below))
  }
  for (const box of [...order].reverse()) {
    const above = outputs.get(box.key)
    if (box.kind === 'embedding' || inputs.has(box.key) || !above) continue
    rows.set(box.key, Math.max(base, Math.min(...above.map((link) => rows.get(link.to)! - 1))))
  }
  const between = order.filter((box) => box.kind !== 'embedding' && box.kind !== 'logit')
  const linked = between.filter((box) => inputs.has(box.key) || outputs.has(box.key))
  for (const box of between) {
    if (!linked.length || linked.includes(box)) continue
    const far = (other: Box) => Math.abs(other.depth - box.depth)
    rows.set(box.key, rows.get(linked.reduce((a, b) => (far(b) < far(a) ? b : a)).key)!)
  }
  const others = order.filter((box) => box.kind !== 'logit').map((box) => rows.get(box.key)!)
  for (const box of order) if (box.kind === 'logit') rows.set(box.key, Math.max(-1, ...others) + 1)
  return rows
}

/** A layout while a box is dragged by `by`: its links follow. */
export function moved(laid: Layout, key: string, by: Point): Layout {
  const place = laid.places.get(key)
  if (!place) return laid
  const places = new Map(laid.places).set(key, { ...place, x: place.x + by.x, y: place.y + by.y })
  const links = laid.routes.map((route) => route.link)
  const again = routesOf(links, places, () => [])
  const touches = ({ from, to }: Link) => from === key || to === key
  return { ...laid, places, routes: laid.routes.map((route, index) => (touches(route.link) ? again[index] : route)) }
}

function routesOf(links: readonly Link[], places: Map<string, Place>, bends: (link: Link) => Point[]): Route[] {
  const out = ports(links, places, 'from')
  const into = ports(links, places, 'to')
  return links.map((link) => {
    const from = places.get(link.from)!
    const to = places.get(link.to)!
    if (to.y + to.height / 2 > from.y - from.height / 2 - 8) return sideways(link, from, to)
    const start = { x: from.x + out.get(link)!, y: from.y - from.height / 2 }
    const end = { x: to.x + into.get(link)!, y: to.y + to.height / 2 + 2 }
    const points = [start, ...bends(link), end]
    let path = `M${at(start)}`
    for (let index = 1; index < points.length; index++) {
      const half = (points[index - 1].y + points[index].y) / 2
      path += `C${at({ x: points[index - 1].x, y: half })} ${at({ x: points[index].x, y: half })} ${at(points[index])}`
    }
    return { link, path, end, angle: 0, middle: middleOf(points) }
  })
}

/** How far from the middle of its box each link leaves or arrives, so that links of a box do not lie on each other. */
function ports(links: readonly Link[], places: Map<string, Place>, side: 'from' | 'to'): Map<Link, number> {
  const other = side === 'from' ? 'to' : 'from'
  const found = new Map<Link, number>()
  for (const [key, same] of by(links, side)) {
    same.sort((a, b) => places.get(a[other])!.x - places.get(b[other])!.x)
    const room = Math.min(places.get(key)!.width * 0.7, same.length * 22)
    same.forEach((link, index) => found.set(link, ((index + 0.5) / same.length - 0.5) * room))
  }
  return found
}

/** Links by one of their ends. */
function by(links: readonly Link[], side: 'from' | 'to'): Map<string, Link[]> {
  const found = new Map<string, Link[]>()
  for (const link of links) {
    const same = found.get(link[side])
    if (same) same.push(link)
    else found.set(link[side], [link])
  }
  return found
}

/** A link that does not go up: an arc from the side of one box to the same side of the other. */
function sideways(link: Link, from: Place, to: Place): Route {
  const isRight = to.x >= from.x
  const beside = Math.abs(to.x - from.x) > (from.width + to.width) / 2
  const start = { x: from.x + ((isRight ? 1 : -1) * from.width) / 2, y: from.y }
  const end = { x: to.x + ((isRight === beside ? -1 : 1) * (to.width + 4)) / 2, y: to.y }
  const out = isRight ? 40 : -40
  const path = `M${at(start)}C${at({ x: start.x + out, y: start.y })} ${at({ x: end.x + (beside ? -out : out), y: end.y })} ${at(end)}`
  const middle = { x: (start.x + end.x) / 2 + (beside ? 0 : out * 0.75), y: (start.y + end.y) / 2 }
  return { link, path, end, angle: end.x < to.x ? 90 : -90, middle }
}

function middleOf(points: readonly Point[]): Point {
  const last = Math.max(1, Math.floor(points.length / 2))
  const [a, b] = [points[last - 1], points[last]]
  return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 }
}

function bounds(places: readonly Place[]): Pick<Layout, 'left' | 'top' | 'width' | 'height'> {
  if (!places.length) return { left: 0, top: 0, width: 0, height: 0 }
  const left = Math.min(...places.map((place) => place.x - place.width / 2)) - MARGIN
  const top = Math.min(...places.map((place) => place.y - place.height / 2)) - MARGIN
  const right = Math.max(...places.map((place) => place.x + place.width / 2)) + MARGIN
  const bottom = Math.max(...places.map((place) => place.y + place.height / 2)) + MARGIN
  return { left, top, width: right - left, height: bottom - top }
}

function at(point: Point): string {
  return `${point.x.toFixed(1)},${point.y.toFixed(1)}`
}

/** The box that an arrow key leads to: the nearest in that direction; undefined where there is none. */
export function neighbour(places: ReadonlyMap<string, Place>, key: string, arrow: string): string | undefined {
  const here = places.get(key)
  const step = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }[arrow]
  if (!here || !step) return undefined
  let best: string | undefined
  let least = Infinity
  for (const [other, place] of places) {
    const dx = place.x - here.x
    const dy = place.y - here.y
    const along = dx * step[0] + dy * step[1]
    if (other === key || along < 1) continue
    // What lies aside counts double: up means up.
    const cost = along + 2 * Math.abs(dx * step[1] + dy * step[0])
    if (cost < least) [least, best] = [cost, other]
  }
  return best
}

/** The box, other than `key`, that a point lies in. */
export function boxAt(places: ReadonlyMap<string, Place>, point: Point, key: string): string | undefined {
  for (const [other, place] of places) {
    const isInside = Math.abs(point.x - place.x) < place.width / 2 && Math.abs(point.y - place.y) < place.height / 2
    if (other !== key && isInside) return other
  }
  return undefined
}
