// What the page knows of the server: the model, jobs, saved graphs, and whether the server answers at all.
import { api, ApiError, follow } from '../api/client'
import type { AppState, GraphSummary, Job, ModelState } from '../api/schema'

export type JobKind = Job['kind']
export type Connection = 'starting' | 'connected' | 'stopped' | 'refused'

const NO_MODEL: ModelState = {
  name: '', dictionaries: '', status: 'none', message: '', n_layers: 0, context: 0, is_chat: false, has_index: false,
  widths: [],
}
const LOST = 'The server was started again while this ran; run it again.'
const CALM = 5000
const BUSY = 1000

export class Session {
  app: AppState | null = $state.raw(null)
  /** Jobs of this server, newest first. */
  jobs: Job[] = $state.raw([])
  /** Saved graphs, newest first; null until they were read. */
  graphs: GraphSummary[] | null = $state.raw(null)
  connection: Connection = $state('starting')
  /** The last thing worth saying, for the line at the foot of the page and for screen readers. */
  notice: { text: string; isProblem: boolean } | null = $state.raw(null)

  private readonly dismissed = new Set<string>()
  private followed = ''
  private unfollow: () => void = () => {}
  private timer: ReturnType<typeof setTimeout> | undefined
  private waiting = new Map<string, ((job: Job) => void)[]>()
  private isStarted = false

  get model(): ModelState {
    return this.app?.model ?? NO_MODEL
  }

  get isReady(): boolean {
    return this.connection === 'connected' && this.model.status === 'ready'
  }

  get active(): Job[] {
    return this.jobs.filter(isActive)
  }

  /** Begin to listen. Returns what stops it. */
  start(): () => void {
    this.isStarted = true
    void this.beat()
    void this.readGraphs()
    return () => {
      this.isStarted = false
      clearTimeout(this.timer)
      this.unfollow()
    }
  }

  /** Ask the server how it is, now. */
  async beat(): Promise<void> {
    clearTimeout(this.timer)
    try {
      const wasLost = this.connection === 'stopped' || this.connection === 'refused'
      const before = new Set(this.active.map((job) => job.id))
      const app = await api.get<AppState>('state')
      this.app = app
      this.connection = 'connected'
      this.takeJobs(app.jobs, before)
      if (wasLost) await this.readGraphs()
    } catch (error) {
      this.lost(error)
    }
    if (!this.isStarted) return
    const isBusy = this.connection !== 'connected' || this.model.status === 'loading' || this.active.length > 0
    this.timer = setTimeout(() => void this.beat(), isBusy ? BUSY : CALM)
  }

  /** Put a piece of work into the queue. Rejects with an ApiError when the server refuses it. */
  async submit(kind: JobKind, request: unknown): Promise<Job> {
    const job = await api.post<Job>(`jobs/${kind}`, request)
    this.takeJob(job)
    return job
  }

  /** Wait for a job that this session knows; resolves with it however it ended. */
  ended(id: string): Promise<Job> {
    const job = this.jobs.find((other) => other.id === id)
    if (job && !isActive(job)) return Promise.resolve(job)
    return new Promise((resolve) => this.waiting.set(id, [...(this.waiting.get(id) ?? []), resolve]))
  }

  async cancel(id: string): Promise<void> {
    await this.attempt(async () => this.takeJob(await api.post<Job>(`jobs/${id}/cancel`)))
  }

  /** Take a finished job off the list; the server keeps it. */
  dismiss(id: string): void {
    this.jobs = this.jobs.filter((job) => job.id !== id)
    this.dismissed.add(id)
  }

  async readGraphs(): Promise<void> {
    try {
      this.graphs = await api.get<GraphSummary[]>('graphs')
    } catch (error) {
      this.lost(error)
    }
  }

  /** Open a graph file. Returns its summary, or null (and says why). */
  async upload(file: File): Promise<GraphSummary | null> {
    return this.attempt(async () => {
      const summary = await api.upload<GraphSummary>(`graphs?${new URLSearchParams({ name: file.name.slice(-200) })}`, file)
      await this.readGraphs()
      return summary
    })
  }

  async remove(id: string): Promise<void> {
    await this.attempt(async () => {
      await api.remove(`graphs/${id}`)
      this.graphs = this.graphs?.filter((graph) => graph.id !== id) ?? null
    })
  }

  say(text: string): void {
    this.notice = { text, isProblem: false }
  }

  /** Show what went wrong. */
  report(error: unknown): void {
    this.lost(error)
    const isStopped = error instanceof ApiError && error.status === 0
    if (!isStopped) this.notice = { text: error instanceof Error ? error.message : String(error), isProblem: true }
  }

  private async attempt<T>(action: () => Promise<T>): Promise<T | null> {
    try {
      return await action()
    } catch (error) {
      this.report(error)
      return null
    }
  }

  private lost(error: unknown): void {
    if (!(error instanceof ApiError)) return
    if (error.status === 0) this.connection = 'stopped'
    else if (error.status === 401) this.connection = 'refused'
    else return
    clearTimeout(this.timer)
    if (this.isStarted) this.timer = setTimeout(() => void this.beat(), BUSY)
  }

  /** Take the server's list. `before`: the active jobs when it was asked for; younger ones it may not know yet. */
  private takeJobs(jobs: Job[], before: ReadonlySet<string>): void {
    const known = new Map(this.jobs.map((job) => [job.id, job]))
    const missing = this.active.filter((job) => !jobs.some((other) => other.id === job.id))
    // A server that was started again knows nothing of the work it had.
    const rest = missing.map((job): Job => (before.has(job.id) ? { ...job, status: 'failed', error: LOST } : job))
    const told = jobs.filter((job) => !this.dismissed.has(job.id)).map((job) => newer(known.get(job.id), job))
    this.jobs = [...rest, ...told]
    this.jobs.forEach((job) => this.settle(job))
    this.followOne()
  }

  private takeJob(job: Job): void {
    const isKnown = this.jobs.some((other) => other.id === job.id)
    this.jobs = isKnown ? this.jobs.map((other) => (other.id === job.id ? job : other)) : [job, ...this.jobs]
    this.settle(job)
    this.followOne()
  }

  private settle(job: Job): void {
    if (isActive(job)) return
    const waiting = this.waiting.get(job.id)
    this.waiting.delete(job.id)
    waiting?.forEach((resolve) => resolve(job))
  }

  /** One line of events is enough: browsers allow few, and the others wait behind the oldest anyway. */
  private followOne(): void {
    const oldest = this.active.findLast((job) => job.status === 'running') ?? this.active.at(-1)
    if (oldest?.id === this.followed) return
    this.unfollow()
    this.followed = oldest?.id ?? ''
    this.unfollow = () => {}
    if (!oldest || !this.isStarted) return
    this.unfollow = follow(oldest.id, {
      onJob: (job) => {
        this.takeJob(job)
        if (job.status === 'done' && job.kind === 'trace') void this.readGraphs()
        if (!isActive(job)) void this.beat()
      },
    })
  }
}

export function isActive(job: Job): boolean {
  return job.status === 'queued' || job.status === 'running'
}

/** Of two reports on a job the later one: an end is final, else more seconds. */
function newer(known: Job | undefined, said: Job): Job {
  if (!known) return said
  if (!isActive(known) && isActive(said)) return known
  return known.seconds > said.seconds && isActive(said) ? known : said
}
