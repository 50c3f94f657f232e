// Manners in somebody else's page: keys pressed in the widget are the widget's, the wheel is the notebook's.
import { focused } from '../state/focus'

/**
 * Keep the widget and the notebook around it apart, until the returned function is called.
 * `host` is what the notebook sees, `inside` what stands in its shadow root.
 */
export function keepApart(host: HTMLElement, inside: HTMLElement): () => void {
  const off = new AbortController()
  // In a notebook d d deletes a cell and x cuts it; combinations (Ctrl-S) stay the notebook's.
  const onKey = (event: KeyboardEvent) => {
    if (!event.ctrlKey && !event.metaKey && !event.altKey) event.stopPropagation()
  }
  // Not inside: the components listen there.
  host.addEventListener('keydown', onKey, { signal: off.signal })
  // Who scrolls through a notebook should not be caught by a graph: the wheel zooms after a click in it, or with Ctrl.
  const onWheel = (event: WheelEvent) => {
    const picture = (event.target as Element).closest('[role=application]')
    if (picture && !event.ctrlKey && !picture.contains(focused(inside))) event.stopPropagation()
  }
  inside.addEventListener('wheel', onWheel, { signal: off.signal, capture: true, passive: true })
  return () => off.abort()
}
