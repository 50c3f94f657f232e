// What is said above a graph that no server stands behind.
import { percent } from '../state/numbers'
import type { ViewHeader } from '../view/view'
import type { About } from './file'

export interface ScoreFact {
  name: string
  value: string
  why: string
}

const FACTS = [
  ['replacement', 'Replacement', 'Share of the influence on the answer that can be followed through features back to the prompt’s tokens.'],
  ['completeness', 'Completeness', 'Of what goes into the nodes, weighted by their influence, the share that is not error.'],
  ['error_share', 'Error', 'Share of the influence that ends in what the features do not describe.'],
  ['unexpanded', 'Unexpanded', 'Share of the influence on features whose own inputs were not computed; a part of the error.'],
] as const

/** The scores of the whole graph, with what each means; what is 0 by its nature is left out. */
export function scoreFacts(scores: About['scores']): ScoreFact[] {
  if (!scores) return []
  const facts = FACTS.filter(([key]) => Number.isFinite(scores[key]) && !(key === 'unexpanded' && scores[key] === 0))
  return [
    ...facts.map(([key, name, why]) => ({ name, value: percent(scores[key]), why })),
    { name: 'Attention', value: 'frozen', why: 'Why a head looks where it looks is not explained here.' },
  ]
}

export function titleOf(header: ViewHeader, about: About): string {
  return about.title || header.prompt || header.tokens.join('')
}
