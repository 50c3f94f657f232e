import { describe, expect, it } from 'vitest'
import { INITIAL } from '../src/graph/core'
import {
  backgroundEdges, defaultNodeShare, focusEdges, pinnedEdges, shownRows, strongestFirst, totalInfluence,
} from '../src/graph/filter'
import { layout } from '../src/graph/layout'
import { Picker, REACH } from '../src/graph/picking'
import { sortedRows } from '../src/graph/table'
import { alongEdges, beginning, neighbour } from '../src/graph/walk'
import { all, made, seeded } from './graph.case'

const view = made({ nodes: 300, edges: 2000 })
const shown = (change: Partial<typeof INITIAL>) => new Set(shownRows(view, { ...INITIAL, ...change }))

describe('what is shown', () => {
  it('is a subset under a stricter share, of nodes and of edges', () => {
    const order = strongestFirst(view)
    const everything = new Uint8Array(view.n).fill(1)
    let nodes = shown({ nodeShare: 1 })
    let edges = new Set(backgroundEdges(view, order, everything, 1, 1e6))
    expect(nodes.size).toBe(view.n)
    expect(edges.size).toBe(view.nEdges)
    for (const share of [0.9, 0.7, 0.5, 0.2, 0.05]) {
      const fewer = shown({ nodeShare: share })
      const thinner = new Set(backgroundEdges(view, order, everything, share, 1e6))
      expect([...fewer].every((row) => nodes.has(row))).toBe(true)
      expect([...thinner].every((edge) => edges.has(edge))).toBe(true)
      expect(fewer.size).toBeLessThan(nodes.size)
      ;[nodes, edges] = [fewer, thinner]
    }
  })

  it('always holds tokens, targets and what the reader holds', () => {
    const weak = [...all(view)].filter((row) => view.kindOf(row) === 'feature').sort((a, b) => view.influence[a] - view.influence[b])
    const [pinned, selected, passed] = weak.map((row) => view.id[row])
    const rows = shown({ nodeShare: 0.05, pinned: new Set([pinned]), selected, path: [passed], hiddenKinds: new Set(['feature']) })
    for (const id of [pinned, selected, passed]) expect(rows.has(view.row(id))).toBe(true)
    for (const row of all(view)) if (['embedding', 'logit'].includes(view.kindOf(row))) expect(rows.has(row)).toBe(true)
    expect([...rows].filter((row) => view.kindOf(row) === 'feature')).toHaveLength(3)
  })

  it('begins with at most the asked number of nodes, and with no fewer than a step of the slider needs', () => {
    for (const most of [20, 50, 150, 250]) {
      const share = defaultNodeShare(view, most)
      expect(shown({ nodeShare: share }).size).toBeLessThanOrEqual(most)
      expect(shown({ nodeShare: share + 0.0101 }).size).toBeGreaterThan(most)
    }
    expect(defaultNodeShare(view, 10_000)).toBe(1)
  })

  it('draws only the strongest edges, both of whose ends are shown', () => {
    const rows = shown({ nodeShare: 0.6 })
    const mask = Uint8Array.from(all(view), (row) => (rows.has(row) ? 1 : 0))
    const found = backgroundEdges(view, strongestFirst(view), mask, 1, 40)
    expect(found).toHaveLength(40)
    const weakest = view.edgeCumulative[found.at(-1)!]
    for (let edge = 0; edge < view.nEdges; edge++) {
      const isIn = found.includes(edge)
      if (isIn) expect(rows.has(view.source[edge]) && rows.has(view.target[edge])).toBe(true)
      else if (rows.has(view.source[edge]) && rows.has(view.target[edge])) expect(view.edgeCumulative[edge]).toBeGreaterThanOrEqual(weakest)
    }
  })

  it('sorts edges by strength', () => {
    const order = strongestFirst(view)
    expect(new Set(order).size).toBe(view.nEdges)
    for (let at = 1; at < order.length; at++) expect(view.edgeCumulative[order[at]]).toBeGreaterThanOrEqual(view.edgeCumulative[order[at - 1]])
  })

  it('knows the influence of the whole graph from the strongest node', () => {
    expect(totalInfluence(view)).toBeCloseTo(view.influence.reduce((sum, value) => sum + value, 0), 3)
  })
})

