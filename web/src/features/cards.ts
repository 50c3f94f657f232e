// Cards of features, kept once read. Who walks quickly over many nodes asks only for those where they rest.
import { api } from '../api/client'
import type { FeatureCard } from '../api/schema'

/** Milliseconds to wait before asking, when the last question is not older than this. */
export const REST = 120

const KEPT = 300

type Fetch = (path: string, signal: AbortSignal) => Promise<FeatureCard>

export class Cards {
  private readonly kept = new Map<string, FeatureCard>()
  private last = -Infinity

  constructor(private readonly fetch: Fetch = api.get, private readonly rest = REST) {}

  /** The path of a feature's card; `dictionary` is that of the graph the feature was seen in. */
  static path(layer: number, feature: number, dictionary = ''): string {
    return `features/${layer}/${feature}${dictionary ? `?dictionary=${encodeURIComponent(dictionary)}` : ''}`
  }

  /** A card that is there already. */
  peek(path: string): FeatureCard | undefined {
    return this.kept.get(path)
  }

  put(path: string, card: FeatureCard): void {
    this.kept.delete(path)
    this.kept.set(path, card)
    // A Map lists its keys oldest first.
    if (this.kept.size > KEPT) this.kept.delete(this.kept.keys().next().value!)
  }

  /** A card, asked for once `rest` has passed unless `signal` stops it first (it then rejects). */
  async get(path: string, signal: AbortSignal): Promise<FeatureCard> {
    const known = this.kept.get(path)
    if (known) return known
    const since = performance.now() - this.last
    this.last = performance.now()
    if (since < this.rest) await sleep(this.rest, signal)
    const card = await this.fetch(path, signal)
    // A card without an index may have one the next time.
    if (!card.missing || card.maximum !== null) this.put(path, card)
    return card
  }
}

function sleep(time: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = () => reject(signal.reason)
    if (signal.aborted) return stop()
    const timer = setTimeout(() => {
      signal.removeEventListener('abort', stop)
      resolve()
    }, time)
    signal.addEventListener('abort', () => { clearTimeout(timer); stop() }, { once: true })
  })
}

export const cards = new Cards()
