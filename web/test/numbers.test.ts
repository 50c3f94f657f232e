import { describe, expect, test } from 'vitest'
import { ago, count, digits, percent, plural, seconds, signed, visible } from '../src/state/numbers'
import { askedOf, exactToken, explained, splitTarget } from '../src/state/target'

test.each([
  [0, '0 %'], [1, '100 %'], [0.7132, '71 %'], [0.0412, '4.1 %'], [0.04, '4 %'], [0.0999, '10 %'], [0.00001, '< 0.01 %'], [0.00041, '0.04 %'], [0.000999, '0.1 %'], [-0.0005, '−0.05 %'],
  [-0.00001, '> −0.01 %'], [0.9999, '99.9 %'], [0.996, '99.6 %'], [0.995, '99.5 %'], [-0.25, '−25 %'], [-0.031, '−3.1 %'],
])('percent(%d) is %s', (value, words) => expect(percent(value)).toBe(words))

test('what is not nothing is never called nothing, what is not all never all', () => {
  for (const value of [1e-9, 1e-4, 0.0004, 0.9951, 0.99999]) {
    expect(percent(value)).not.toBe('0 %')
    expect(percent(value)).not.toBe('100 %')
  }
})

test.each([
  [0.4188, '+0.42'], [-2, '−2'], [0, '+0'], [12.345, '+12.3'], [-1234.5, '−1235'], [0.00412, '+0.0041'], [9.99, '+9.99'],
])('signed(%d) is %s', (value, words) => expect(signed(value)).toBe(words))

test('digits keeps at most three that mean something below a thousand', () => {
  for (const value of [0.1, 0.123456, 1.23456, 12.3456, 123.456, 999.9, 0.0456789]) {
    const meant = digits(value).replace('.', '').replace(/^0+/, '')
    expect(meant.length).toBeLessThanOrEqual(4)
    expect(Math.abs(Number(digits(value)) - value)).toBeLessThanOrEqual(Math.abs(value) * 0.05)
  }
  expect(digits(Number.NaN)).toBe('not a number')
})

test('counts and durations', () => {
  expect(count(3102854)).toBe('3,102,854')
  expect(plural(1, 'node')).toBe('1 node')
  expect(plural(1203, 'node')).toBe('1,203 nodes')
  expect(plural(0, 'box', 'boxes')).toBe('0 boxes')
  expect([0, 4.21, 9.96, 59.7, 71, 120].map(seconds)).toEqual(['0.0 s', '4.2 s', '10 s', '1 min', '1 min 11 s', '2 min'])
})

test('times ago', () => {
  const now = new Date('2026-11-21T21:00:00Z')
  expect(ago('2026-11-21T20:59:40Z', now)).toBe('just now')
  expect(ago('2026-11-21T20:48:00Z', now)).toBe('12 min ago')
  expect(ago('2026-11-21T17:30:00Z', now)).toBe('3 h ago')
  expect(ago('2026-11-02T12:00:00Z', now)).toMatch(/2 Nov/)
  expect(ago('2025-11-02T12:00:00Z', now)).toMatch(/2025/)
  expect([ago('', now), ago('soon', now)]).toEqual(['', ''])
})

test('tokens can be seen', () => {
  expect(['the', ' the', '\n', ' ', '', 'a b', '\t'].map(visible)).toEqual(['the', '·the', '⏎', '·', '∅', 'a b', '⇥'])
})

describe('targets', () => {
  test('one or two', () => {
    expect(splitTarget('Austin')).toEqual({ target: 'Austin', minus: '' })
    expect(splitTarget(' Austin vs  Dallas')).toEqual({ target: ' Austin', minus: 'Dallas' })
    expect(splitTarget('Austin VS. Dallas')).toEqual({ target: 'Austin', minus: 'Dallas' })
    expect(splitTarget('vs')).toEqual({ target: 'vs', minus: '' })
    expect(splitTarget('canvas')).toEqual({ target: 'canvas', minus: '' })
  })

  test('a typed word is the next token that reads so, with its space', () => {
    const top = [{ id: 1, text: ' Austin', probability: 0.6 }, { id: 2, text: 'Dallas', probability: 0.1 }]
    expect(exactToken('Austin', top)).toBe(' Austin')
    expect(exactToken('Dallas', top)).toBe('Dallas')
    expect(exactToken('Paris', top)).toBe('Paris')
    expect(exactToken('  ', top)).toBe('')
  })

  test('an exact text wins over one that only reads like it', () => {
    const top = [{ id: 1, text: ' a', probability: 0.6 }, { id: 2, text: 'a', probability: 0.1 }]
    expect(exactToken('a', top)).toBe('a')
  })

  test('in words', () => {
    expect(explained({ target: '', minus: '' })).toMatch(/most probable/)
    expect(explained({ target: ' large', minus: ' big' })).toBe('why “large” rather than “big”')
  })
})

describe('what a graph was asked', () => {
  test('is one token, or one against another with the spaces of both', () => {
    expect(askedOf([{ text: ' Paris', probability: 0.4 }])).toEqual({ target: ' Paris', minus: '' })
    expect(askedOf([{ text: ' a - b', probability: 0.4 }])).toEqual({ target: ' a - b', minus: '' })
    expect(askedOf([{ text: ' Austin -  Dallas', probability: null }])).toEqual({ target: ' Austin', minus: ' Dallas' })
  })
  test('is left to the default where there are several, none, or it cannot be told', () => {
    const one = { text: ' a', probability: 0.4 }
    for (const answers of [[], [one, one], [{ text: 'a - b - c', probability: null }]]) {
      expect(askedOf(answers)).toEqual({ target: '', minus: '' })
    }
  })
})
