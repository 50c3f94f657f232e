import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import type { AppState, Job } from '../src/api/schema'
import { Session } from '../src/state/session.svelte'

const MODEL = {
  name: 'tiny', dictionaries: 'tiny', status: 'ready', message: '', n_layers: 2, context: 64, is_chat: false, has_index: false, widths: [],
} as const

function job(id: string, change: Partial<Job> = {}): Job {
  return { id, kind: 'trace', title: id, status: 'running', place: 0, stages: [], error: '', seconds: 1, ...change }
}

class Events {
  static open: Events[] = []
  closed = false
  private readonly heard = new Map<string, (event: { data: string }) => void>()
  constructor(readonly url: string) {
    Events.open.push(this)
  }
  addEventListener(name: string, listener: (event: { data: string }) => void): void {
    this.heard.set(name, listener)
  }
  say(data: unknown): void {
    this.heard.get('job')!({ data: JSON.stringify(data) })
  }
  close(): void {
    this.closed = true
  }
}

/** A server of which a test says how it is. */
let server: { state: AppState | number | 'away'; graphs: unknown[] }
let stop: () => void = () => {}

beforeEach(() => {
  vi.useFakeTimers()
  Events.open = []
  server = { state: { version: '1', model: MODEL as never, jobs: [], example: 'x' }, graphs: [] }
  vi.stubGlobal('EventSource', Events)
  vi.stubGlobal('fetch', async (url: string) => {
    if (server.state === 'away') throw new TypeError('refused')
    if (typeof server.state === 'number') return new Response('{"error": "no"}', { status: server.state })
    return Response.json(url.endsWith('/state') ? server.state : server.graphs)
  })
})

afterEach(() => {
  stop()
  vi.useRealTimers()
  vi.unstubAllGlobals()
})

async function begun(): Promise<Session> {
  const session = new Session()
  stop = session.start()
  await vi.advanceTimersByTimeAsync(10)
  return session
}

function jobs(...all: Job[]): void {
  ;(server.state as AppState).jobs = all
}

describe('a session', () => {
  test('learns of jobs that ran before the page was loaded, and hears how they end', async () => {
    jobs(job('a'))
    const session = await begun()
    expect(session.active.map((one) => one.id)).toEqual(['a'])
    const ended = session.ended('a')
    jobs(job('a', { status: 'done', seconds: 3, result: { graph: '0123456789ab' } }))
    Events.open[0].say(job('a', { status: 'done', seconds: 3, result: { graph: '0123456789ab' } }))
    expect(await ended).toMatchObject({ status: 'done', result: { graph: '0123456789ab' } })
    expect(session.active).toEqual([])
  })

  test('follows one job at a time, the one that runs', async () => {
    jobs(job('c', { status: 'queued', place: 2 }), job('b', { status: 'queued', place: 1 }), job('a'))
    await begun()
    await vi.advanceTimersByTimeAsync(5000)
    expect(Events.open.filter((events) => !events.closed).map((events) => events.url)).toEqual(['./api/jobs/a/events'])
    jobs(job('c', { status: 'queued', place: 1 }), job('b'), job('a', { status: 'done' }))
    await vi.advanceTimersByTimeAsync(5000)
    expect(Events.open.filter((events) => !events.closed).map((events) => events.url)).toEqual(['./api/jobs/b/events'])
  })

  test('an end that was heard is not taken back by an older report', async () => {
    jobs(job('a'))
    const session = await begun()
    Events.open[0].say(job('a', { status: 'cancelled', seconds: 2 }))
    await vi.advanceTimersByTimeAsync(10_000)
    expect(session.jobs[0].status).toBe('cancelled')
  })

  test('says when the server stopped, and goes on when it is back', async () => {
    const session = await begun()
    expect(session.isReady).toBe(true)
    const before = server.state
    server.state = 'away'
    await vi.advanceTimersByTimeAsync(6000)
    expect([session.connection, session.isReady]).toEqual(['stopped', false])
    server.state = before
    await vi.advanceTimersByTimeAsync(2000)
    expect([session.connection, session.isReady]).toEqual(['connected', true])
  })

  test('tells a server that does not know the page from one that is away', async () => {
    const session = await begun()
    server.state = 401
    await vi.advanceTimersByTimeAsync(6000)
    expect(session.connection).toBe('refused')
  })

  test('a job that a new server does not know has failed, and whoever waits is told', async () => {
    jobs(job('a'))
    const session = await begun()
    const ended = session.ended('a')
    jobs()
    await vi.advanceTimersByTimeAsync(6000)
    expect(await ended).toMatchObject({ status: 'failed', error: expect.stringContaining('again') })
    expect(session.active).toEqual([])
  })

  test('a job that was sent while the list was on its way is not taken for lost', async () => {
    const session = await begun()
    let answer: (response: Response) => void = () => {}
    vi.stubGlobal('fetch', (url: string, { method }: RequestInit) => {
      if (method === 'POST') return Promise.resolve(Response.json(job('new', { status: 'queued' })))
      return url.endsWith('/state') ? new Promise((resolve) => (answer = resolve)) : Promise.resolve(Response.json([]))
    })
    const beat = session.beat()
    await session.submit('trace', { prompt: 'x' })
    answer(Response.json(server.state))
    await beat
    expect(session.jobs.map((one) => [one.id, one.status])).toEqual([['new', 'queued']])
  })

  test('a job taken off the list stays off', async () => {
    jobs(job('a', { status: 'failed', error: 'no' }))
    const session = await begun()
    session.dismiss('a')
    await vi.advanceTimersByTimeAsync(12_000)
    expect(session.jobs).toEqual([])
  })

  test('after it was stopped it asks nothing more', async () => {
    await begun()
    stop()
    const asked = vi.fn()
    vi.stubGlobal('fetch', asked)
    await vi.advanceTimersByTimeAsync(20_000)
    expect(asked).not.toHaveBeenCalled()
  })
})
