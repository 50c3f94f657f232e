// Numbers and changes as the circuit panel writes them.
import type { Change } from '../api/schema'
import { digits, percent, signed as withSign, visible } from '../state/numbers'

export { digits as number, percent, plural as count } from '../state/numbers'

/** A number that says its sign: +0.42, −1.3; 0 has none. */
export function signed(value: number): string {
  return value === 0 ? '0' : withSign(value)
}

/** A share with its sign: +12 %, −3 %. */
export function signedPercent(share: number): string {
  const text = percent(share)
  return share > 0 && !text.startsWith('<') ? `+${text}` : text
}

/** What a change does, as it stands on a badge: "off", "× −1", "+2 × max", "= 3". */
export function badge(change: Pick<Change, 'kind' | 'value'>): string {
  const value = change.value ?? 0
  if (change.kind === 'inject') return `${signed(value)} × max`
  if (change.kind === 'set') return `= ${digits(value)}`
  return value === 0 ? 'off' : `× ${digits(value)}`
}

/** The same in a sentence: "turned off", "scaled by 2". */
export function deed(change: Pick<Change, 'kind' | 'value'>): string {
  const value = change.value ?? 0
  if (change.kind === 'inject') return value === 1 ? 'injected at its maximum' : `injected at ${digits(value)} times its maximum`
  if (change.kind === 'set') return `set to ${digits(value)}`
  if (value === 0) return 'turned off'
  return value === -1 ? `inhibited (× ${digits(value)})` : `scaled by ${digits(value)}`
}

/** A token as a word: without the blank before it, unless blanks are all there is. */
export function token(text: string): string {
  return visible(text.trim() === '' ? text : text.trim())
}

/** A name that fits: cut, with an ellipsis. */
export function short(text: string, most: number): string {
  const characters = [...text]
  return characters.length <= most ? text : `${characters.slice(0, most - 1).join('').trimEnd()}…`
}
