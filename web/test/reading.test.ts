import { beforeEach, describe, expect, test } from 'vitest'
import { Reading } from '../src/state/reading.svelte'
import { Saving, type NotesApi } from '../src/state/saving.svelte'
import { ApiError } from '../src/api/client'
import type { GraphView } from '../src/view/view'
import type { Notes } from '../src/api/schema'

function reading(): Reading {
  const made = new Reading('0123456789ab', { row: () => -1 } as unknown as GraphView)
  made.take({ revision: 4, pinned: [1], supernodes: [], labels: {}, positions: {}, experiments: [] })
  return made
}

const EDITS: [string, (r: Reading) => void][] = [
  ['pin', (r) => r.togglePin(2)],
  ['unpin', (r) => r.togglePin(1)],
  ['pin many', (r) => r.pin([5, 6, 5])],
  ['group', (r) => r.group([1, 2], 'a')],
  ['join', (r) => r.join(r.supernodes[0]?.id ?? '', [9])],
  ['rename', (r) => r.rename(r.supernodes[0]?.id ?? '', 'b')],
  ['label', (r) => r.label(3, 'mine')],
  ['unlabel', (r) => r.label(3, '')],
  ['place', (r) => r.place('1', [3, 4])],
  ['ungroup', (r) => r.ungroup(r.supernodes[0]?.id ?? '')],
  ['clear', (r) => r.clear()],
]

describe('undo and redo', () => {
  test.each(EDITS)('of %s: back is as it was, forth is as it became', (_, edit) => {
    const r = reading()
    r.group([1, 7], 'first')
    const before = r.notes()
    edit(r)
    const after = r.notes()
    r.undo()
    expect(r.notes()).toEqual(before)
    r.redo()
    expect(r.notes()).toEqual(after)
  })

  test('a walk of all edits goes back to the start and forth to the end, step by step', () => {
    const r = reading()
    const states = [r.notes()]
    for (const [, edit] of EDITS) {
      edit(r)
      states.push(r.notes())
    }
    for (const state of states.toReversed().slice(1)) {
      r.undo()
      expect(r.notes()).toEqual(state)
    }
    expect(r.canUndo).toBe(false)
    for (const state of states.slice(1)) {
      r.redo()
      expect(r.notes()).toEqual(state)
    }
    expect(r.canRedo).toBe(false)
  })

  test('an edit after an undo drops what was undone', () => {
    const r = reading()
    r.togglePin(2)
    r.undo()
    r.togglePin(3)
    expect(r.canRedo).toBe(false)
    r.redo()
    expect(r.pinned).toEqual([1, 3])
  })

  test('with nothing to undo or redo nothing happens', () => {
    const r = reading()
    const before = r.notes()
    r.undo()
    r.redo()
    expect(r.notes()).toEqual(before)
  })

  test('looking is not an edit', () => {
    const r = reading()
    r.select(5)
    r.nodeShare = 0.3
    expect(r.canUndo).toBe(false)
  })

  test('a node is in one supernode at most, and an unpinned one in none', () => {
    const r = reading()
    r.group([1, 2], 'a')
    r.group([2, 3], 'b')
    expect(r.supernodes.map((g) => [g.name, g.nodes])).toEqual([['a', [1]], ['b', [2, 3]]])
    r.togglePin(1)
    expect(r.supernodes.map((g) => g.name)).toEqual(['b'])
  })
})

describe('saving', () => {
  let kept: Notes
  let written: Notes[]
  let failure: ApiError | null
  const server: NotesApi = {
    read: async () => structuredClone(kept),
    write: async (_, notes) => {
      if (failure) throw failure
      if (notes.revision !== kept.revision) throw new ApiError('changed', 409)
      kept = { ...structuredClone(notes), revision: notes.revision + 1 }
      written.push(kept)
      return kept
    },
  }
  const rest = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

  beforeEach(() => {
    kept = { ...reading().notes() }
    written = []
    failure = null
  })

  test('several edits in a row are one save, with the revision that was read', async () => {
    const r = reading()
    const saving = new Saving(r, server, 20)
    for (const id of [2, 3, 4]) {
      r.togglePin(id)
      saving.touch()
    }
    expect(saving.status).toBe('unsaved')
    await rest(60)
    expect(written.length).toBe(1)
    expect(kept.pinned).toEqual([1, 2, 3, 4])
    expect([saving.status, r.revision]).toEqual(['saved', 5])
  })

  test('an edit that was undone in time is not saved', async () => {
    const r = reading()
    const saving = new Saving(r, server, 20)
    r.togglePin(2)
    saving.touch()
    r.undo()
    saving.touch()
    await rest(60)
    expect(written).toEqual([])
    expect(saving.status).toBe('saved')
  })

  test('saves at the same time do not quarrel with each other', async () => {
    const r = reading()
    const saving = new Saving(r, server, 20)
    r.togglePin(2)
    const first = saving.flush()
    r.togglePin(3)
    await Promise.all([first, saving.flush(), saving.flush()])
    expect(kept.pinned).toEqual([1, 2, 3])
    expect(saving.status).toBe('saved')
  })

  test('another tab saved first: nothing is written until the reader chose', async () => {
    const r = reading()
    const saving = new Saving(r, server, 5)
    kept = { ...kept, revision: 9, pinned: [8] }
    r.togglePin(2)
    saving.touch()
    await rest(30)
    expect(saving.status).toBe('conflict')
    r.togglePin(3)
    saving.touch()
    await rest(30)
    expect(kept.pinned).toEqual([8])

    await saving.keepMine()
    expect(kept.pinned).toEqual([1, 2, 3])
    expect([saving.status, r.revision]).toEqual(['saved', 10])
  })

  test('another tab saved first: theirs can be taken', async () => {
    const r = reading()
    const saving = new Saving(r, server, 5)
    kept = { ...kept, revision: 9, pinned: [8] }
    r.togglePin(2)
    await saving.flush()
    await saving.loadTheirs()
    expect([r.pinned, r.revision, saving.status]).toEqual([[8], 9, 'saved'])
    saving.touch()
    await rest(20)
    expect(written).toEqual([])
  })

  test('a refusal is said, and the next try saves', async () => {
    const r = reading()
    const saving = new Saving(r, server, 5)
    failure = new ApiError('node 2 is gone', 422)
    r.togglePin(2)
    await saving.flush()
    expect([saving.status, saving.message]).toEqual(['failed', 'node 2 is gone'])
    failure = null
    await saving.flush()
    expect([saving.status, saving.message, kept.pinned]).toEqual(['saved', '', [1, 2]])
  })
})
