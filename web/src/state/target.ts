// What a person types as the target of a trace, and the exact token that is meant.
import type { Answer, TokenProbability } from '../api/schema'

export interface Target {
  target: string
  minus: string
}

/** "Austin vs Dallas" is two texts; anything else is one. Spaces around a lone text are part of the token. */
export function splitTarget(typed: string): Target {
  const match = /^(.*\S)\s+(?:vs\.?|versus)\s+(\S.*)$/i.exec(typed)
  return match ? { target: match[1], minus: match[2] } : { target: typed, minus: '' }
}

/** The exact text of the next token that is meant by a typed one: most tokens begin with a space that nobody types. */
export function exactToken(typed: string, top: readonly TokenProbability[]): string {
  if (!typed.trim()) return ''
  if (top.some((token) => token.text === typed)) return typed
  return top.find((token) => token.text.trim() === typed.trim())?.text ?? typed
}

/** What a trace would explain, in words. */
export function explained({ target, minus }: Target): string {
  if (!target.trim()) return 'the most probable next tokens'
  return minus.trim() ? `why “${target.trim()}” rather than “${minus.trim()}”` : `the token “${target.trim()}”`
}

/** What a graph was asked to explain, as far as it tells: one token, or one against another. Several are the default. */
export function askedOf(answers: readonly Pick<Answer, 'text' | 'probability'>[]): Target {
  if (answers.length !== 1) return { target: '', minus: '' }
  const [{ text, probability }] = answers
  if (probability !== null) return { target: text, minus: '' }
  const sides = text.split(' - ')
  return sides.length === 2 ? { target: sides[0], minus: sides[1] } : { target: '', minus: '' }
}
