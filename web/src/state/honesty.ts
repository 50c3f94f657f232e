// The numbers of the honesty bar, with the words that a stranger needs: pure, so that the words can be tested.
import type { Experiment, GraphDetail, PrunedScores } from '../api/schema'
import type { Supernode } from '../graph/core'
import { percent } from './numbers'

export interface Fact {
  name: string
  value: string
  /** The judgement in a word, so that colour is never alone. */
  word: string
  tone: 'plain' | 'good' | 'warn' | 'bad'
  /** What it means, for the title. */
  why: string
}

type Tone = Fact['tone']

/** At or above the first bound good, below the second bad: the bounds by which CircuitExplorer reads these scores. */
function tone(value: number, good: number, bad: number): Tone {
  return value >= good ? 'good' : value < bad ? 'bad' : 'warn'
}

const WORDS: Record<Tone, string> = { plain: '', good: 'high', warn: 'middling', bad: 'low' }
const LOSS_WORDS: Record<Tone, string> = { plain: '', good: 'little', warn: 'much', bad: 'most' }

/** What the bar says of a graph; `pruned` are its scores at the present sliders, null while they are computed. */
export function honesty(
  detail: GraphDetail,
  pruned: PrunedScores | null,
  supernodes: readonly Supernode[],
  experiments: readonly Experiment[],
): Fact[] {
  const { scores } = detail
  const facts: Fact[] = [
    share('Replacement', scores.replacement, tone(scores.replacement, 0.8, 0.5), WORDS, [
      'Share of the influence on the answer that can be followed through features back to the prompt’s tokens.',
      'The rest starts in what the features do not reproduce.',
    ]),
    share('Completeness', scores.completeness, tone(scores.completeness, 0.8, 0.5), WORDS, [
      'Of what goes into the nodes (weighted by their influence), the share that comes from features and tokens',
      'rather than from error.',
    ]),
    share('Error', scores.error_share, lossTone(scores.error_share), LOSS_WORDS, [
      'Share of the influence that ends in error nodes: what the MLPs did and the features do not describe.',
      'Drawn as hatching where it sits.',
    ]),
  ]
  if (scores.unexpanded > 0) {
    facts.push(
      share('Unexpanded', scores.unexpanded, scores.unexpanded > 0.05 ? 'warn' : 'plain', LOSS_WORDS, [
        'Share of the influence on features whose own inputs were not computed. Trace with more features to expand',
        'to lower it. It is part of the error share.',
      ]),
    )
  }
  facts.push(part(pruned), attention(), tested(supernodes, experiments))
  return facts
}

function lossTone(value: number): Tone {
  return value > 0.5 ? 'bad' : value > 0.2 ? 'warn' : 'good'
}

function share(name: string, value: number, how: Tone, words: Record<Tone, string>, why: string[]): Fact {
  return { name, value: percent(value), word: words[how], tone: how, why: why.join(' ') }
}

function part(pruned: PrunedScores | null): Fact {
  const what = 'Replacement when everything that the sliders hide counts as error: how much of the answer the picture itself explains.'
  const fact: Fact = { name: 'Drawn part explains', value: '…', word: '', tone: 'plain', why: what }
  if (!pruned) return fact
  const { replacement, completeness, pruned: hidden } = pruned.scores
  const rest = hidden === null ? '' : ` Of the influence of all nodes, ${percent(hidden)} lies on hidden ones.`
  return { ...fact, value: percent(replacement), why: `${what} Completeness is then ${percent(completeness)}.${rest}` }
}

function attention(): Fact {
  return {
    name: 'Attention',
    value: 'frozen',
    word: '',
    tone: 'plain',
    why:
      'The graph takes attention patterns as they were on this prompt. Why a head looks where it looks is not ' +
      'explained here; an experiment can let attention react.',
  }
}

/** How many supernodes an experiment has changed. */
export function testedGroups(supernodes: readonly Supernode[], experiments: readonly Experiment[]): number {
  const changed = experiments.map((experiment) => {
    const { changes, swaps } = experiment.request
    return new Set([...changes.flatMap((change) => change.nodes), ...swaps.flatMap((swap) => swap.out)])
  })
  return supernodes.filter((group) => changed.some((nodes) => group.nodes.every((id) => nodes.has(id)))).length
}

function tested(supernodes: readonly Supernode[], experiments: readonly Experiment[]): Fact {
  const [done, all] = [testedGroups(supernodes, experiments), supernodes.length]
  return {
    name: 'Groups tested',
    value: all ? `${done} of ${all}` : 'none made',
    word: '',
    tone: all > 0 && done === all ? 'good' : 'plain',
    why:
      'Supernodes that an experiment has changed in the real model. A graph is a hypothesis until its groups were ' +
      'turned off and the answer moved as predicted.',
  }
}
