"""Reading a graph on the page, without any model: select, pin, group, name, prune, undo, come back."""

import re
from collections.abc import Callable

import pytest
from chromium import check_accessible, distinct_colours
from page_graphs import HOSTILE, hostile_graph, small_graph
from playwright.sync_api import Locator, Page, expect
from serving import Server

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
    assert distinct_colours(opened) > 10
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
        opened.wait_for_timeout(300)
        if "sel=" in opened.url:
            break
    assert "sel=" in opened.url
    expect(inspector(opened).get_by_text("Nothing is selected")).to_have_count(0)
    expect(opened.get_by_role("region", name="Connections").get_by_role("button").first).to_be_visible()


def test_pins_groups_and_names_by_keyboard_alone_and_after_a_reload(opened: Page) -> None:
    """No mouse at all: walk, select, pin, group, rename; everything is there again after a reload."""
    for _ in range(60):
        opened.keyboard.press("Tab")
        if opened.evaluate("document.activeElement?.getAttribute('role')") == "application":
            break
    for key in ("ArrowRight", "Enter", "p", "ArrowDown", "Enter", "p"):
        opened.keyboard.press(key)
        opened.wait_for_timeout(50)
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
    saved(opened)
    opened.wait_for_timeout(1200)
    assert reader.ask(f"graphs/{graph}/notes")["supernodes"][0]["name"] == "size words"
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
    saved(opened)
    opened.wait_for_timeout(1000)
    assert reader.ask(f"graphs/{graph}/notes")["labels"] == {"4": name}
    opened.reload()
    expect(inspector(opened).get_by_role("heading", name=name)).to_be_visible()
    assert opened.evaluate("window.hacked") is None


def test_the_slider_hides_and_says_what(opened: Page) -> None:
    slider = opened.get_by_role("slider", name="Nodes", exact=True)
    slider.focus()
    before = nodes_shown(opened)
    for _ in range(30):
        opened.keyboard.press("ArrowLeft")
    opened.wait_for_timeout(300)
    assert nodes_shown(opened) < before
    address_with(opened, "n=.5")
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
        page.wait_for_timeout(500)
        expect(page.get_by_text(HOSTILE[:30]).first).to_be_attached()
        assert page.evaluate("window.hacked") is None
        assert page.locator("img[src=x]").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["start", "graph", "table", "features", "compare", "steer", "stranger"])
def test_axe_finds_nothing_serious(reader: Server, page: Page, graph: str, name: str, scheme: str, watch) -> None:
    page.emulate_media(color_scheme=scheme)
    selected = f"#/graph/{graph}?sel=4&pin=0,4&n=1"
    routes = {"start": "#/", "graph": selected, "table": selected, "stranger": "#/nowhere"}
    reader.open(page, routes.get(name, f"#/{name}"))
    if name == "table":
        page.get_by_role("tab", name="Table").click()
    page.wait_for_timeout(700)
    check_accessible(page)


@pytest.mark.parametrize(
    "choice", ["Picture, PNG", "Picture, SVG", "Web page", "Neuronpedia JSON", "Graph file", "Python script"]
)
def test_every_export_arrives(
    reader: Server, opened: Page, choice: str, tmp_path, new_page: Callable[[], Page]
) -> None:
    select(opened, 0)
    inspector(opened).get_by_role("button", name=re.compile("pin")).click()
    saved(opened)
    opened.locator("summary", has_text="Export").click()
    with opened.expect_download() as waiting:
        opened.get_by_role("button", name=re.compile(choice)).click()
    path = tmp_path / waiting.value.suggested_filename
    waiting.value.save_as(path)
    starts = {".png": b"\x89PNG", ".svg": b"<svg", ".html": b"<!doctype html>", ".json": b"{", ".py": b'"""'}
    if path.suffix in starts:
        assert path.read_bytes().lstrip()[:15].startswith(starts[path.suffix]), path.read_bytes()[:80]
    else:
        assert path.suffix == ".safetensors"
        assert len(small_graph().nodes) == len(type(small_graph()).load(path).nodes)
    if path.suffix == ".html":
        mailed = new_page()
        mailed.goto(path.as_uri())
        expect(mailed.locator("canvas").first).to_be_visible()
