"""The pages of features, comparing and steering, and the inspector's card, on a real model and its shipped features."""

import json
import re

import pytest
from chromium import Watch, check_accessible
from page_graphs import HOSTILE, small_graph
from playwright.sync_api import Locator, Page, expect
from serving import Server

pytestmark = [pytest.mark.web, pytest.mark.real]

LONG = 120_000
"""Milliseconds for what a model does on a slow machine."""


def card(page: Page) -> Locator:
    """The card of the chosen feature."""
    return page.get_by_role("complementary", name="The chosen feature")


def test_a_search_leads_to_a_card_and_its_address_brings_it_back(lab: Server, page: Page) -> None:
    lab.open(page, "#/features")
    page.get_by_role("searchbox", name="Search features").fill("opposite")
    first = page.get_by_role("table").get_by_role("link").first
    expect(page).to_have_url(re.compile(r"q=opposite"))
    # The first search of an index gathers its words.
    expect(page.get_by_text("found: opposite").first).to_be_visible(timeout=LONG)
    name = first.inner_text()
    first.click()
    expect(card(page).get_by_role("heading", name=name)).to_be_visible()
    expect(card(page).get_by_role("tabpanel")).to_be_visible()
    expect(card(page).get_by_role("img", name=re.compile("Histogram"))).to_be_visible()
    page.reload()
    expect(card(page).get_by_role("heading", name=name)).to_be_visible()
    expect(page.get_by_role("searchbox", name="Search features")).to_have_value("opposite")
    check_accessible(page)


def test_browsing_pages_through_a_layer(lab: Server, page: Page) -> None:
    lab.open(page, "#/features?layer=3")
    seen = [page.get_by_role("table").get_by_role("row").nth(1).inner_text()]
    expect(page.get_by_text(re.compile(r"1 to 50 of [\d,]+ features"))).to_be_visible()
    page.get_by_role("button", name="next").click()
    expect(page.get_by_text(re.compile(r"51 to 100 of"))).to_be_visible()
    assert page.get_by_role("table").get_by_role("row").nth(1).inner_text() not in seen
    expect(page).to_have_url(re.compile("start=50"))


def test_a_name_that_is_markup_stays_text_and_can_be_taken_back(lab: Server, page: Page) -> None:
    """A label is typed by people and comes in files: the page must never run it."""
    lab.open(page, "#/features/12/345")
    before = card(page).get_by_role("heading").first.inner_text()
    card(page).get_by_role("button", name="rename").click()
    card(page).get_by_role("textbox", name="Name").fill(HOSTILE)
    page.keyboard.press("Enter")
    expect(card(page).get_by_role("heading").first).to_have_text(HOSTILE)
    expect(card(page).get_by_text("named by you")).to_be_visible()
    page.reload()
    expect(card(page).get_by_role("heading").first).to_have_text(HOSTILE)
    card(page).get_by_role("button", name="rename").click()
    card(page).get_by_role("button", name="Remove my name").click()
    expect(card(page).get_by_role("heading").first).to_have_text(before)


def test_a_scan_lists_features_under_tokens_and_shows_where_a_group_is_on(lab: Server, page: Page) -> None:
    lab.open(page, "#/features?tab=scan")
    text = page.get_by_role("textbox", name="Text to scan")
    text.fill("The opposite of hot is cold.")
    text.press("Enter")
    tokens = page.get_by_role("list", name="Tokens and their strongest features")
    expect(tokens.get_by_text("cold", exact=False).first).to_be_visible(timeout=LONG)
    # Honest about what is not there.
    expect(page.get_by_text("were left out because their features fire nearly everywhere")).to_be_visible()
    group = page.get_by_role("group", name="Features by name").get_by_role("button").first
    group.click()
    expect(group).to_have_attribute("aria-pressed", "true")
    expect(tokens.get_by_text(re.compile(r"\d %")).first).to_be_visible()
    check_accessible(page)
    page.reload()
    expect(tokens).to_be_visible()


def test_the_inspector_marks_this_activation_and_leads_to_the_other_places(
    lab: Server, page: Page, graphs: tuple[str, str]
) -> None:
    found = lab.ask(f"graphs/{graphs[0]}/nodes?query=opposite&limit=50")
    node = next(each for each in found if each["kind"] == "feature" and not each["why"])
    lab.open(page, f"#/graph/{graphs[0]}?sel={node['node']}&n=1")
    inspector = page.get_by_role("region", name="Inspector")
    expect(inspector.get_by_role("img", name=re.compile("here it is"))).to_be_visible()
    expect(inspector.get_by_role("link", name="steer with it")).to_have_attribute(
        "href", re.compile(rf"{node['layer']}.*{node['feature']}")
    )
    inspector.get_by_role("button", name="pin").click()
    expect(inspector.get_by_role("button", name="pinned")).to_have_attribute("aria-pressed", "true")


def test_a_graph_of_unnamed_features_gets_no_card_of_others(lab: Server, page: Page) -> None:
    """Examples of the index belonged to whatever has the same number: a graph that names no dictionary got them."""
    graph = lab.upload(small_graph())
    lab.open(page, f"#/graph/{graph}?sel=0&n=1")
    inspector = page.get_by_role("region", name="Inspector")
    expect(inspector.get_by_text("does not say which dictionary")).to_be_visible()
    expect(inspector.get_by_role("tabpanel")).to_have_count(0)
    expect(inspector.get_by_role("link", name="steer with it")).to_have_count(0)


