import { describe, expect, test } from 'vitest'
import { shown, startShare, type Selection } from '../src/state/shares'
import { viewOf } from './view-of'

function view() {
  const feature = (layer: number, influence: number) => ({ kind: 'feature' as const, layer, position: 0, influence })
  const made = viewOf(
    [{ kind: 'embedding', layer: 0, position: 0, influence: 0.2 }, feature(1, 0.5), feature(2, 0.3), feature(3, 0.1),
     { kind: 'error', layer: 3, position: 0, influence: 0.1 }, { kind: 'logit', layer: 4, position: 0, influence: 1 }],
    [[0, 1, 0.5], [1, 2, 0.5], [2, 5, 0.3], [3, 5, -0.1], [4, 5, 0.1]],
  )
  made.cumulative.set([0, 0.5, 0.8, 0.9, 1, 0])
  made.edgeCumulative.set([0.4, 0.7, 0.9, 0.95, 1])
  Object.assign(made.header, { nodes_in_graph: 10, edges_in_graph: 30 })
  return made
}

const ALL: Selection = { nodeShare: 1, edgeShare: 1, hiddenKinds: [], pinned: [], selected: null }

describe('what the sliders show', () => {
  test('all of the view at 1; what the view left out stays hidden', () => {
    expect(shown(view(), ALL)).toEqual({ nodes: 6, nodesInGraph: 10, hidden: 4, hiddenShare: 0, edges: 5, edgesInGraph: 30 })
  })

  test('a stricter share never shows more, and what it hides carries more', () => {
    let before = shown(view(), ALL)
    for (const share of [0.95, 0.85, 0.6, 0.3]) {
      const now = shown(view(), { ...ALL, nodeShare: share, edgeShare: share })
      expect(now.nodes).toBeLessThanOrEqual(before.nodes)
      expect(now.edges).toBeLessThanOrEqual(before.edges)
      expect(now.hiddenShare).toBeGreaterThanOrEqual(before.hiddenShare)
      expect(now.nodes + now.hidden).toBe(10)
      before = now
    }
    expect(before).toMatchObject({ nodes: 2, edges: 0, hiddenShare: 1 })
  })

  test('pinned and selected nodes are shown at any share', () => {
    const strict = { ...ALL, nodeShare: 0.3 }
    expect(shown(view(), { ...strict, pinned: [30], selected: 40 }).nodes).toBe(shown(view(), strict).nodes + 2)
  })

  test('a kind that is left out is not counted', () => {
    expect(shown(view(), { ...ALL, hiddenKinds: ['feature'] }).nodes).toBe(3)
  })

  test('the first look is at no more than 80 % of the influence', () => {
    expect(startShare(view())).toBeLessThanOrEqual(0.8)
    expect(startShare(view())).toBeGreaterThan(0)
  })
})
