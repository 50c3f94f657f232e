// Laws of the circuit: boxes, links between them, where they stand, what they say after an experiment.
import { describe, expect, it } from 'vitest'
import { type Box, boxesOf, type Circuit, drawn, endsOf, linksOf, naturalThreshold } from '../src/circuit/diagram'
import { boxAt, layout, moved, neighbour, rowsOf } from '../src/circuit/layout'
import { said } from '../src/circuit/texts'
import { type Node, viewOf } from './view-of'

const feature = (layer: number, influence = 0.1, position = 0): Node => ({ kind: 'feature', layer, position, influence })
// Rows: 0 a token, 1-4 features of layers 0, 2, 2, 5, 5 a target.
const view = viewOf(
  [
    { kind: 'embedding', layer: -1, position: 0, influence: 0.5 },
    feature(0, 0.4),
    feature(2, 0.3),
    feature(2, 0.1),
    feature(5, 0.2),
    { kind: 'logit', layer: -1, position: 1, influence: 1 },
  ],
  [
    [0, 1, 0.5],
    [1, 2, 0.4],
    [1, 3, -0.8],
    [2, 4, 0.25],
    [3, 4, -0.5],
    [1, 4, 0.1],
    [4, 5, 0.5],
    [0, 5, 0.001],
  ],
)
const circuit = (pinned: number[], supernodes: Circuit['supernodes'] = []): Circuit => ({
  view,
  pinned,
  supernodes,
  name: (id) => `n${id}`,
})
const share = (boxes: Box[], from: string, to: string) =>
  linksOf(view, boxes).find((link) => link.from === from && link.to === to)?.share ?? 0

describe('boxes', () => {
  it('are one for each supernode, wherever its members stand, and one for each other pinned node', () => {
    const boxes = boxesOf(circuit([10, 20, 30, 40], [{ id: 'g', name: 'small', nodes: [20, 30] }]))
    expect(boxes.map((box) => box.key).sort()).toEqual(['10', '40', 'g'])
    expect(boxes.flatMap((box) => box.nodes).sort()).toEqual([10, 20, 30, 40])
  })
  it('count a node of two supernodes once', () => {
    const groups = [
      { id: 'g', name: 'g', nodes: [20, 30] },
      { id: 'h', name: 'h', nodes: [30, 40] },
    ]
    expect(boxesOf(circuit([20, 30, 40], groups)).flatMap((box) => box.nodes)).toEqual([20, 30, 40])
  })
  it('say how many members the view leaves out, and stand without any', () => {
    const boxes = boxesOf(circuit([10, 999], [{ id: 'g', name: 'g', nodes: [20, 998] }]))
    expect(boxes.map((box) => [box.key, box.missing, box.rows.length])).toEqual([
      ['g', 1, 1],
      ['10', 0, 1],
      ['999', 1, 0],
    ])
    expect(boxes[2].detail).toBe('not in this view')
  })
})

describe('links', () => {
  const single = boxesOf(circuit([10, 20, 30, 40]))
  it('between single nodes are the edges', () => {
    expect(share(single, '10', '30')).toBeCloseTo(-0.8)
    expect(share(single, '20', '40')).toBeCloseTo(0.25)
  })
  it('add up over the sources of a supernode', () => {
    const grouped = boxesOf(circuit([10, 20, 30, 40], [{ id: 'g', name: 'g', nodes: [20, 30] }]))
    expect(share(grouped, 'g', '40')).toBeCloseTo(share(single, '20', '40') + share(single, '30', '40'))
  })
  it('are the mean over its targets, weighted by their influence', () => {
    const grouped = boxesOf(circuit([10, 20, 30, 40], [{ id: 'g', name: 'g', nodes: [20, 30] }]))
    expect(share(grouped, '10', 'g')).toBeCloseTo((0.3 * 0.4 + 0.1 * -0.8) / 0.4)
  })
  it('have the sign of what they add up', () => {
    const grouped = boxesOf(circuit([20, 30, 40], [{ id: 'g', name: 'g', nodes: [20, 30] }]))
    expect(share(grouped, 'g', '40')).toBeLessThan(0)
  })
  it('are the same after merging and splitting again', () => {
    expect(linksOf(view, boxesOf(circuit([10, 20, 30, 40], [])))).toEqual(linksOf(view, single))
  })
  it('do not run within a supernode', () => {
    const all = boxesOf(circuit([], [{ id: 'g', name: 'g', nodes: [10, 20, 30, 40] }]))
    expect(linksOf(view, all)).toEqual([])
  })
  it('below the threshold are counted, not shown, but for the strongest way on from each box', () => {
    const links = linksOf(view, single)
    const { links: shown, hidden } = drawn(single, [], links, 0.3)
    expect(shown.length + hidden).toBe(links.length)
    expect(shown.map((link) => [link.from, link.to])).toEqual([['10', '30'], ['30', '40'], ['10', '20'], ['20', '40']])
    expect(drawn(single, [], links, 0).hidden).toBe(0)
    for (const strict of [0.05, 0.3, 0.6]) {
      const more = drawn(single, [], links, strict / 2).links
      for (const link of drawn(single, [], links, strict).links) expect(more).toContain(link)
    }
  })
  it('are about two for each box by the threshold that comes by itself', () => {
    const all = boxesOf(circuit([10, 20, 30, 40]))
    const links = linksOf(view, all)
    const natural = naturalThreshold(all, links)
    expect(drawn(all, [], links, natural).links.length).toBeLessThanOrEqual(8)
    expect(naturalThreshold([], [])).toBeGreaterThan(0)
  })
})

