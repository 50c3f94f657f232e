// Examples as one line: the peak in the middle, what is on highlighted.
import type { FeatureExample, Span, WatchedFeature } from '../api/schema'

export interface Centred {
  before: Span[]
  peak: Span | null
  after: Span[]
}

/** An example cut at its peak (its strongest piece where none is marked). Nothing is lost: the parts join to all. */
export function centred(example: FeatureExample): Centred {
  const { spans } = example
  let at = spans.findIndex((span) => span.is_peak)
  if (at < 0) at = spans.reduce((best, span, i) => (best < 0 || span.share > spans[best].share ? i : best), -1)
  if (at < 0) return { before: [], peak: null, after: [] }
  return { before: spans.slice(0, at), peak: spans[at], after: spans.slice(at + 1) }
}

/** Text within a line: line breaks and tabs, which a line cannot show, as signs. */
export function inline(text: string): string {
  return text.replaceAll('\r', '').replaceAll('\n', '⏎').replaceAll('\t', '⇥')
}

/** Text stays at 4.5 : 1 or more on the highlight up to this opacity, light and dark (tested). */
export const STRONGEST_SHADE = 0.5

/** Opacity of the highlight behind a token of this share of its feature's maximum; 0 where the feature is off. */
export function shade(share: number): number {
  const size = Math.min(1, Math.abs(share))
  return size <= 0.005 ? 0 : 0.06 + (STRONGEST_SHADE - 0.06) * size
}

/** The CSS colour of that. */
export function highlight(share: number): string {
  const opacity = shade(share)
  return opacity === 0 ? 'transparent' : `rgb(var(--highlight) / ${opacity.toFixed(3)})`
}

/** Examples by tab: the strongest, then each band that has any, strongest first. `bands` are "number|words". */
export function tabs(top: FeatureExample[], samples: FeatureExample[], bands: string[]): { name: string; examples: FeatureExample[] }[] {
  const found = top.length > 0 ? [{ name: 'Strongest', examples: top }] : []
  for (const band of bands) {
    const [number, ...words] = band.split('|')
    const examples = samples.filter((example) => String(example.band) === number)
    if (examples.length > 0) found.push({ name: words.join('|') || number, examples })
  }
  return found
}

/** Features of one token, those of the same name together, in the order of each group's strongest. */
export function byLabel(features: WatchedFeature[]): WatchedFeature[][] {
  const groups = new Map<string, WatchedFeature[]>()
  for (const each of features) {
    const name = each.label || `${each.layer}:${each.feature}`
    groups.set(name, [...(groups.get(name) ?? []), each])
  }
  return [...groups.values()]
}

/** Words that names share, most common first: what a group is about. */
export function sharedWords(names: string[], most = 4): string[] {
  const seen = new Map<string, number>()
  for (const name of names) {
    const words = new Set(name.toLowerCase().match(/[\p{L}\p{N}']{2,}/gu) ?? [])
    for (const word of words) if (!COMMON.has(word)) seen.set(word, (seen.get(word) ?? 0) + 1)
  }
  return [...seen]
    .filter(([, times]) => times > 1)
    .sort(([a, n], [b, m]) => m - n || a.localeCompare(b))
    .slice(0, most)
    .map(([word]) => word)
}

const COMMON = new Set('the a an of in on at to and or as by for with from before after word words token tokens says'.split(' '))
