// What the inspector says in words.
import type { FeatureLabel } from '../api/schema'
import { count, percent } from '../state/numbers'
import type { Kind } from '../view/view'

/** How often a feature fires: "1 in 1,250 tokens", or a percentage from 1 %. */
export function often(frequency: number): string {
  if (frequency <= 0) return 'never'
  return frequency >= 0.01 ? `${(100 * frequency).toFixed(1)} % of tokens` : `1 in ${count(1 / frequency)} tokens`
}

/** Milliseconds after which a list that the server still prepares is asked for again. */
export const AGAIN = 1500

/** Who named a feature, and how well the name holds where that was tested. `saved`: the graph's file has a name. */
export function origin(label: FeatureLabel | null, own = '', saved = ''): string {
  if (own) return 'your name for this node'
  if (!label) return saved ? 'named in the file of this graph' : 'nobody named it yet'
  if (label.author === 'you') return 'named by you'
  if (label.author === 'automatic') {
    if (label.method === 'unclear') return 'no simple rule describes it; these are tokens where it peaks'
    const score = label.score === null ? '' : `; it fits ${percent(label.score)} on other texts`
    return `named automatically${score}`
  }
  const score = label.score === null ? '' : `, tested: ${percent(label.score)}`
  return `named by ${label.author} (${label.method}${score})`
}

/** What a node of each kind is, for somebody who has not read the papers. */
export const MEANING: Record<Kind, string> = {
  feature: 'A feature: one of the concepts that the dictionary finds in what a layer computes.',
  error:
    'What the dictionary could not explain of this layer at this token. It counts in the answer, but nobody can say ' +
    'what it means: the larger its influence, the less this graph can be believed here.',
  embedding: 'A token of the prompt as it enters the model, before any layer. All paths begin at such nodes.',
  logit: 'A token that the model may say next: what this graph explains. All paths end at such nodes.',
  unexpanded:
    'Features of this layer at this token that were active but not followed further, taken together. Trace again ' +
    'with a larger budget to see them one by one.',
  bias: 'Constant terms of the model: what they add is the same for every prompt.',
}

/** Kinds as they are headed. */
export const TITLE: Record<Kind, string> = {
  feature: 'Feature', error: 'Error', embedding: 'Prompt token', logit: 'Answer', unexpanded: 'Not followed', bias: 'Bias',
}
