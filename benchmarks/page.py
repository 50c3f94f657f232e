"""Frame times of the graph on the page: hover, pan, zoom and the slider of nodes, in a real Chromium without a GPU.

    python benchmarks/page.py [--chromium PATH] [--seconds 4] [--scale 1] [--json FILE]

Needs playwright and the npm packages of `web/` (`make page`). Graphs are synthetic, of 1,000 nodes and 10,000 edges and
of 5,000 and 100,000, all of them shown. *Cpu* is the processor time of the page's main thread in a frame, script and
drawing: it must stay below 16.7 ms, and other programs do not disturb it. *Work* is the time of the script by the
clock, *gap* the time from one frame to the next; both mean something on a quiet machine only.
"""

import argparse
import json
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import numpy as np
from playwright.sync_api import Page, Route, ViewportSize, sync_playwright

from lucida.graph.graph import KINDS
from lucida.graph.view import View

WEB = Path(__file__).parent.parent / "web"
SIZE: ViewportSize = {"width": 1200, "height": 800}
GRAPHS = ((1_000, 10_000), (5_000, 100_000))
COUNTED_ONLY = (14_000, 100_000)
COLUMNS = ("cpu p50", "cpu p95", "cpu max", "work p50", "work p95", "gap p50", "gap p95")
TRACED = ["devtools.timeline", "disabled-by-default-devtools.timeline"]

# Notes how long every animation frame's script takes, and when it began.
WATCH = """
window.frames_ = []
const ask = window.requestAnimationFrame.bind(window)
window.requestAnimationFrame = (callback) => ask((now) => {
  const start = performance.now()
  callback(now)
  window.frames_.push([now, performance.now() - start])
})
"""


