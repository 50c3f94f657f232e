// What the inspector, the features page and the compare page derive from numbers and texts.
// @ts-expect-error The page knows no Node; only this test reads a file.
import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import type { ComparedFeature, ComparedGraphs, FeatureCard, FeatureExample, HistogramBar } from '../src/api/schema'
import { align } from '../src/features/align'
import { Cards } from '../src/features/cards'
import { keyOf, matching, nodesOf, suggest } from '../src/features/difference'
import { strongestNamed } from '../src/features/nodes'
import { drawn, percentile, percentileWords, place } from '../src/features/percentile'
import { byLabel, centred, inline, shade, sharedWords, STRONGEST_SHADE, tabs } from '../src/features/spans'
import { often, origin } from '../src/features/words'
import { viewOf } from './view-of'

const bars: HistogramBar[] = [
  { low: 1, high: 2, count: 60 },
  { low: 2, high: 4, count: 30 },
  { low: 4, high: 8, count: 10 },
]

describe('where an activation stands', () => {
  test('the share below never falls as the activation grows, and goes from 0 to 1', () => {
    const shares = Array.from({ length: 200 }, (_, i) => percentile(bars, i * 0.05)!)
    expect(shares[0]).toBe(0)
    expect(shares.at(-1)).toBe(1)
    shares.forEach((share, i) => expect(share).toBeGreaterThanOrEqual(shares[Math.max(0, i - 1)]))
  })
  test('at the edge of a bar it is what was counted below', () => {
    expect(percentile(bars, 2)).toBeCloseTo(0.6)
    expect(percentile(bars, 4)).toBeCloseTo(0.9)
    // The middle of an octave, as bars are cut.
    expect(percentile(bars, Math.sqrt(8))).toBeCloseTo(0.75)
  })
  test('without a histogram nothing is said', () => {
    expect(percentile([], 3)).toBeNull()
    expect(percentileWords([], 3, null)).toBe('')
  })
  test('words', () => {
    expect(percentileWords(bars, 4, 8)).toBe('stronger than at 90 % of the places where it fires')
    expect(percentileWords(bars, 9, 8)).toBe('stronger than anywhere in the corpus')
    expect(percentileWords(bars, 1, 8)).toBe('weaker than almost everywhere it fires')
  })
  test('the mark stands in the bar that holds the value', () => {
    for (const value of [1.1, 2.5, 7.9]) {
      const at = Math.floor(place(bars, value))
      expect(value).toBeGreaterThanOrEqual(bars[at].low)
      expect(value).toBeLessThan(bars[at].high)
    }
    expect(place(bars, 0.2)).toBe(0)
    expect(place(bars, 100)).toBe(3)
  })
  test('counts of whole octaves become bars of an octave; nothing is lost', () => {
    const quarter = 2 ** 0.25
    const thin = Array.from({ length: 9 }, (_, i) => ({ low: quarter ** i, high: quarter ** (i + 1), count: i % 4 === 0 ? 5 + i : 0 }))
    const wide = drawn(thin)
    expect(wide.map((bar) => [bar.low, bar.high])).toEqual([[1, 2], [2, 4], [4, 8]])
    expect(wide.reduce((sum, bar) => sum + bar.count, 0)).toBe(thin.reduce((sum, bar) => sum + bar.count, 0))
    const full = thin.map((bar) => ({ ...bar, count: 3 }))
    expect(drawn(full)).toEqual(full)
    // The top of the last bar is the largest that was seen, so that it is stronger than all.
    expect(drawn(bars, 5).at(-1)).toEqual({ low: 4, high: 5, count: 10 })
    expect(percentile(drawn(bars, 5), 5)).toBe(1)
    expect(drawn(bars, 100)).toEqual(bars)
  })
  test('how often', () => {
    expect(often(0)).toBe('never')
    expect(often(0.0008)).toBe('1 in 1,250 tokens')
    expect(often(0.034)).toBe('3.4 % of tokens')
  })
})

const example = (shares: number[], peak: number, band: number | null = null): FeatureExample => ({
  value: 1, band, spans: shares.map((share, i) => ({ text: ` t${i}`, share, is_peak: i === peak })),
})

describe('who named it', () => {
  const label = { text: 'x', author: 'automatic', method: 'words', score: 0.74 }
  test('the reader comes first, a rule that fits nothing says so', () => {
    expect(origin(label, 'mine')).toBe('your name for this node')
    expect(origin(null)).toBe('nobody named it yet')
    expect(origin(null, '', 'small')).toBe('named in the file of this graph')
    expect(origin({ ...label, author: 'you' })).toBe('named by you')
    expect(origin(label)).toBe('named automatically; it fits 74 % on other texts')
    expect(origin({ ...label, method: 'unclear' })).toContain('no simple rule')
    expect(origin({ ...label, author: 'qwen', score: null })).toBe('named by qwen (words)')
  })
})

