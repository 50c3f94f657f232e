"""Reading a graph on the page, without any model: select, pin, group, name, prune, undo, come back."""

import base64
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from chromium import check_accessible, check_drawn
from page_graphs import HOSTILE, hostile_graph, small_graph
from playwright.sync_api import Locator, Page, TimeoutError, expect
from serving import Server

from lucida.graph import Graph
from lucida.graph.neuronpedia import read_neuronpedia

pytestmark = pytest.mark.web


@pytest.fixture
def graph(reader: Server) -> str:
    """A graph of this test's own on the server; its id."""
    return reader.upload(small_graph())


@pytest.fixture
def opened(reader: Server, page: Page, graph: str) -> Page:
    """The page with that graph on it."""
    reader.open(page, f"#/graph/{graph}")
    expect(picture(page)).to_be_visible()
    return page


def picture(page: Page) -> Locator:
    return page.get_by_role("application")


def inspector(page: Page) -> Locator:
    return page.get_by_role("region", name="Inspector")


def circuit(page: Page) -> Locator:
    return page.get_by_role("region", name="Circuit")


def saved(page: Page) -> None:
    """Wait until what was changed is on the server."""
    expect(page.get_by_text("saved", exact=True)).to_be_visible()


def select(page: Page, node: int) -> None:
    """Select a node as the address does."""
    expect(page).to_have_url(re.compile(r"[?&]n="))  # the page has written its own address
    page.evaluate("(to) => { location.hash = to }", re.sub(r"\?.*", "", page.url.split("#")[1]) + f"?sel={node}&n=1")
    expect(page).to_have_url(re.compile(rf"sel={node}\b"))


def test_the_picture_is_drawn_and_the_address_forgets_the_token(opened: Page) -> None:
    expect(page_status(opened)).to_contain_text("of 51 nodes")
    check_drawn(opened)
    assert "token" not in opened.url


def page_status(page: Page) -> Locator:
    return page.get_by_role("region", name="What is shown").get_by_role("status").last


def nodes_shown(page: Page) -> int:
    return int(re.search(r"\d+", page_status(page).inner_text())[0])


def test_a_click_in_the_picture_selects_what_is_under_it(opened: Page) -> None:
    box = picture(opened).locator("canvas").last.bounding_box()
    for share in (0.5, 0.4, 0.6, 0.3, 0.7):
        opened.mouse.move(box["x"] + box["width"] * share, box["y"] + box["height"] / 2)
        opened.mouse.click(box["x"] + box["width"] * share, box["y"] + box["height"] / 2)
        if clicked(opened):
            break
    assert clicked(opened)
    expect(inspector(opened).get_by_text("Nothing is selected")).to_have_count(0)
    expect(opened.get_by_role("region", name="Connections").get_by_role("button").first).to_be_visible()


def clicked(page: Page) -> bool:
    """Whether the address gets a selected node, which it does within a moment."""
    try:
        page.wait_for_url(re.compile("sel="), timeout=1500)
    except TimeoutError:
        return False
    return True


def test_pins_groups_and_names_by_keyboard_alone_and_after_a_reload(opened: Page) -> None:
    """No mouse at all: walk, select, pin, group, rename; everything is there again after a reload."""
    for _ in range(60):
        opened.keyboard.press("Tab")
        if opened.evaluate("document.activeElement?.getAttribute('role')") == "application":
            break
    for key in ("ArrowRight", "Enter", "p", "ArrowDown", "Enter", "p"):
        opened.keyboard.press(key)
    pinned = re.findall(r"\d+", re.search(r"pin=([^&]*)", address_with(opened, "pin="))[1])
    assert len(pinned) == 2
    boxes = circuit(opened).get_by_role("group", name=re.compile("Circuit diagram"))
    expect(boxes).to_be_visible()
    saved(opened)
    opened.reload()
    expect(boxes).to_be_visible()
    assert re.findall(r"\d+", re.search(r"pin=([^&]*)", address_with(opened, "pin="))[1]) == pinned


def address_with(page: Page, part: str) -> str:
    """The address once it holds this part."""
    expect(page).to_have_url(re.compile(re.escape(part)))
    return page.url


