// What a notebook's Python side and the drawn graph tell each other.
import type { Reading, Supernode } from '../state/reading.svelte'
import type { About } from './file'

/** The traits of lucida.graph.widget.GraphWidget. */
export interface Traits {
  view: DataView | ArrayBuffer
  selected: number | null
  pinned: number[]
  supernodes: Supernode[]
  labels: Record<string, string>
  about?: About
  height?: number
}

/** The part of anywidget's model that is used. */
export interface NotebookModel {
  get<K extends keyof Traits>(name: K): Traits[K]
  set<K extends keyof Traits>(name: K, value: Traits[K]): void
  on(event: string, callback: () => void): void
  off(event: string, callback: () => void): void
  save_changes(): void
}

const EDITED = ['pinned', 'supernodes', 'labels'] as const

/** Keep a reading and a model the same, whoever changes first. Returns what ends it. */
export function follow(reading: Reading, model: NotebookModel): () => void {
  const takeSelected = () => reading.select(model.get('selected') ?? null)
  let isSaying = false
  const takeEdited = () => {
    // Our own changes come back as events: taking them would forget what can be undone, or half of a change not yet said.
    if (isSaying || EDITED.every((name) => isSame(model.get(name), reading[name]))) return
    const { pinned, supernodes, labels } = { pinned: model.get('pinned'), supernodes: model.get('supernodes'), labels: model.get('labels') }
    reading.take({ ...reading.notes(), pinned, supernodes, labels })
  }
  takeSelected()
  takeEdited()
  model.on('change:selected', takeSelected)
  for (const name of EDITED) model.on(`change:${name}`, takeEdited)
  const stop = $effect.root(() => {
    $effect(() => {
      if (set(model, 'selected', reading.selected)) model.save_changes()
    })
    $effect(() => {
      const { pinned, supernodes, labels } = reading
      isSaying = true
      const changed = [set(model, 'pinned', pinned), set(model, 'supernodes', supernodes), set(model, 'labels', labels)]
      isSaying = false
      if (changed.includes(true)) model.save_changes()
    })
  })
  return () => {
    stop()
    model.off('change:selected', takeSelected)
    for (const name of EDITED) model.off(`change:${name}`, takeEdited)
  }
}

function set<K extends keyof Traits>(model: NotebookModel, name: K, value: Traits[K]): boolean {
  if (isSame(model.get(name), value)) return false
  model.set(name, value)
  return true
}

function isSame(a: unknown, b: unknown): boolean {
  return JSON.stringify(a ?? null) === JSON.stringify(b ?? null)
}
