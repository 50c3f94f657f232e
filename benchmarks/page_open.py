"""How long a saved graph takes to be seen: from the address to the first picture, on the real page.

    python benchmarks/page_open.py GRAPH.safetensors [--nodes 1000] [--repeats 5]

Starts `lucida serve --no-model` with the graph (cut to its strongest nodes), opens its address in Chromium without a
GPU, and waits for the first frame in which the graph's canvas is not blank. Medians; the page is loaded anew each time.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
from playwright.sync_api import sync_playwright

from lucida.graph import Graph
from lucida.graph.view import view

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "web"))

from chromium import ARGUMENTS, find
from serving import serving

# Looks at the largest canvas once a frame, until it holds more than one colour.
WATCH = """
const look = () => {
  const all = [...document.querySelectorAll('canvas')].filter((one) => one.width > 200 && one.height > 100)
  for (const one of all) {
    const pixels = one.getContext('2d').getImageData(0, 0, one.width, one.height).data
    const words = new Uint32Array(pixels.buffer)
    if (words.some((word) => word !== words[0])) {
      window.seen_ = performance.now()
      return
    }
  }
  requestAnimationFrame(look)
}
requestAnimationFrame(look)
"""


def cut(graph: Graph, nodes: int) -> Graph:
    """The part of the strongest nodes, tokens and answers among them."""
    strength = np.where(graph.nodes.is_kind("embedding", "logit", "bias"), np.inf, graph.nodes.influence)
    return graph.subgraph(np.argsort(-strength, kind="stable")[:nodes])


def main() -> None:
    """Print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graph", type=Path)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        path = Path(scratch) / "cut.graph.safetensors"
        graph = cut(Graph.load(asked.graph), asked.nodes)
        graph.save(path)
        with serving(path, "--no-model", folder=Path(scratch) / "page") as server:
            name = server.ask("graphs")[0]["id"]
            browser = playwright.chromium.launch(executable_path=find(playwright), args=ARGUMENTS)
            context = browser.new_context(viewport={"width": 1440, "height": 900})
            page = context.new_page()
            page.add_init_script(WATCH)
            server.open(page, f"#/graph/{name}")
            times = []
            for _ in range(asked.repeats):
                page.reload()
                # The page's policy lets nobody evaluate a text as script, Playwright's waiting neither.
                while page.evaluate("window.seen_ ?? null") is None:
                    page.wait_for_timeout(20)
                times.append(page.evaluate("window.seen_"))
            browser.close()
    edges = int(np.count_nonzero(graph.edges))
    print(f"{len(graph.nodes):,} nodes, {edges:,} edges: first picture after {median(times):.0f} ms")
    print(f"(median of {len(times)}, worst {max(times):.0f}); its view is {len(view(graph).to_bytes()):,} bytes")


if __name__ == "__main__":
    main()
