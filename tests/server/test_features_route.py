"""What the page reads of a feature index, and the names that a reader gives: never into what is shipped."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from made_up_index import made_up_index

from lucida.features.header import IndexHeader
from lucida.features.index import FeatureIndex
from lucida.features.labels import Label, write_labels
from lucida.features.reading.search_table import has_search
from lucida.server import index_reading
from lucida.server.index_reading import histogram_bars
from lucida.server.messages import FeatureCard, FeatureList
from lucida.server.routes import features

SPACE = (6, 5)


@pytest.fixture
def index(tmp_path: Path) -> FeatureIndex:
    folder = made_up_index(tmp_path / "index", n_features=SPACE)
    write_labels(folder, "automatic", [Label(0, 4, "the word dog", "automatic", "word", 0.75)])
    return FeatureIndex.open(folder)


def client_of(index: FeatureIndex | None, folder: Path, dictionary: str = "made-up-features") -> TestClient:
    app = FastAPI()
    app.include_router(features.router)
    app.state.workspace = SimpleNamespace(index=index, folder=folder, dictionary_name=dictionary)
    return TestClient(app)


@pytest.fixture
def client(index: FeatureIndex, tmp_path: Path) -> TestClient:
    return client_of(index, tmp_path / "page")


def shipped(index: FeatureIndex) -> FeatureIndex:
    """The same index as a shipped one, which is not to be written."""
    header = IndexHeader.open(index.folder)
    replace(header, settings=header.settings | {"thin": {}}).save(index.folder)
    return FeatureIndex.open(index.folder)


# --- cards ----------------------------------------------------------------------------------------------


def test_a_card_is_that_of_the_index(client: TestClient, index: FeatureIndex) -> None:
    found = FeatureCard.model_validate(client.get("/api/features/0/4").json())
    card, stats = index.card(0, 4), index.stats(0, 4)
    assert found.label is not None
    assert (found.label.text, found.label.score) == ("the word dog", 0.75)
    assert (found.count, found.maximum, found.mean) == (stats.count, stats.maximum, stats.mean)
    assert sum(bar.count for bar in found.histogram) == stats.count > 0
    assert all(bar.low < bar.high for bar in found.histogram)
    assert ["".join(span.text for span in one.spans) for one in found.top] == [
        "".join(span.text for span in one.spans) for one in card.top
    ]
    assert all(sum(span.is_peak for span in one.spans) == 1 for one in [*found.top, *found.samples])
    named = [int(band.split("|")[0]) for band in found.bands]
    assert named == sorted({one.band for one in found.samples if one.band is not None}, reverse=True)
    for band in found.bands:
        number, words = band.split("|")
        assert words == f"{2.0 ** int(number):.3g} to {2.0 ** (int(number) + 1):.3g}"


def test_bars_hold_every_count(index: FeatureIndex) -> None:
    for feature in range(5):
        histogram = index.stats(0, feature).histogram
        for most in (4, 32):
            bars = histogram_bars(histogram, most)
            assert sum(bar.count for bar in bars) == histogram.sum()
            assert len(bars) <= most
            assert [bar.high for bar in bars[:-1]] == [bar.low for bar in bars[1:]]
    octaves = np.zeros(96, dtype=np.int64)
    octaves[[44, 48, 56]] = (3, 2, 1)
    bars = histogram_bars(octaves)
    assert [(bar.low, bar.high, bar.count) for bar in bars] == [(0.5, 1, 3), (1, 2, 2), (2, 4, 0), (4, 8, 1)]


def test_a_silent_feature_says_so(client: TestClient) -> None:
    found = FeatureCard.model_validate(client.get("/api/features/0/5").json())
    assert found.count == 0
    assert found.top == []
    assert "never active" in found.missing


@pytest.mark.parametrize("place", ["2/0", "0/6", "-1/0", "0/-1", f"0/{10**30}", "99999999999999999999/0"])
def test_what_does_not_exist_is_not_found(client: TestClient, place: str) -> None:
    for answer in (
        client.get(f"/api/features/{place}"),
        client.put(f"/api/features/{place}/label", json={"label": "x"}),
    ):
        assert answer.status_code == 404
        assert "was asked for" in answer.json()["error"]


def test_without_an_index_it_is_said_how_one_is_made(tmp_path: Path) -> None:
    bare = client_of(None, tmp_path, "some-features")
    card = bare.get("/api/features/3/7").json()
    listed = bare.get("/api/features?query=dog").json()
    for missing in (card["missing"], listed["missing"]):
        assert "lucida index" in missing
        assert "some-features" in missing
    assert (card["layer"], card["feature"], card["label"], card["top"]) == (3, 7, None, [])
    assert listed["rows"] == []
    refused = bare.put("/api/features/3/7/label", json={"label": "x"})
    assert refused.status_code == 409
    assert "lucida index" in refused.json()["error"]
    neurons = client_of(None, tmp_path, "neurons").get("/api/features/3/7").json()["missing"]
    assert "neurons" in neurons


def test_features_of_another_dictionary_are_not_mixed_up(client: TestClient) -> None:
    same = client.get("/api/features/0/4?dictionary=made-up-features").json()
    other = client.get("/api/features/0/4?dictionary=others").json()
    assert same["label"]["text"] == "the word dog"
    assert same["top"]
    assert other["label"] is None
    assert other["top"] == []
    assert "others" in other["missing"]


# --- names ----------------------------------------------------------------------------------------------


HOSTILE = '<img src=x onerror="alert(1)">{{7*7}}\u202e"; DROP TABLE labels; --'


@pytest.mark.parametrize("is_shipped", [False, True])
def test_a_name_of_ones_own_comes_first_and_can_be_taken_back(
    index: FeatureIndex, tmp_path: Path, is_shipped: bool
) -> None:
    index = shipped(index) if is_shipped else index
    before = {path: path.read_bytes() for path in index.folder.rglob("*") if path.is_file()}
    client = client_of(index, tmp_path / "page")
    named = client.put("/api/features/0/4/label", json={"label": HOSTILE}).json()["label"]
    assert named == {"text": HOSTILE, "author": "you", "method": "by hand", "score": None}
    assert client.get("/api/features/0/4").json()["label"] == named
    # Another server, another day.
    again = client_of(FeatureIndex.open(index.folder), tmp_path / "page")
    assert again.get("/api/features/0/4").json()["label"] == named
    row = next(row for row in again.get("/api/features?layer=0").json()["rows"] if row["feature"] == 4)
    assert row["label"] == HOSTILE
    after = {path: path.read_bytes() for path in index.folder.rglob("*") if path.is_file()}
    assert (before == after) is is_shipped
    back = again.put("/api/features/0/4/label", json={"label": " "}).json()["label"]
    assert back["text"] == "the word dog"
    assert client.get("/api/features/0/4").json()["label"]["text"] == "the word dog"


def test_a_name_that_is_too_long_or_none_is_refused(client: TestClient) -> None:
    for body in ({"label": "x" * 201}, {}, {"label": 5}, {"label": "x", "more": 1}):
        assert client.put("/api/features/0/4/label", json=body).status_code == 422
    assert client.get("/api/features/0/4").json()["label"]["text"] == "the word dog"


def test_ones_own_name_is_found(index: FeatureIndex, tmp_path: Path) -> None:
    client = client_of(shipped(index), tmp_path / "page")
    client.put("/api/features/1/2/label", json={"label": "zebra crossing"})
    rows = client.get("/api/features?query=zebra").json()["rows"]
    assert [(row["layer"], row["feature"], row["label"]) for row in rows] == [(1, 2, "zebra crossing")]


# --- lists ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [None, 0, 1])
@pytest.mark.parametrize("sort", ["frequency", "index"])
def test_pages_hold_every_feature_once_in_order(
    client: TestClient, index: FeatureIndex, layer: int | None, sort: str
) -> None:
    found = []
    for start in range(0, 20, 4):
        where = "" if layer is None else f"&layer={layer}"
        page = FeatureList.model_validate(client.get(f"/api/features?start={start}&count=4&sort={sort}{where}").json())
        assert page.total == (sum(SPACE) if layer is None else SPACE[layer])
        found += page.rows
    places = [(row.layer, row.feature) for row in found]
    assert sorted(places) == [(l, f) for l, n in enumerate(SPACE) for f in range(n) if layer in (None, l)]
    if sort == "frequency":
        often = [row.frequency for row in found]
        assert often == sorted(often, key=lambda share: -(share or 0))
    else:
        assert places == sorted(places)
    assert [row.frequency for row in found] == [index.stats(*place).frequency for place in places]


def test_a_search_is_the_librarys_and_makes_its_table_first(client: TestClient, index: FeatureIndex) -> None:
    assert not has_search(index)
    found = client.get("/api/features?query=dogs&count=3").json()
    assert found["missing"] == ""
    assert has_search(index)
    expected = index.search("dogs", count=3)
    assert [(row["layer"], row["feature"], row["words"]) for row in found["rows"]] == [
        (match.layer, match.feature, list(match.words)) for match in expected
    ]
    assert [row["score"] for row in found["rows"]] == pytest.approx([match.score for match in expected])
    second = client.get("/api/features?query=dogs&start=1&count=2").json()["rows"]
    assert second == found["rows"][1:3]
    only = client.get("/api/features?query=dogs&layer=1&count=50").json()["rows"]
    assert only
    assert {row["layer"] for row in only} == {1}


def test_a_table_that_takes_long_does_not_hold_the_page(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    go_on, build = threading.Event(), index_reading.build_search

    def slow(folder: Path, *, progress: Any) -> Any:
        progress("search table", 1, 4)
        go_on.wait(20)
        return build(folder, progress=progress)

    monkeypatch.setattr(index_reading, "build_search", slow)
    monkeypatch.setattr(index_reading, "PATIENCE", 0.05)
    waiting = client.get("/api/features?query=dog").json()
    assert waiting["rows"] == []
    assert "25%" in waiting["missing"]
    assert waiting["is_preparing"]
    go_on.set()
    monkeypatch.setattr(index_reading, "PATIENCE", 20.0)
    found = client.get("/api/features?query=dog").json()
    assert found["rows"]
    assert not found["is_preparing"]


def test_a_search_that_cannot_be_made_ready_is_not_asked_for_again(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(folder: Path, *, progress: Any) -> Any:
        raise OSError("no space left")

    monkeypatch.setattr(index_reading, "build_search", broken)
    found = client.get("/api/features?query=dog").json()
    assert "no space left" in found["missing"]
    assert not found["is_preparing"]


def test_a_search_for_a_number_or_nothing(client: TestClient) -> None:
    for query in ("1:3", "L1/3", " 1/3 "):
        rows = client.get("/api/features", params={"query": query}).json()["rows"]
        assert [(row["layer"], row["feature"]) for row in rows] == [(1, 3)]
    for query, words in (("7:1", "layer 7"), ("?!", "no word"), ("xylophone", "no feature goes")):
        found = client.get("/api/features", params={"query": query}).json()
        assert found["rows"] == []
        assert words in found["missing"]
    for wrong in ("count=0", "count=1000", "start=-1", "layer=-1", "sort=colour"):
        assert client.get(f"/api/features?{wrong}").status_code == 422
    assert "layers are 0 to 1" in client.get("/api/features?layer=9").json()["missing"]


@pytest.mark.real
def test_the_shipped_index_answers_quickly(tmp_path: Path) -> None:
    from time import perf_counter

    from lucida.dictionaries.shipped import default_dictionary
    from lucida.features.shipped import index_beside

    shipped_one = default_dictionary("smollm2-135m")
    folder = None if shipped_one is None else index_beside(shipped_one.folder)
    if folder is None:
        pytest.skip("no index of SmolLM2 is shipped here")
    client = client_of(FeatureIndex.open(folder), tmp_path, "smollm2-135m-plt")
    client.get("/api/features/3/5")
    began = perf_counter()
    cards = [client.get(f"/api/features/{layer}/{60 * layer}").json() for layer in range(30)]
    assert (perf_counter() - began) / 30 < 0.2
    assert sum(bool(card["label"]) for card in cards) > 20
    assert json.dumps(cards).count("lucida index") == len(cards)


@pytest.mark.parametrize("is_shipped", [False, True])
def test_names_given_at_once_are_all_kept(index: FeatureIndex, tmp_path: Path, is_shipped: bool) -> None:
    """Nor is the file of names found damaged by who reads it while another is being written."""
    from concurrent.futures import ThreadPoolExecutor

    client = client_of(shipped(index) if is_shipped else index, tmp_path / "page")
    places = [(layer, feature) for layer, count in enumerate(SPACE) for feature in range(count)]
    with ThreadPoolExecutor(6) as pool:
        done = pool.map(lambda p: client.put(f"/api/features/{p[0]}/{p[1]}/label", json={"label": f"n{p}"}), places)
        assert {answer.status_code for answer in done} == {200}
    rows = client.get("/api/features?count=50").json()["rows"]
    assert {(row["layer"], row["feature"]): row["label"] for row in rows} == {place: f"n{place}" for place in places}
