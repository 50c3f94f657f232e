// The graph core alone on a page: what benchmarks/page.py measures. `window.lucida` is for its script.
import { GraphCore, INITIAL } from '../../src/graph/core'
import { defaultNodeShare } from '../../src/graph/filter'
import { readView } from '../../src/view/view'

const asked = new URLSearchParams(location.search)
const theme = asked.get('theme') === 'dark' ? 'dark' : 'light'
document.documentElement.dataset.theme = theme
const host = document.getElementById('page')!
const core = new GraphCore(host, {
  onHover: (id) => void Object.assign(window, { hovered: id }),
  onSelect: (id) => core.setState({ selected: id }),
})
const bytes = await (await fetch(asked.get('view')!)).arrayBuffer()
const start = performance.now()
const view = readView(bytes)
const read = performance.now() - start
const nodeShare = asked.has('all') ? 1 : defaultNodeShare(view)
core.setState({ ...INITIAL, theme, nodeShare })
core.setView(view)
Object.assign(window, { lucida: { core, view, nodeShare, read, start, bytes: bytes.byteLength } })
