// An experiment that runs: its job, what was predicted at once, and where its result goes. It outlives a reload.
import { api, ApiError, finished } from '../api/client'
import type { Experiment, InterventionRequest, InterventionResult, Job } from '../api/schema'
import type { Reading } from '../state/reading.svelte'
import { experimentOf } from './experiment'

/** Experiments that a graph keeps; the notes take no more. */
export const MOST = 200

const PAUSE = 4000
const LOST = 'The server was started again while this ran; run it again.'

interface Pending {
  job: string
  request: InterventionRequest
}

export class Running {
  job: Job | null = $state.raw(null)
  request: InterventionRequest | null = $state.raw(null)
  /** What the graph predicts for each target; the server says so before it measures. */
  predicted: { text: string; predicted: number | null }[] = $state.raw([])
  problem = $state('')

  constructor(private readonly reading: Reading, private readonly onDone: (experiment: Experiment) => void) {}

  get isRunning(): boolean {
    return this.request !== null
  }

  async start(request: InterventionRequest): Promise<void> {
    this.problem = ''
    this.predicted = []
    this.request = request
    try {
      const job = await api.post<Job>('jobs/intervene', request)
      this.job = job
      keep(request.graph, { job: job.id, request })
      await this.wait(job.id, request)
    } catch (error) {
      this.stop(error)
    }
  }

  /** Go on with the experiment that ran when the page was left. */
  async resume(): Promise<void> {
    const pending = kept(this.reading.graph)
    if (!pending) return
    this.request = pending.request
    try {
      this.job = await api.get<Job>(`jobs/${pending.job}`)
      await this.wait(pending.job, pending.request)
    } catch (error) {
      // A server that was started again does not know the job.
      if (error instanceof ApiError && error.status === 404) this.stop(null)
      else this.stop(error)
    }
  }

  async cancel(): Promise<void> {
    try {
      if (this.job) await api.post<Job>(`jobs/${this.job.id}/cancel`)
    } catch (error) {
      this.problem = words(error)
    }
  }

  private async wait(id: string, request: InterventionRequest): Promise<void> {
    const events = {
      onJob: (now: Job) => (this.job = now),
      onData: (data: unknown) => (this.predicted = predictions(data) ?? this.predicted),
    }
    const job = await Promise.race([finished(id, events), this.asked(id)])
    const experiment = experimentOf(id, request, job.result as InterventionResult, new Date())
    const others = this.reading.experiments.filter((one) => one.id !== id)
    this.reading.experiments = [...others, experiment].slice(-MOST)
    this.stop(null)
    this.onDone(experiment)
  }

  /** The job, asked for now and then: a server that was started again sends no events of it, and does not know it. */
  private async asked(id: string): Promise<Job> {
    for (;;) {
      await new Promise((resolve) => setTimeout(resolve, PAUSE))
      if (!this.isRunning) return new Promise(() => {})
      const job = await api.get<Job>(`jobs/${id}`).catch((error: unknown) => {
        if (error instanceof ApiError && error.status === 404) throw new ApiError(LOST, 404)
        return null
      })
      if (job?.status === 'done') return job
      if (job?.status === 'failed') throw new ApiError(job.error, 500)
      if (job?.status === 'cancelled') throw new ApiError('cancelled', 499)
    }
  }

  private stop(error: unknown): void {
    forget(this.reading.graph)
    this.request = null
    this.job = null
    if (error) this.problem = error instanceof ApiError && error.status === 499 ? 'Cancelled. Nothing was kept.' : words(error)
  }
}

function words(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

/** What a `data` event of the job says of the targets, if it does. */
function predictions(data: unknown): Running['predicted'] | null {
  const list = (data as { predicted?: unknown } | null)?.predicted
  return Array.isArray(list) ? (list as Running['predicted']) : null
}

const key = (graph: string) => `lucida.experiment.${graph}`

function keep(graph: string, pending: Pending): void {
  try {
    sessionStorage.setItem(key(graph), JSON.stringify(pending))
  } catch {
    // Without storage a reload forgets the experiment; the job ends all the same.
  }
}

function kept(graph: string): Pending | null {
  try {
    return JSON.parse(sessionStorage.getItem(key(graph)) ?? 'null') as Pending | null
  } catch {
    return null
  }
}

function forget(graph: string): void {
  try {
    sessionStorage.removeItem(key(graph))
  } catch {
    // See `keep`.
  }
}
