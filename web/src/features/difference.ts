// Choosing what to swap between two graphs, from how they differ.
import type { ComparedFeature, ComparedGraphs } from '../api/schema'
import { align } from './align'

/** A name for a feature of a comparison: layer, feature and where it stands. */
export function keyOf(row: ComparedFeature): string {
  return `${row.layer}:${row.feature}:${row.position ?? ''}`
}

/** Rows whose label, number or token has all the words of a filter. */
export function matching(rows: ComparedFeature[], filter: string, tokens: string[]): ComparedFeature[] {
  const words = filter.toLowerCase().split(/\s+/).filter(Boolean)
  if (words.length === 0) return rows
  return rows.filter((row) => {
    const token = row.position === null ? '' : (tokens[row.position] ?? '')
    const text = `${row.label} l${row.layer} ${row.layer}:${row.feature} ${token}`.toLowerCase()
    return words.every((word) => text.includes(word))
  })
}

export interface Suggestion {
  out: ComparedFeature[]
  put: ComparedFeature[]
  /** Why these, in words. */
  why: string
}

/**
 * The strongest features of only one prompt at a token in which the prompts differ. All go where one thing of A stood,
 * so one token of A is chosen: the differing one that carries most influence of features that only A has.
 */
export function suggest(compared: ComparedGraphs, most = 8): Suggestion {
  const [a, b] = [compared.tokens_a.map((token) => token.text), compared.tokens_b.map((token) => token.text)]
  const pairs = align(a, b, compared.by_position).filter(
    (pair) => pair.a !== null && pair.b !== null && a[pair.a] !== b[pair.b],
  )
  const total = (rows: ComparedFeature[], side: 'influence_a' | 'influence_b', at: number) =>
    rows.filter((row) => row.position === at).reduce((sum, row) => sum + row[side], 0)
  const weights = pairs.map((pair) => total(compared.only_a, 'influence_a', pair.a!))
  const best = pairs[weights.indexOf(Math.max(...weights))]
  if (!compared.by_position || !best || Math.max(...weights) <= 0) {
    return {
      out: compared.only_a.slice(0, most),
      put: compared.only_b.slice(0, most),
      why: 'the strongest features that only one prompt has',
    }
  }
  return {
    out: compared.only_a.filter((row) => row.position === best.a).slice(0, most),
    put: compared.only_b.filter((row) => row.position === best.b).slice(0, most),
    why: `the strongest features at the token where the prompts differ most, “${a[best.a!].trim()}” and “${b[best.b!].trim()}”`,
  }
}

/** Nodes of several rows, each once. */
export function nodesOf(rows: ComparedFeature[], side: 'nodes_a' | 'nodes_b'): number[] {
  return [...new Set(rows.flatMap((row) => row[side]))]
}
