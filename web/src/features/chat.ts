// Two conversations side by side: one steered, one as the model is.
import type { ChatMessage } from '../api/schema'

/** What the user said, and the two answers. An answer is null until one is asked for. */
export interface Turn {
  user: string
  steered: string | null
  baseline: string | null
  /** How the dials stood, in words. */
  dials: string
}

/** The conversation of one side up to a turn, that turn's question last. Turns without an answer are left out. */
export function messages(turns: Turn[], upTo: number, side: 'steered' | 'baseline', system = ''): ChatMessage[] {
  const found: ChatMessage[] = system.trim() ? [{ role: 'system', content: system }] : []
  turns.slice(0, upTo + 1).forEach((turn, i) => {
    const answer = turn[side]
    if (i < upTo && answer === null) return
    found.push({ role: 'user', content: turn.user })
    if (i < upTo) found.push({ role: 'assistant', content: answer! })
  })
  return found
}

/** Turns as they were kept in this tab; [] for anything that is not such a list. */
export function readTurns(text: string | null): Turn[] {
  try {
    const found: unknown = JSON.parse(text ?? '[]')
    return Array.isArray(found) && found.every(isTurn) ? found : []
  } catch {
    return []
  }
}

function isTurn(value: unknown): value is Turn {
  if (typeof value !== 'object' || value === null) return false
  const turn = value as Record<string, unknown>
  const isText = (part: unknown) => part === null || typeof part === 'string'
  return typeof turn.user === 'string' && typeof turn.dials === 'string' && isText(turn.steered) && isText(turn.baseline)
}

/** Why a text ended, in words; "" when it simply was done. */
export function ending(ended: string): string {
  if (ended === 'max_tokens') return 'cut at the length asked for'
  if (ended === 'left' || ended === 'cancelled') return 'stopped'
  return ''
}