def test_a_group_is_made_named_and_taken_back(reader: Server, opened: Page, graph: str) -> None:
    select(opened, 0)
    inspector(opened).get_by_role("button", name=re.compile("pin")).click()
    inspector(opened).get_by_role("combobox", name="Supernode").select_option(label="a new supernode")
    select(opened, 2)
    inspector(opened).get_by_role("combobox", name="Supernode").select_option(index=2)
    saved(opened)
    notes = reader.ask(f"graphs/{graph}/notes")
    assert [group["nodes"] for group in notes["supernodes"]] == [[0, 2]]
    box = circuit(opened).get_by_role("button", name=re.compile("2 nodes")).first
    box.click()
    circuit(opened).get_by_role("button", name="Rename").click()
    opened.keyboard.press("Control+A")
    opened.keyboard.type("size words")
    opened.keyboard.press("Enter")
    expect(circuit(opened).get_by_role("button", name=re.compile("size words")).first).to_be_visible()
    reader.wait_for_notes(graph, lambda now: now["supernodes"][0]["name"] == "size words")
    opened.get_by_role("button", name="Undo").click()
    expect(circuit(opened).get_by_role("button", name=re.compile("size words"))).to_have_count(0)
    opened.get_by_role("button", name="Redo").click()
    expect(circuit(opened).get_by_role("button", name=re.compile("size words")).first).to_be_visible()


@pytest.mark.parametrize("name", ["a name of mine", HOSTILE])
def test_a_node_gets_a_name_of_ones_own(reader: Server, opened: Page, graph: str, name: str) -> None:
    select(opened, 4)
    inspector(opened).get_by_role("button", name="rename").click()
    opened.get_by_role("textbox", name="Name", exact=True).fill(name)
    inspector(opened).get_by_role("button", name="Only this node").click()
    expect(inspector(opened).get_by_role("heading", name=name)).to_be_visible()
    reader.wait_for_notes(graph, lambda now: now["labels"] == {"4": name})
    opened.reload()
    expect(inspector(opened).get_by_role("heading", name=name)).to_be_visible()
    assert opened.evaluate("window.hacked") is None


def test_the_slider_hides_and_says_what(opened: Page) -> None:
    slider = opened.get_by_role("slider", name="Nodes", exact=True)
    slider.focus()
    before = nodes_shown(opened)
    for _ in range(30):
        opened.keyboard.press("ArrowLeft")
    address_with(opened, "n=.5")
    assert nodes_shown(opened) < before
    search = opened.get_by_role("searchbox", name=re.compile("Find any node"))
    search.fill("small things 28")
    found = opened.get_by_role("list", name="Nodes found").get_by_role("button").first
    expect(found).to_contain_text("hidden")
    found.click()
    expect(inspector(opened).get_by_role("heading", name="small things 28")).to_be_visible()


def test_an_address_brings_everything_back(reader: Server, opened: Page, graph: str, new_page) -> None:
    other = reader.open(new_page(), f"#/graph/{graph}?sel=4&pin=0,4&n=1&e=.9")
    expect(inspector(other).get_by_role("heading", name="small things 4")).to_be_visible()
    expect(other.get_by_role("slider", name="Nodes", exact=True)).to_have_value("1")
    expect(circuit(other).get_by_role("button", name=re.compile("small things 0")).first).to_be_visible()


def test_table_and_picture_select_the_same(opened: Page) -> None:
    opened.get_by_role("tab", name="Table").click()
    row = opened.get_by_role("row", name=re.compile("small things 12"))
    row.click()
    expect(row).to_have_attribute("aria-selected", "true")
    expect(inspector(opened).get_by_role("heading", name="small things 12")).to_be_visible()
    opened.get_by_role("region", name="Connections").get_by_role("button").first.click()
    expect(row).not_to_have_attribute("aria-selected", "true")


def test_hostile_texts_are_texts_on_every_page(reader: Server, page: Page) -> None:
    graph = reader.upload(hostile_graph())
    for route in (f"#/graph/{graph}?sel=4&pin=0,2,4&n=1", "#/", "#/compare", f"#/compare?a={graph}&b={graph}"):
        reader.open(page, route)
        expect(page.get_by_text(HOSTILE[:30]).first).to_be_attached()
        assert page.evaluate("window.hacked") is None
        assert page.locator("img[src=x]").count() == 0


@pytest.mark.parametrize("name", ["start", "graph", "table", "features", "compare", "steer", "help", "stranger"])
def test_axe_finds_nothing_serious(reader: Server, page: Page, graph: str, name: str) -> None:
    """Light and dark. Pages with what a model made on them are looked at where it is made."""
    selected = f"#/graph/{graph}?sel=4&pin=0,4&n=1"
    routes = {"start": "#/", "help": "#/", "graph": selected, "table": selected, "stranger": "#/nowhere"}
    reader.open(page, routes.get(name, f"#/{name}"))
    if name == "table":
        page.get_by_role("tab", name="Table").click()
        expect(page.get_by_role("row", name=re.compile("small things 12"))).to_be_visible()
    elif name == "graph":
        check_drawn(page)
        expect(circuit(page).get_by_role("button", name=re.compile("small things 0")).first).to_be_visible()
    elif name == "help":
        page.get_by_role("button", name="Help").click()
        expect(page.get_by_role("dialog").get_by_role("heading").first).to_be_visible()
    else:
        expect(page.get_by_role("heading").first).to_be_visible()
    check_accessible(page)


