// The graph outside of the server's page: in a notebook (anywidget calls `render`) and in a file to mail.
import { mount, unmount } from 'svelte'
import { Reading } from '../state/reading.svelte'
import { startShare } from '../state/shares'
import { readView } from '../view/view'
import base from '../style/base.css?inline'
import tokens from '../style/tokens.css?inline'
import { unpacked, type FileNotes } from './file'
import Offline from './Offline.svelte'
import { keepApart } from './guest'
import { follow, type NotebookModel } from './notebook.svelte'
import { followTheme } from './theme'

/** Draw a graph in a notebook's output cell. Returns what takes it away again. */
function render({ model, el }: { model: NotebookModel; el: HTMLElement }): () => void {
  const reading = read(arrayBuffer(model.get('view')))
  const stopFollowing = follow(reading, model)
  const leave = show(el, reading, { about: model.get('about') ?? {}, height: model.get('height') ?? 640 })
  return () => {
    stopFollowing()
    leave()
  }
}

export default { render }

/** Draw a graph in a page of its own. `bytes` are a view, `notes` what its reader added and what is said above it. */
export function mountFile(host: HTMLElement, bytes: ArrayBuffer, notes: FileNotes): () => void {
  const reading = read(bytes)
  reading.take({ ...reading.notes(), ...notes.notes })
  const root = document.documentElement
  document.head.append(styled(tokens + base))
  const stopTheme = followTheme(root)
  const shell = mount(Offline, { target: host, props: { reading, about: notes.about, isFile: true, root } })
  return () => {
    stopTheme()
    void unmount(shell)
  }
}

function read(bytes: ArrayBuffer): Reading {
  const reading = new Reading('', readView(bytes))
  reading.nodeShare = startShare(reading.view)
  return reading
}

interface Shown {
  about: FileNotes['about']
  height: number
}

/** Draw into a root of its own: neither the notebook's style nor ours reaches the other. */
function show(host: HTMLElement, reading: Reading, { about, height }: Shown): () => void {
  const inside = document.createElement('div')
  host.append(inside)
  const root = inside.attachShadow({ mode: 'open' })
  const place = document.createElement('div')
  place.className = 'lucida'
  place.style.height = `${height}px`
  root.append(styled(inRoot(tokens) + inRoot(base) + FRAME), place)
  const stopTheme = followTheme(inside)
  const stopApart = keepApart(inside, place)
  const shell = mount(Offline, { target: place, props: { reading, about, root: inside } })
  return () => {
    stopTheme()
    stopApart()
    void unmount(shell)
    inside.remove()
  }
}

const FRAME = `
:host { display: block; }
.lucida { background: var(--paper); color: var(--ink); font: var(--size) / 1.45 var(--font); text-align: left; }
`

function styled(css: string): HTMLStyleElement {
  return Object.assign(document.createElement('style'), { textContent: css })
}

/** The page's style sheet, said of a shadow root. */
function inRoot(css: string): string {
  return css.replace(/:root(\[[^\]]*\])/g, ':host($1)').replaceAll(':root', ':host')
}

function arrayBuffer(bytes: DataView | ArrayBuffer): ArrayBuffer {
  if (bytes instanceof ArrayBuffer) return bytes
  return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength) as ArrayBuffer
}

// A file that `lucida export --html` wrote carries its graph with it; a notebook has no such element.
const carried = document.getElementById('lucida-graph')
if (carried) {
  const host = document.getElementById('page')!
  void unpacked(carried)
    .then(({ bytes, notes }) => mountFile(host, bytes, notes))
    .catch((error: unknown) => (host.textContent = `This file is damaged: ${String(error)}`))
}
