"""The whole way on a real model, in a real browser: trace, inspect, intervene, compare, steer, cancel."""

import re
import time
import urllib.error
from typing import Any

import pytest
from chromium import check_accessible
from playwright.sync_api import Locator, Page, expect
from serving import Server

pytestmark = [pytest.mark.web, pytest.mark.real]

PROMPT = 'The opposite of "small" is "'
MINUTE = 60_000


def finished(server: Server, job: dict[str, Any], seconds: float = 120) -> dict[str, Any]:
    """The job when it has ended."""
    end = time.monotonic() + seconds
    while job["status"] in ("queued", "running"):
        assert time.monotonic() < end, job
        time.sleep(0.1)
        job = server.ask(f"jobs/{job['id']}")
    return job


def traced(server: Server, prompt: str, **options: Any) -> str:
    job = server.ask("jobs/trace", method="POST", body={"prompt": prompt, "max_nodes": 256, **options})
    job = finished(server, job)
    assert job["status"] == "done", job
    return job["result"]["graph"]


@pytest.fixture(scope="session")
def graphs(lab: Server) -> tuple[str, str]:
    """Two prompts that differ in one word, traced; their ids."""
    return traced(lab, PROMPT, target="large", minus="small"), traced(lab, PROMPT.replace("small", "cold"))


def region(page: Page, name: str) -> Locator:
    return page.get_by_role("region", name=name, exact=True)


def test_a_prompt_becomes_a_graph_and_the_trace_survives_a_reload(lab: Server, page: Page) -> None:
    lab.open(page)
    prompt = page.get_by_role("textbox", name="Prompt")
    prompt.fill(PROMPT)
    choices = region(page, "Likely next tokens")
    choices.get_by_role("button", name=re.compile("^large")).click(timeout=MINUTE)
    choices.get_by_role("button", name="vs small", exact=True).click()
    expect(page.get_by_text("Explains why “large” rather than “small”")).to_be_visible()
    prompt.press("Enter")
    page.wait_for_timeout(700)
    page.reload()
    expect(page.get_by_text(re.compile("Trac", re.IGNORECASE)).first).to_be_visible()
    newest = lab.ask("jobs")
    job = finished(lab, max(newest, key=lambda one: one["status"] == "running") if newest else {})
    assert job["status"] == "done"
    # The page that was reloaded followed the job to its end, or lists the graph.
    page.wait_for_timeout(1500)
    if "#/graph/" not in page.url:
        page.get_by_role("region", name="Saved graphs").get_by_role("link").first.click()
    expect(page.get_by_role("application")).to_be_visible(timeout=MINUTE)
    expect(region(page, "How far to believe this graph").get_by_text("Replacement")).to_be_visible()
    expect(page).to_have_title(re.compile("opposite"))


def test_a_trace_is_cancelled_from_the_page(lab: Server, page: Page) -> None:
    lab.open(page)
    page.get_by_role("textbox", name="Prompt").fill("Once upon a time there was a small dog. " * 12)
    page.get_by_role("textbox", name="Prompt").press("Enter")
    page.get_by_role("button", name=re.compile("cancel|stop", re.IGNORECASE)).first.click()
    end = time.monotonic() + 30
    while any(job["status"] in ("queued", "running") for job in lab.ask("jobs")):
        assert time.monotonic() < end, lab.ask("jobs")
        time.sleep(0.1)
    assert "cancelled" in {job["status"] for job in lab.ask("jobs")}
    assert "#/graph/" not in page.url
    expect(page.get_by_role("button", name="Trace", exact=True)).to_be_enabled(timeout=30_000)


def test_a_feature_says_what_it_means(lab: Server, page: Page, graphs: tuple[str, str]) -> None:
    lab.open(page, f"#/graph/{graphs[0]}?sel={strongest_feature(lab, graphs[0])}")
    card = region(page, "Inspector")
    expect(card.get_by_text(re.compile("promote", re.IGNORECASE)).first).to_be_visible(timeout=30_000)
    expect(card.get_by_text(re.compile("fires|examples", re.IGNORECASE)).first).to_be_visible()
    expect(card.get_by_role("heading").first).to_be_visible()


