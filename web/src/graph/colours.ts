// Colours of the graph: from the page's design tokens where there are any, else the same values by hand.

export interface Palette {
  panel: string
  band: string
  ink: string
  soft: string
  line: string
  strong: string
  accent: string
  positive: string
  negative: string
  warn: string
  pale: string
  /** Outlines and hatching of what is not explained. */
  error: string
  feature: string
  edge: string
  focus: string
  font: string
  isDark: boolean
}

type Theme = 'light' | 'dark'

const TOKENS = {
  panel: ['--panel', '#ffffff', '#1f1e1b'],
  band: ['--sunken', '#f1efe9', '#2a2824'],
  ink: ['--ink', '#1d1c1a', '#f2efe8'],
  soft: ['--ink-soft', '#5b5851', '#b5afa2'],
  line: ['--line', '#dcd8ce', '#3a3732'],
  strong: ['--line-strong', '#a8a294', '#6d675c'],
  accent: ['--accent', '#8a3ffc', '#be95ff'],
  positive: ['--positive', '#1b7837', '#7fd08a'],
  negative: ['--negative', '#762a83', '#d3a4dd'],
  warn: ['--warn', '#8a5300', '#f1c21b'],
  pale: ['--warn-soft', '#fff1d6', '#3a2d05'],
  focus: ['--focus', '#0f62fe', '#78a9ff'],
  font: ['--font', 'system-ui, sans-serif', 'system-ui, sans-serif'],
} as const

/** The colours in force at an element. */
export function readPalette(host: Element, theme: Theme): Palette {
  const style = getComputedStyle(host)
  const entries = Object.entries(TOKENS).map(([name, [variable, light, dark]]) => {
    return [name, style.getPropertyValue(variable).trim() || (theme === 'dark' ? dark : light)]
  })
  const isDark = theme === 'dark'
  return {
    ...(Object.fromEntries(entries) as Omit<Palette, 'isDark' | 'feature' | 'edge' | 'error'>),
    feature: isDark ? '#a9b4c2' : '#77828f',
    error: isDark ? '#c49a2c' : '#a4690f',
    edge: isDark ? '#cfd6df' : '#3c4550',
    isDark,
  }
}

/** Shares at and beyond this are drawn in the full colour. */
export const FULL_SHARE = 0.4

const LIGHT = { negative: ['#ede3f0', '#c2a5cf', '#9970ab', '#762a83'], positive: ['#e3f2de', '#a6dba0', '#5aae61', '#1b7837'] }
const DARK = { negative: ['#46384b', '#7d5f87', '#b084bd', '#e3bdec'], positive: ['#35463a', '#57835f', '#73b97e', '#a9eab2'] }

/** Colour of a signed share: purple below zero, green above, stronger with size. */
export function shareColour(share: number, isDark: boolean): string {
  const ramp = (isDark ? DARK : LIGHT)[share < 0 ? 'negative' : 'positive']
  const at = Math.min(1, Math.abs(share) / FULL_SHARE) ** 0.6 * (ramp.length - 1)
  const low = Math.min(Math.floor(at), ramp.length - 2)
  return mixed(ramp[low], ramp[low + 1], at - low)
}

/** A colour between two of the form #rrggbb. */
export function mixed(from: string, to: string, part: number): string {
  const channel = (colour: string, place: number) => parseInt(colour.slice(1 + 2 * place, 3 + 2 * place), 16)
  const mix = [0, 1, 2].map((place) => Math.round(channel(from, place) * (1 - part) + channel(to, place) * part))
  return `#${mix.map((value) => value.toString(16).padStart(2, '0')).join('')}`
}

const GROUPS = {
  light: ['#0f62fe', '#b8326a', '#007d79', '#8a5a00', '#5e5adb', '#1f7a1f', '#b23b00', '#56657a'],
  dark: ['#78a9ff', '#ff9cc4', '#3ddbd9', '#f0c050', '#b7b3ff', '#86dd86', '#ffab7a', '#b4c2d4'],
}

/** Colour of the n-th supernode; they repeat, and every supernode also carries its name. */
export function groupColour(index: number, isDark: boolean): string {
  const colours = isDark ? GROUPS.dark : GROUPS.light
  return colours[index % colours.length]
}
