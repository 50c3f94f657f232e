// The parts of the notebook widget and the exported file that need no browser.
import { describe, expect, it } from 'vitest'
import { unpacked } from '../src/widget/file'
import { find } from '../src/widget/find'
import { isDark } from '../src/widget/theme'
import { provenance, scoreFacts, strongest, titleOf } from '../src/widget/words'
import type { GraphView, ViewHeader } from '../src/view/view'

function body(attributes: { dataset?: Record<string, string>; className?: string; root?: string }): HTMLElement {
  const { dataset = {}, className = '', root = '' } = attributes
  return { dataset, className, ownerDocument: { documentElement: { className: root } } } as unknown as HTMLElement
}

describe('light or dark', () => {
  it('follows the notebook before the system', () => {
    for (const system of [true, false]) {
      expect(isDark(body({ dataset: { jpThemeLight: 'true' } }), system)).toBe(false)
      expect(isDark(body({ dataset: { jpThemeLight: 'false' } }), system)).toBe(true)
      expect(isDark(body({ dataset: { vscodeThemeKind: 'vscode-dark' } }), system)).toBe(true)
      expect(isDark(body({ dataset: { vscodeThemeKind: 'vscode-light' } }), system)).toBe(false)
      expect(isDark(body({ className: 'app dark' }), system)).toBe(true)
      expect(isDark(body({ root: 'light-theme' }), system)).toBe(false)
      expect(isDark(body({}), system)).toBe(system)
    }
  })
})

describe('an exported file', () => {
  it('gives back the bytes and the notes', async () => {
    const bytes = Uint8Array.from({ length: 1000 }, (_, i) => i % 251)
    const packed = await new Response(new Blob([bytes]).stream().pipeThrough(new CompressionStream('gzip'))).arrayBuffer()
    const view = btoa(String.fromCharCode(...new Uint8Array(packed)))
    const textContent = JSON.stringify({ view, notes: { pinned: [3] }, about: { title: '</script>' } })
    const found = await unpacked({ textContent } as HTMLElement)
    expect(new Uint8Array(found.bytes)).toEqual(bytes)
    expect(found.notes).toEqual({ notes: { pinned: [3] }, about: { title: '</script>' } })
  })

  it('rejects what is damaged', async () => {
    await expect(unpacked({ textContent: '{"view": "AAAA"}' } as HTMLElement)).rejects.toThrow()
  })
})

describe('a search in a view', () => {
  const view = {
    n: 3,
    id: [10, 20, 30],
    layer: [1, 2, 3],
    feature: [7, 8, -1],
    influence: [0.1, 0.5, 0.9],
    text: (row: number) => ['small', 'small', 'large'][row],
    label: (row: number) => ['Size', 'size words', ''][row],
    kindOf: (row: number) => ['feature', 'feature', 'logit'][row],
  } as unknown as GraphView

  it('finds labels, tokens, numbers and own names, the strongest first', () => {
    expect(find(view, {}, 'size', 9)).toEqual([20, 10])
    expect(find(view, {}, 'small', 1)).toEqual([20])
    expect(find(view, {}, 'L1/7', 9)).toEqual([10])
    expect(find(view, { 30: 'my answer' }, 'MY', 9)).toEqual([30])
    expect(find(view, {}, '  ', 9)).toEqual([])
  })
})

describe('what is said above', () => {
  const scores = { replacement: 0.45, completeness: 0.8, error_share: 0.55, unexpanded: 0 }
  it('names every score with its meaning, and no share of nothing', () => {
    const facts = scoreFacts(scores)
    expect(facts.map((fact) => `${fact.name} ${fact.value}`)).toEqual(['Replacement 45 %', 'Completeness 80 %', 'Error 55 %', 'Attention frozen'])
    expect(scoreFacts({ ...scores, unexpanded: 0.1 }).map((fact) => fact.name)).toContain('Unexpanded')
    expect(scoreFacts(undefined)).toEqual([])
  })
  it('falls back to the tokens for a title', () => {
    const header = { prompt: '', tokens: ['a', ' b'] } as ViewHeader
    expect(titleOf(header, {})).toBe('a b')
    expect(titleOf(header, { title: 'T' })).toBe('T')
  })
})

describe('where a graph comes from', () => {
  const header = { model: 'm', dictionary: '', nodes: 10, edges: 20, nodes_in_graph: 3384, edges_in_graph: 40 } as ViewHeader

  it('leaves out what is not known', () => {
    expect(provenance(header, {}).map((fact) => fact.name)).toEqual(['Model', 'Whole graph', 'In here'])
  })

  it('says weights, day and program', () => {
    const facts = provenance(header, { made: '2026-11-21T21:04:39+00:00', generator: 'lucida 1', origins: { model: 'pip m==1' } })
    expect(facts[0].value).toBe('m (pip m==1)')
    expect(facts[1]).toEqual({ name: 'Traced', value: '2026-11-21, with lucida 1' })
    expect(facts[2].value).toBe('3,384 nodes, 40 edges')
  })

  it('begins with the features of most influence, whatever their sign', () => {
    const kinds = ['feature', 'error', 'feature', 'feature']
    const view = { n: 4, id: [1, 2, 3, 4], influence: [0.1, 0.9, -0.5, 0.2], kindOf: (row: number) => kinds[row] }
    expect(strongest(view as unknown as GraphView, 2)).toEqual([3, 4])
  })
})