describe('the edges of the focus', () => {
  const everything = new Uint8Array(view.n).fill(1)
  const row = [...all(view)].find((one) => view.inputs(one).length > 3 && view.outputs(one).length > 3)!

  it('are inputs, outputs, either, or none but those between pinned nodes', () => {
    const of = (type: 'input' | 'output' | 'either' | 'both') => focusEdges(view, row, everything, 1, type)
    expect(of('input').every((edge) => edge.target === row)).toBe(true)
    expect(of('output').every((edge) => edge.source === row)).toBe(true)
    expect(of('either')).toHaveLength(of('input').length + of('output').length)
    expect(of('both')).toEqual([])
    const pinned = new Set([row, ...view.inputs(row).map((edge) => edge.source)].map((one) => view.id[one]))
    const between = pinnedEdges(view, pinned, everything, 1)
    expect(between.length).toBeGreaterThanOrEqual(view.inputs(row).length)
    for (const edge of between) expect(pinned.has(view.id[edge.source]) && pinned.has(view.id[edge.target])).toBe(true)
  })

  it('are walked from the strongest to the weakest and back', () => {
    const placed = layout(view, all(view), { width: 700, height: 400 })
    const strength = focusEdges(view, row, everything, 1, 'input').map((edge) => edge.source)
    let at = -1
    const seen = strength.map(() => (at = alongEdges(view, placed, row, at, 1, 'input', 1)))
    expect(seen).toEqual(strength)
    expect(alongEdges(view, placed, row, at, 1, 'input', 1)).toBe(at)
    expect(alongEdges(view, placed, row, at, -1, 'input', 1)).toBe(strength.at(-2))
  })
})

describe('picking', () => {
  const placed = layout(view, all(view), { width: 700, height: 400 })
  const picker = new Picker(placed)
  const random = seeded(2)

  it('finds the node that a search of all finds, through any camera', () => {
    for (let round = 0; round < 200; round++) {
      const camera = { kx: 0.5 + 3 * random(), ky: 0.5 + 3 * random(), tx: -200 * random(), ty: -200 * random() }
      const [x, y] = [700 * random(), 400 * random()]
      const distance = (row: number) => Math.hypot(placed.x[row] * camera.kx + camera.tx - x, placed.y[row] * camera.ky + camera.ty - y)
      const best = [...placed.rows].reduce((a, b) => (distance(b) < distance(a) ? b : a))
      const found = picker.nearest(x, y, camera)
      if (distance(best) >= REACH) expect(found).toBe(-1)
      else expect(distance(found)).toBeCloseTo(distance(best), 6)
    }
  })

  it('finds nothing among nothing', () => {
    const empty = new Picker(layout(view, new Int32Array(), { width: 700, height: 400 }))
    expect(empty.nearest(10, 10, { kx: 1, ky: 1, tx: 0, ty: 0 })).toBe(-1)
    expect(empty.inside(0, 0, 700, 400, { kx: 1, ky: 1, tx: 0, ty: 0 })).toEqual([])
  })

  it('finds every node in a rectangle around all', () => {
    expect(picker.inside(-1, -1, 10_000, 10_000, { kx: 1, ky: 1, tx: 0, ty: 0 })).toEqual([...placed.rows])
  })
})

describe('walking', () => {
  const rows = shownRows(view, { ...INITIAL, nodeShare: 0.8 })
  const placed = layout(view, rows, { width: 700, height: 400 })

  it('goes right and back, up and down, over shown nodes only, and stops at the ends', () => {
    for (const row of rows) {
      const right = neighbour(view, placed, row, 'right')
      expect(placed.isShown[right]).toBe(1)
      if (right !== row) expect(neighbour(view, placed, right, 'left')).toBe(row)
      const up = neighbour(view, placed, row, 'up')
      if (up !== row) expect(placed.y[up]).toBeLessThan(placed.y[row])
      else expect(view.kindOf(row)).toBe('logit')
    }
    expect(view.kindOf(beginning(view, placed))).toBe('logit')
  })

  it('reaches every layer from the top', () => {
    let row = beginning(view, placed)
    for (let step = 0; step < 50; step++) row = neighbour(view, placed, row, 'down')
    expect(['embedding', 'bias']).toContain(view.kindOf(row))
  })
})

describe('the table', () => {
  it('holds every row once, in order, whichever way it is sorted', () => {
    for (const by of ['name', 'kind', 'token', 'layer', 'influence', 'pinned'] as const) {
      const up = sortedRows(view, all(view), { by, isDescending: false }, new Map(), new Set())
      expect([...up].sort((a, b) => a - b)).toEqual([...all(view)])
    }
    const strongest = sortedRows(view, all(view), { by: 'influence', isDescending: true }, new Map(), new Set())
    for (let at = 1; at < strongest.length; at++) expect(view.influence[strongest[at]]).toBeLessThanOrEqual(view.influence[strongest[at - 1]])
  })
})
