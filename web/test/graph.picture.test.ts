import { describe, expect, it } from 'vitest'
import { shareColour, type Palette } from '../src/graph/colours'
import { INITIAL } from '../src/graph/core'
import { asSvg } from '../src/graph/export'
import { backgroundEdges, focusEdges, strongestFirst } from '../src/graph/filter'
import { drawGroups, groupPattern, isClose, placeTags } from '../src/graph/groups'
import { placeLabels } from '../src/graph/labels'
import { layout } from '../src/graph/layout'
import { screenX, screenY, type Focus, type Scene } from '../src/graph/scene'
import { escaped, glyphPath, SvgPen } from '../src/graph/svg'
import { nodeName, pictureName, signedPercent, visible } from '../src/graph/words'
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

describe('groups in the picture', () => {
  /** A scene with groups of these sizes, made of features in order. */
  function grouped(sizes: number[]): Scene {
    const drawn = scene()
    const features = [...all(drawn.view)].filter((row) => drawn.view.kindOf(row) === 'feature').map((row) => drawn.view.id[row])
    const supernodes = sizes.map((size, index) => ({ id: `${index}`, name: `group number ${index}`, nodes: features.splice(0, size) }))
    return { ...drawn, state: { ...drawn.state, supernodes } }
  }
  const overlap = (a: number[], b: number[]) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3]

  it('have one name each, inside the plot, that covers no other and is tied to a member', () => {
    const drawn = grouped([15, 12, 9, 3, 2, 1])
    const tags = placeTags(drawn, 1)
    expect(tags.map((tag) => tag.index)).toEqual([0, 1, 2, 3, 4, 5])
    for (const tag of tags) {
      const [left, top, right, bottom] = tag.box
      expect(left >= 50 && top >= 30 && right <= 750 && bottom <= 430).toBe(true)
      expect(tags.filter((other) => other !== tag && overlap(other.box, tag.box))).toEqual([])
      const members = drawn.state.supernodes[tag.index].nodes.map((id) => drawn.view.row(id))
      expect(members.map((row) => [screenX(drawn, row), screenY(drawn, row)])).toContainEqual(tag.nearest)
    }
    const others = placeLabels(drawn, all(drawn.view), {
      area: drawn.plot, font: '', scale: 1, around: [], most: 99, taken: tags.map((tag) => tag.box),
    })
    expect(others.length).toBeGreaterThan(0)
    for (const label of others.filter((one) => one.align === 'left')) {
      const box = [label.x, label.y - 5, label.x + 6 * label.text.length, label.y + 5]
      expect(tags.filter((tag) => overlap(tag.box, box))).toEqual([])
    }
  })

  it('are strung together only when few and close, else each member has its ring alone', () => {
    expect(isClose([[0, 0], [40, 30]])).toBe(true)
    expect(isClose([[0, 0]])).toBe(false)
    expect(isClose([[0, 0], [300, 0]])).toBe(false)
    expect(isClose(Array.from({ length: 6 }, (_, at): [number, number] => [at, at]))).toBe(true)
    expect(isClose(Array.from({ length: 7 }, (_, at): [number, number] => [at, at]))).toBe(false)
    const drawn = grouped([15])
    const pen = new SvgPen()
    drawGroups(pen, drawn, 1)
    const text = pen.document(700, 400, 't')
    // A ring is two arcs; no straight line leads anywhere.
    expect(text.match(/A/g)).toHaveLength(30)
    expect(text).not.toMatch(/L\d/)
  })

  it('next to each other differ in pattern, not in colour alone', () => {
    for (let index = 0; index < 8; index++) expect(groupPattern(index)).not.toEqual(groupPattern(index + 1))
  })
})

describe('a name in the picture', () => {
  const named = (label: string) => {
    const view = made({ label })
    return pictureName(view, [...all(view)].find((row) => view.kindOf(row) === 'feature')!)
  }
  it('is left out where it has no letter and no digit', () => {
    for (const label of ['", "", \'\'', '—', 'the mark """', '...']) expect(named(label)).toBe('')
    expect(named('short, -, small')).toBe('short, -, small')
    expect(named('日本')).toBe('日本')
    expect(named('the number "3"')).toBe('“3”')
  })
  it('of a word is the word, and one that the reader gave stands as it is', () => {
    expect(named('the word "small"')).toBe('“small”')
    const view = made({ label: '...' })
    expect(pictureName(view, 0, new Map([[view.id[0], '!']]))).toBe('!')
  })
})