def strongest_feature(server: Server, graph: str) -> int:
    """A feature node that the graph's suggested groups begin with."""
    return server.ask(f"graphs/{graph}/groups")[0]["nodes"][0]


def test_turning_a_feature_off_shows_prediction_beside_measurement(
    lab: Server, page: Page, graphs: tuple[str, str]
) -> None:
    node = strongest_feature(lab, graphs[0])
    lab.open(page, f"#/graph/{graphs[0]}?pin={node}")
    diagram = region(page, "Circuit").get_by_role("group", name=re.compile("Circuit diagram"))
    diagram.get_by_role("button").first.click()
    region(page, "Test it").get_by_role("button", name="Run the experiment").click()
    result = region(page, "Result of the experiment")
    expect(result).to_be_visible(timeout=2 * MINUTE)
    for word in ("predicted", "measured", "control"):
        expect(result.get_by_role("rowheader", name=word).first).to_be_visible()
    expect(result.get_by_text("What the model writes")).to_be_visible()
    check_accessible(page)
    expect(page.get_by_text("saved", exact=True)).to_be_visible()
    page.reload()
    expect(region(page, "Experiments (1)")).to_be_visible()
    assert len(lab.ask(f"graphs/{graphs[0]}/notes")["experiments"]) == 1


def test_an_experiment_on_a_node_that_is_gone_is_refused_in_words(lab: Server, graphs: tuple[str, str]) -> None:
    body = {"graph": graphs[0], "changes": [{"nodes": [999_999], "kind": "scale", "value": 0}]}
    with pytest.raises(urllib.error.HTTPError) as refused:
        lab.ask("jobs/intervene", method="POST", body=body)
    said = refused.value.read().decode()
    assert refused.value.code == 422
    assert "999999" in said.replace(",", "").replace("_", "")
    assert lab.ask("state")["model"]["status"] == "ready"


def test_two_prompts_are_compared_and_one_is_swapped_into_the_other(
    lab: Server, page: Page, graphs: tuple[str, str]
) -> None:
    lab.open(page, f"#/compare?a={graphs[0]}&b={graphs[1]}")
    expect(page.get_by_text("influence shared")).to_be_visible(timeout=30_000)
    for name in ("Only A", "Only B"):
        box = region(page, name).get_by_role("checkbox").first
        expect(box).to_be_visible()
        box.check()
    check_accessible(page)
    page.get_by_role("button", name=re.compile("swap", re.IGNORECASE)).first.click()
    expect(page.get_by_text("measured").first).to_be_visible(timeout=2 * MINUTE)


def test_dials_change_what_is_written_beside_the_baseline(lab: Server, page: Page) -> None:
    lab.open(page, "#/steer?f=20:604")
    page.get_by_role("textbox", name=re.compile("message|continue")).fill("We went to the")
    page.keyboard.press("Enter")
    end = time.monotonic() + 120
    while not any(job["kind"] == "steer" and job["status"] == "done" for job in lab.ask("jobs")):
        assert time.monotonic() < end, lab.ask("jobs")
        time.sleep(0.2)
    job = next(job for job in lab.ask("jobs") if job["kind"] == "steer")
    result = lab.ask(f"jobs/{job['id']}")["result"]
    assert result["steered"] != result["baseline"]
    for text in result["steered"], result["baseline"]:
        words = text.split("\n")[0].strip()[:30]
        expect(page.get_by_role("log").get_by_text(words).first).to_be_visible()
    check_accessible(page)


def test_features_are_found_by_what_they_mean(lab: Server, page: Page) -> None:
    lab.open(page, "#/features")
    page.get_by_role("searchbox", name="Search features").fill("animal")
    page.keyboard.press("Enter")
    found = page.get_by_role("row", name=re.compile("animal")).get_by_role("link").first
    expect(found).to_be_visible(timeout=30_000)
    found.click()
    expect(page).to_have_url(re.compile(r"#/features/\d+/\d+"))
    expect(page.get_by_role("complementary", name="The chosen feature").get_by_role("heading").first).to_be_visible()
    page.wait_for_timeout(1000)
    check_accessible(page)
