import { describe, expect, it } from 'vitest'
import { shareColour, type Palette } from '../src/graph/colours'
import { INITIAL } from '../src/graph/core'
import { asSvg } from '../src/graph/export'
import { backgroundEdges, focusEdges, strongestFirst } from '../src/graph/filter'
import { placeLabels } from '../src/graph/labels'
import { layout } from '../src/graph/layout'
import { screenX, screenY, type Focus, type Scene } from '../src/graph/scene'
import { escaped, glyphPath, SvgPen } from '../src/graph/svg'
import { nodeName, signedPercent, visible } from '../src/graph/words'
import { KINDS } from '../src/view/view'
import { all, made } from './graph.case'

const COLOURS: Palette = {
  panel: '#ffffff', band: '#eeeeee', ink: '#111111', soft: '#555555', line: '#dddddd', strong: '#aaaaaa', accent: '#8a3ffc',
  positive: '#1b7837', negative: '#762a83', warn: '#8a5300', pale: '#fff1d6', error: '#a4690f', feature: '#77828f', edge: '#3c4550',
  focus: '#0f62fe', font: 'sans-serif', isDark: false,
}
const HOSTILE = '<script>alert("x")</script>&amp;\u0000\ud800'

function scene(label = ''): Scene {
  const view = made({ label })
  const placed = layout(view, all(view), { width: 700, height: 400 })
  const feature = [...all(view)].find((row) => view.kindOf(row) === 'feature')!
  const state = {
    ...INITIAL, selected: view.id[feature], pinned: new Set([view.id[feature]]),
    supernodes: [{ id: 's', name: HOSTILE, nodes: [view.id[feature], view.id[feature + 1]] }],
  }
  const edges = backgroundEdges(view, strongestFirst(view), placed.isShown, 1, 100)
  const plot = { left: 50, top: 30, width: 700, height: 400 }
  const camera = { kx: 700 / placed.width, ky: 1, tx: 0, ty: 0 }
  return { view, state, layout: placed, camera, plot, size: { width: 770, height: 470 }, palette: COLOURS, edges, measure: (text) => 6 * text.length }
}

function focusOf(drawn: Scene): Focus {
  const row = drawn.view.row(drawn.state.selected!)
  const edges = focusEdges(drawn.view, row, drawn.layout.isShown, 1, 'either')
  return { row, isSelected: true, edges, shares: new Map(edges.map((edge) => [edge.source === row ? edge.target : edge.source, edge.share])) }
}

