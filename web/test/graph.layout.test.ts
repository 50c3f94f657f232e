import { describe, expect, it } from 'vitest'
import { layout, levelOf, type Size } from '../src/graph/layout'
import { clamped, fitted, home, revealing, zoomed, type Camera } from '../src/graph/zoom'
import { shortestString } from '../src/graph/groups'
import { all, made, seeded } from './graph.case'

const ROOM: Size = { width: 700, height: 400 }
const CASES = [1, 2, 3].flatMap((seed) => [made({ seed }), made({ seed, nodes: 900, layers: 12, tokens: 30 }), made({ seed, nodes: 3, edges: 4 })])

describe('layout', () => {
  it.each(CASES)('lets no two nodes of a cell touch and none leave its column (graph %#)', (view) => {
    const placed = layout(view, all(view), ROOM)
    const cells = new Map<string, number[]>()
    for (const row of placed.rows) {
      const key = `${view.position[row]} ${levelOf(view, row)}`
      cells.set(key, [...(cells.get(key) ?? []), row])
      const column = placed.columns.find((one) => one.position === view.position[row])!
      expect(placed.x[row] - placed.radius[row]).toBeGreaterThanOrEqual(column.left)
      expect(placed.x[row] + placed.radius[row]).toBeLessThanOrEqual(column.right)
    }
    for (const rows of cells.values()) {
      for (let at = 1; at < rows.length; at++) {
        const [a, b] = [rows[at - 1], rows[at]]
        expect(placed.x[b] - placed.x[a]).toBeGreaterThan(placed.radius[a] + placed.radius[b])
      }
    }
  })

  it.each(CASES)('puts later tokens to the right and higher layers above (graph %#)', (view) => {
    const placed = layout(view, all(view), ROOM)
    for (let at = 1; at < placed.columns.length; at++) {
      expect(placed.columns[at].left).toBeCloseTo(placed.columns[at - 1].right, 6)
      expect(placed.columns[at].position).toBe(placed.columns[at - 1].position + 1)
    }
    const rows = [...placed.rows]
    const wrong = rows.flatMap((a) => rows.filter((b) => {
      const isLeft = view.position[a] < view.position[b] && placed.x[a] >= placed.x[b]
      return isLeft || (levelOf(view, a) < levelOf(view, b) && placed.y[a] <= placed.y[b])
    }))
    expect(wrong).toEqual([])
  })

  it('stands in the room, or is wider where the nodes need it', () => {
    const view = made({ nodes: 900, tokens: 30 })
    for (const width of [200, 700, 5000]) {
      const placed = layout(view, all(view), { width, height: 400 })
      expect(placed.width).toBeGreaterThanOrEqual(width)
      expect(placed.columns.at(-1)!.right).toBeCloseTo(placed.width, 3)
      for (const row of placed.rows) {
        expect(placed.y[row]).toBeGreaterThan(0)
        expect(placed.y[row]).toBeLessThan(placed.height)
      }
    }
    expect(layout(view, all(view), { width: 200, height: 400 }).width).toBeGreaterThan(200)
  })

  it('has no place for nodes that are not shown', () => {
    const view = made()
    const some = all(view).filter((row) => row % 3 === 0)
    const placed = layout(view, some, ROOM)
    for (let row = 0; row < view.n; row++) expect(Number.isNaN(placed.x[row])).toBe(row % 3 !== 0)
  })

  it('gives a node of more influence no smaller glyph', () => {
    const view = made({ nodes: 20, tokens: 3, edges: 20 })
    const placed = layout(view, all(view), { width: 2000, height: 900 })
    const features = [...placed.rows].filter((row) => view.kindOf(row) === 'feature').sort((a, b) => view.influence[a] - view.influence[b])
    for (let at = 1; at < features.length; at++) {
      expect(placed.radius[features[at]]).toBeGreaterThanOrEqual(placed.radius[features[at - 1]])
    }
    expect(placed.radius[features.at(-1)!]).toBeGreaterThan(placed.radius[features[0]])
  })
})

