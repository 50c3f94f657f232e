// Words and numbers of the graph as people read them.
import { digits, percent } from '../state/numbers'
import type { GraphView, Kind } from '../view/view'

export { percent }

export const KIND_WORDS: Record<Kind, string> = {
  feature: 'feature',
  error: 'error',
  embedding: 'token',
  unexpanded: 'unexpanded',
  bias: 'bias',
  logit: 'answer',
}

/** The same of several nodes. */
export const KINDS_WORDS: Record<Kind, string> = {
  feature: 'features',
  error: 'errors',
  embedding: 'tokens',
  unexpanded: 'unexpanded',
  bias: 'biases',
  logit: 'answers',
}

export const KIND_MEANINGS: Record<Kind, string> = {
  feature: 'A direction the dictionary learned; active here.',
  error: 'What the dictionary does not explain at this layer and token.',
  embedding: 'A token of the prompt.',
  unexpanded: 'Active features of this layer and token that were not traced further.',
  bias: 'What the layers add whatever the prompt.',
  logit: 'What the graph explains: a next token, or the difference of two.',
}

/** A share with its sign: "+12 %", "−3.4 %", "−0.04 %". */
export function signedPercent(share: number): string {
  const size = Math.abs(share) * 100
  const text = size < 0.095 ? `${Number(size.toPrecision(1)) || 0} %`.replace(/^\de-\d+/, '<0.0001') : percent(Math.abs(share))
  return share === 0 ? '0 %' : `${share < 0 ? '−' : '+'}${text}`
}

/** At most three significant digits; a dash for what is not known. */
export function number(value: number): string {
  return Number.isFinite(value) ? digits(value) : '–'
}

/** A token as it reads in one line: no outer space, line ends and tabs as signs. */
export function visible(token: string): string {
  const text = token.replace(/\r?\n/g, '⏎').replace(/\t/g, '⇥')
  return text.trim() || (text ? '␣' : '∅')
}

/** Text cut to at most so many characters. */
export function cut(text: string, most: number): string {
  const letters = [...text]
  return letters.length <= most ? text : `${letters.slice(0, most - 1).join('').trimEnd()}…`
}

/** How a node is called on the picture. */
export function nodeName(view: GraphView, row: number, labels?: ReadonlyMap<number, string>): string {
  const own = labels?.get(view.id[row]) || view.label(row)
  if (own) return own
  const kind = view.kindOf(row)
  if (kind === 'feature') return `L${view.layer[row]}/${view.feature[row]}`
  if (kind === 'error' || kind === 'unexpanded') return `${KIND_WORDS[kind]} L${view.layer[row]}`
  return view.text(row) ? visible(view.text(row)) : KIND_WORDS[kind]
}

/** Whether a text has a letter or a digit. */
export function isReadable(text: string): boolean {
  return /[\p{L}\p{N}]/u.test(text)
}

/** A node's name as the picture writes it: short, and "" where there is nothing to read, as in `", ''`. */
export function pictureName(view: GraphView, row: number, labels?: ReadonlyMap<number, string>): string {
  const own = labels?.get(view.id[row])
  if (own) return own
  const name = nodeName(view, row)
  const word = /^the (?:word|token|mark|number) "(.+)"$/.exec(name)
  const text = word ? `“${word[1]}”` : name
  return isReadable(text) ? text : ''
}

/** Where a node stands: "layer 12 · token 5 “small”". */
export function placeName(view: GraphView, row: number): string {
  const kind = view.kindOf(row)
  const position = view.position[row]
  const token = position < 0 ? '' : `token ${position} “${visible(view.header.tokens[position] ?? '')}”`
  if (kind === 'bias') return 'all layers'
  if (kind === 'embedding') return token
  if (kind === 'logit') return 'after the last token'
  return `layer ${view.layer[row]} · ${token}`
}

/** A target as the axis shows it: its token and how probable it is; a difference has no probability. */
export function targetName(view: GraphView, row: number): string {
  const probability = view.probability[row]
  const text = visible(view.text(row)).replace(/ - /g, ' − ')
  return Number.isNaN(probability) ? text : `${text} ${percent(probability)}`
}

/** One sentence that says what the picture shows of a node. */
export function nodeSentence(
  view: GraphView, row: number,
  known: { total: number; labels: ReadonlyMap<number, string>; isPinned: boolean; isSelected: boolean },
): string {
  const kind = view.kindOf(row)
  const parts = [nodeName(view, row, known.labels), KIND_WORDS[kind], placeName(view, row).replace(' · ', ', ')]
  if (kind !== 'logit' && kind !== 'bias') parts.push(`${percent(Math.abs(view.influence[row]) / known.total)} of the influence`)
  if (kind === 'logit' && !Number.isNaN(view.probability[row])) parts.push(`probability ${percent(view.probability[row])}`)
  if (known.isSelected) parts.push('selected')
  if (known.isPinned) parts.push('pinned')
  return `${parts.join(', ')}.`
}
