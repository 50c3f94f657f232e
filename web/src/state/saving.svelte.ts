// Notes save themselves: a short while after the last edit, with the revision they were read at.
import { api, ApiError } from '../api/client'
import type { Notes } from '../api/schema'
import type { Reading } from './reading.svelte'

export type SavingStatus = 'saved' | 'unsaved' | 'saving' | 'conflict' | 'failed'

/** The part of the API that saving needs; a test gives its own. */
export interface NotesApi {
  read(graph: string): Promise<Notes>
  write(graph: string, notes: Notes, isLeaving: boolean): Promise<Notes>
}

const SERVER: NotesApi = {
  read: (graph) => api.get<Notes>(`graphs/${graph}/notes`),
  write: (graph, notes, isLeaving) => api.put<Notes>(`graphs/${graph}/notes`, notes, isLeaving),
}

export class Saving {
  status: SavingStatus = $state('saved')
  message = $state('')
  private saved: string
  private timer: ReturnType<typeof setTimeout> | undefined
  private running: Promise<void> = Promise.resolve()

  constructor(
    private readonly reading: Reading,
    private readonly server: NotesApi = SERVER,
    private readonly delay = 600,
  ) {
    this.saved = content(reading)
  }

  /** Say that something may have changed; saves after a short rest. Call whenever the reading's notes change. */
  touch(): void {
    if (content(this.reading) === this.saved) {
      if (this.status === 'unsaved') this.status = 'saved'
      clearTimeout(this.timer)
      return
    }
    if (this.status === 'conflict') return
    if (this.status !== 'saving') this.status = 'unsaved'
    clearTimeout(this.timer)
    this.timer = setTimeout(() => void this.flush(), this.delay)
  }

  /** Save now what is not saved; done when it is. `isLeaving`: the page is being closed. */
  async flush(isLeaving = false): Promise<void> {
    clearTimeout(this.timer)
    // One after another: two saves of the same revision would quarrel.
    const before = isLeaving ? Promise.resolve() : this.running
    this.running = before.then(() => this.write(isLeaving))
    await this.running
  }

  /** Another tab saved first: take what it saved. What was done here since is dropped. */
  async loadTheirs(): Promise<void> {
    await this.settle((theirs) => {
      this.reading.take(theirs)
      this.saved = content(this.reading)
      this.status = 'saved'
    })
  }

  /** Another tab saved first: save what stands here over it. */
  async keepMine(): Promise<void> {
    await this.settle((theirs) => {
      this.reading.revision = theirs.revision
      this.status = 'unsaved'
    })
    await this.flush()
  }

  stop(): void {
    clearTimeout(this.timer)
  }

  private async write(isLeaving: boolean): Promise<void> {
    const now = content(this.reading)
    if (this.status === 'conflict' || now === this.saved) return
    this.status = 'saving'
    try {
      const answer = await this.server.write(this.reading.graph, this.reading.notes(), isLeaving)
      this.reading.revision = answer.revision
      this.saved = now
      this.message = ''
      this.status = content(this.reading) === now ? 'saved' : 'unsaved'
      if (this.status === 'unsaved') this.touch()
    } catch (error) {
      this.failed(error)
    }
  }

  private async settle(action: (theirs: Notes) => void): Promise<void> {
    try {
      action(await this.server.read(this.reading.graph))
      this.message = ''
    } catch (error) {
      this.message = error instanceof Error ? error.message : String(error)
    }
  }

  private failed(error: unknown): void {
    this.message = error instanceof Error ? error.message : String(error)
    const isStale = error instanceof ApiError && error.status === 409
    this.status = isStale ? 'conflict' : 'failed'
    // A server that is away comes back; what it refused it will refuse again.
    if (error instanceof ApiError && error.status === 0) this.timer = setTimeout(() => void this.flush(), 3000)
  }
}

function content(reading: Reading): string {
  const { revision: _, ...rest } = reading.notes()
  return JSON.stringify(rest)
}