/** Every element closes, in order; every mark is one of the five that XML knows. */
function isWellFormed(text: string): boolean {
  const open: string[] = []
  for (const [, tag] of text.matchAll(/<([^>]*)>/g)) {
    if (tag.startsWith('/')) {
      if (open.pop() !== tag.slice(1)) return false
    } else if (!tag.endsWith('/')) open.push(tag.split(/\s/)[0])
  }
  const plain = text.replace(/<[^>]*>/g, '')
  return open.length === 0 && !/[<>]/.test(plain) && !/&(?!amp;|lt;|gt;|quot;|#39;)/.test(text)
}

describe('SVG', () => {
  it('is whole and holds hostile names as text only', () => {
    const drawn = scene(HOSTILE)
    const text = asSvg(drawn, focusOf(drawn), [], true)
    expect(text).not.toMatch(/<script/i)
    expect(text).toContain('&lt;script&gt;')
    expect(isWellFormed(text)).toBe(true)
    expect(text).not.toMatch(/[\u0000-\u0008\u000b\u000c\u000e-\u001f]|[\ud800-\udbff](?![\udc00-\udfff])/)
    expect(text).not.toMatch(/NaN|undefined|Infinity/)
  })

  it('shows every token and target as text', () => {
    const drawn = scene()
    const text = asSvg(drawn, null, [], false)
    for (const token of drawn.view.header.tokens) expect(text).toContain(`>${escaped(visible(token))}</text>`)
    expect(text).toContain('>out 40 %</text>')
  })

  it('escapes in such a way that a reader gets the text back', () => {
    const back = (text: string) =>
      text.replace(/&lt;/g, '<').replace(/&gt;/g, '>').replace(/&quot;/g, '"').replace(/&#39;/g, "'").replace(/&amp;/g, '&')
    for (const text of ['a < b & c > "d" \'e\'', '&lt;', '𝔘 ä 字', '']) expect(back(escaped(text))).toBe(text)
  })

  it('closes what a clip opened, at the right restore', () => {
    const pen = new SvgPen()
    pen.save()
    pen.rect(0, 0, 5, 5)
    pen.clip()
    pen.save()
    pen.restore()
    pen.beginPath()
    pen.arc(1, 1, 1)
    pen.fill()
    pen.restore()
    pen.fill()
    const text = pen.document(10, 10, 'x')
    expect(isWellFormed(text)).toBe(true)
    expect(text.indexOf('</g>')).toBeGreaterThan(text.indexOf('A1 1'))
    expect(text.match(/<g/g)).toHaveLength(1)
  })
})

describe('marks', () => {
  it('have another shape for each kind, but for tokens and targets', () => {
    const shapes = KINDS.map((kind) => glyphPath(kind, 5))
    expect(new Set(shapes).size).toBe(KINDS.length - 1)
    expect(glyphPath('embedding', 5)).toBe(glyphPath('logit', 5))
  })

  it('tell positive from negative shares, and strong from weak', () => {
    for (const isDark of [false, true]) {
      const colours = [-0.4, -0.1, -0.01, 0.01, 0.1, 0.4].map((share) => shareColour(share, isDark))
      expect(new Set(colours).size).toBe(6)
      expect(shareColour(0.9, isDark)).toBe(shareColour(0.4, isDark))
      for (const colour of colours) expect(colour).toMatch(/^#[0-9a-f]{6}$/)
    }
  })
})

describe('labels', () => {
  it('cover neither each other nor a node, and stay in the area', () => {
    const drawn = scene()
    const rows = [...all(drawn.view)].filter((row) => drawn.view.kindOf(row) === 'feature')
    const found = placeLabels(drawn, rows, { area: drawn.plot, font: '', scale: 1, around: drawn.layout.rows, most: 99, repeats: 9 })
    expect(found.length).toBeGreaterThan(3)
    const boxes = found.map((label) => {
      const width = 6 * label.text.length
      const left = label.align === 'left' ? label.x : label.align === 'right' ? label.x - width : label.x - width / 2
      return { left, right: left + width, top: label.y - 4, bottom: label.y + 4 }
    })
    boxes.forEach((a, at) => {
      expect(a.left).toBeGreaterThanOrEqual(drawn.plot.left)
      expect(a.right).toBeLessThanOrEqual(drawn.plot.left + drawn.plot.width)
      for (const b of boxes.slice(at + 1)) expect(a.right < b.left || b.right < a.left || a.bottom < b.top || b.bottom < a.top).toBe(true)
      for (const row of drawn.layout.rows) {
        const [x, y] = [screenX(drawn, row), screenY(drawn, row)]
        expect(x > a.left && x < a.right && y > a.top && y < a.bottom).toBe(false)
      }
    })
  })
})

describe('words', () => {
  it('call a node by the reader’s name, else its label, else what it is', () => {
    const view = made({ label: 'animal' })
    const row = [...all(view)].find((one) => view.kindOf(one) === 'feature')!
    expect(nodeName(view, row, new Map([[view.id[row], 'mine']]))).toBe('mine')
    expect(nodeName(view, row)).toBe('animal')
    const bias = [...all(view)].find((one) => view.kindOf(one) === 'bias')!
    expect(nodeName(view, bias)).toBe('bias')
  })

  it('say a share with its sign, however small', () => {
    expect(signedPercent(0.123)).toBe('+12 %')
    expect(signedPercent(-0.034)).toBe('−3.4 %')
    expect(signedPercent(-0.0004)).toBe('−0.04 %')
    expect(signedPercent(0)).toBe('0 %')
  })
})
