"""What goes wrong is said on the page, in words, and nothing that was there is lost."""

import http.client
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from page_graphs import small_graph
from playwright.sync_api import Page, expect
from serving import Server, serving

pytestmark = pytest.mark.web


def choose_file(page: Page, path: Path) -> None:
    page.locator("input[type=file]").first.set_input_files(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cut.safetensors", b'\x80\x00\x00\x00\x00\x00\x00\x00{"kind"'),
        ("foreign.safetensors", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "),
        ("foreign.json", b'{"hello": [1, 2]}'),
        ("empty.json", b""),
        ("pickle.safetensors", b"\x80\x04\x95nonsense"),
    ],
    ids=("cut", "foreign", "foreign-json", "empty", "pickle"),
)
def test_a_corrupt_or_foreign_file_is_refused_in_words(
    reader: Server, page: Page, watch, tmp_path: Path, name: str, content: bytes
) -> None:
    watch.allow(r"Failed to load resource.*4\d\d")
    (tmp_path / name).write_bytes(content)
    reader.open(page)
    links = page.get_by_role("region", name="Saved graphs").get_by_role("link")
    expect(links.first).to_be_visible()
    before = links.count()
    choose_file(page, tmp_path / name)
    said = page.get_by_role("paragraph").filter(has=page.get_by_role("button", name="Close this message"))
    expect(said).to_contain_text(name)
    expect(said).to_contain_text(re.compile("not|damaged|cut short"))
    assert links.count() == before
    said.get_by_role("button").click()
    expect(said).to_have_count(0)


def test_fifty_megabytes_of_nonsense_are_refused_and_the_page_goes_on(
    reader: Server, page: Page, watch, tmp_path: Path
) -> None:
    watch.allow(r"Failed to load resource.*4\d\d")
    path = tmp_path / "large.safetensors"
    path.write_bytes(b"\xff" * 50_000_000)
    reader.open(page)
    graphs = reader.ask("graphs")
    choose_file(page, path)
    said = page.get_by_role("paragraph").filter(has=page.get_by_role("button", name="Close this message"))
    expect(said).to_contain_text("large.safetensors is not a graph file")
    assert reader.ask("graphs") == graphs
    page.get_by_role("link", name="Features", exact=True).click()
    expect(page.get_by_role("heading", name="Features")).to_be_visible()


def test_a_graph_file_is_opened_by_the_page(reader: Server, page: Page, tmp_path: Path) -> None:
    small_graph(label="brought along").save(tmp_path / "mine.safetensors")
    reader.open(page)
    choose_file(page, tmp_path / "mine.safetensors")
    expect(page.get_by_role("application")).to_be_visible()
    expect(page).to_have_url(re.compile("#/graph/[0-9a-f]{12}"))


@pytest.mark.parametrize(
    "route", ["#/graph/0123456789ab", "#/nowhere", "#/graph/../../etc/passwd", "#/graph/%2e%2e%2f"]
)
def test_a_stale_address_says_so_and_what_to_do(reader: Server, page: Page, watch, route: str) -> None:
    watch.allow("Failed to load resource.*404")
    reader.open(page, route)
    expect(page.get_by_role("heading", name=re.compile("There is no such"))).to_be_visible()
    expect(page.get_by_role("link", name=re.compile("New trace|Start"))).to_be_visible()


def test_a_node_that_is_gone_from_the_address_is_said(reader: Server, page: Page) -> None:
    """What is gone is named; the rest of the address holds, and nothing of it comes into the notes."""
    graph = reader.upload(small_graph())
    reader.open(page, f"#/graph/{graph}?sel=99999&pin=0,77777&n=1")
    expect(page.get_by_text("names 2 nodes that are not in this graph")).to_be_visible()
    expect(page.get_by_role("region", name="Inspector").get_by_text("99999")).to_have_count(0)
    expect(page).to_have_url(re.compile(r"[?&]pin=0&"))
    box = page.get_by_role("region", name="Circuit").get_by_role("button", name=re.compile("small things 0"))
    expect(box.first).to_be_visible()
    reader.open(page, f"#/graph/{graph}?sel=4&n=1")
    expect(page.get_by_role("region", name="Inspector").get_by_role("heading", name="small things 4")).to_be_visible()
    expect(page.get_by_text("not in this graph")).to_have_count(0)


