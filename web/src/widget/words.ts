// What is said above a graph that no server stands behind.
import { count, percent } from '../state/numbers'
import type { GraphView, ViewHeader } from '../view/view'
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

/** Where a graph comes from, as names and values; what is not known is left out. */
export function provenance(header: ViewHeader, about: About): { name: string; value: string }[] {
  const named = (name: string, origin?: string) => (name && origin ? `${name} (${origin})` : name || origin || '')
  return [
    { name: 'Model', value: named(header.model, about.origins?.model) },
    { name: 'Dictionary', value: named(header.dictionary, about.origins?.dictionary) },
    { name: 'Traced', value: [about.made?.slice(0, 10), about.generator && `with ${about.generator}`].filter(Boolean).join(', ') },
    { name: 'Whole graph', value: `${count(header.nodes_in_graph)} nodes, ${count(header.edges_in_graph)} edges` },
    { name: 'In here', value: `${count(header.nodes)} nodes, ${count(header.edges)} edges: the strongest` },
  ].filter((fact) => fact.value)
}

/** The features that matter most for the answer, strongest first. */
export function strongest(view: GraphView, most: number): number[] {
  const rows = Array.from({ length: view.n }, (_, row) => row).filter((row) => view.kindOf(row) === 'feature')
  rows.sort((a, b) => Math.abs(view.influence[b]) - Math.abs(view.influence[a]))
  return rows.slice(0, most).map((row) => view.id[row])
}
