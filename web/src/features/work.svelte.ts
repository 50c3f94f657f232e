// One piece of work of a page: asked for, followed, shown, and found again after a reload.
import { api, ApiError } from '../api/client'
import type { Job } from '../api/schema'
import { isActive, type Session } from '../state/session.svelte'

export class Work<Result> {
  problem = $state('')
  result: Result | null = $state.raw(null)
  private id = $state('')
  private first: Job | null = $state.raw(null)

  constructor(private readonly session: Session, private readonly kind: Job['kind'], private readonly key = '') {}

  /** The job as the session knows it now; null when there is none. */
  get job(): Job | null {
    return this.session.jobs.find((job) => job.id === this.id) ?? this.first
  }

  get isActive(): boolean {
    return this.job !== null && isActive(this.job)
  }

  /** Ask for it and wait for its end. Resolves with its result, or null: then `problem` says why, unless stopped. */
  async run(request: unknown): Promise<Result | null> {
    this.problem = ''
    this.result = null
    try {
      const job = await this.session.submit(this.kind, request)
      this.keep(job.id)
      return await this.wait(job)
    } catch (error) {
      this.problem = error instanceof Error ? error.message : String(error)
      return null
    }
  }

  /** Take up what this tab asked for before it was loaded again. */
  async resume(): Promise<Result | null> {
    const id = this.key ? sessionStorage.getItem(this.key) : null
    if (!id) return null
    try {
      return await this.wait(await api.get<Job>(`jobs/${encodeURIComponent(id)}`))
    } catch (error) {
      // A server that was started again knows nothing of it: nothing is there to show.
      if (error instanceof ApiError && error.status === 404) this.keep('')
      return null
    }
  }

  async cancel(): Promise<void> {
    if (this.id) await this.session.cancel(this.id)
  }

  clear(): void {
    this.result = null
    this.problem = ''
    this.keep('')
    this.first = null
    this.id = ''
  }

  private keep(id: string): void {
    if (!this.key) return
    if (id) sessionStorage.setItem(this.key, id)
    else sessionStorage.removeItem(this.key)
  }

  private async wait(job: Job): Promise<Result | null> {
    this.id = job.id
    this.first = job
    const end = isActive(job) ? await this.session.ended(job.id) : job
    // Something newer was asked for meanwhile.
    if (this.id !== end.id) return null
    this.first = end
    if (end.status === 'failed') this.problem = end.error
    if (end.status === 'done') this.result = end.result as Result
    return this.result
  }
}
