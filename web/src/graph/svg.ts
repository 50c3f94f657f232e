// A pen that writes SVG: the same drawing functions make the picture on screen and the file. Text stays text, escaped.
import type { Kind } from '../view/view'
import { trace, type Pen } from './glyphs'

/** Text as it may stand in XML: marks escaped, control characters (which XML forbids) left out. */
export function escaped(text: string): string {
  return text
    .replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/g, '')
    .replace(/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g, '\ufffd')
    .replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;').replace(/"/g, '&quot;').replace(/'/g, '&#39;')
}

interface Setting {
  fillStyle: string
  strokeStyle: string
  lineWidth: number
  globalAlpha: number
  font: string
  textAlign: CanvasTextAlign
  textBaseline: CanvasTextBaseline
  lineCap: CanvasLineCap
  lineJoin: CanvasLineJoin
  dash: number[]
  transform: string
  groups: number
}

const FRESH: Setting = {
  fillStyle: '#000000', strokeStyle: '#000000', lineWidth: 1, globalAlpha: 1, font: '10px sans-serif',
  textAlign: 'start', textBaseline: 'alphabetic', lineCap: 'butt', lineJoin: 'miter', dash: [], transform: '', groups: 0,
}

const ANCHORS: Record<string, string> = { center: 'middle', right: 'end', end: 'end' }
const DROPS: Record<string, number> = { middle: 0.35, top: 0.8, hanging: 0.8, bottom: -0.2 }

const round = (value: number) => String(Math.round(value * 100) / 100)

export class SvgPen implements Pen {
  fillStyle: Pen['fillStyle'] = FRESH.fillStyle
  strokeStyle: Pen['strokeStyle'] = FRESH.strokeStyle
  lineWidth = 1
  globalAlpha = 1
  font = FRESH.font
  textAlign: CanvasTextAlign = 'start'
  textBaseline: CanvasTextBaseline = 'alphabetic'
  lineCap: CanvasLineCap = 'butt'
  lineJoin: CanvasLineJoin = 'miter'
  private dash: number[] = []
  private transform = ''
  private groups = 0
  private clips = 0
  /** What was traced since `beginPath`, as the d of a path. */
  path = ''
  private readonly parts: string[] = []
  private readonly saved: Setting[] = []

  /** The whole file. */
  document(width: number, height: number, title: string): string {
    const box = `width="${round(width)}" height="${round(height)}" viewBox="0 0 ${round(width)} ${round(height)}"`
    const head = `<svg xmlns="http://www.w3.org/2000/svg" ${box} role="img"><title>${escaped(title)}</title>`
    return `${head}\n${this.parts.join('\n')}\n</svg>\n`
  }

  beginPath(): void {
    this.path = ''
  }

  moveTo(x: number, y: number): void {
    this.path += `M${round(x)} ${round(y)}`
  }

  lineTo(x: number, y: number): void {
    this.path += `L${round(x)} ${round(y)}`
  }

  bezierCurveTo(ax: number, ay: number, bx: number, by: number, x: number, y: number): void {
    this.path += `C${[ax, ay, bx, by, x, y].map(round).join(' ')}`
  }

  /** Whole circles only; that is all the graph draws. */
  arc(x: number, y: number, r: number): void {
    const half = (side: number) => `A${round(r)} ${round(r)} 0 0 1 ${round(x + side * r)} ${round(y)}`
    this.path += `M${round(x + r)} ${round(y)}${half(-1)}${half(1)}Z`
  }

  rect(x: number, y: number, width: number, height: number): void {
    this.path += `M${round(x)} ${round(y)}h${round(width)}v${round(height)}h${round(-width)}Z`
  }

  closePath(): void {
    this.path += 'Z'
  }

  fill(): void {
    this.push(`<path d="${this.path}" fill="${this.fillStyle}"${this.shared()}/>`)
  }

  stroke(): void {
    this.push(`<path d="${this.path}" fill="none"${this.line()}${this.shared()}/>`)
  }

  clip(): void {
    const id = `clip${++this.clips}`
    this.parts.push(`<clipPath id="${id}"><path d="${this.path}"/></clipPath><g clip-path="url(#${id})">`)
    this.groups++
  }

  fillText(text: string, x: number, y: number): void {
    this.text(text, x, y, ` fill="${this.fillStyle}"`)
  }

  strokeText(text: string, x: number, y: number): void {
    this.text(text, x, y, ` fill="none"${this.line()}`)
  }

  save(): void {
    const { fillStyle, strokeStyle, lineWidth, globalAlpha, font, textAlign, textBaseline, lineCap, lineJoin } = this
    const paint = { fillStyle: String(fillStyle), strokeStyle: String(strokeStyle) }
    const text = { font, textAlign, textBaseline }
    const line = { lineWidth, globalAlpha, lineCap, lineJoin, dash: this.dash }
    this.saved.push({ ...paint, ...text, ...line, transform: this.transform, groups: this.groups })
    this.groups = 0
  }

  restore(): void {
    for (; this.groups > 0; this.groups--) this.parts.push('</g>')
    Object.assign(this, this.saved.pop() ?? FRESH)
  }

  translate(x: number, y: number): void {
    this.transform += `translate(${round(x)} ${round(y)})`
  }

  rotate(angle: number): void {
    this.transform += `rotate(${round((angle * 180) / Math.PI)})`
  }

  setLineDash(dash: number[]): void {
    this.dash = dash
  }

  private text(text: string, x: number, y: number, paint: string): void {
    const [, weight, size, family] = /^(?:(\d+|bold) )?([\d.]+)px (.*)$/.exec(this.font) ?? ['', '', '10', 'sans-serif']
    const drop = (DROPS[this.textBaseline] ?? 0) * Number(size)
    const anchor = ANCHORS[this.textAlign] ? ` text-anchor="${ANCHORS[this.textAlign]}"` : ''
    const font = ` font-family="${escaped(family)}" font-size="${size}"${weight ? ` font-weight="${weight}"` : ''}`
    this.push(`<text x="${round(x)}" y="${round(y + drop)}"${anchor}${font}${paint}${this.shared()}>${escaped(text)}</text>`)
  }

  private line(): string {
    const dash = this.dash.length ? ` stroke-dasharray="${this.dash.map(round).join(' ')}"` : ''
    const cap = this.lineCap === 'butt' ? '' : ` stroke-linecap="${this.lineCap}"`
    const join = this.lineJoin === 'miter' ? '' : ` stroke-linejoin="${this.lineJoin}"`
    return ` stroke="${this.strokeStyle}" stroke-width="${round(this.lineWidth)}"${dash}${cap}${join}`
  }

  private shared(): string {
    const alpha = this.globalAlpha < 1 ? ` opacity="${Math.round(this.globalAlpha * 1000) / 1000}"` : ''
    return (this.transform ? ` transform="${this.transform}"` : '') + alpha
  }

  private push(part: string): void {
    this.parts.push(part)
  }
}

/** The outline of a glyph about (0, 0), as the d of a path. */
export function glyphPath(kind: Kind, r: number): string {
  const pen = new SvgPen()
  trace(pen, kind, 0, 0, r)
  return pen.path
}