def test_two_prompts_are_aligned_and_a_swap_is_measured(lab: Server, page: Page, graphs: tuple[str, str]) -> None:
    lab.open(page, f"#/compare?a={graphs[0]}&b={graphs[1]}")
    strips = page.get_by_role("region", name="The two prompts, token under token")
    expect(strips.locator(".differs")).to_have_text(["hot", "small"])
    for name in ("Only A", "Shared", "Only B"):
        expect(page.get_by_role("region", name=name).get_by_role("listitem").first).to_be_visible()
    page.get_by_role("searchbox", name="Filter the lists").fill("small")
    expect(page.get_by_role("region", name="Only B").get_by_role("link").first).to_contain_text(re.compile("small"))
    page.get_by_role("searchbox", name="Filter the lists").fill("")
    run = page.get_by_role("button", name="Run the swap")
    expect(run).to_be_disabled()
    page.get_by_role("button", name="Choose for me").click()
    check_accessible(page)
    run.click()
    result = page.get_by_role("region", name="Result of the experiment")
    expect(result).to_be_visible(timeout=LONG)
    # What A said is less probable now than before: its subject was taken away.
    row = result.get_by_role("row").filter(has=page.get_by_role("cell", name="cold", exact=True))
    before, after = re.findall(r"([\d.]+) %", row.inner_text())
    assert float(after) < float(before)
    page.get_by_role("button", name="Keep with the experiments of A").click()
    expect(page.get_by_role("button", name="Kept with the experiments of A")).to_be_visible()
    assert len(lab.ask(f"graphs/{graphs[0]}/notes")["experiments"]) == 1


def test_changed_edges_and_changed_sides(lab: Server, page: Page, graphs: tuple[str, str]) -> None:
    lab.open(page, f"#/compare?a={graphs[0]}&b={graphs[1]}")
    page.get_by_role("button", name=re.compile("Changed edges")).click()
    expect(page.get_by_role("region", name="Changed edges").get_by_role("row").nth(1)).to_be_visible()
    check_accessible(page)
    page.get_by_role("button", name="Change sides").click()
    expect(page).to_have_url(re.compile(rf"a={graphs[1]}&b={graphs[0]}"))


def test_a_dial_changes_what_is_written_and_the_baseline_stays(lab: Server, page: Page) -> None:
    lab.open(page, "#/steer?f=0:0:3:add")
    expect(page.get_by_role("slider")).to_have_value("3")
    _options(page, tokens=12)
    _say(page, "hi")
    first = _answers(page, 0)
    assert first[0] != first[1]
    # Off on the dial, both sides are the model as it is.
    page.get_by_role("switch").click()
    expect(page).to_have_url(re.compile(r"f=0:0:3:add:off"))
    page.get_by_role("button", name="again").click()
    _ended(page)
    assert _answers(page, 0)[0] == _answers(page, 0)[1] == first[1]


def test_a_conversation_survives_a_reload_while_it_is_written(lab: Server, page: Page) -> None:
    lab.open(page, "#/steer?f=21:866:1:add")
    _options(page, tokens=40)
    _say(page, "Tell me about the weather.", wait=False)
    expect(page.get_by_text("writing")).to_be_visible()
    expect(page.locator(".answer.steered .text")).to_contain_text(re.compile(r"\w{3}"), timeout=LONG)
    page.reload()
    _ended(page)
    assert len(_answers(page, 0)[0]) > 20
    kept = json.loads(page.evaluate("sessionStorage.getItem('lucida-steer-turns')"))
    assert [turn["user"] for turn in kept] == ["Tell me about the weather."]
    check_accessible(page)
    # Edited, then stopped at once; what was written is kept.
    page.get_by_role("button", name="edit").click()
    _say(page, "And tomorrow?", wait=False)
    page.get_by_role("button", name="Stop", exact=True).click()
    _ended(page)
    expect(page.get_by_role("article")).to_have_count(1)
    page.get_by_role("button", name="Clear all").click()
    expect(page.get_by_role("article")).to_have_count(0)


def test_without_a_model_the_pages_say_so(reader: Server, page: Page) -> None:
    reader.open(page, "#/steer")
    expect(page.get_by_text("runs without a model")).to_be_visible()
    expect(page.get_by_role("button", name="Continue")).to_be_disabled()
    page.goto(f"{reader.address}/#/features?tab=scan")
    expect(page.get_by_role("button", name="Scan", exact=True)).to_be_disabled()
    check_accessible(page)


def test_a_stale_address_says_what_is_gone(lab: Server, page: Page, watch: Watch) -> None:
    watch.allow("404")
    lab.open(page, "#/compare?a=000000000000&b=000000000001")
    expect(page.get_by_role("main").get_by_role("alert")).to_contain_text(re.compile(r"graph"))
    page.goto(f"{lab.address}/#/features/99/1")
    expect(card(page).get_by_role("alert")).to_be_visible()


def _options(page: Page, *, tokens: int) -> None:
    page.get_by_text("How it writes").click()
    page.get_by_role("spinbutton", name="tokens at most").fill(str(tokens))


def _say(page: Page, text: str, *, wait: bool = True) -> None:
    box = page.get_by_role("textbox", name="Your message")
    # Until the model is there nothing can be sent.
    expect(page.get_by_text("The model is loading")).to_have_count(0, timeout=LONG)
    box.fill(text)
    box.press("Enter")
    if wait:
        _ended(page)


def _ended(page: Page) -> None:
    expect(page.get_by_role("log")).to_have_attribute("aria-busy", "false", timeout=LONG)


def _answers(page: Page, turn: int) -> tuple[str, str]:
    texts = page.get_by_role("article").nth(turn).locator(".answer .text")
    return texts.nth(0).inner_text(), texts.nth(1).inner_text()
