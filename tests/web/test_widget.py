"""The widget of a notebook: what Python sets is drawn, what a reader clicks arrives in Python."""

import base64
import json
from collections.abc import Callable

import pytest
from chromium import check_accessible, distinct_colours
from page_graphs import HOSTILE, hostile_graph, small_graph
from playwright.sync_api import Page, expect

from lucida.graph import Graph
from lucida.graph.page import widget_script

pytestmark = pytest.mark.web

HOST = "http://127.0.0.1:9/"
MODEL = """
class Model {
  constructor(traits) { this.traits = traits; this.heard = []; this.saved = [] }
  get(name) { return this.traits[name] }
  set(name, value) {
    this.traits[name] = value
    this.saved.push([name, value])
    this.tell(name)
  }
  tell(name) { for (const [event, callback] of [...this.heard]) if (event === `change:${name}`) callback() }
  on(event, callback) { this.heard.push([event, callback]) }
  off(event, callback) { this.heard = this.heard.filter(([e, c]) => e !== event || c !== callback) }
  save_changes() {}
  // As when Python sets a trait.
  receive(name, value) { this.traits[name] = value; this.tell(name) }
}
"""
START = """async ([traits, view]) => {
  const bytes = Uint8Array.from(atob(view), (letter) => letter.charCodeAt(0))
  window.model = new Model({ ...traits, view: new DataView(bytes.buffer) })
  const { default: widget } = await import('./widget.js')
  window.leave = await widget.render({ model, el: document.getElementById('cell') })
}"""


@pytest.fixture
def draw(page: Page) -> Callable[..., Page]:
    """Draws a graph's widget as a notebook does: its script, its traits, a cell."""
    # Styles of a notebook that must not reach the widget.
    head = "<title>Notebook</title><style>button { display: none }</style>"
    html = f"<!doctype html><html lang=en>{head}<h1>Notebook</h1><div id=cell></div><script>{MODEL}</script>"
    page.route(HOST, lambda route: route.fulfill(content_type="text/html", body=html))
    page.route(f"{HOST}widget.js", lambda route: route.fulfill(content_type="text/javascript", body=widget_script()))

    def start(graph: Graph, **traits: object) -> Page:
        widget = graph.show(node_share=1.0, edge_share=1.0)
        sent = {"about": widget.about, "height": widget.height, "selected": None, "pinned": [], "supernodes": []}
        page.goto(HOST)
        page.evaluate(START, [sent | {"labels": {}} | traits, base64.b64encode(widget.view).decode()])
        expect(page.locator("canvas").first).to_be_visible()
        return page

    return start


def test_it_draws(draw: Callable[..., Page]) -> None:
    page = draw(small_graph())
    expect(page.get_by_text("The opposite of small is")).to_be_visible()
    page.wait_for_timeout(200)
    assert distinct_colours(page) > 10
    assert page.get_by_role("tab", name="Table").is_visible()


def test_selection_goes_both_ways(draw: Callable[..., Page]) -> None:
    page = draw(small_graph(), selected=4)
    expect(page.get_by_role("heading", name="small things 4")).to_be_visible()
    page.evaluate("model.receive('selected', 6)")
    expect(page.get_by_role("heading", name="small things 6")).to_be_visible()
    assert page.evaluate("model.saved") == []
    page.get_by_role("region", name="Connections").get_by_role("button").first.click()
    page.wait_for_function("model.saved.length > 0")
    [name, value] = page.evaluate("model.saved.at(-1)")
    assert name == "selected"
    assert value != 6


def test_pins_go_both_ways_and_keep_their_history(draw: Callable[..., Page]) -> None:
    page = draw(small_graph(), selected=4)
    page.get_by_role("button", name="Pin", exact=True).click()
    page.wait_for_function("JSON.stringify(model.get('pinned')) === '[4]'")
    page.evaluate("model.receive('pinned', [])")
    expect(page.get_by_role("button", name="Pin", exact=True)).to_be_visible()
    page.evaluate("model.receive('labels', {4: 'mine'})")
    expect(page.get_by_role("heading", name="mine")).to_be_visible()


