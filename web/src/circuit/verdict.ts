// What an experiment says about the graph that predicted it, by rules that are stated and do not look at the outcome
// to choose what they test.
import type { Agreement, Experiment, InterventionRequest, InterventionResult, TargetEffect } from '../api/schema'
import { number } from './words'

export type Verdict = 'confirmed' | 'direction only' | 'weak' | 'contradicted' | 'not tested'

export interface Judged {
  verdict: Verdict
  /** Why, with the numbers. */
  why: string
}

/** How many times the mean effect of random features an effect must have. */
export const TIMES = 3
/** How many times larger or smaller than predicted an effect may be and still be confirmed. */
export const SIZE = 3

/** A sign for each verdict, so that colour is never alone. */
export const SIGNS: Record<Verdict, string> = {
  confirmed: '✓', 'direction only': '◐', weak: '~', contradicted: '✗', 'not tested': '○',
}

/** What each verdict means, in the order in which they are explained. */
export const RULES: Record<Verdict, string> = {
  confirmed:
    `the sign is as predicted; the effect is at least ${TIMES} times the mean effect of random features that got the ` +
    `same change, and lies beyond the middle 80 % of their effects; and it is between 1/${SIZE} and ${SIZE} times what ` +
    'was predicted',
  'direction only': `sign and controls as for confirmed, but the size is off by more than ${SIZE} times`,
  weak: 'random features do about as much',
  contradicted: 'as far beyond the controls, but of the other sign',
  'not tested': 'nothing was predicted, no controls were drawn, or a frozen run, which agrees by construction',
}

/** The verdict on one target. */
export function judge(effect: TargetEffect, mode: InterventionRequest['mode'] = 'free'): Judged {
  const { predicted, measured, control, control_low: low, control_high: high } = effect
  if (predicted === null) return not('the graph holds none of the changed features, so it predicts nothing')
  if (predicted === 0) return not('the graph predicts no change of this answer')
  if (mode === 'frozen') return not('a frozen run moves as the graph says by construction')
  if (control === null || low === null || high === null) return not('no controls were drawn')
  const isLarge = Math.abs(measured) >= TIMES * Math.abs(control) && (measured < low || measured > high)
  const than = `${number(Math.abs(measured))} logits measured, ${number(Math.abs(control))} by random features`
  if (!isLarge || measured === 0) return { verdict: 'weak', why: `not clearly more than chance: ${than}` }
  if (Math.sign(measured) !== Math.sign(predicted)) {
    return { verdict: 'contradicted', why: `the effect is real but of the other sign: ${than}` }
  }
  if (!isOfSize(predicted, measured)) {
    const why = `the sign is as predicted and far more than chance, but the size is not: ${sizeWords(effect)}; ${than}`
    return { verdict: 'direction only', why }
  }
  return { verdict: 'confirmed', why: `sign and size are as predicted, and it is far more than chance: ${than}` }
}

function isOfSize(predicted: number, measured: number): boolean {
  const [expected, found] = [Math.abs(predicted), Math.abs(measured)]
  return found * SIZE >= expected && found <= expected * SIZE
}

function not(why: string): Judged {
  return { verdict: 'not tested', why }
}

/** The target that an experiment is judged by: where the graph predicts most; without predictions, the first. */
export function mainEffect(result: InterventionResult): TargetEffect | undefined {
  let best = result.targets[0]
  for (const one of result.targets) if (Math.abs(one.predicted ?? 0) > Math.abs(best.predicted ?? 0)) best = one
  return best
}

/** The verdict on an experiment, by its main effect. */
export function judgeExperiment(experiment: Pick<Experiment, 'request' | 'result'>): Judged {
  const effect = mainEffect(experiment.result)
  return effect ? judge(effect, experiment.request.mode) : not('the graph has no target')
}

/** How the graph's predictions for single features agree with what was measured, in plain words. */
export function agreementWords(agreement: Agreement): string {
  const { count, slope, spearman, sign_agreement: signs } = agreement
  if (count < 3 || slope === null) return 'Too few features changed to compare predictions with measurements.'
  const parts = [`Over ${count} features, ${magnitude(slope)} (slope ${number(slope)})`]
  if (spearman !== null) parts.push(`${order(spearman)} (rank correlation ${number(spearman)})`)
  if (signs !== null) parts.push(`the sign is right for ${Math.round(100 * signs)} %`)
  return `${parts.join('; ')}.`
}

/** How many times more or less than predicted an effect of the predicted sign is; "" where it is about as large. */
export function sizeWords(effect: Pick<TargetEffect, 'predicted' | 'measured'>): string {
  const ratio = effect.predicted ? effect.measured / effect.predicted : 0
  if (ratio <= 0 || (ratio > 0.67 && ratio < 1.5)) return ''
  const times = (value: number) => number(Number(value.toPrecision(2)))
  return ratio > 1 ? `${times(ratio)} times as much as predicted` : `${times(1 / ratio)} times less than predicted`
}

/** How well predictions for single features fit, in one word; "" where too few changed. */
export function fit(agreement: Agreement): '' | 'well' | 'roughly' | 'badly' {
  const { count, slope, spearman } = agreement
  if (count < 3 || slope === null || spearman === null) return ''
  if (spearman >= 0.8 && slope >= 0.8 && slope <= 1.25) return 'well'
  return spearman >= 0.4 && slope >= 0.4 && slope <= 2.5 ? 'roughly' : 'badly'
}

function magnitude(slope: number): string {
  if (slope < -0.1) return 'features moved against the prediction'
  if (slope < 0.1) return 'features hardly moved as predicted: the graph predicted far too much'
  if (slope < 0.8) return 'the graph predicted too much'
  return slope <= 1.25 ? 'the graph predicted about the right amount' : 'the graph predicted too little'
}

function order(spearman: number): string {
  if (spearman >= 0.8) return 'it ranks them well'
  if (spearman >= 0.4) return 'it ranks them roughly'
  return spearman >= 0.1 ? 'it hardly ranks them' : 'it does not rank them'
}
