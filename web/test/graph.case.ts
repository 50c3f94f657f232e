// A made-up graph for tests of the picture: seeded, of any size.
import { GraphView, KINDS, type ViewHeader } from '../src/view/view'

export const TEXTS = [' the', ' cat', '\n', ' <b>&"\'', 'ä']

/** Numbers in [0, 1) that are the same every time (mulberry32). */
export function seeded(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

interface Made {
  nodes?: number
  edges?: number
  layers?: number
  tokens?: number
  seed?: number
  label?: string
}

/** Features and errors all over, a token at each position, a bias, two targets; edges from lower to higher layers. */
export function made({ nodes = 120, edges = 600, layers = 6, tokens = 5, seed = 1, label = '' }: Made = {}): GraphView {
  const random = seeded(seed)
  const rows = Array.from({ length: nodes }, (_, at) => ({
    kind: at % 7 ? 0 : 1, layer: Math.floor(random() * layers), position: Math.floor(random() * tokens), strength: random() ** 3 + 1e-6,
  }))
  for (let position = 0; position < tokens; position++) rows.push({ kind: 2, layer: -1, position, strength: 0.5 })
  rows.push({ kind: 4, layer: -1, position: -1, strength: 0 })
  for (let at = 0; at < 2; at++) rows.push({ kind: 5, layer: layers, position: tokens - 1, strength: 0 })
  rows.sort((a, b) => a.kind - b.kind || a.layer - b.layer || a.position - b.position)
  const n = rows.length
  const total = rows.reduce((sum, row) => sum + row.strength, 0)
  const cumulative = new Float32Array(n)
  let reached = 0
  for (const at of rows.map((_, row) => row).sort((a, b) => rows[b].strength - rows[a].strength)) {
    cumulative[at] = (reached += rows[at].strength) / total
  }
  rows.forEach((row, at) => (cumulative[at] = row.kind === 4 ? 0 : row.kind === 5 ? 1 : cumulative[at]))
  const pairs: [number, number][] = []
  const seen = new Set<number>()
  while (pairs.length < edges) {
    const [a, b] = [Math.floor(random() * n), Math.floor(random() * n)]
    const isEdge = rows[a].layer < rows[b].layer && rows[b].kind !== 1
    if (!isEdge || seen.has(a * n + b)) continue
    seen.add(a * n + b)
    pairs.push([a, b])
  }
  pairs.sort((a, b) => a[1] - b[1])
  const share = Float32Array.from(pairs, () => (random() - 0.4) * 0.5)
  const order = pairs.map((_, edge) => edge).sort((a, b) => Math.abs(share[b]) - Math.abs(share[a]))
  const edgeCumulative = new Float32Array(edges)
  order.forEach((edge, place) => (edgeCumulative[edge] = (place + 1) / edges))
  const header: ViewHeader = {
    version: 1, kinds: [...KINDS], prompt: 'a prompt', tokens: Array.from({ length: tokens }, (_, at) => TEXTS[at % TEXTS.length]),
    n_layers: layers, model: 'm', dictionary: 'd', measure: 'influence',
    text: rows.map((row) => (row.kind === 2 ? TEXTS[row.position % TEXTS.length] : row.kind === 5 ? ' out' : '')),
    label: rows.map((row, at) => (row.kind === 0 ? label || `concept ${at}` : '')),
    nodes_in_graph: n, edges_in_graph: edges, nodes: n, edges, node_share: 1, edge_share: 1,
  }
  const int = (of: (row: (typeof rows)[number], at: number) => number) => Int32Array.from(rows, of)
  return new GraphView(header, new Map<string, ArrayBufferView>([
    // Ids are not rows: a test that mixes them up fails.
    ['node', int((_, at) => 3 * at + 7)],
    ['kind', Uint8Array.from(rows, (row) => row.kind)],
    ['layer', int((row) => row.layer)],
    ['position', int((row) => row.position)],
    ['feature', int((row, at) => (row.kind === 0 ? at % 40 : -1))],
    ['token', int(() => 0)],
    ['activation', Float32Array.from(rows, () => 1)],
    ['influence', Float32Array.from(rows, (row) => row.strength)],
    ['probability', Float32Array.from(rows, (row) => (row.kind === 5 ? 0.4 : NaN))],
    ['cumulative', cumulative],
    ['edge_source', Uint32Array.from(pairs, ([a]) => a)],
    ['edge_target', Uint32Array.from(pairs, ([, b]) => b)],
    ['edge_weight', share.slice()],
    ['edge_share', share],
    ['edge_cumulative', edgeCumulative],
  ]))
}

/** All rows of a view. */
export const all = (view: GraphView): Int32Array => Int32Array.from({ length: view.n }, (_, row) => row)
