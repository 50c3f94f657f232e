// What stands on a box: drawn and said alike, so that both agree.
import type { BoxEffect } from './experiment'
import type { Layout, Place } from './layout'
import { percent, short, signed, signedPercent } from './words'

export interface Texts {
  name: string
  detail: string
  /** Measured, and predicted, after an experiment; "" before. */
  measured: string
  predicted: string
  badge: string
}

/** Shares below this are rounding: what was put out is 0 %. */
const NOTHING = 5e-4

/** The texts of a box as they fit into it. */
export function textsOf(place: Place, effect: BoxEffect | undefined): Texts {
  const { box, width } = place
  const hasShares = effect !== undefined && (effect.measured !== null || effect.predicted !== null)
  const logits = hasShares ? undefined : effect?.logits
  const share = (value: number | null) => (value === null ? '–' : percent(Math.abs(value) < NOTHING ? 0 : value))
  const change = (value: number | null) => (value === null ? '–' : signed(value))
  return {
    name: short(box.name, Math.floor((width - 12) / 7.4)),
    detail: short(box.detail, Math.floor((width - 10) / 5.7)),
    measured: hasShares ? share(effect.measured) : logits ? change(logits.measured) : '',
    predicted: hasShares ? `pred. ${share(effect.predicted)}` : logits ? `pred. ${change(logits.predicted)} logits` : '',
    badge: effect?.badge ?? '',
  }
}

/** A box as it is said: what stands on it, its strongest inputs, its whole name where that was cut. */
export function said(laid: Layout, place: Place, effect: BoxEffect | undefined): string {
  const { name, detail, measured, predicted, badge } = textsOf(place, effect)
  const inputs = laid.routes.filter((route) => route.link.to === place.box.key).slice(0, 3)
  const from = inputs.map(({ link }) => `${laid.places.get(link.from)!.box.name} ${signedPercent(link.share)}`)
  const parts = [[name, detail, measured, predicted, badge].filter(Boolean).join(' ')]
  if (from.length) parts.push(`inputs: ${from.join(', ')}`)
  if (name !== place.box.name) parts.push(`in full: ${place.box.name}`)
  return parts.join('; ')
}
