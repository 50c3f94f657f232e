// The diagram as a file: the SVG as it stands on the page, with its colours and type written into it.
const SHAPE = ['fill', 'fill-opacity', 'stroke', 'stroke-width', 'stroke-dasharray', 'opacity']
const TEXT = ['fill', 'font-family', 'font-size', 'font-weight', 'text-anchor']
const STYLES: Record<string, string[]> = { g: ['opacity'], title: [], text: TEXT, tspan: TEXT }
const LIVE = ['class', 'style', 'tabindex', 'role', 'aria-pressed', 'aria-label', 'aria-hidden', 'data-key']

/** The SVG as text that looks the same outside the page. Elements marked `data-live` (rings, inputs) are left out. */
export function svgText(svg: SVGSVGElement, background: string): string {
  const copy = svg.cloneNode(true) as SVGSVGElement
  const originals = svg.querySelectorAll<SVGElement>('*')
  copy.querySelectorAll<SVGElement>('*').forEach((element, index) => {
    const style = getComputedStyle(originals[index])
    for (const name of STYLES[element.tagName] ?? SHAPE) element.setAttribute(name, style.getPropertyValue(name))
    for (const name of LIVE) element.removeAttribute(name)
  })
  copy.querySelectorAll('[data-live]').forEach((element) => element.remove())
  const [left, top, width, height] = copy.getAttribute('viewBox')!.split(' ')
  copy.setAttribute('width', width)
  copy.setAttribute('height', height)
  for (const name of LIVE) copy.removeAttribute(name)
  const paper = document.createElementNS('http://www.w3.org/2000/svg', 'rect')
  for (const [name, value] of Object.entries({ x: left, y: top, width, height, fill: background })) paper.setAttribute(name, value)
  copy.prepend(paper)
  return new XMLSerializer().serializeToString(copy)
}

/** SVG text as a PNG file, `scale` pixels to a point. */
export async function pngOf(text: string, width: number, height: number, scale = 2): Promise<Blob> {
  const url = URL.createObjectURL(new Blob([text], { type: 'image/svg+xml' }))
  try {
    const image = new Image()
    image.src = url
    await image.decode()
    const canvas = document.createElement('canvas')
    canvas.width = Math.ceil(width * scale)
    canvas.height = Math.ceil(height * scale)
    canvas.getContext('2d')!.drawImage(image, 0, 0, canvas.width, canvas.height)
    return await new Promise((resolve, reject) =>
      canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error('the picture is too large for this browser')))),
    )
  } finally {
    URL.revokeObjectURL(url)
  }
}

/** Hand a file to the reader. */
export function download(name: string, content: Blob | string, type = 'text/plain'): void {
  const url = URL.createObjectURL(typeof content === 'string' ? new Blob([content], { type }) : content)
  const link = document.createElement('a')
  link.href = url
  link.download = name
  link.click()
  // The download has begun when the click returns; the address may go a moment later.
  setTimeout(() => URL.revokeObjectURL(url), 10_000)
}
