// What each key does while the graph has the focus.
import type { Direction } from './walk'

export type Command =
  | { what: 'walk'; direction: Direction }
  | { what: 'edge'; step: 1 | -1; type: 'input' | 'output' }
  | { what: 'zoom'; factor: number }
  | { what: 'pin' | 'group' | 'clear' | 'fit' | 'choose' }

const COMMANDS: Record<string, Command> = {
  ArrowLeft: { what: 'walk', direction: 'left' },
  ArrowRight: { what: 'walk', direction: 'right' },
  ArrowUp: { what: 'walk', direction: 'up' },
  ArrowDown: { what: 'walk', direction: 'down' },
  '[': { what: 'edge', step: 1, type: 'input' },
  ']': { what: 'edge', step: -1, type: 'input' },
  '{': { what: 'edge', step: 1, type: 'output' },
  '}': { what: 'edge', step: -1, type: 'output' },
  '+': { what: 'zoom', factor: 1.4 },
  '=': { what: 'zoom', factor: 1.4 },
  '-': { what: 'zoom', factor: 1 / 1.4 },
  0: { what: 'fit' },
  p: { what: 'pin' },
  g: { what: 'group' },
  Escape: { what: 'clear' },
  Enter: { what: 'choose' },
  ' ': { what: 'choose' },
}

type Pressed = Pick<KeyboardEvent, 'key' | 'ctrlKey' | 'metaKey' | 'altKey'>

/** The command of a key; null for keys that the graph leaves to the page and the browser. */
export function commandOf(event: Pressed): Command | null {
  return event.ctrlKey || event.metaKey || event.altKey ? null : (COMMANDS[event.key] ?? null)
}
