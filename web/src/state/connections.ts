// The inputs and outputs of a node as a list: by supernode, strongest first, with what the list leaves out.
import type { Supernode } from '../graph/core'
import type { Edge, GraphView } from '../view/view'

/** An edge to or from the node that is looked at. `share` is signed: of all absolute inputs of the edge's target. */
export interface Connection {
  id: number
  row: number
  weight: number
  share: number
}

/**
 * A supernode and its members, or a single node (`supernode` is null).
 *
 * Inputs have one target, so their shares and weights add up. Outputs have many: `share` is then what the node is of
 * the members' inputs on average, weighted by the members' influence; `weight` is still the sum.
 */
export interface ConnectionGroup {
  key: string
  supernode: Supernode | null
  weight: number
  share: number
  members: Connection[]
}

export interface Connections {
  inputs: ConnectionGroup[]
  outputs: ConnectionGroup[]
  /** Share of the node's absolute inputs that is listed; null for a node without inputs. */
  listed: number | null
}

export function connections(view: GraphView, row: number, supernodes: readonly Supernode[]): Connections {
  const inputs = view.inputs(row)
  const outputs = view.outputs(row)
  const listed = inputs.length ? inputs.reduce((sum, edge) => sum + Math.abs(edge.share), 0) : null
  return {
    inputs: grouped(view, inputs, false, supernodes),
    outputs: grouped(view, outputs, true, supernodes),
    listed: listed === null ? null : Math.min(1, listed),
  }
}

function grouped(
  view: GraphView,
  edges: Edge[],
  isOutput: boolean,
  supernodes: readonly Supernode[],
): ConnectionGroup[] {
  const groupOf = new Map(supernodes.flatMap((group) => group.nodes.map((id) => [id, group] as const)))
  const groups = new Map<string, ConnectionGroup>()
  for (const edge of edges) {
    const row = isOutput ? edge.target : edge.source
    const id = view.id[row]
    const supernode = groupOf.get(id) ?? null
    const key = supernode ? `group ${supernode.id}` : `node ${id}`
    const group = groups.get(key) ?? { key, supernode, weight: 0, share: 0, members: [] }
    group.weight += edge.weight
    group.share += edge.share
    group.members.push({ id, row, weight: edge.weight, share: edge.share })
    groups.set(key, group)
  }
  if (isOutput) for (const group of groups.values()) group.share = meanShare(view, group.members)
  return [...groups.values()].sort((a, b) => Math.abs(b.share) - Math.abs(a.share))
}

function meanShare(view: GraphView, members: Connection[]): number {
  const total = members.reduce((sum, member) => sum + Math.abs(view.influence[member.row]), 0)
  if (total === 0) return members.reduce((sum, member) => sum + member.share, 0) / members.length
  return members.reduce((sum, member) => sum + member.share * Math.abs(view.influence[member.row]), 0) / total
}
