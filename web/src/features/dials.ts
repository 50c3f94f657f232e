// Features on the dial, as they stand in a link: "12:345:2:add,3:7" is layer:feature:strength:variant.
import type { SteerSetting } from '../api/schema'

export type Variant = NonNullable<SteerSetting['variant']>

export interface Dial {
  layer: number
  feature: number
  strength: number
  variant: Variant
  label: string
  isOn: boolean
}

export const VARIANTS: { name: Variant; title: string; text: string }[] = [
  { name: 'add', title: 'Add', text: 'Adds strength × its maximum on top of whatever the feature does. 0 changes nothing.' },
  { name: 'clamp', title: 'Hold', text: 'Holds the feature at strength × its maximum. 0 turns it off.' },
  { name: 'scale', title: 'Scale', text: 'Multiplies what the feature does by the strength. 1 changes nothing, 0 turns it off.' },
  {
    name: 'orthogonal',
    title: 'Replace direction',
    text: 'Removes everything the model holds along its direction, then puts strength × its maximum there.',
  },
]

/** Where the slider ends, in multiples of the maximum; the box beside it takes more. */
export const LARGEST = 4

const MOST = 50

/** The strength at which a variant changes nothing; null where none does. */
export function neutral(variant: Variant): number | null {
  return variant === 'add' ? 0 : variant === 'scale' ? 1 : null
}

/** Dials of a link; what cannot be read is left out. */
export function parseDials(text: string): Dial[] {
  const found: Dial[] = []
  for (const part of text.split(',')) {
    const [layer, feature, strength = '1', variant = 'add', state = ''] = part.trim().split(':')
    if (!/^\d+$/.test(layer ?? '') || !/^\d+$/.test(feature ?? '')) continue
    const value = Number(strength)
    if (!Number.isFinite(value) || !VARIANTS.some((known) => known.name === variant)) continue
    const dial = { layer: Number(layer), feature: Number(feature), strength: value, variant: variant as Variant }
    if (found.some((other) => other.layer === dial.layer && other.feature === dial.feature)) continue
    found.push({ ...dial, label: '', isOn: state !== 'off' })
  }
  return found.slice(0, MOST)
}

export function formatDials(dials: Dial[]): string {
  return dials
    .map((dial) => [dial.layer, dial.feature, dial.strength, dial.variant, ...(dial.isOn ? [] : ['off'])].join(':'))
    .join(',')
}

/** What the server is told: the dials that are on. */
export function settings(dials: Dial[]): SteerSetting[] {
  return dials
    .filter((dial) => dial.isOn)
    .map(({ layer, feature, strength, variant, label }) => ({ layer, feature, strength, variant, label }))
}

/** A strength in words: "+2 × its maximum", "off", "as it is". */
export function strengthWords(strength: number, variant: Variant): string {
  if (neutral(variant) === strength) return 'no change'
  const size = `${strength > 0 ? '+' : ''}${Number(strength.toFixed(2))}`.replace('-', '−')
  if (variant === 'scale') return strength === 0 ? 'off' : `${size.replace('+', '')} × itself`
  if (strength === 0) return variant === 'clamp' ? 'off' : 'its direction emptied'
  return variant === 'add' ? `${size} × its maximum` : `at ${size.replace('+', '')} × its maximum`
}
