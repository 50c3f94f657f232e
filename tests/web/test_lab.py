"""The whole way on a real model, in a real browser: trace, read, group, test, cancel; and all of it by keys alone."""

import json
import re
import urllib.error
from contextlib import suppress
from pathlib import Path

import pytest
from chromium import check_accessible, check_drawn
from playwright.sync_api import Locator, Page, TimeoutError, expect
from serving import Server

from lucida.graph.neuronpedia import read_neuronpedia
from lucida.graph.neuronpedia.names import node_ids

pytestmark = [pytest.mark.web, pytest.mark.real]

PROMPT = 'The opposite of "small" is "'
MINUTE = 60_000
GRAPH = re.compile("#/graph/([0-9a-f]{12})")


def region(page: Page, name: str | re.Pattern[str]) -> Locator:
    return page.get_by_role("region", name=name, exact=isinstance(name, str))


def graph_of(page: Page) -> str:
    """The graph in the address."""
    return GRAPH.search(page.url)[1]


def boxes(page: Page) -> Locator:
    """The circuit's diagram."""
    return region(page, "Circuit").get_by_role("group", name=re.compile("Circuit diagram"))


def features(server: Server, graph: str, count: int) -> list[int]:
    """The nodes of the strongest features that the page shows at first."""
    found = server.ask(f"graphs/{graph}/nodes?limit=1000")
    return [one["node"] for one in found if one["kind"] == "feature" and not one["why"]][:count]


def check_result(page: Page) -> None:
    """What an experiment says: prediction beside measurement beside control, in numbers, and what is written."""
    result = region(page, "Result of the experiment")
    expect(result).to_be_visible(timeout=3 * MINUTE)
    for word in ("predicted", "measured", "control"):
        row = result.get_by_role("row").filter(has=page.get_by_role("rowheader", name=word)).first
        expect(row).to_contain_text(re.compile(r"[+−-]?\d"))
    expect(result.get_by_text("What the model writes")).to_be_visible()


def test_a_prompt_becomes_a_graph_and_the_trace_survives_a_reload(lab: Server, page: Page) -> None:
    before, known = {one["id"] for one in lab.ask("graphs")}, {job["id"] for job in lab.ask("jobs")}
    lab.open(page)
    prompt = page.get_by_role("textbox", name="Prompt")
    prompt.fill(PROMPT)
    choices = region(page, "Likely next tokens")
    choices.get_by_role("button", name=re.compile("large .*%")).click(timeout=MINUTE)
    choices.get_by_role("button", name="vs small", exact=True).click()
    expect(page.get_by_text("Explains why “large” rather than “small”")).to_be_visible()
    prompt.press("Enter")
    expect(page.get_by_role("list", name="Jobs").get_by_text(re.compile("Trac", re.IGNORECASE)).first).to_be_visible()
    page.reload()
    [job] = [job for job in lab.ask("jobs") if job["id"] not in known]
    job = lab.finished(job["id"])
    assert job["status"] == "done", job
    graph = job["result"]["graph"]
    assert graph not in before
    # The page that was reloaded followed the job to its end, or lists the graph.
    listed = page.locator(f'a[href*="{graph}"]').first
    expect(page.get_by_role("application").or_(listed).first).to_be_visible(timeout=MINUTE)
    if graph not in page.url:
        listed.click()
    expect(page).to_have_url(re.compile(graph))
    expect(page.get_by_role("application")).to_be_visible(timeout=MINUTE)
    check_drawn(page)
    expect(region(page, "How far to believe this graph").get_by_text("Replacement")).to_be_visible()
    expect(page).to_have_title(re.compile("opposite"))
    assert lab.ask(f"graphs/{graph}")["answers"][0]["text"] == "large - small"


def test_a_trace_is_cancelled_from_the_page(lab: Server, page: Page) -> None:
    graphs, known = lab.ask("graphs"), {job["id"] for job in lab.ask("jobs")}
    lab.open(page)
    page.get_by_role("textbox", name="Prompt").fill("Once upon a time there was a small dog. " * 12)
    page.get_by_role("textbox", name="Prompt").press("Enter")
    page.get_by_role("button", name=re.compile("cancel|stop", re.IGNORECASE)).first.click()
    [job] = [job for job in lab.ask("jobs") if job["id"] not in known]
    assert lab.finished(job["id"])["status"] == "cancelled"
    assert lab.ask("graphs") == graphs
    assert "#/graph/" not in page.url
    expect(page.get_by_role("button", name="Trace", exact=True)).to_be_enabled()