# --- what is taken along: read back as those read it who get it ---------------------------------------------


NOTES = {
    "pinned": [0, 2, 4],
    "supernodes": [{"id": "a", "name": "size words", "nodes": [0, 2]}],
    "labels": {"4": "a name of mine"},
}


@pytest.fixture
def take(reader: Server, page: Page, graph: str, tmp_path: Path) -> Callable[[str], Path]:
    """Downloads a graph with notes from the menu, in one of its formats."""

    def download(choice: str) -> Path:
        reader.ask(f"graphs/{graph}/notes", method="PUT", body={**NOTES, "revision": 0})
        reader.open(page, f"#/graph/{graph}?n=1")
        check_drawn(page)
        page.locator("summary", has_text="Export").click()
        with page.expect_download() as waiting:
            page.get_by_role("button", name=re.compile(choice)).click()
        path = tmp_path / waiting.value.suggested_filename
        waiting.value.save_as(path)
        return path

    return download


def test_the_png_is_the_picture_at_twice_its_size(page: Page, take: Callable[[str], Path]) -> None:
    data = take("Picture, PNG").read_bytes()
    width, height = page.locator("canvas").first.evaluate("it => [it.clientWidth, it.clientHeight]")
    assert struct.unpack(">II", data[16:24]) == (2 * width, 2 * height)
    colours = page.evaluate(DECODE, base64.b64encode(data).decode())
    assert colours > 10


DECODE = """async text => {
  const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0))
  const picture = await createImageBitmap(new Blob([bytes], { type: 'image/png' }))
  const pen = new OffscreenCanvas(picture.width, picture.height).getContext('2d', { willReadFrequently: true })
  pen.drawImage(picture, 0, 0)
  return new Set(new Uint32Array(pen.getImageData(0, 0, picture.width, picture.height).data.buffer)).size
}"""


def test_the_svg_parses_and_holds_labels_and_marks(take: Callable[[str], Path]) -> None:
    root = ElementTree.parse(take("Picture, SVG")).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert float(root.get("width")) > 300
    texts = " ".join(root.itertext())
    for text in ("opposite", "large", "a name of mine"):
        assert text in texts
    marks = [one for one in root.iter() if one.tag.split("}")[-1] in ("circle", "path", "rect", "polygon", "line")]
    assert len(marks) > 50


def test_the_web_page_opens_with_the_circuit(take: Callable[[str], Path], new_page: Callable[[], Page]) -> None:
    mailed = new_page()
    mailed.goto(take("Web page").as_uri())
    check_drawn(mailed)
    expect(mailed.get_by_text("size words").first).to_be_attached()
    expect(mailed.get_by_text("a name of mine").first).to_be_attached()


def test_neuronpedias_json_is_read_back_with_pins_groups_and_names(reader: Server, take: Callable[[str], Path]) -> None:
    path = take("Neuronpedia JSON")
    graph = read_neuronpedia(path)
    again = reader.ask("graphs", method="POST", body=path.read_bytes())["id"]
    notes = reader.ask(f"graphs/{again}/notes")
    ours = small_graph()

    def places(table: Any, nodes: list[int]) -> set[tuple[int, ...]]:
        return {(int(table.layer[i]), int(table.position[i]), int(table.feature[i])) for i in nodes}

    assert places(graph.nodes, notes["pinned"]) == places(ours.nodes, [0, 2, 4])
    assert [group["name"] for group in notes["supernodes"]] == ["size words"]
    assert places(graph.nodes, notes["supernodes"][0]["nodes"]) == places(ours.nodes, [0, 2])
    assert "a name of mine" in graph.nodes.label


def test_the_graph_file_is_the_whole_graph_with_the_notes(reader: Server, take: Callable[[str], Path]) -> None:
    path = take("Graph file")
    graph, ours = Graph.load(path), small_graph()
    np.testing.assert_array_equal(graph.edges, ours.edges)
    assert graph.nodes.label[4] == "a name of mine"
    again = reader.ask("graphs", method="POST", body=path.read_bytes())["id"]
    notes = reader.ask(f"graphs/{again}/notes")
    assert sorted(notes["pinned"]) == [0, 2, 4]
    assert [(group["name"], group["nodes"]) for group in notes["supernodes"]] == [("size words", [0, 2])]


def test_the_script_names_the_groups(take: Callable[[str], Path]) -> None:
    text = take("Python script").read_text("utf-8")
    compile(text, "exported", "exec")
    assert "size words" in text
    assert "lucida" in text