def synthetic(nodes: int, edges: int, *, layers: int = 26, tokens: int = 24, seed: int = 0) -> bytes:
    """The bytes of a view of about as many nodes and edges as asked, spread as in real graphs: heavy at both ends."""
    rng = np.random.default_rng(seed)
    targets = 5
    inner = nodes - tokens - targets
    kind = np.full(nodes, KINDS.index("feature"), np.uint8)
    kind[: inner // 12] = KINDS.index("error")
    kind[inner : inner + tokens] = KINDS.index("embedding")
    kind[inner + tokens :] = KINDS.index("logit")
    layer = np.r_[rng.integers(0, layers, inner), np.full(tokens, -1), np.full(targets, layers)].astype(np.int32)
    position = np.r_[
        rng.choice(tokens, inner, p=np.linspace(1, 3, tokens) / np.linspace(1, 3, tokens).sum()),
        np.arange(tokens),
        np.full(targets, tokens - 1),
    ].astype(np.int32)
    influence = np.sort(rng.pareto(1.2, nodes))[::-1].astype(np.float32)
    cumulative = (np.cumsum(influence) / influence.sum()).astype(np.float32)
    shuffled = rng.permutation(nodes)
    influence, cumulative = influence[shuffled], cumulative[shuffled]
    feature = np.where(kind == 0, rng.integers(0, 16_384, nodes), -1).astype(np.int32)
    pairs = rng.integers(0, nodes, (edges * 4, 2))
    pairs = pairs[layer[pairs[:, 0]] < layer[pairs[:, 1]]][:edges]
    pairs = pairs[np.argsort(pairs[:, 1], kind="stable")]
    weight = (rng.pareto(1.5, len(pairs)) * rng.choice([-1, 1], len(pairs), p=[0.4, 0.6])).astype(np.float32)
    share = (weight / np.bincount(pairs[:, 1], np.abs(weight), nodes)[pairs[:, 1]]).astype(np.float32)
    order = np.argsort(-np.abs(weight))
    reached = np.empty(len(pairs), np.float32)
    reached[order] = np.cumsum(np.abs(weight[order])) / np.abs(weight).sum()
    columns = {
        "kind": kind,
        "layer": layer,
        "position": position,
        "feature": feature,
        "token": np.zeros(nodes, np.int32),
        "activation": np.ones(nodes, np.float32),
        "influence": influence,
        "probability": np.where(kind == KINDS.index("logit"), 0.1, np.nan).astype(np.float32),
        "cumulative": cumulative,
    }
    words = [f" word{place}" for place in range(tokens)]
    header = {
        "version": 1,
        "kinds": list(KINDS),
        "prompt": "".join(words),
        "tokens": words,
        "n_layers": layers,
        "model": "synthetic",
        "dictionary": "synthetic",
        "measure": "influence",
        "text": [" answer" if kind[row] == KINDS.index("logit") else "" for row in range(nodes)],
        "label": [f"concept {feature[row] % 997}" if kind[row] == 0 else "" for row in range(nodes)],
        "nodes_in_graph": nodes,
        "edges_in_graph": len(pairs),
        "nodes": nodes,
        "edges": len(pairs),
        "node_share": 1.0,
        "edge_share": 1.0,
    }
    source, target = pairs[:, 0].astype(np.uint32), pairs[:, 1].astype(np.uint32)
    return View(np.arange(nodes, dtype=np.int32), columns, source, target, weight, share, reached, header).to_bytes()


def built(folder: Path) -> None:
    """Put web/test/frames, the graph core alone on a page, into a folder."""
    command = ["node", "node_modules/vite/bin/vite.js", "build", "test/frames", "--base", "./"]
    subprocess.run([*command, "--outDir", str(folder), "--logLevel", "error"], cwd=WEB, check=True)


def opened(page: Page, folder: Path, content: bytes) -> dict[str, float]:
    """Open a graph; how long it took to read, and from its bytes to its first picture and to a still one, in ms."""

    def answer(route: Route) -> None:
        name = urlsplit(route.request.url).path.removeprefix("/")
        if name == "graph.view":
            route.fulfill(body=content, content_type="application/octet-stream")
        else:
            route.fulfill(path=folder / name)

    page.unroute("**/*")
    page.route("**/*", answer)
    page.goto("http://frames.test/index.html?view=/graph.view&all=1")
    page.wait_for_function("window.lucida", timeout=60_000)
    still(page)
    return page.evaluate(
        """() => ({
          read: lucida.read,
          picture: lucida.core.painted - lucida.start,
          still: Math.max(...frames_.map(([at, work]) => at + work)) - lucida.start,
        })"""
    )


def still(page: Page) -> None:
    """Wait until no frame was asked for during a third of a second."""
    page.wait_for_function(
        "() => { const last = frames_.at(-1); return last && performance.now() - last[0] > 350 }",
        polling=50,
        timeout=60_000,
    )


def act(page: Page, name: str, seconds: float) -> None:
    """Hover, pan, zoom or move the slider as a hand would, for so many seconds."""
    middle = (SIZE["width"] / 2, SIZE["height"] / 2)
    page.mouse.move(*middle)
    if name == "zoom":
        page.mouse.wheel(0, -300)
        still(page)
    if name == "pan":
        page.mouse.wheel(0, -900)
        still(page)
        page.mouse.down()
    page.evaluate("frames_.length = 0")
    end = time.monotonic() + seconds
    step = 0
    while time.monotonic() < end:
        step += 1
        angle = step / 9
        x, y = middle[0] + 300 * np.cos(angle), middle[1] + 220 * np.sin(1.3 * angle)
        if name in ("hover", "pan"):
            page.mouse.move(x, y)
        elif name == "zoom":
            page.mouse.wheel(0, -60 if (step // 25) % 2 else 60)
        else:
            page.evaluate(f"lucida.core.setState({{ nodeShare: {0.6 + 0.4 * abs(np.sin(angle / 3)):.3f} }})")
        page.wait_for_timeout(8)
    if name == "pan":
        page.mouse.up()


def processor_times(trace: bytes) -> np.ndarray:
    """Processor time of the page's main thread for each frame in ms: its script, and handing its picture over.

    Unlike the clock it does not count what other programs take in between.
    """
    events = [event for event in json.loads(trace)["traceEvents"] if "tdur" in event]
    frames = sorted((e for e in events if e["name"] == "FireAnimationFrame"), key=lambda e: e["ts"])
    commits = [e for e in events if e["name"] == "Commit" and frames and e["tid"] == frames[0]["tid"]]
    starts = np.array([frame["ts"] for frame in frames])
    spent = np.array([frame["tdur"] for frame in frames], float)
    for commit in commits:
        place = int(np.searchsorted(starts, commit["ts"])) - 1
        if place >= 0:
            spent[place] += commit["tdur"]
    return spent / 1000


def measured(page: Page, name: str, seconds: float) -> dict[str, float]:
    """Frame times of one kind of movement, in ms."""
    browser = page.context.browser
    assert browser is not None
    browser.start_tracing(page=page, categories=TRACED)
    act(page, name, seconds)
    frames = np.array(page.evaluate("frames_"))
    cpu = processor_times(browser.stop_tracing())
    still(page)
    page.evaluate("lucida.core.setState({ nodeShare: 1 }); lucida.core.fit()")
    still(page)
    if len(frames) < 3 or len(cpu) < 3:
        return {"frames": len(frames)}
    work, gap = frames[:, 1], np.diff(frames[:, 0])
    # Frames of two movements may stand apart: only those in a row tell how smooth it is.
    gap = gap[gap < 250]
    found = {"frames": len(frames), "cpu max": float(cpu.max())}
    for key, values in (("cpu", cpu), ("work", work), ("gap", gap)):
        found |= {f"{key} p50": float(np.percentile(values, 50)), f"{key} p95": float(np.percentile(values, 95))}
    return found


def main() -> None:
    """Print a table, and write it to a file if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--scale", type=float, default=1.0, help="device pixels to a CSS pixel")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    rows = []
    with TemporaryDirectory() as place, sync_playwright() as playwright:
        folder = Path(place)
        built(folder)
        browser = playwright.chromium.launch(executable_path=arguments.chromium, args=flags)
        page = browser.new_page(viewport=SIZE, device_scale_factor=arguments.scale)
        page.add_init_script(WATCH)
        print(f"{'nodes/edges':>16} {'what':>7} {'frames':>7}" + "".join(f"{name:>9}" for name in COLUMNS), "(ms)")
        for nodes, edges in GRAPHS:
            content = synthetic(nodes, edges)
            opened(page, folder, content)  # the first visit also compiles the modules
            times = opened(page, folder, content)
            print(f"{nodes:>7,}/{edges:>8,}  opened: {len(content) / 1e6:.2f} MB, read {times['read']:.0f} ms, "
                  f"first picture {times['picture']:.0f} ms, complete {times['still']:.0f} ms")  # fmt: skip
            rows.append({"nodes": nodes, "edges": edges, "bytes": len(content), **times})
            for name in ("hover", "pan", "zoom", "slider"):
                found = measured(page, name, arguments.seconds)
                rows.append({"nodes": nodes, "edges": edges, "what": name, **found})
                numbers = "".join(f"{found.get(key, 0):9.1f}" for key in COLUMNS)
                print(f"{nodes:>7,}/{edges:>8,} {name:>7} {found['frames']:>7}{numbers}")
        browser.close()
    size = len(synthetic(*COUNTED_ONLY))
    print(f"{COUNTED_ONLY[0]:>7,}/{COUNTED_ONLY[1]:>8,}  bytes: {size / 1e6:.2f} MB")
    if arguments.json:
        arguments.json.write_text(json.dumps([*rows, {"nodes": COUNTED_ONLY[0], "bytes": size}], indent=1))


if __name__ == "__main__":
    main()