def test_a_real_graph_is_pruned_read_pinned_grouped_named_and_taken_along(
    lab: Server, page: Page, tmp_path: Path
) -> None:
    graph = lab.traced('The opposite of "cold" is "')
    first, second = features(lab, graph, 2)
    lab.open(page, f"#/graph/{graph}?sel={first}")
    check_drawn(page)
    card = region(page, "Inspector")
    expect(card.get_by_text(re.compile("promote", re.IGNORECASE)).first).to_be_visible()
    expect(card.get_by_text(re.compile("fires|examples", re.IGNORECASE)).first).to_be_visible()
    # Pruning: fewer nodes are drawn, and the page says how many.
    shown = region(page, "What is shown").get_by_role("status").last
    expect(shown).to_contain_text(re.compile(r"of [\d,]+ nodes"))
    before = int(re.search(r"[\d,]+", shown.inner_text())[0].replace(",", ""))
    page.get_by_role("slider", name="Nodes", exact=True).focus()
    for _ in range(15):
        page.keyboard.press("ArrowLeft")
    expect(page).to_have_url(re.compile(r"[?&]n=\.[0-4]"))
    assert int(re.search(r"[\d,]+", shown.inner_text())[0].replace(",", "")) < before
    # The circuit: two features in one supernode with a name of one's own.
    for node in (first, second):
        page.goto(f"{lab.address}/#/graph/{graph}?sel={node}")
        page.reload()
        expect(page).to_have_url(re.compile(rf"sel={node}\b.*n="))  # the page has written its own address
        card.get_by_role("button", name="☆ pin").click()
        lab.wait_for_notes(graph, lambda now, node=node: node in now["pinned"])
    page.get_by_role("application").focus()
    page.keyboard.press("g")
    box = boxes(page).get_by_role("button", name=re.compile("2 nodes")).first
    box.click()
    region(page, "Circuit").get_by_role("button", name="Rename").click()
    page.keyboard.press("Control+A")
    page.keyboard.type("what opposite means")
    page.keyboard.press("Enter")
    expect(boxes(page).get_by_role("button", name=re.compile("what opposite means")).first).to_be_visible()
    notes = lab.wait_for_notes(graph, lambda now: [g["name"] for g in now["supernodes"]] == ["what opposite means"])
    assert sorted(notes["supernodes"][0]["nodes"]) == sorted(notes["pinned"]) == sorted([first, second])
    page.reload()
    expect(boxes(page).get_by_role("button", name=re.compile("what opposite means")).first).to_be_visible()
    # Taken along as other tools read it.
    page.locator("summary", has_text="Export").click()
    with page.expect_download() as waiting:
        page.get_by_role("button", name=re.compile("Neuronpedia JSON")).click()
    path = tmp_path / "exported.json"
    waiting.value.save_as(path)
    asked, exported = json.loads(path.read_text())["qParams"], read_neuronpedia(path)
    names = node_ids(exported)
    assert len(asked["pinnedIds"]) == 2
    assert set(asked["pinnedIds"]) <= set(names)
    assert asked["supernodes"] == [["what opposite means", *asked["pinnedIds"]]]


def test_turning_a_feature_off_shows_prediction_beside_measurement(
    lab: Server, page: Page, graphs: tuple[str, str]
) -> None:
    [node] = features(lab, graphs[1], 1)
    lab.open(page, f"#/graph/{graphs[1]}?pin={node}")
    boxes(page).get_by_role("button").filter(has_not_text="token").first.click()
    test = region(page, "Test it")
    test.get_by_text("How it is run").click()
    test.get_by_role("spinbutton", name="Controls").fill("3")
    test.get_by_role("spinbutton", name="Tokens to write").fill("5")
    test.get_by_role("button", name="Run the experiment").click()
    check_result(page)
    check_accessible(page)
    lab.wait_for_notes(graphs[1], lambda now: len(now["experiments"]) == 1)
    page.reload()
    expect(region(page, "Experiments (1)")).to_be_visible()


