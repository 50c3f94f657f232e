"""A graph that was exported to one HTML file, as somebody who gets it by mail opens it."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from chromium import check_accessible, check_drawn
from page_graphs import HOSTILE, hostile_graph, small_graph
from playwright.sync_api import Page, expect

from lucida.graph.view import view

pytestmark = pytest.mark.web


def test_it_opens_from_the_disk_and_draws(page: Page, html_file: Callable[..., Path]) -> None:
    page.goto(html_file().as_uri())
    expect(page.get_by_role("heading", name="The opposite of small is")).to_be_visible()
    expect(page.locator("canvas").first).to_be_visible()
    page.wait_for_function("document.querySelector('canvas').width > 300")
    check_drawn(page)


def test_it_asks_for_nothing(page: Page, html_file: Callable[..., Path]) -> None:
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    path = html_file()
    page.goto(path.as_uri())
    expect(page.locator("canvas").first).to_be_visible()
    assert [url for url in asked if not url.startswith(("blob:", "data:"))] == [path.as_uri()]


def test_its_policy_lets_no_other_script_run_and_nothing_out(page: Page, watch, html_file) -> None:
    watch.allow("Content Security Policy")
    page.goto(html_file().as_uri())
    expect(page.locator("canvas").first).to_be_visible()
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.hacked = 1'}))"
    )
    assert page.evaluate("window.hacked") is None
    refused = page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'sent', (error) => String(error))")
    assert "Failed to fetch" in refused
    assert any("connect-src" in problem or "default-src" in problem for problem in watch.problems)


def test_it_says_how_to_read_it_and_where_to_begin(page: Page, html_file: Callable[..., Path]) -> None:
    page.goto(html_file().as_uri())
    guide = page.get_by_role("region", name="How to read this graph")
    guide.get_by_text("Where it comes from").click()
    expect(guide.get_by_text("Whole graph")).to_be_visible()
    guide.get_by_role("listitem").get_by_role("button").first.click()
    expect(page.get_by_role("region", name="Connections")).to_be_visible()
    page.get_by_role("button", name="Close, back to how to read it").click()
    expect(guide).to_be_visible()


def test_the_page_is_no_longer_than_the_window(page: Page, html_file: Callable[..., Path]) -> None:
    page.goto(html_file(notes={"pinned": [4, 6, 8]}, node_share=1.0).as_uri())
    page.get_by_role("button", name="small things 8").first.click()
    for width in (1440, 800):
        page.set_viewport_size({"width": width, "height": 500})
        assert page.evaluate("document.documentElement.scrollHeight") <= 500
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_hostile_texts_are_texts(page: Page, html_file: Callable[..., Path]) -> None:
    path = html_file(hostile_graph(), summary=HOSTILE, notes={
        "pinned": [0, 2], "labels": {"2": HOSTILE}, "supernodes": [{"id": "a", "name": HOSTILE, "nodes": [0, 2]}],
    })  # fmt: skip
    page.goto(path.as_uri())
    expect(page.locator("canvas").first).to_be_visible()
    expect(page.get_by_text(HOSTILE).first).to_be_visible()
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0
    assert len(re.findall("<script", path.read_text("utf-8"))) == 3  # the data, the licences, the page's own


def test_a_node_is_selected_by_keyboard_alone(page: Page, html_file: Callable[..., Path]) -> None:
    page.goto(html_file().as_uri())
    expect(page.locator("canvas").first).to_be_visible()
    page.get_by_role("tab", name="Table").focus()
    page.keyboard.press("Enter")
    table = page.get_by_role("grid")
    expect(table).to_be_visible()
    for _ in range(30):
        if page.evaluate("document.activeElement.closest('[role=grid], table') !== null"):
            break
        page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("[aria-selected=true]").first).to_be_visible()


def test_axe_finds_nothing_serious(page: Page, html_file: Callable[..., Path]) -> None:
    page.goto(html_file().as_uri())
    expect(page.locator("canvas").first).to_be_visible()
    check_accessible(page)


def test_the_same_graph_gives_the_same_file(html_file: Callable[..., Path]) -> None:
    assert html_file().read_bytes() == html_file().read_bytes()


def test_it_carries_the_view_the_notes_and_the_licences(html_file: Callable[..., Path]) -> None:
    import base64
    import gzip

    notes = {"revision": 3, "pinned": [1], "experiments": [{"secret": "stays"}]}
    text = html_file(notes=notes).read_text("utf-8")
    carried = json.loads(text.split('id="lucida-graph">')[1].split("</script>")[0])
    assert gzip.decompress(base64.b64decode(carried["view"])) == view(small_graph()).to_bytes()
    assert carried["notes"] == {"pinned": [1]}
    assert "Svelte Contributors" in text
