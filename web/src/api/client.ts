// Every request that the page makes. All go to the server it came from.
import type { Job, Problem } from './schema'

/** A request that failed: what to show, and the HTTP status (0: the server does not answer). */
export class ApiError extends Error {
  constructor(message: string, readonly status: number) {
    super(message)
  }
}

export const STOPPED = 'The server does not answer. Start it again with `lucida serve`; nothing that was saved is lost.'

/** `signal` stops a request; one with `keepalive` outlives the page that sends it. */
interface Extra {
  signal?: AbortSignal
  keepalive?: boolean
}

async function send(method: string, path: string, body?: BodyInit, type?: string, extra: Extra = {}): Promise<Response> {
  let answer: Response
  try {
    answer = await fetch(`./api/${path}`, { method, body, headers: type ? { 'Content-Type': type } : {}, ...extra })
  } catch (problem) {
    // Who gave the signal knows that it was stopped; this is not the server's fault.
    if (extra.signal?.aborted) throw problem
    throw new ApiError(STOPPED, 0)
  }
  if (answer.ok) return answer
  const problem = (await answer.json().catch(() => null)) as Problem | null
  throw new ApiError(problem?.error ?? `${answer.status} ${answer.statusText}`, answer.status)
}

export const api = {
  get: async <T>(path: string, signal?: AbortSignal): Promise<T> =>
    (await send('GET', path, undefined, undefined, { signal })).json(),
  bytes: async (path: string): Promise<ArrayBuffer> => (await send('GET', path)).arrayBuffer(),
  post: async <T>(path: string, body: unknown = {}): Promise<T> =>
    (await send('POST', path, JSON.stringify(body), 'application/json')).json(),
  /** `isLeaving`: the request outlives the page that sends it. */
  put: async <T>(path: string, body: unknown, isLeaving = false): Promise<T> =>
    (await send('PUT', path, JSON.stringify(body), 'application/json', { keepalive: isLeaving })).json(),
  upload: async <T>(path: string, file: Blob): Promise<T> =>
    (await send('POST', path, file, 'application/octet-stream')).json(),
  remove: async (path: string): Promise<void> => {
    await send('DELETE', path)
  },
}

export interface JobEvents {
  /** The job as it stands: after every stage, and when it ends. */
  onJob(job: Job): void
  /** Something of its own kind: a token of a steer job. */
  onData?(data: unknown): void
}

/**
 * Follow a job; all that it said so far comes first, so that a reloaded page misses nothing. Returns what stops
 * following (the job goes on). The browser connects again by itself when the line breaks.
 */
export function follow(job: string, events: JobEvents): () => void {
  const source = new EventSource(`./api/jobs/${job}/events`)
  source.addEventListener('job', (event) => {
    const now = JSON.parse(event.data) as Job
    events.onJob(now)
    if (now.status !== 'queued' && now.status !== 'running') source.close()
  })
  source.addEventListener('data', (event) => events.onData?.(JSON.parse(event.data)))
  return () => source.close()
}

/** Wait for a job's end. Rejects with an ApiError when it failed or was cancelled. */
export function finished(job: string, events: Partial<JobEvents> = {}): Promise<Job> {
  return new Promise((resolve, reject) => {
    follow(job, {
      onJob(now) {
        events.onJob?.(now)
        if (now.status === 'done') resolve(now)
        else if (now.status === 'failed') reject(new ApiError(now.error, 500))
        else if (now.status === 'cancelled') reject(new ApiError('cancelled', 499))
      },
      onData: events.onData,
    })
  })
}