def test_an_experiment_on_a_node_that_is_gone_is_refused_in_words(lab: Server, graphs: tuple[str, str]) -> None:
    body = {"graph": graphs[0], "changes": [{"nodes": [999_999], "kind": "scale", "value": 0}]}
    with pytest.raises(urllib.error.HTTPError) as refused:
        lab.ask("jobs/intervene", method="POST", body=body)
    said = refused.value.read().decode()
    assert refused.value.code == 422
    assert "999999" in said.replace(",", "").replace("_", "")
    assert lab.ask("state")["model"]["status"] == "ready"


# --- no mouse ------------------------------------------------------------------------------------------------


def tab_to(page: Page, target: Locator, key: str = "Tab") -> None:
    """Press Tab until the target is focused, as somebody without a mouse has to."""
    expect(target).to_be_visible()
    for _ in range(200):
        if target.evaluate("it => it === document.activeElement"):
            return
        page.keyboard.press(key)
    raise AssertionError(f"{key} does not lead to {target}")


def test_from_the_page_to_an_experiment_by_keys_alone(lab: Server, page: Page) -> None:
    lab.open(page)
    prompt = page.get_by_role("textbox", name="Prompt")
    tab_to(page, prompt)
    page.keyboard.press("Control+A")
    page.keyboard.type('The opposite of "big" is "')
    likely = region(page, "Likely next tokens").get_by_role("button", name=re.compile(r"^(✓ )?small .*%"))
    expect(likely).to_be_visible(timeout=MINUTE)
    tab_to(page, likely)
    page.keyboard.press("Space")
    expect(likely).to_have_attribute("aria-pressed", "true")
    tab_to(page, page.locator("summary", has_text="More"))
    page.keyboard.press("Enter")
    tab_to(page, page.get_by_role("textbox", name=re.compile("Features to expand")))
    page.keyboard.type("256")
    tab_to(page, prompt, "Shift+Tab")
    page.keyboard.press("Enter")
    expect(page).to_have_url(GRAPH, timeout=2 * MINUTE)
    picture = page.get_by_role("application")
    tab_to(page, picture)
    check_drawn(page)
    pinned = pin_two_features(lab, page)
    page.keyboard.press("g")
    notes = lab.wait_for_notes(graph_of(page), lambda now: len(now["supernodes"]) == 1)
    assert sorted(notes["supernodes"][0]["nodes"]) == sorted(pinned)
    box = boxes(page).get_by_role("button", name=re.compile("2 nodes")).first
    expect(box).to_be_visible()
    tab_into(page, boxes(page))
    for key in ("ArrowRight", "ArrowDown", "ArrowUp", "ArrowLeft", "ArrowLeft", "ArrowUp", "ArrowDown"):
        if box.evaluate("it => it === document.activeElement"):
            break
        page.keyboard.press(key)
    expect(box).to_be_focused()
    page.keyboard.press("Space")
    tab_to(page, region(page, "Test it").get_by_role("button", name="Run the experiment"))
    page.keyboard.press("Enter")
    check_result(page)
    lab.wait_for_notes(graph_of(page), lambda now: len(now["experiments"]) == 1)


def tab_into(page: Page, place: Locator) -> None:
    """Press Tab until the focus is inside."""
    for _ in range(200):
        if place.evaluate("it => it.contains(document.activeElement)"):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"Tab does not lead into {place}")


def pin_two_features(server: Server, page: Page) -> list[int]:
    """From the focused picture: from the answer to its strongest inputs; pins the first two features."""
    kinds = {one["node"]: one["kind"] for one in server.ask(f"graphs/{graph_of(page)}/nodes?limit=1000")}
    pinned: list[int] = []
    for key in ("ArrowUp", *("[", "ArrowRight", "ArrowDown") * 20):
        before = selected(page)
        page.keyboard.press(key)
        page.keyboard.press("Enter")
        with suppress(TimeoutError):  # at the border the walk stays where it is
            page.wait_for_url(re.compile(rf"sel=(?!{before}\b)"), timeout=2000)
        now = selected(page)
        if kinds.get(now) == "feature" and now not in pinned:
            page.keyboard.press("p")
            pinned.append(now)
            expect(page).to_have_url(re.compile(rf"pin=[\d,]*\b{now}\b"))
        if len(pinned) == 2:
            return pinned
    raise AssertionError(f"the walk met no two features, only {pinned}")


def selected(page: Page) -> int | None:
    found = re.search(r"sel=(\d+)", page.url)
    return int(found[1]) if found else None