def test_a_change_of_two_traits_at_once_arrives_whole(draw: Callable[..., Page]) -> None:
    groups = [{"id": "a", "name": "mine", "nodes": [4, 6]}]
    page = draw(small_graph(), selected=4, pinned=[4, 6], supernodes=groups)
    page.get_by_role("button", name="Unpin").click()
    page.wait_for_function("JSON.stringify(model.get('pinned')) === '[6]'")
    page.wait_for_timeout(100)
    assert page.evaluate("model.get('supernodes')") == [{"id": "a", "name": "mine", "nodes": [6]}]
    assert page.evaluate("model.get('pinned')") == [6]


def test_the_picture_is_dark_when_the_notebook_is(draw: Callable[..., Page], page: Page) -> None:
    def pixels() -> str:
        page.wait_for_timeout(400)
        return page.locator("canvas").first.evaluate("canvas => canvas.toDataURL()")

    page.emulate_media(color_scheme="dark")
    draw(small_graph(), selected=4)
    dark = pixels()
    page.emulate_media(color_scheme="light")
    draw(small_graph(), selected=4)
    assert pixels() != dark
    page.evaluate("document.body.dataset.jpThemeLight = 'false'")
    assert pixels() == dark


def test_keys_are_not_heard_by_the_notebook(draw: Callable[..., Page]) -> None:
    page = draw(small_graph(), selected=4)
    page.evaluate("window.heard = ''; document.addEventListener('keydown', (event) => (heard += event.key))")
    page.get_by_role("application").focus()
    page.keyboard.type("xdd")
    page.get_by_role("searchbox").focus()
    page.keyboard.type("small")
    page.keyboard.press("Control+s")
    assert page.evaluate("heard") == "Controls"


def test_arrow_keys_move_in_lists(draw: Callable[..., Page]) -> None:
    page = draw(small_graph(), selected=4)
    buttons = page.get_by_role("region", name="Connections").get_by_role("button")
    buttons.first.focus()
    page.keyboard.press("ArrowDown")
    expect(buttons.nth(1)).to_be_focused()
    page.get_by_role("searchbox").fill("small")
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("list", name="Nodes found").get_by_role("button").first).to_be_focused()


def test_the_wheel_scrolls_the_notebook_until_the_picture_is_clicked(draw: Callable[..., Page]) -> None:
    page = draw(small_graph())
    page.evaluate("document.body.style.height = '3000px'")
    picture = page.get_by_role("application")
    picture.hover()
    page.mouse.wheel(0, 100)
    page.wait_for_function("scrollY > 0")
    page.evaluate("scrollTo(0, 0)")
    picture.click(position={"x": 5, "y": 5})
    page.mouse.wheel(0, 100)
    page.wait_for_timeout(300)
    assert page.evaluate("scrollY") == 0


def test_it_leaves_nothing_behind(draw: Callable[..., Page]) -> None:
    page = draw(small_graph())
    page.evaluate("leave()")
    expect(page.locator("canvas")).to_have_count(0)
    assert page.evaluate("model.heard.length") == 0
    assert page.locator("#cell").inner_html() == ""


def test_hostile_texts_are_texts(draw: Callable[..., Page]) -> None:
    page = draw(hostile_graph(), selected=4)
    expect(page.get_by_text(HOSTILE).first).to_be_visible()
    assert page.evaluate("window.hacked") is None


def test_two_widgets_stand_in_one_notebook(draw: Callable[..., Page]) -> None:
    page = draw(small_graph())
    page.evaluate("""async () => {
      const { default: widget } = await import('./widget.js')
      const cell = document.body.appendChild(document.createElement('div'))
      await widget.render({ model: new Model({ ...model.traits, selected: 8 }), el: cell })
    }""")
    expect(page.get_by_role("heading", name="small things 8")).to_be_visible()
    assert page.evaluate("model.get('selected')") is None


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(draw: Callable[..., Page], page: Page, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    check_accessible(draw(small_graph(), selected=4))


def test_traits_are_json(draw: Callable[..., Page]) -> None:
    json.dumps(small_graph().show().about, allow_nan=False)