describe('tokens and answer', () => {
  const seen = (pinned: number[], threshold: number) => {
    const boxes = boxesOf(circuit(pinned))
    const ends = endsOf(circuit(pinned), boxes)
    return drawn(boxes, ends, linksOf(view, [...boxes, ...ends]), threshold)
  }
  it('are added when they are linked strongly enough, and marked so', () => {
    expect(seen([10, 40], 0.05).boxes.filter((box) => box.isAdded).map((box) => box.key)).toEqual(['0', '50'])
    expect(seen([20], 0.1).boxes).toHaveLength(1)
  })
  it('are not added for a link among themselves', () => {
    expect(seen([40], 0.1).boxes.map((box) => box.key)).toEqual(['40', '50'])
    expect(seen([20], 0.0001).boxes.map((box) => box.key)).toEqual(['20'])
  })
})

describe('layout', () => {
  const pinned = boxesOf(circuit([10, 20, 30, 40]))
  const ends = endsOf(circuit([10, 20, 30, 40]), pinned)
  const { boxes, links } = drawn(pinned, ends, linksOf(view, [...pinned, ...ends]), 0.01)
  const laid = layout(boxes, links, { height: 40 })
  it('runs from tokens at the bottom to answers at the top, links upwards', () => {
    const y = (key: string) => laid.places.get(key)!.y
    for (const { from, to } of links) expect(y(from)).toBeGreaterThan(y(to))
    for (const box of boxes) if (box.kind === 'feature') expect(y(box.key)).toBeLessThan(y('0'))
    for (const box of boxes) if (box.kind === 'feature') expect(y(box.key)).toBeGreaterThan(y('50'))
  })
  it('lays no box on another', () => {
    const places = [...laid.places.values()]
    for (const a of places)
      for (const b of places)
        if (a !== b) expect(Math.abs(a.x - b.x) >= (a.width + b.width) / 2 || Math.abs(a.y - b.y) >= 40).toBe(true)
  })
  it('leaves boxes where they were dragged to, and holds them in its bounds', () => {
    const moved = layout(boxes, links, { height: 40, positions: { 20: [-300, 77] } })
    expect(moved.places.get('20')).toMatchObject({ x: -300, y: 77 })
    expect(moved.places.get('40')).toMatchObject({ x: laid.places.get('40')!.x, y: laid.places.get('40')!.y })
    expect(moved.left).toBeLessThan(-300)
  })
  it('draws every link, also one that cannot go up', () => {
    const upside = layout(boxes, links, { height: 40, positions: { 10: [0, -500] } })
    expect(upside.routes).toHaveLength(links.length)
    for (const route of upside.routes) expect(route.path).not.toContain('NaN')
  })
  it('lets the links follow a box that is dragged, and no others', () => {
    const now = moved(laid, '40', { x: 30, y: 5 })
    now.routes.forEach((route, index) => {
      const touches = route.link.from === '40' || route.link.to === '40'
      expect(route.path === laid.routes[index].path).toBe(!touches)
    })
    expect(now.places.get('40')!.x).toBe(laid.places.get('40')!.x + 30)
  })
  it('says a box as it is drawn, with its inputs', () => {
    const text = said(laid, laid.places.get('40')!, { predicted: 0.5, measured: 0.25, badge: 'off', logits: null })
    expect(text).toMatch(/^n40 layer 5, at “a” 25 % pred. 50 % off; inputs: n30 −50 %, n20 \+25 %/)
  })
  it('stands empty without boxes', () => {
    expect(layout([], [], { height: 40 })).toMatchObject({ routes: [], width: 0 })
  })
  it('puts a box without links beside those of its depth', () => {
    const rows = rowsOf(boxes, links.filter((link) => link.from !== '20' && link.to !== '20'))
    expect(rows.get('20')).toBe(rows.get('30'))
  })
  it('leads from box to box by arrow keys', () => {
    expect(neighbour(laid.places, '40', 'ArrowUp')).toBe('50')
    expect(neighbour(laid.places, '0', 'ArrowUp')).toBe('10')
    expect(neighbour(laid.places, '50', 'ArrowUp')).toBeUndefined()
    const { x, y } = laid.places.get('30')!
    expect(boxAt(laid.places, { x, y }, '20')).toBe('30')
    expect(boxAt(laid.places, { x, y }, '30')).toBeUndefined()
  })
})
