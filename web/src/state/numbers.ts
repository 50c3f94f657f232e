// Numbers as a person reads them: at most three digits that mean something, with their unit.

/** 0.7132 -> "71 %". Small shares keep a digit; what is not 0 never reads as "0 %". */
export function percent(share: number): string {
  const value = share * 100
  const size = Math.abs(value)
  if (value === 0) return '0 %'
  if (size < 0.01) return value < 0 ? '> −0.01 %' : '< 0.01 %'
  if (size < 0.1) return `${minus(value.toFixed(2).replace(/0$/, ''))} %`
  if (size < 9.95) return `${minus(value.toFixed(1).replace(/\.0$/, ''))} %`
  // 99.96 % is not all of it.
  if (size >= 99.5 && size < 100) return `${value < 0 ? '−' : ''}${(Math.floor(size * 10) / 10).toFixed(1)} %`
  return `${minus(value.toFixed(0))} %`
}

/** 0.4188 -> "+0.42", with a true minus sign. */
export function signed(value: number): string {
  const text = digits(Math.abs(value))
  return `${value < 0 ? '−' : '+'}${text}`
}

/** At most three digits that mean something: 0.00412, 4.12, 41.2, 412, 4120. */
export function digits(value: number): string {
  if (value === 0) return '0'
  if (!Number.isFinite(value)) return 'not a number'
  const size = Math.abs(value)
  if (size >= 1e6 || size < 1e-3) return minus(value.toExponential(1))
  const places = Math.max(0, (size < 1 ? 2 : 2 - Math.floor(Math.log10(size))))
  const text = size < 0.1 ? String(Number(value.toPrecision(2))) : value.toFixed(Math.min(places, 3))
  return minus(text.includes('.') ? text.replace(/\.?0+$/, '') : text)
}

/** 1203 -> "1,203". */
export function count(value: number): string {
  return Math.round(value).toLocaleString('en-GB')
}

/** "1 node", "1,203 nodes". */
export function plural(value: number, one: string, many = `${one}s`): string {
  return `${count(value)} ${value === 1 ? one : many}`
}

/** 4.21 -> "4.2 s", 71 -> "1 min 11 s". */
export function seconds(value: number): string {
  if (value < 9.95) return `${value.toFixed(1)} s`
  const whole = Math.round(value)
  if (whole < 60) return `${whole} s`
  const rest = whole % 60
  return rest ? `${Math.floor(whole / 60)} min ${rest} s` : `${whole / 60} min`
}

/** A time as it is said of something recent: "just now", "12 min ago", "3 h ago", "2 Nov". */
export function ago(made: string, now: Date): string {
  const then = new Date(made)
  if (!made || Number.isNaN(then.getTime())) return ''
  const minutes = (now.getTime() - then.getTime()) / 60_000
  if (minutes < 1) return 'just now'
  if (minutes < 60) return `${Math.floor(minutes)} min ago`
  if (minutes < 24 * 60) return `${Math.floor(minutes / 60)} h ago`
  return then.toLocaleDateString('en-GB', { day: 'numeric', month: 'short', year: sameYear(then, now) })
}

function sameYear(then: Date, now: Date): 'numeric' | undefined {
  return then.getFullYear() === now.getFullYear() ? undefined : 'numeric'
}

function minus(text: string): string {
  return text.replace('-', '−')
}

/** A token as it can be seen: spaces and line ends as signs. */
export function visible(token: string): string {
  const text = token.replace(/^ +| +$/g, (run) => '·'.repeat(run.length))
  return text.replaceAll('\n', '⏎').replaceAll('\t', '⇥') || '∅'
}
