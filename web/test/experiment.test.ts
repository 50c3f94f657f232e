// Laws of experiments: the rule of the verdict, requests, what boxes show, texts side by side, the script.
import { describe, expect, it } from 'vitest'
import type { Experiment, InterventionResult, TargetEffect } from '../src/api/schema'
import { boxesOf } from '../src/circuit/diagram'
import { boxEffects, differences, type Draft, obstacle, pythonOf, requestOf, SETTINGS, title } from '../src/circuit/experiment'
import { agreementWords, fit, judge, judgeExperiment, mainEffect, RULES, SIGNS, sizeWords } from '../src/circuit/verdict'
import { badge, deed, short, signed, signedPercent, token } from '../src/circuit/words'
import { viewOf } from './view-of'

const effect = (change: Partial<TargetEffect>): TargetEffect => ({
  text: ' large',
  predicted: -1,
  measured: -0.9,
  control: -0.05,
  control_low: -0.2,
  control_high: 0.1,
  ...change,
})

describe('the verdict', () => {
  it('is confirmed for the predicted sign, three times the control and beyond its range, and a size like the prediction', () => {
    expect(judge(effect({})).verdict).toBe('confirmed')
    expect(judge(effect({ measured: 0.9, predicted: 1 })).verdict).toBe('confirmed')
  })
  it('is of the direction only beyond three times and below a third of the prediction, the borders being confirmed', () => {
    const controls = { control: 0.001, control_low: -0.002, control_high: 0.002 }
    const of = (measured: number, predicted = -1) => judge(effect({ measured, predicted, ...controls }))
    for (const measured of [-3, -1, -1 / 3]) expect(of(measured).verdict).toBe('confirmed')
    for (const measured of [-3.001, -30, -0.333, -0.01]) expect(of(measured).verdict).toBe('direction only')
    expect(of(-1.31, -0.146)).toMatchObject({ verdict: 'direction only', why: expect.stringContaining('9 times as much as predicted') })
    expect(of(-0.1).why).toContain('10 times less than predicted')
    expect(of(-0.9).why).not.toContain('times as much')
  })
  it('is weak within the range of the controls, or below three times their mean, whatever the size and the sign', () => {
    expect(judge(effect({ measured: -0.19 })).verdict).toBe('weak')
    expect(judge(effect({ measured: -0.2 })).verdict).toBe('weak')
    expect(judge(effect({ measured: -0.21, predicted: -0.2 })).verdict).toBe('confirmed')
    expect(judge(effect({ measured: -0.5, control: -0.2, control_low: -0.3 })).verdict).toBe('weak')
    expect(judge(effect({ measured: -0.75, control: -0.25, control_low: -0.3 })).verdict).toBe('confirmed')
    expect(judge(effect({ measured: 0.05 })).verdict).toBe('weak')
    expect(judge(effect({ measured: -0.19, predicted: -0.001 })).verdict).toBe('weak')
  })
  it('is contradicted by a large effect of the other sign, of any size, and only then', () => {
    for (const measured of [0.2, 0.9, 9]) expect(judge(effect({ measured })).verdict).toBe('contradicted')
    expect(judge(effect({ measured: 0.1 })).verdict).toBe('weak')
  })
  it('has a sign of its own and a rule for every level', () => {
    expect(new Set(Object.values(SIGNS)).size).toBe(5)
    expect(Object.keys(RULES)).toEqual(Object.keys(SIGNS))
  })
  it('is not tested without prediction, without controls, or frozen', () => {
    expect(judge(effect({ predicted: null })).verdict).toBe('not tested')
    expect(judge(effect({ predicted: 0 })).verdict).toBe('not tested')
    expect(judge(effect({ control: null, control_low: null, control_high: null })).verdict).toBe('not tested')
    expect(judge(effect({}), 'frozen').verdict).toBe('not tested')
  })
  it('does not depend on the sign of everything', () => {
    for (const measured of [-4, -2, -0.3, -0.1, 0, 0.1, 0.3, 2, 4]) {
      const one = judge(effect({ measured }))
      const other = judge(effect({ measured: -measured, predicted: 1, control: 0.05, control_low: -0.1, control_high: 0.2 }))
      expect(other.verdict).toBe(one.verdict)
    }
  })
  it('is of the target that was predicted to change most, whatever was measured', () => {
    const targets = [effect({ text: 'a', predicted: 0.1, measured: 9 }), effect({ text: 'b', predicted: -2 })]
    expect(mainEffect({ targets } as InterventionResult)?.text).toBe('b')
    expect(judgeExperiment({ request: { graph: 'x' }, result: { targets: [] as TargetEffect[] } as InterventionResult } as Experiment).verdict).toBe('not tested')
  })
  it('says how large an effect is beside its prediction, where they differ', () => {
    expect(sizeWords({ predicted: -0.13, measured: -0.98 })).toBe('7.5 times as much as predicted')
    expect(sizeWords({ predicted: 2, measured: 0.5 })).toBe('4 times less than predicted')
    for (const measured of [1, -1, 0]) expect(sizeWords({ predicted: 1, measured })).toBe('')
    expect(sizeWords({ predicted: null, measured: 3 })).toBe('')
  })
  it('says in words whether the graph predicted too much', () => {
    const words = (slope: number) => agreementWords({ count: 40, slope, spearman: 0.9, sign_agreement: 0.95 })
    expect(words(0.4)).toContain('too much')
    expect(words(1)).toContain('about the right amount')
    expect(words(2)).toContain('too little')
    expect(fit({ count: 40, slope: 1, spearman: 0.9, sign_agreement: 0.95 })).toBe('well')
    expect(fit({ count: 40, slope: 0.2, spearman: 0.9, sign_agreement: 0.95 })).toBe('badly')
    expect(fit({ count: 40, slope: 1, spearman: 0.1, sign_agreement: 0.95 })).toBe('badly')
    expect(fit({ count: 0, slope: null, spearman: null, sign_agreement: null })).toBe('')
    expect(agreementWords({ count: 0, slope: null, spearman: null, sign_agreement: null })).toContain('Too few')
  })
})