describe('zoom', () => {
  const world = { width: 2000, height: 400 }
  const start: Camera = { kx: 1, ky: 1.2, tx: -600, ty: -30 }

  it('keeps the place under the pointer', () => {
    const next = zoomed(start, 1.7, 300, 200, world, ROOM)
    expect((300 - next.tx) / next.kx).toBeCloseTo((300 - start.tx) / start.kx, 6)
    expect((200 - next.ty) / next.ky).toBeCloseTo((200 - start.ty) / start.ky, 6)
  })

  it('never shows anything beyond the world, whatever is done', () => {
    const random = seeded(4)
    let camera = fitted(world, ROOM)
    for (let step = 0; step < 500; step++) {
      camera = zoomed(camera, Math.exp(random() * 2 - 1), random() * 700, random() * 400, world, ROOM)
      camera = clamped({ ...camera, tx: camera.tx + 900 * (random() - 0.5), ty: camera.ty + 900 * (random() - 0.5) }, world, ROOM)
      expect(camera.tx).toBeLessThanOrEqual(0)
      expect(camera.ty).toBeLessThanOrEqual(0)
      expect(camera.tx + world.width * camera.kx).toBeGreaterThanOrEqual(ROOM.width - 1e-6)
      expect(camera.ty + world.height * camera.ky).toBeGreaterThanOrEqual(ROOM.height - 1e-6)
    }
  })

  it('begins with all of a short prompt and the end of a long one', () => {
    expect(home({ width: 700, height: 400 }, ROOM)).toEqual(fitted({ width: 700, height: 400 }, ROOM))
    const long = home({ width: 4000, height: 400 }, ROOM)
    expect(long.tx + 4000 * long.kx).toBeCloseTo(ROOM.width, 6)
  })

  it('reveals a place inside the room and moves nothing that is there', () => {
    const closer = zoomed(fitted(world, ROOM), 8, 100, 100, world, ROOM)
    const moved = revealing(closer, 1900, 380, world, ROOM)
    expect(1900 * moved.kx + moved.tx).toBeLessThanOrEqual(ROOM.width)
    expect(380 * moved.ky + moved.ty).toBeLessThanOrEqual(ROOM.height)
    expect(revealing(moved, 1900, 380, world, ROOM)).toEqual(moved)
  })
})

describe('the string of a supernode', () => {
  it('joins all members with as little as any other tree', () => {
    const random = seeded(9)
    const points = Array.from({ length: 6 }, (): [number, number] => [random() * 100, random() * 100])
    const length = (pairs: [number, number][]) =>
      pairs.reduce((sum, [a, b]) => sum + Math.hypot(points[a][0] - points[b][0], points[a][1] - points[b][1]), 0)
    const found = shortestString(points)
    const joined = new Set([0])
    for (let round = 0; round < 6; round++) for (const [a, b] of found) if (joined.has(a) || joined.has(b)) joined.add(a).add(b)
    expect(joined.size).toBe(6)
    expect(found).toHaveLength(5)
    // Every tree on six points has a Prüfer code of four numbers below six: try them all.
    let least = Infinity
    for (let code = 0; code < 6 ** 4; code++) least = Math.min(least, length(tree(code)))
    expect(length(found)).toBeCloseTo(least, 6)
  })
})

/** The tree on six points with a Prüfer code, given as a number in base six. */
function tree(code: number): [number, number][] {
  const digits = [0, 1, 2, 3].map((place) => Math.floor(code / 6 ** place) % 6)
  const degree = Array.from({ length: 6 }, (_, at) => 1 + digits.filter((digit) => digit === at).length)
  const pairs: [number, number][] = []
  for (const digit of digits) {
    const leaf = degree.indexOf(1)
    pairs.push([leaf, digit])
    degree[leaf]--
    degree[digit]--
  }
  const [a, b] = degree.flatMap((many, at) => (many === 1 ? [at] : []))
  return [...pairs, [a, b]]
}
