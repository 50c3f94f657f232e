import { expect, test } from 'vitest'
import type { Experiment, GraphDetail, PrunedScores } from '../src/api/schema'
import { honesty, testedGroups } from '../src/state/honesty'

const SCORES = {
  replacement: 0.447, completeness: 0.805, error_share: 0.553, unexpanded: 0, average_path_length: 3.9, mediated: null, pruned: null,
}
const DETAIL = { scores: SCORES } as GraphDetail

function tested(nodes: number[], out: number[] = []): Experiment {
  const swaps = out.length ? [{ out }] : []
  return { request: { changes: nodes.length ? [{ nodes }] : [], swaps } } as unknown as Experiment
}

test('every judgement is a word besides its colour, and everything explains itself', () => {
  for (const fact of honesty(DETAIL, null, [], [])) {
    if (fact.tone === 'bad' || fact.tone === 'warn') expect(fact.word).not.toBe('')
    expect(fact.why.length).toBeGreaterThan(40)
  }
})

test('a graph that explains less is never judged better', () => {
  const order = ['bad', 'warn', 'good']
  let last = 0
  for (const replacement of [0, 0.2, 0.49, 0.5, 0.79, 0.8, 1]) {
    const [fact] = honesty({ scores: { ...SCORES, replacement } } as GraphDetail, null, [], [])
    expect(order.indexOf(fact.tone)).toBeGreaterThanOrEqual(last)
    last = order.indexOf(fact.tone)
  }
  expect(last).toBe(2)
})

test('the numbers are the scores', () => {
  const pruned = { nodes: 1, edges: 1, scores: { ...SCORES, replacement: 0.21, pruned: 0.31 } } as PrunedScores
  const values = Object.fromEntries(honesty(DETAIL, pruned, [], []).map((fact) => [fact.name, fact.value]))
  expect(values).toEqual({
    Replacement: '45 %', Completeness: '81 %', Error: '55 %', 'Drawn part explains': '21 %', Attention: 'frozen', 'Groups tested': 'none made',
  })
})

test('unexpanded features are named where there are any', () => {
  const names = (unexpanded: number): string[] =>
    honesty({ scores: { ...SCORES, unexpanded } } as GraphDetail, null, [], []).map((fact) => fact.name)
  expect(names(0)).not.toContain('Unexpanded')
  expect(names(0.01)).toContain('Unexpanded')
})

test('a group counts as tested when one experiment changed all of it', () => {
  const groups = [
    { id: 'a', name: 'a', nodes: [1, 2] }, { id: 'b', name: 'b', nodes: [3, 4] }, { id: 'c', name: 'c', nodes: [5] },
  ]
  expect(testedGroups(groups, [])).toBe(0)
  expect(testedGroups(groups, [tested([1, 2, 9])])).toBe(1)
  expect(testedGroups(groups, [tested([3]), tested([4])])).toBe(0)
  expect(testedGroups(groups, [tested([], [5]), tested([4, 3])])).toBe(2)
})
