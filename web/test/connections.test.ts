import { expect, test } from 'vitest'
import { connections } from '../src/state/connections'
import type { Edge, GraphView } from '../src/view/view'

test('connections: every edge once, groups summed, strongest first, the unlisted rest said', () => {
  const edges: Edge[] = [
    { edge: 0, source: 0, target: 3, weight: 2, share: 0.4 },
    { edge: 1, source: 1, target: 3, weight: -1.5, share: -0.3 },
    { edge: 2, source: 2, target: 3, weight: 0.5, share: 0.1 },
  ]
  const view = { id: Int32Array.of(10, 11, 12, 13), inputs: () => edges, outputs: () => [] } as unknown as GraphView
  const alone = connections(view, 3, [])
  expect(alone.inputs.map((group) => group.share)).toEqual([0.4, -0.3, 0.1])
  expect(alone.listed).toBeCloseTo(0.8)
  expect([alone.outputs, connections({ ...view, inputs: () => [] } as unknown as GraphView, 3, []).listed]).toEqual([[], null])

  const [first, second] = connections(view, 3, [{ id: 'g', name: 'both', nodes: [10, 11] }]).inputs
  expect([first.share, first.supernode]).toEqual([expect.closeTo(0.1), expect.objectContaining({ id: 'g' })])
  expect(first.members.map((member) => member.id)).toEqual([10, 11])
  expect(second.members.map((member) => member.id)).toEqual([12])
})

test('outputs into a supernode are averaged by influence, never beyond the whole', () => {
  const outputs: Edge[] = [
    { edge: 0, source: 0, target: 1, weight: 2, share: 0.9 },
    { edge: 1, source: 0, target: 2, weight: 1, share: 0.5 },
    { edge: 2, source: 0, target: 3, weight: 1, share: -0.7 },
  ]
  const influence = Float32Array.of(0, 3, 1, 0)
  const view = { id: Int32Array.of(10, 11, 12, 13), influence, inputs: () => [], outputs: () => outputs } as unknown as GraphView
  const alone = connections(view, 0, []).outputs
  expect(alone.map((group) => group.share)).toEqual([0.9, -0.7, 0.5].map((share) => expect.closeTo(share)))
  const [group] = connections(view, 0, [{ id: 'g', name: 'two', nodes: [11, 12] }]).outputs
  expect([group.share, group.weight]).toEqual([expect.closeTo(0.8), 3])
  const [weak] = connections(view, 0, [{ id: 'g', name: 'one', nodes: [13] }]).outputs.filter((one) => one.supernode)
  expect(weak.share).toBeCloseTo(-0.7)
})