def test_two_tabs_do_not_overwrite_each_other(reader: Server, new_page: Callable[[], Page], watch) -> None:
    """Both change the notes of one graph. The later save is not silent: the second tab asks which to keep."""
    watch.allow("Failed to load resource.*409")
    graph = reader.upload(small_graph())
    first, second = (reader.open(new_page(), f"#/graph/{graph}?sel={node}&n=1") for node in (0, 2))
    for page in (first, second):
        expect(page.get_by_role("application")).to_be_visible()
    pin(first)
    reader.wait_for_notes(graph, lambda now: now["pinned"] == [0])
    pin(second)
    keep = second.get_by_role("button", name=re.compile("keep mine", re.IGNORECASE))
    expect(keep).to_be_visible()
    assert reader.ask(f"graphs/{graph}/notes")["pinned"] == [0]
    keep.click()
    expect(second.get_by_text("saved", exact=True)).to_be_visible()
    assert reader.ask(f"graphs/{graph}/notes")["pinned"] == [2]
    # And the other way round: the first tab takes what the second has.
    first.get_by_role("region", name="Inspector").get_by_role("button", name=re.compile("pin")).click()
    first.get_by_role("button", name=re.compile("load theirs", re.IGNORECASE)).click()
    expect(first).to_have_url(re.compile(r"pin=2\b"))
    assert reader.ask(f"graphs/{graph}/notes")["pinned"] == [2]


def pin(page: Page) -> None:
    page.get_by_role("region", name="Inspector").get_by_role("button", name=re.compile("pin")).click()


def test_a_server_that_stops_is_said_and_found_again(tmp_path: Path, page: Page, new_page, watch) -> None:
    """What was pinned while the server was away is saved once it is back and its new address was opened."""
    watch.allow("ERR_CONNECTION_REFUSED|ERR_EMPTY_RESPONSE|ERR_CONNECTION_RESET|ERR_INCOMPLETE_CHUNKED|Failed to load")
    small_graph().save(tmp_path / "g.graph.safetensors")
    files = tmp_path / "g.graph.safetensors", "--no-model"
    with serving(*files, folder=tmp_path / "workspace") as server:
        graph, port = server.ask("graphs")[0]["id"], int(server.address.rsplit(":")[-1])
        server.open(page, f"#/graph/{graph}?sel=0&n=1")
        expect(page.get_by_role("application")).to_be_visible()
        assert server.stop() == 0
        pin(page)
        away = page.get_by_text(re.compile("not answer", re.IGNORECASE))
        expect(away.first).to_be_visible()
    assert "Traceback" not in server.log.read_text()
    with serving(*files, folder=tmp_path / "workspace", port=port) as again:
        again.open(new_page())
        again.wait_for_notes(graph, lambda now: now["pinned"] == [0])
        page.bring_to_front()
        expect(away).to_have_count(0)


# --- the guard, asked over the wire as a browser or an attacker would --------------------------------------


def asked(server: Server, path: str, method: str = "GET", **headers: str) -> int:
    host, port = server.address.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in ({"Host": f"127.0.0.1:{port}"} | {k.replace("_", "-"): v for k, v in headers.items()}).items():
        connection.putheader(name, value)
    connection.endheaders()
    status = connection.getresponse().status
    connection.close()
    return status


def test_only_the_right_token_host_and_origin_are_let_in(reader: Server) -> None:
    right = {"Authorization": f"Bearer {reader.token}"}
    assert asked(reader, "/api/state", **right) == 200
    assert asked(reader, "/api/state") in (401, 403)
    assert asked(reader, "/api/state", Authorization="Bearer wrong") in (401, 403)
    assert asked(reader, "/?token=wrong") in (401, 403)
    for host in ("evil.example", "127.0.0.1.evil.example", "127.0.0.1:1", ""):
        assert asked(reader, "/api/state", Host=host, **right) in (400, 403, 421)
    assert asked(reader, "/api/state", Origin="https://evil.example", **right) == 403
    assert asked(reader, "/api/state", Sec_Fetch_Site="cross-site", **right) == 403
    assert asked(reader, "/api/graphs/0123456789ab", method="DELETE", Cookie="lucida=guess") in (401, 403)


OUTSIDE = (
    "/../pyproject.toml", "/..%2f..%2fetc/passwd", "/assets/../../../etc/passwd", "//etc/passwd",
    "/api/graphs/..%2f..%2fetc%2fpasswd", "/api/graphs/%00/view",
)  # fmt: skip


@pytest.mark.parametrize("path", OUTSIDE)
def test_no_path_leads_out(reader: Server, path: str) -> None:
    assert asked(reader, path, Authorization=f"Bearer {reader.token}") in (400, 404, 405, 422)


def test_another_site_cannot_read_the_page(reader: Server, new_page: Callable[[], Page], watch) -> None:
    """A page of another origin in the same browser, which has the cookie, gets nothing and changes nothing."""
    watch.allow("CORS|Failed to load resource|blocked|Refused|frame|frame-ancestors")
    reader.open(new_page())
    stranger = new_page()
    stranger.route(
        "http://localhost:9/", lambda route: route.fulfill(content_type="text/html", body="<title>x</title>")
    )
    stranger.goto("http://localhost:9/")
    said = stranger.evaluate(
        "(to) => fetch(to, {credentials: 'include'}).then((answer) => answer.text()).catch(() => 'refused')",
        f"{reader.address}/api/state",
    )
    assert said == "refused"