const node = (kind: 'feature' | 'logit', layer: number) => ({ kind, layer, position: 0, influence: 1 })
const view = viewOf([node('feature', 1), node('feature', 2), node('feature', 3), node('logit', -1)], [])
const groups = [{ id: 'g', name: 'small', nodes: [0, 10] }]
const boxes = boxesOf({ view, pinned: [0, 10, 20, 30], supernodes: groups, name: (id) => (id === 20 ? 'small' : ' t3') })
const draft: Draft = { key: 'g', name: 'small', nodes: [0, 10], kind: 'scale', value: 0 }
const request = requestOf('0123456789ab', view, boxes, { drafts: [draft], swaps: [], settings: SETTINGS })
const result: InterventionResult = {
  tokens: [],
  targets: [effect({ text: ' t3' })],
  nodes: [],
  supernodes: [
    { name: 'small', predicted: 0, measured: 0 },
    { name: 'small (2)', predicted: 0.4, measured: 0.7 },
  ],
  agreement: { count: 0, slope: null, spearman: null, sign_agreement: null },
  kl: 0,
  n_changed: 2,
  n_unpredicted: 0,
  text_before: '',
  text_after: '',
  notes: [],
  python: 'print(1)\n',
}
const experiment: Experiment = { id: '1', made: '2026-01-01', request, result }