describe('examples', () => {
  test('centring cuts at the peak and loses nothing', () => {
    for (let peak = 0; peak < 5; peak++) {
      const given = example([0.1, 0.2, 0.9, 0.3, 0], peak)
      const { before, peak: middle, after } = centred(given)
      expect(middle?.is_peak).toBe(true)
      expect([...before, middle, ...after]).toEqual(given.spans)
    }
  })
  test('without a mark the strongest is the peak; an empty example has none', () => {
    expect(centred(example([0.1, 0.2, 0.9, 0.3], -1)).before).toHaveLength(2)
    expect(centred(example([], -1)).peak).toBeNull()
  })
  test('bands keep their order and only those with examples are tabs', () => {
    const samples = [example([1], 0, 3), example([1], 0, 1), example([1], 0, 3)]
    const found = tabs([example([1], 0)], samples, ['4|16 to 32', '3|8 to 16', '1|2 to 4'])
    expect(found.map((tab) => [tab.name, tab.examples.length])).toEqual([['Strongest', 1], ['8 to 16', 2], ['2 to 4', 1]])
  })
  test('line breaks are seen', () => expect(inline('a\r\n\tb')).toBe('a⏎⇥b'))
  test('features of the same name at a token stand together, each once', () => {
    const one = (layer: number, label: string) => ({ layer, feature: 1, activation: 1, strength: 1, label })
    const found = byLabel([one(3, 'a'), one(1, ''), one(2, 'a'), one(2, '')])
    expect(found.map((group) => group.map((each) => each.layer))).toEqual([[3, 2], [1], [2]])
  })
  test('words that names share', () => {
    expect(sharedWords(['the word "small"', 'little, small', 'tiny'])).toEqual(['small'])
    expect(sharedWords([])).toEqual([])
  })
})

describe('highlights', () => {
  const css: string = readFileSync(new URL('../src/style/tokens.css', import.meta.url), 'utf8')
  const [light, dark] = css.split(/:root\[data-theme='dark'\]/)
  const value = (theme: string, name: string) => new RegExp(`--${name}: ([^;]+);`).exec(theme)![1]
  const rgb = (hex: string) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16))
  const luminance = (colour: number[]) => {
    const [r, g, b] = colour.map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4))
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
  }
  const contrast = (a: number[], b: number[]) => {
    const [high, low] = [luminance(a), luminance(b)].sort((x, y) => y - x)
    return (high + 0.05) / (low + 0.05)
  }
  test.each([['light', light], ['dark', dark]])('text is at 4.5 : 1 on every shade, %s', (_, theme) => {
    const ink = rgb(value(theme, 'ink'))
    const over = value(theme, 'highlight').split(' ').map(Number)
    for (const paper of ['panel', 'paper', 'sunken'].map((name) => rgb(value(theme, name)))) {
      for (let share = 0; share <= 1.3; share += 0.05) {
        const opacity = shade(share)
        const behind = paper.map((c, i) => c * (1 - opacity) + over[i] * opacity)
        expect(contrast(ink, behind)).toBeGreaterThanOrEqual(4.5)
      }
    }
  })
  test('stronger is never paler, off is clear', () => {
    expect(shade(0)).toBe(0)
    expect(shade(2)).toBe(STRONGEST_SHADE)
    for (let share = 0; share < 1; share += 0.01) expect(shade(share + 0.01)).toBeGreaterThanOrEqual(shade(share))
  })
})

describe('cards', () => {
  const card = (path: string) => ({ label: null, missing: '', maximum: 1, corpus: path }) as unknown as FeatureCard
  test('a fast walk asks for the first and the last card only', async () => {
    const asked: string[] = []
    const cards = new Cards(async (path) => (asked.push(path), card(path)), 20)
    const walk = Array.from({ length: 30 }, (_, i) => Cards.path(3, i))
    let last: Promise<unknown> = Promise.resolve()
    for (const [i, path] of walk.entries()) {
      const stop = new AbortController()
      last = cards.get(path, stop.signal)
      if (i > 0 && i < walk.length - 1) {
        stop.abort()
        await expect(last).rejects.toThrow()
      }
    }
    await last
    expect(asked).toEqual([walk[0], walk.at(-1)])
  })
  test('what was read is not asked again, and a card without an index is', async () => {
    let times = 0
    const known = new Cards(async (path) => (times++, card(path)), 0)
    const { signal } = new AbortController()
    await known.get('a', signal)
    await known.get('a', signal)
    expect(times).toBe(1)
    const empty = new Cards(async () => (times++, { missing: 'no index', maximum: null }) as unknown as FeatureCard, 0)
    await empty.get('a', signal)
    await empty.get('a', signal)
    expect(times).toBe(3)
  })
  test('the dictionary of a graph goes along', () => {
    expect(Cards.path(1, 2)).toBe('features/1/2')
    expect(Cards.path(1, 2, 'a b&c')).toBe('features/1/2?dictionary=a%20b%26c')
  })
})

