// A short description beside the node under the pointer.
import type { GraphView } from '../view/view'
import { number, KIND_WORDS, nodeName, percent, placeName, signedPercent } from './words'

export interface Told {
  title: string
  lines: string[]
}

/** How a node hangs together with the selected one. */
export interface Tie {
  share: number
  isInput: boolean
  other: string
}

/** What is said of a node: its name, kind and place, and its numbers. */
export function told(
  view: GraphView, row: number, total: number, labels: ReadonlyMap<number, string>, tie: Tie | null,
): Told {
  const kind = view.kindOf(row)
  const lines = [`${KIND_WORDS[kind]} · ${placeName(view, row)}`]
  if (kind === 'feature') lines.push(`feature ${view.feature[row]} · activation ${number(view.activation[row])}`)
  if (kind === 'logit' && !Number.isNaN(view.probability[row])) lines.push(`probability ${percent(view.probability[row])}`)
  if (kind !== 'logit' && kind !== 'bias') lines.push(`${percent(Math.abs(view.influence[row]) / total)} of all influence`)
  const share = tie && signedPercent(tie.share)
  if (tie) lines.push(tie.isInput ? `gives ${share} of the inputs of ${tie.other}` : `${share} of its inputs come from ${tie.other}`)
  return { title: nodeName(view, row, labels), lines }
}

export class Tooltip {
  private readonly box = document.createElement('div')
  private said = ''

  constructor(private readonly host: HTMLElement) {
    Object.assign(this.box.style, {
      position: 'absolute', left: '0', top: '0', pointerEvents: 'none', maxWidth: '320px', padding: '6px 9px',
      borderRadius: '6px', background: 'var(--panel, Canvas)', color: 'var(--ink, CanvasText)', fontSize: '12.5px',
      border: '1px solid var(--line-strong, GrayText)', boxShadow: 'var(--shadow, 0 2px 8px #0003)', zIndex: '5',
      lineHeight: '1.4', visibility: 'hidden', overflowWrap: 'anywhere',
    })
    // The table of nodes tells the same to a screen reader.
    this.box.setAttribute('aria-hidden', 'true')
    this.box.dataset.part = 'tooltip'
    host.append(this.box)
  }

  show(what: Told, x: number, y: number, r: number): void {
    const text = [what.title, ...what.lines].join('\n')
    if (text !== this.said) {
      this.said = text
      const title = document.createElement('strong')
      title.textContent = what.title
      const lines = what.lines.map((line) => Object.assign(document.createElement('div'), { textContent: line }))
      this.box.replaceChildren(title, ...lines)
    }
    const [width, height] = [this.box.offsetWidth, this.box.offsetHeight]
    const { clientWidth, clientHeight } = this.host
    const isRight = x + r + 14 + width <= clientWidth
    const left = isRight ? x + r + 14 : Math.max(4, x - r - 14 - width)
    const top = Math.min(Math.max(4, y - height / 2), clientHeight - height - 4)
    this.box.style.transform = `translate(${Math.round(left)}px, ${Math.round(top)}px)`
    this.box.style.visibility = 'visible'
  }

  hide(): void {
    this.box.style.visibility = 'hidden'
  }

  destroy(): void {
    this.box.remove()
  }
}