describe('a request', () => {
  it('watches every box that has features, each under a name of its own', () => {
    expect(request.watch).toEqual([
      { name: 'small', nodes: [0, 10] },
      { name: 'small (2)', nodes: [20] },
    ])
    expect(request.changes).toEqual([{ nodes: [0, 10], kind: 'scale', value: 0, name: 'small' }])
  })
  it('is refused in words when nothing, or one thing twice, is changed', () => {
    expect(obstacle([], [])).toContain('Choose')
    expect(obstacle([draft], [])).toBe('')
    expect(obstacle([draft, { ...draft, nodes: [10] }], [])).toContain('twice')
    expect(obstacle([draft], [{ out: [10], donor: '0123456789ab', nodes: [1], name: '', strength: 1, suppress: 0 }])).toContain('twice')
    expect(obstacle([{ ...draft, nodes: [] }], [])).toContain('no feature')
    expect(obstacle([{ ...draft, value: NaN }], [])).toContain('number')
  })
})

describe('boxes after an experiment', () => {
  it('show what is left of each, also of two with one name, a badge where they were changed, logits at the answer', () => {
    const effects = boxEffects(view, boxes, experiment)
    expect(effects.get('g')).toEqual({ predicted: 0, measured: 0, badge: 'off', logits: null })
    expect(effects.get('20')).toEqual({ predicted: 0.4, measured: 0.7, badge: '', logits: null })
    expect(effects.get('30')?.logits).toEqual({ predicted: -1, measured: -0.9 })
  })
  it('show nothing on boxes that were made since', () => {
    const later = boxesOf({ view, pinned: [0, 10, 20], supernodes: [{ id: 'h', name: 'small', nodes: [10, 20] }], name: () => 'small' })
    expect(boxEffects(view, later, experiment).get('h')).toMatchObject({ measured: null, badge: 'off' })
  })
})

describe('two texts', () => {
  it('are given back whole, with what they share', () => {
    const [a, b] = ['The capital of Texas is Austin.', 'The capital of California is Sacramento. Yes']
    const found = differences(a, b)
    const join = (pieces: { text: string }[]) => pieces.map((piece) => piece.text).join('')
    expect([join(found.before), join(found.after)]).toEqual([a, b])
    const same = (pieces: { text: string; isSame: boolean }[]) => join(pieces.filter((piece) => piece.isSame))
    expect(same(found.before)).toBe('The capital of is')
    expect(same(found.after)).toBe(same(found.before))
  })
  it('that are equal differ nowhere', () => {
    expect(differences('a b ', 'a b ').after.every((piece) => piece.isSame)).toBe(true)
    expect(differences('', '')).toEqual({ before: [], after: [] })
  })
})

describe('the script of a history', () => {
  it('holds every script, and no line of a hostile name becomes code', () => {
    const name = 'x\nimport os\r\nos.remove("y")\u2028z'
    const hostile = { ...experiment, request: { ...request, changes: [{ ...draft, name, key: undefined }] } } as unknown as Experiment
    const lines = pythonOf([experiment, hostile]).split(/\r\n|[\n\r\u2028]/)
    expect(lines.filter((line) => line === 'print(1)')).toHaveLength(2)
    expect(lines.filter((line) => line && !line.startsWith('#') && line !== 'print(1)')).toEqual([])
  })
  it('is titled by what was changed', () => {
    expect(title(request)).toBe('small turned off')
  })
})

describe('words', () => {
  it('say a sign where there is one', () => {
    expect([signed(0.42), signed(-1.3), signed(0)]).toEqual(['+0.42', '−1.3', '0'])
    expect([signedPercent(0.12), signedPercent(-0.03), signedPercent(1e-9)]).toEqual(['+12 %', '−3 %', '< 0.01 %'])
  })
  it('name changes and tokens', () => {
    expect(badge({ kind: 'scale', value: 0 })).toBe('off')
    expect(badge({ kind: 'scale', value: -1 })).toBe('× −1')
    expect(badge({ kind: 'inject', value: 2 })).toBe('+2 × max')
    expect(deed({ kind: 'inject', value: 1 })).toBe('injected at its maximum')
    expect(deed({ kind: 'set', value: 3 })).toBe('set to 3')
    expect([token(' "'), token('  '), token('\n')]).toEqual(['"', '··', '⏎'])
    expect(short('abcdefgh', 5)).toBe('abcd…')
  })
})
