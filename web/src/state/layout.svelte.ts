// How the reader arranged the panels, kept in this browser.

const KEY = 'lucida-layout'
export const START = { right: 32, bottom: 34, connections: 42 }

/** Shares of the room in per cent; 0 is folded. */
export class Layout {
  right = $state(START.right)
  bottom = $state(START.bottom)
  connections = $state(START.connections)

  constructor() {
    try {
      const kept = JSON.parse(localStorage.getItem(KEY) ?? '{}') as Record<string, unknown>
      for (const name of ['right', 'bottom', 'connections'] as const) {
        const value = kept[name]
        if (typeof value === 'number' && value >= 0 && value <= 90) this[name] = value
      }
    } catch {
      // As it comes.
    }
  }

  keep(): void {
    const { right, bottom, connections } = this
    try {
      localStorage.setItem(KEY, JSON.stringify({ right, bottom, connections }))
    } catch {
      // A browser that keeps nothing starts anew each time.
    }
  }
}
