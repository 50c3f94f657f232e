// Light, dark, or as the system has it; remembered in this browser.

export type Choice = 'auto' | 'light' | 'dark'

const KEY = 'lucida-theme'
const ORDER: Choice[] = ['auto', 'light', 'dark']

export class Theme {
  choice: Choice = $state(remembered())
  private system = $state(dark().matches)

  /** What is drawn now. */
  readonly shown: 'light' | 'dark' = $derived(this.choice === 'auto' ? (this.system ? 'dark' : 'light') : this.choice)

  /** Follow the system and colour the page. Call inside an effect. */
  follow(): () => void {
    const query = dark()
    const changed = (): void => void (this.system = query.matches)
    query.addEventListener('change', changed)
    return () => query.removeEventListener('change', changed)
  }

  /** The next of auto, light, dark. */
  turn(): void {
    this.choice = ORDER[(ORDER.indexOf(this.choice) + 1) % ORDER.length]
    write(this.choice)
  }
}

function dark(): MediaQueryList {
  return window.matchMedia('(prefers-color-scheme: dark)')
}

function remembered(): Choice {
  try {
    return ORDER.find((choice) => choice === localStorage.getItem(KEY)) ?? 'auto'
  } catch {
    return 'auto'
  }
}

function write(choice: Choice): void {
  try {
    localStorage.setItem(KEY, choice)
  } catch {
    // A browser that keeps nothing forgets the choice: no harm.
  }
}