describe('aligning', () => {
  const texts = ['the a b c d e f', 'the b x d f g', '', 'q', 'the the the a']
  test('every token of both stands once, in order; only equal or unpaired neighbours of equals differ', () => {
    for (const left of texts) {
      for (const right of texts) {
        const [a, b] = [left.split(' '), right.split(' ')]
        for (const byPosition of [true, false]) {
          const pairs = align(a, b, byPosition)
          expect(pairs.map((pair) => pair.a).filter((i) => i !== null)).toEqual(a.map((_, i) => i))
          expect(pairs.map((pair) => pair.b).filter((i) => i !== null)).toEqual(b.map((_, i) => i))
        }
      }
    }
  })
  test('a token put in moves the others along', () => {
    const pairs = align(['a', 'b', 'c'], ['a', 'x', 'b', 'c'], false)
    expect(pairs).toEqual([{ a: 0, b: 0 }, { a: null, b: 1 }, { a: 1, b: 2 }, { a: 2, b: 3 }])
  })
})

const row = (layer: number, position: number | null, a: number, b: number, label = ''): ComparedFeature => ({
  layer, feature: layer * 10, position, label, influence_a: a, influence_b: b, nodes_a: a ? [layer] : [], nodes_b: b ? [layer + 100] : [],
})

describe('what differs', () => {
  const compared = {
    tokens_a: ['The', ' small', ' is'].map((text, id) => ({ id, text })),
    tokens_b: ['The', ' hot', ' is'].map((text, id) => ({ id, text })),
    by_position: true,
    only_a: [row(1, 2, 0.5, 0), row(2, 1, 0.3, 0), row(3, 1, 0.1, 0)],
    only_b: [row(4, 1, 0, 0.4), row(5, 2, 0, 0.3)],
  } as unknown as ComparedGraphs
  test('a swap is suggested at the token that differs, on both sides', () => {
    const { out, put, why } = suggest(compared)
    expect(out.map((each) => each.position)).toEqual([1, 1])
    expect(put.map((each) => each.position)).toEqual([1])
    expect(why).toContain('“small” and “hot”')
  })
  test('prompts of other lengths: the strongest of each', () => {
    expect(suggest({ ...compared, by_position: false }).out).toEqual(compared.only_a)
  })
  test('a filter takes rows with all its words', () => {
    const rows = [row(1, 1, 1, 0, 'little, small'), row(2, 0, 1, 0, 'big')]
    expect(matching(rows, 'LITTLE', []).map(keyOf)).toEqual(['1:10:1'])
    expect(matching(rows, 'l2', []).map(keyOf)).toEqual(['2:20:0'])
    expect(matching(rows, 'big little', [])).toEqual([])
    expect(matching(rows, ' small', ['', ' hot'])).toHaveLength(1)
    expect(matching(rows, '', [])).toEqual(rows)
  })
  test('nodes are named once', () => {
    expect(nodesOf([row(1, 1, 1, 0), row(1, 2, 1, 0)], 'nodes_a')).toEqual([1])
  })
})

describe('the strongest features with a name', () => {
  const view = viewOf(
    [1, 5, 4, 3, 9, 8, 7].map((influence, row) => ({ kind: row === 4 ? 'error' : 'feature', layer: 1, position: 0, influence })),
    [],
  )
  view.header.label = ['cat', 'dog', 'cat', '", "', 'error', 'the mark "."', 'unclear: a, b']
  test('come by influence, those of one name at one token once, and nothing that says nothing', () => {
    expect(strongestNamed(view, 8)).toEqual([{ row: 1, more: 0 }, { row: 2, more: 1 }])
    expect(strongestNamed(view, 1)).toEqual([{ row: 1, more: 0 }])
    expect(strongestNamed(view, 0)).toEqual([])
  })
})
