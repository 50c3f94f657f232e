// Small views for tests.
import { GraphView, KINDS, type Kind, type ViewHeader } from '../src/view/view'

export interface Node {
  kind: Kind
  layer: number
  position: number
  influence: number
}

/** A view of these nodes; node i has the id 10 i. Edges are [source, target, share] by row. */
export function viewOf(nodes: Node[], edges: [number, number, number][]): GraphView {
  const sorted = [...edges].sort((a, b) => a[1] - b[1])
  const ints = (pick: (node: Node, row: number) => number) => Int32Array.from(nodes.map(pick))
  const floats = (pick: (node: Node) => number) => Float32Array.from(nodes.map(pick))
  const columns = new Map<string, ArrayBufferView>([
    ['node', ints((_, row) => 10 * row)],
    ['kind', Uint8Array.from(nodes.map((node) => KINDS.indexOf(node.kind)))],
    ['layer', ints((node) => node.layer)],
    ['position', ints((node) => node.position)],
    ['feature', ints((_, row) => 100 + row)],
    ['token', ints(() => 0)],
    ['activation', floats(() => 1)],
    ['influence', floats((node) => node.influence)],
    ['probability', floats(() => 0)],
    ['cumulative', floats(() => 0)],
    ['edge_source', Uint32Array.from(sorted.map((edge) => edge[0]))],
    ['edge_target', Uint32Array.from(sorted.map((edge) => edge[1]))],
    ['edge_weight', Float32Array.from(sorted.map((edge) => edge[2]))],
    ['edge_share', Float32Array.from(sorted.map((edge) => edge[2]))],
    ['edge_cumulative', Float32Array.from(sorted.map(() => 0))],
  ])
  const header = {
    tokens: [' a', ' b'],
    n_layers: 8,
    text: nodes.map((_, row) => ` t${row}`),
    label: nodes.map(() => ''),
  } as unknown as ViewHeader
  return new GraphView(header, columns)
}
