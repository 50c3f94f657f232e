// A saved graph, opened: its view, what a reader did with it, and its saving. The last one stays open while the
// reader looks at another page, so that undo is not lost.
import { api } from '../api/client'
import type { FoundNode, GraphDetail, Notes } from '../api/schema'
import { readView, type GraphView } from '../view/view'
import { Reading } from './reading.svelte'
import { readAddress, writeAddress, type Address } from './route'
import { Saving } from './saving.svelte'
import { startShare } from './shares'

export interface Opened {
  reading: Reading
  saving: Saving
}

/** What of an address is not in the graph, in words; "" when all of it is. */
export function goneFrom(reading: Reading, query: Record<string, string>): string {
  const { selected, pinned = [] } = readAddress(query)
  const asked = new Set(selected === undefined ? pinned : [selected, ...pinned])
  const gone = [...asked].filter((node) => node >= reading.view.header.nodes_in_graph)
  if (gone.length === 0) return ''
  const which = gone.length === 1 ? `node ${gone[0]}, which is` : `${gone.length} nodes that are`
  return `The address names ${which} not in this graph. It may be of another trace; the rest is shown.`
}

let last: Opened | null = null

/** Open a graph at an address. Rejects with an ApiError (404: there is no such graph). */
export async function open(graph: string, query: Record<string, string>): Promise<Opened> {
  const address = readAddress(query)
  if (last?.reading.graph !== graph) {
    const [detail, notes, bytes] = await Promise.all([
      api.get<GraphDetail>(`graphs/${graph}`),
      api.get<Notes>(`graphs/${graph}/notes`),
      api.bytes(`graphs/${graph}/view`),
    ])
    const view = readView(bytes)
    const reading = new Reading(graph, view, detail)
    reading.nodeShare = startShare(view)
    reading.take(notes)
    // What a link pins counts only where nothing was saved: a saved reading is not overwritten by an old link.
    const asked = (address.pinned ?? []).filter((id) => view.row(id) >= 0)
    if (asked.length && reading.revision === 0) reading.pin(asked)
    last = { reading, saving: new Saving(reading) }
  }
  const { reading } = last!
  apply(reading, address)
  await reach(reading, reading.nodeShare)
  return last!
}

/** Forget the graph that stays open: it was deleted, or must be read again. */
export function forget(graph: string): void {
  if (last?.reading.graph === graph) last = null
}

function apply(reading: Reading, address: Address): void {
  if (address.nodeShare !== undefined) reading.nodeShare = address.nodeShare
  if (address.edgeShare !== undefined) reading.edgeShare = address.edgeShare
  if (address.linkType) reading.linkType = address.linkType
  if (address.hiddenKinds) reading.hiddenKinds = address.hiddenKinds
  // A node that the graph never had is not selected: nothing could be said of it.
  const isThere = address.selected !== undefined && address.selected < reading.view.header.nodes_in_graph
  if (isThere) reading.select(address.selected!)
}

/** The query that brings a reader back to what a reading shows. */
export function queryOf(reading: Reading): Record<string, string> {
  return writeAddress({
    selected: reading.selected ?? undefined,
    pinned: reading.pinned,
    nodeShare: reading.nodeShare,
    edgeShare: reading.edgeShare,
    linkType: reading.linkType,
    hiddenKinds: reading.hiddenKinds,
  })
}

/** Load more of the graph where a share asks for more than the view holds. Says whether the view changed. */
export async function reach(reading: Reading, nodeShare: number): Promise<boolean> {
  const { view } = reading
  if (nodeShare <= view.header.node_share || view.header.nodes >= view.header.nodes_in_graph) return false
  const bytes = await api.bytes(`graphs/${reading.graph}/view?node_share=${Math.min(1, nodeShare)}`)
  if (reading.view !== view) return false
  reading.view = keepRoom(view, readView(bytes))
  return true
}

/** Ask again what the server says of the graph, such as whether an experiment can be made with it. */
export async function refresh(reading: Reading): Promise<void> {
  const detail = await api.get<GraphDetail>(`graphs/${reading.graph}`)
  if (JSON.stringify(detail) !== JSON.stringify(reading.detail)) reading.detail = detail
}

/** The larger of two views of a graph. */
function keepRoom(before: GraphView, now: GraphView): GraphView {
  return now.n > before.n ? now : before
}

/** Bring a node into sight, if need be, and select it. Returns why that was not possible, "" when it was. */
export async function show(reading: Reading, node: FoundNode): Promise<string> {
  if (reading.hiddenKinds.includes(node.kind)) reading.hiddenKinds = reading.hiddenKinds.filter((kind) => kind !== node.kind)
  // A little more than it needs: shares are rounded in the address.
  const needed = Math.min(1, node.threshold + 1e-4)
  if (reading.view.row(node.node) < 0) await reach(reading, needed)
  if (reading.view.row(node.node) < 0) {
    const { n, header } = reading.view
    return `This is one of the weakest of ${header.nodes_in_graph} nodes; the page draws at most ${n} of them.`
  }
  if (node.threshold > 0) reading.nodeShare = Math.max(reading.nodeShare, needed)
  reading.select(node.node)
  return ''
}
