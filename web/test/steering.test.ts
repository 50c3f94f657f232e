// Dials in links, and conversations as the model is given them.
import { describe, expect, test } from 'vitest'
import { ending, messages, readTurns, type Turn } from '../src/features/chat'
import { formatDials, neutral, parseDials, settings, strengthWords, VARIANTS } from '../src/features/dials'

describe('dials in a link', () => {
  test('what is written is read back', () => {
    const text = '12:345:2:add,3:7:-1.5:clamp:off,0:0:0:orthogonal'
    expect(formatDials(parseDials(text))).toBe(text)
    expect(formatDials(parseDials(''))).toBe('')
  })
  test('a feature alone stands at its maximum', () => {
    expect(parseDials('3:7')).toEqual([{ layer: 3, feature: 7, strength: 1, variant: 'add', label: '', isOn: true }])
  })
  test('what cannot be meant is left out, a feature stands once', () => {
    expect(parseDials('x:1,3,3:-1,1:2:NaN,1:2:1:worse,<script>,4:5,4:5:3').map((dial) => `${dial.layer}:${dial.feature}`)).toEqual(['4:5'])
    expect(parseDials(Array.from({ length: 80 }, (_, i) => `0:${i}`).join(','))).toHaveLength(50)
  })
  test('only dials that are on are told', () => {
    expect(settings(parseDials('1:2:1:add,3:4:1:add:off')).map((each) => each.layer)).toEqual([1])
  })
  test('words say when nothing changes', () => {
    for (const { name } of VARIANTS) {
      const value = neutral(name)
      if (value !== null) expect(strengthWords(value, name)).toBe('no change')
    }
    expect(strengthWords(2, 'add')).toBe('+2 × its maximum')
    expect(strengthWords(-1.5, 'clamp')).toBe('at −1.5 × its maximum')
    expect(strengthWords(0, 'clamp')).toBe('off')
    expect(strengthWords(0, 'scale')).toBe('off')
  })
})

describe('conversations', () => {
  const turns: Turn[] = [
    { user: 'one', steered: 'S1', baseline: 'B1', dials: '' },
    { user: 'two', steered: 'S2', baseline: null, dials: '' },
    { user: 'three', steered: '', baseline: '', dials: '' },
  ]
  test('each side holds its own answers and ends with the question', () => {
    expect(messages(turns, 2, 'steered').map((each) => each.content)).toEqual(['one', 'S1', 'two', 'S2', 'three'])
    // A turn that this side never answered would put two questions in a row.
    expect(messages(turns, 2, 'baseline').map((each) => each.content)).toEqual(['one', 'B1', 'three'])
  })
  test('roles take turns, after the system message', () => {
    const roles = messages(turns, 2, 'steered', 'be kind').map((each) => each.role)
    expect(roles).toEqual(['system', 'user', 'assistant', 'user', 'assistant', 'user'])
    expect(messages(turns, 0, 'steered', '  ')).toEqual([{ role: 'user', content: 'one' }])
  })
  test('kept turns are read back, anything else is nothing', () => {
    expect(readTurns(JSON.stringify(turns))).toEqual(turns)
    for (const text of [null, '', '{', '{}', '[1]', '[{"user":1}]']) expect(readTurns(text)).toEqual([])
  })
  test('why it ended', () => {
    expect(ending('max_tokens')).toBe('cut at the length asked for')
    expect(ending('left')).toBe('stopped')
    expect(ending('end of text')).toBe('')
  })
})
