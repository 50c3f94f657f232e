// A graph's view as the server, a notebook or an exported file gives it: columns of nodes, edges by target.
// The bytes are a safetensors file; docs/view-format.md is the specification, lucida/graph/view.py the writer.
import { readSafetensors } from './safetensors'

export const KINDS = ['feature', 'error', 'embedding', 'unexpanded', 'bias', 'logit'] as const
export type Kind = (typeof KINDS)[number]

export interface ViewHeader {
  version: number
  kinds: string[]
  prompt: string
  tokens: string[]
  n_layers: number
  model: string
  dictionary: string
  measure: 'influence' | 'attribution'
  text: string[]
  label: string[]
  nodes_in_graph: number
  edges_in_graph: number
  nodes: number
  edges: number
  node_share: number
  edge_share: number
}

/** One edge as it is listed. `share` is its signed part of all absolute inputs of its target. */
export interface Edge {
  edge: number
  source: number
  target: number
  weight: number
  share: number
}

/**
 * The nodes and edges that a page draws. Everything outside names a node by its *id*, its index in the whole graph;
 * `row(id)` is its place in the columns, -1 when the view leaves it out.
 */
export class GraphView {
  readonly n: number
  readonly id: Int32Array
  readonly kind: Uint8Array
  readonly layer: Int32Array
  readonly position: Int32Array
  readonly feature: Int32Array
  readonly token: Int32Array
  readonly activation: Float32Array
  readonly influence: Float32Array
  readonly probability: Float32Array
  readonly cumulative: Float32Array
  readonly nEdges: number
  readonly source: Uint32Array
  readonly target: Uint32Array
  readonly weight: Float32Array
  readonly share: Float32Array
  readonly edgeCumulative: Float32Array
  private readonly rows = new Map<number, number>()
  private readonly inStart: Uint32Array
  private readonly outStart: Uint32Array
  private readonly outEdge: Uint32Array

  constructor(readonly header: ViewHeader, columns: Map<string, ArrayBufferView>) {
    const column = <T>(name: string): T => {
      const found = columns.get(name)
      if (!found) throw new Error(`the view has no column ${name}`)
      return found as T
    }
    this.id = column('node')
    this.kind = column('kind')
    this.layer = column('layer')
    this.position = column('position')
    this.feature = column('feature')
    this.token = column('token')
    this.activation = column('activation')
    this.influence = column('influence')
    this.probability = column('probability')
    this.cumulative = column('cumulative')
    this.source = column('edge_source')
    this.target = column('edge_target')
    this.weight = column('edge_weight')
    this.share = column('edge_share')
    this.edgeCumulative = column('edge_cumulative')
    this.n = this.id.length
    this.nEdges = this.source.length
    this.id.forEach((id, row) => this.rows.set(id, row))
    this.inStart = starts(this.target, this.n)
    this.outStart = starts(this.source, this.n)
    this.outEdge = new Uint32Array(this.nEdges)
    const next = this.outStart.slice(0, this.n)
    for (let edge = 0; edge < this.nEdges; edge++) this.outEdge[next[this.source[edge]]++] = edge
  }

  /** Place of a node in the columns, -1 when this view leaves it out. */
  row(id: number): number {
    return this.rows.get(id) ?? -1
  }

  kindOf(row: number): Kind {
    return KINDS[this.kind[row]]
  }

  text(row: number): string {
    return this.header.text[row]
  }

  label(row: number): string {
    return this.header.label[row]
  }

  /** Edges into a row, largest first. */
  inputs(row: number): Edge[] {
    const found: Edge[] = []
    for (let edge = this.inStart[row]; edge < this.inStart[row + 1]; edge++) found.push(this.edge(edge))
    return found
  }

  /** Edges out of a row, largest share of its target's inputs first. */
  outputs(row: number): Edge[] {
    const found: Edge[] = []
    for (let place = this.outStart[row]; place < this.outStart[row + 1]; place++) found.push(this.edge(this.outEdge[place]))
    return found.sort((a, b) => Math.abs(b.share) - Math.abs(a.share))
  }

  edge(edge: number): Edge {
    return {
      edge,
      source: this.source[edge],
      target: this.target[edge],
      weight: this.weight[edge],
      share: this.share[edge],
    }
  }
}

/** Where each row's entries begin in a list sorted by (or counted over) `of`. */
function starts(of: Uint32Array, n: number): Uint32Array {
  const found = new Uint32Array(n + 1)
  for (const row of of) found[row + 1]++
  for (let row = 0; row < n; row++) found[row + 1] += found[row]
  return found
}

/** Read a view. Throws an Error that says what is wrong with the bytes. */
export function readView(bytes: ArrayBuffer): GraphView {
  const { metadata, tensors } = readSafetensors(bytes)
  if (!metadata.view) throw new Error('these bytes are not the view of a graph')
  const header = JSON.parse(metadata.view) as ViewHeader
  if (header.version !== 1) throw new Error(`this view is of version ${header.version}; this page reads version 1`)
  return new GraphView(header, tensors)
}
