// The address of everything: pure functions between the part of the URL behind "#" and what it names.

export type Page = 'trace' | 'features' | 'compare' | 'steer' | 'unknown'

/** Where the reader is: a page, the names behind it, and what follows "?". */
export interface Route {
  page: Page
  path: string[]
  query: Record<string, string>
}

/** What of the view of a graph stands in the URL. Absent fields are as the page would choose them. */
export interface Address {
  selected?: number
  pinned?: number[]
  nodeShare?: number
  edgeShare?: number
  linkType?: LinkType
  hiddenKinds?: string[]
}

const LINK_TYPES = ['input', 'output', 'either', 'both'] as const
export type LinkType = (typeof LINK_TYPES)[number]

const GRAPH_ID = /^[0-9a-f]{12}$/
const NUMBER = /^\d{1,9}$/

/** Read "#/graph/ab12..?sel=4". What no page answers to is `unknown`, never an exception. */
export function parse(hash: string): Route {
  const [before, after = ''] = cut(hash.replace(/^#\/?/, ''), '?')
  const names = before.split('/').filter(Boolean).map(decode)
  return { page: pageOf(names), path: names.slice(1), query: Object.fromEntries(new URLSearchParams(after)) }
}

function pageOf(names: string[]): Page {
  const [first, ...rest] = names
  if (first === undefined) return 'trace'
  if (first === 'graph') return rest.length === 1 && GRAPH_ID.test(rest[0]) ? 'trace' : 'unknown'
  if (first === 'features') {
    return rest.length <= 2 && rest.every((name) => NUMBER.test(name)) ? 'features' : 'unknown'
  }
  if (first === 'compare' || first === 'steer') return rest.length === 0 ? first : 'unknown'
  return 'unknown'
}

/** The graph that a route opens, or null on the start page. */
export function graphOf(route: Route): string | null {
  return route.page === 'trace' && route.path.length === 1 ? route.path[0] : null
}

/** The URL of a route, "#/..." : the inverse of `parse` for every route that is not unknown. */
export function format(page: Page, path: readonly (string | number)[] = [], query: Record<string, string> = {}): string {
  const first = page === 'trace' ? (path.length ? ['graph'] : []) : [page]
  const names = [...first, ...path].map((name) => encodeURIComponent(name))
  const text = new URLSearchParams(query).toString().replaceAll('%2C', ',')
  return `#/${names.join('/')}${text ? `?${text}` : ''}`
}

/** The address in a query. What cannot be read is left out. */
export function readAddress(query: Record<string, string>): Address {
  const address: Address = {}
  if (NUMBER.test(query.sel ?? '')) address.selected = Number(query.sel)
  if (query.pin !== undefined) address.pinned = integers(query.pin)
  const [nodes, edges] = [share(query.n), share(query.e)]
  if (nodes !== null) address.nodeShare = nodes
  if (edges !== null) address.edgeShare = edges
  const link = LINK_TYPES.find((type) => type === query.link)
  if (link) address.linkType = link
  if (query.hide) address.hiddenKinds = query.hide.split(',').filter((kind) => /^[a-z]+$/.test(kind))
  return address
}

/** The query of an address: the inverse of `readAddress`. */
export function writeAddress(address: Address): Record<string, string> {
  const query: Record<string, string> = {}
  if (address.selected !== undefined) query.sel = String(address.selected)
  if (address.pinned?.length) query.pin = address.pinned.join(',')
  if (address.nodeShare !== undefined) query.n = short(address.nodeShare)
  if (address.edgeShare !== undefined) query.e = short(address.edgeShare)
  if (address.linkType && address.linkType !== 'either') query.link = address.linkType
  if (address.hiddenKinds?.length) query.hide = address.hiddenKinds.join(',')
  return query
}

function integers(text: string): number[] {
  return [...new Set(text.split(',').filter((part) => NUMBER.test(part)).map(Number))].slice(0, 5000)
}

function share(text: string | undefined): number | null {
  if (!text || !/^[01]?(\.\d{0,9})?$/.test(text) || text === '.') return null
  const value = Number(text)
  return value > 0 && value <= 1 ? value : null
}

/** Four digits say as much as a slider can. */
function short(value: number): string {
  return String(Math.round(value * 1e4) / 1e4).replace(/^0\./, '.')
}

function cut(text: string, at: string): [string, string?] {
  const place = text.indexOf(at)
  return place < 0 ? [text] : [text.slice(0, place), text.slice(place + 1)]
}

function decode(name: string): string {
  try {
    return decodeURIComponent(name)
  } catch {
    return name
  }
}
