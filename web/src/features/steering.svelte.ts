// A conversation under steering: the turns, the reply that is being written, and what survives a reload.
import { api, follow } from '../api/client'
import type { Job, SteerRequest, SteerResult, SteerToken } from '../api/schema'
import type { Session } from '../state/session.svelte'
import { ending, messages, readTurns, type Turn } from './chat'
import { settings, strengthWords, type Dial } from './dials'

const TURNS = 'lucida-steer-turns'
const JOB = 'lucida-steer-job'
/** Dials that move are told to the server at most this often, in milliseconds. */
const DIAL_REST = 120

export interface Options {
  chat: boolean
  withBaseline: boolean
  maxTokens: number
  temperature: number
  seed: number
  system: string
}

export class Steering {
  turns: Turn[] = $state.raw(readTurns(sessionStorage.getItem(TURNS)))
  /** The turn whose reply is being written, or null. */
  writing: number | null = $state(null)
  job: Job | null = $state.raw(null)
  problem = $state('')
  /** Why the last texts ended, by side. */
  ended: { steered: string; baseline: string } = $state({ steered: '', baseline: '' })
  /** Sides whose text is whole while the other is still written. */
  isDone: { steered: boolean; baseline: boolean } = $state({ steered: false, baseline: false })
  private stop: () => void = () => {}
  private timer: ReturnType<typeof setTimeout> | undefined

  constructor(private readonly session: Session) {}

  get isWriting(): boolean {
    return this.writing !== null
  }

  /** Ask for a reply to a new turn, or to one that was edited: then all after it is dropped. */
  async say(user: string, dials: Dial[], options: Options, at = this.turns.length): Promise<void> {
    const turn: Turn = { user, steered: '', baseline: options.withBaseline ? '' : null, dials: describe(dials) }
    const before = this.turns
    this.turns = [...this.turns.slice(0, at), turn]
    this.problem = ''
    this.ended = { steered: '', baseline: '' }
    this.isDone = { steered: false, baseline: false }
    this.writing = at
    const text = (side: 'steered' | 'baseline') =>
      options.chat ? messages(this.turns, at, side, options.system) : [{ role: 'user' as const, content: user }]
    const request: SteerRequest = {
      steered: text('steered'), baseline: options.withBaseline ? text('baseline') : null, chat: options.chat,
      steers: settings(dials), max_tokens: options.maxTokens, temperature: options.temperature, seed: options.seed,
    }
    try {
      const job = await this.session.submit('steer', request)
      sessionStorage.setItem(JOB, JSON.stringify({ job: job.id, at }))
      this.listen(job.id, at)
      this.job = job
    } catch (error) {
      // What was asked stays with the one who asked.
      this.turns = before
      this.writing = null
      throw error
    } finally {
      this.save()
    }
  }

  /** Go on listening to the reply that was being written when the page was left. */
  resume(): void {
    try {
      const kept = JSON.parse(sessionStorage.getItem(JOB) ?? 'null') as { job: string; at: number } | null
      if (!kept || !this.turns[kept.at]) return
      // All that was said is said again: begin with nothing.
      const turn = this.turns[kept.at]
      this.change(kept.at, { steered: '', baseline: turn.baseline === null ? null : '' })
      this.writing = kept.at
      api.get<Job>(`jobs/${encodeURIComponent(kept.job)}`).then(
        () => this.listen(kept.job, kept.at),
        () => {
          this.turns = this.turns.with(kept.at, turn)
          this.problem = 'The reply that was being written is lost: the server was started again meanwhile.'
          this.end()
        },
      )
    } catch {
      sessionStorage.removeItem(JOB)
    }
  }

  /** The dials moved: the reply that is being written follows. */
  turn(dials: Dial[]): void {
    if (this.writing === null || !this.job) return
    const id = this.job.id
    this.change(this.writing, { dials: `${describe(dials) || 'nothing'} (moved while it wrote)` })
    clearTimeout(this.timer)
    this.timer = setTimeout(() => {
      api.put(`jobs/${id}/dial`, { steers: settings(dials) }).catch((error: unknown) => {
        // A reply that has just ended takes no dials; that is nobody's fault.
        if (this.isWriting) this.problem = error instanceof Error ? error.message : String(error)
      })
    }, DIAL_REST)
  }

  async cancel(): Promise<void> {
    if (this.job) await this.session.cancel(this.job.id)
  }

  clear(): void {
    this.turns = []
    this.problem = ''
    this.save()
  }

  /** Take a turn and all after it away. */
  cut(at: number): void {
    this.turns = this.turns.slice(0, at)
    this.save()
  }

  /** Stop listening; the job goes on. */
  leave(): void {
    this.stop()
    clearTimeout(this.timer)
  }

  private listen(id: string, at: number): void {
    this.stop()
    this.stop = follow(id, {
      onJob: (job) => this.takeJob(job, at),
      onData: (data) => this.takeData(data as Partial<SteerToken> & { problem?: string }, at),
    })
  }

  private takeData(said: Partial<SteerToken> & { problem?: string }, at: number): void {
    if (said.problem) this.problem = said.problem
    if (!said.side || said.text === undefined) return
    if (said.ended) this.isDone[said.side] = true
    this.change(at, { [said.side]: (this.turns[at]?.[said.side] ?? '') + said.text })
  }

  private takeJob(job: Job, at: number): void {
    this.job = job
    if (job.status === 'queued' || job.status === 'running') return
    if (job.status === 'failed') this.problem = job.error
    const result = job.result as SteerResult | null
    if (result) {
      this.change(at, { steered: result.steered, baseline: result.baseline })
      this.ended = { steered: ending(result.steered_ended), baseline: ending(result.baseline_ended ?? '') }
    }
    const turn = this.turns[at]
    // A reply that failed before its first word is no turn of the conversation.
    if (turn && !result && !turn.steered && !turn.baseline) this.turns = this.turns.with(at, { ...turn, steered: null, baseline: null })
    this.end()
  }

  private end(): void {
    this.writing = null
    this.job = null
    sessionStorage.removeItem(JOB)
    this.save()
  }

  private change(at: number, change: Partial<Turn>): void {
    if (this.turns[at]) this.turns = this.turns.with(at, { ...this.turns[at], ...change })
  }

  private save(): void {
    try {
      sessionStorage.setItem(TURNS, JSON.stringify(this.turns))
    } catch {
      this.problem = 'The conversation is too long to be kept over a reload of this page.'
    }
  }
}

/** Dials that are on, in words. */
function describe(dials: Dial[]): string {
  const name = (dial: Dial) => dial.label || `${dial.layer}:${dial.feature}`
  return dials.filter((dial) => dial.isOn).map((dial) => `${name(dial)} (${strengthWords(dial.strength, dial.variant)})`).join(', ')
}
