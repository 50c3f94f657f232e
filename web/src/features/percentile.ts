// Where an activation stands among all activations of its feature, from the histogram of an index.
import type { HistogramBar } from '../api/schema'

/**
 * Bars as they are drawn: those of a shipped index count whole octaves, each in its first bin, and become as wide; the
 * last ends at the maximum, beyond which nothing was seen.
 */
export function drawn(bars: HistogramBar[], maximum: number | null = null): HistogramBar[] {
  const wide = widened(bars)
  const last = wide.at(-1)
  if (!last || maximum === null || maximum <= last.low || maximum >= last.high) return wide
  return [...wide.slice(0, -1), { ...last, high: maximum }]
}

function widened(bars: HistogramBar[]): HistogramBar[] {
  const used = bars.filter((bar) => bar.count > 0)
  const isThin = used.length > 1 && used.every((bar) => bar.low > 0 && bar.high < 2 * bar.low && isWhole(Math.log2(bar.low)))
  if (!isThin) return bars
  const [first, last] = [Math.round(Math.log2(used[0].low)), Math.round(Math.log2(used.at(-1)!.low))]
  return Array.from({ length: last - first + 1 }, (_, i) => {
    const low = 2 ** (first + i)
    return { low, high: 2 * low, count: used.find((bar) => Math.abs(bar.low / low - 1) < 1e-6)?.count ?? 0 }
  })
}

function isWhole(value: number): boolean {
  return Math.abs(value - Math.round(value)) < 1e-6
}

/** The share of all places where the feature fires that are weaker than `activation`; null for an empty histogram. */
export function percentile(bars: HistogramBar[], activation: number): number | null {
  const total = bars.reduce((sum, bar) => sum + bar.count, 0)
  if (total === 0) return null
  let below = 0
  for (const bar of bars) {
    if (activation >= bar.high) below += bar.count
    else if (activation > bar.low) below += bar.count * within(bar, activation)
  }
  return below / total
}

/** How far into a bar a value is, by its logarithm as the bars are cut; linearly where a bar begins at 0. */
function within(bar: HistogramBar, value: number): number {
  if (bar.low <= 0) return (value - bar.low) / (bar.high - bar.low)
  return Math.log(value / bar.low) / Math.log(bar.high / bar.low)
}

/** The same in words. Says so when the corpus never saw the like. */
export function percentileWords(bars: HistogramBar[], activation: number, maximum: number | null): string {
  const share = percentile(bars, activation)
  if (share === null) return ''
  if (maximum !== null && activation > maximum) return 'stronger than anywhere in the corpus'
  if (share < 0.01) return 'weaker than almost everywhere it fires'
  if (share > 0.99) return 'stronger than at 99 % of the places where it fires'
  return `stronger than at ${Math.round(100 * share)} % of the places where it fires`
}

/** Where a value lies along drawn bars, in bars from the left: 2.5 is the middle of the third one. */
export function place(bars: HistogramBar[], value: number): number {
  if (bars.length === 0 || value <= bars[0].low) return 0
  const at = bars.findIndex((bar) => value < bar.high)
  if (at < 0) return bars.length
  return value <= bars[at].low ? at : at + within(bars[at], value)
}
