"""A browser, a page that is watched, and servers to look at."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from chromium import ARGUMENTS, Watch, find, missing
from page_graphs import hostile_graph, small_graph
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from serving import Server, serving

from lucida.graph.page import STATIC

PATIENCE = 30_000
"""Milliseconds that a page may take to show something, on two slow cores that others use too."""
expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests."""
    if not (STATIC / "app" / "index.html").is_file():
        missing("the page is not built; run: make page")
    with sync_playwright() as playwright:
        path = find(playwright)
        if path is None:
            missing("no Chromium or Chrome here; scripts/browser installs one")
        found = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield found
        found.close()


@pytest.fixture
def watch() -> Watch:
    """What the pages of this test did wrong; a test that provokes something says so with `allow`."""
    return Watch()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A browser without memory of other tests."""
    made = browser.new_context(viewport={"width": 1440, "height": 900}, reduced_motion="reduce", accept_downloads=True)
    made.set_default_timeout(PATIENCE)
    yield made
    made.close()


@pytest.fixture
def new_page(context: BrowserContext, watch: Watch) -> Iterator[Callable[[], Page]]:
    """Opens pages (tabs). The test fails on a console error or warning, an uncaught error, a request to elsewhere."""

    def make() -> Page:
        page = context.new_page()
        watch.follow(page)
        return page

    yield make
    assert not watch.left(), "\n".join(watch.left())


@pytest.fixture
def page(new_page: Callable[[], Page]) -> Page:
    """A watched page."""
    return new_page()


@pytest.fixture(scope="session")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server without a model that shows a small graph and a hostile one."""
    folder = tmp_path_factory.mktemp("reader")
    files = []
    for name, graph in (("small", small_graph()), ("hostile", hostile_graph())):
        files.append(folder / f"{name}.graph.safetensors")
        graph.save(files[-1])
    with serving(*files, "--no-model", folder=folder / "workspace") as server:
        yield server


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a real model, SmolLM2-135M."""
    folder = tmp_path_factory.mktemp("lab")
    with serving("--model", "smollm2-135m", folder=folder / "workspace") as server:
        server.wait_for_model()
        yield server


@pytest.fixture(scope="session")
def graphs(lab: Server) -> tuple[str, str]:
    """Two prompts that differ in one word, traced by the real model; their ids: of hot, of small."""
    hot, small = (lab.traced(f'The opposite of "{word}" is "') for word in ("hot", "small"))
    return hot, small


@pytest.fixture
def html_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a graph to an HTML file."""
    from lucida.graph.html import export_html

    def write(graph: object = None, **options: object) -> Path:
        path = tmp_path / "graph.html"
        export_html(graph or small_graph(), path, **options)
        return path

    return write
