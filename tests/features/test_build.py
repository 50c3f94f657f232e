"""The index against a slow one that keeps everything: equal, however the work was divided."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from lucida.errors import FeatureError
from lucida.features.build import one_pass
from lucida.features.build.events import DictionaryUnits, EventReader
from lucida.features.build.numbers import histogram_bins, priorities
from lucida.features.build.one_pass import build_index, merge_indexes
from lucida.features.build.state import place_draws
from lucida.features.build.tiles import Tiles
from lucida.features.header import IndexHeader

CONTEXT, K, SAMPLES, WINDOW, PLACES = 16, 4, 2, 3, 60
SETTINGS: dict[str, Any] = {
    "context": CONTEXT, "k": K, "samples": SAMPLES, "window": WINDOW, "sampled_places": PLACES,
}  # fmt: skip


@pytest.fixture(scope="module")
def case(tiny_model: Callable, tiny_features: Callable, store_for: Callable) -> tuple[Any, Any, Any]:
    model = tiny_model("llama")
    return model, tiny_features(model), store_for(model, 4000)


def all_events(model: Any, dictionary: Any, store: Any) -> list[dict[str, Any]]:
    """All events of a corpus, one dict each."""
    rows: list[dict[str, Any]] = []
    tiles = Tiles(store, CONTEXT)
    reader = EventReader(model, DictionaryUnits(model, dictionary), tiles)

    def receive(events: Any) -> None:
        for number, value, place, document in zip(
            events.number.tolist(), events.value.tolist(), events.place.tolist(), events.document.tolist(), strict=True
        ):
            rows.append({"number": number, "value": value, "place": place, "document": document})

    for tile in range(len(tiles)):
        reader.read(tile, receive)
    return rows


@pytest.fixture(scope="module")
def everything(case: tuple[Any, Any, Any]) -> list[dict[str, Any]]:
    return all_events(*case)


def table(folder: Path, name: str) -> list[dict[str, Any]]:
    return pq.read_table(folder / f"{name}.parquet").to_pylist()


def digest(folder: Path) -> str:
    """Of all tables of an index."""
    names = ("stats", "examples", "active", "vocabulary")
    return "".join(hashlib.sha256((folder / f"{n}.parquet").read_bytes()).hexdigest()[:12] for n in names)


@pytest.fixture(scope="module")
def whole(case: tuple, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index") / "whole"
    build_index(case[0], case[1], case[2], folder, **SETTINGS)
    return folder


def test_equals_an_index_that_keeps_everything(case: tuple, everything: list[dict[str, Any]], whole: Path) -> None:
    assert len(everything) > 10_000
    check_index(case, everything, whole)


@pytest.mark.real
def test_the_same_on_a_hundred_thousand_tokens(
    tiny_model: Callable, tiny_features: Callable, store_for: Callable, tmp_path: Path
) -> None:
    model = tiny_model("llama")
    case = model, tiny_features(model), store_for(model, 100_000)
    build_index(*case, tmp_path / "i", **SETTINGS)
    everything = all_events(*case)
    assert len(everything) > 250_000
    check_index(case, everything, tmp_path / "i")


def check_index(case: tuple, everything: list[dict[str, Any]], folder: Path) -> None:
    """Statistics and examples of an index are those of all events."""
    _, dictionary, store = case
    width = dictionary.n_features(0)
    at = {(e["number"], e["place"]): e["value"] for e in everything}
    assert len(at) == len(everything)
    by_number: dict[int, list[dict[str, Any]]] = {}
    for event in everything:
        by_number.setdefault(event["number"], []).append(event)
    examples: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for example in table(folder, "examples"):
        examples.setdefault((example["layer"], example["feature"]), []).append(example)
    for row in table(folder, "stats"):
        number = row["layer"] * width + row["feature"]
        own = by_number.get(number, [])
        values = np.array([e["value"] for e in own], np.float32)
        assert row["count"] == len(own)
        assert row["total"] == int(np.rint(values.astype(np.float64) * 2**20).sum())
        assert row["maximum"] == (values.max() if len(own) else 0)
        assert row["first"] == min((e["place"] for e in own), default=-1)
        assert row["last"] == max((e["place"] for e in own), default=-1)
        expected = np.bincount(np.clip(np.floor(np.log2(values) * 4) + 48, 0, 95).astype(int), minlength=96)
        assert np.abs(np.array(row["histogram"]) - expected).sum() <= 2  # log2 may round at an edge
        mine = examples.get((row["layer"], row["feature"]), [])
        assert [(e["value"], e["position"]) for e in mine if e["kind"] == "top"] == strongest(own)
        assert [(e["band"], e["position"]) for e in mine if e["kind"] == "sample"] == sampled(own, number)
        for example in mine:
            check_text(example, at, number, store)


def strongest(own: list[dict[str, Any]]) -> list[tuple[float, int]]:
    best: dict[int, tuple[float, int]] = {}
    for event in sorted(own, key=lambda e: (-e["value"], e["place"])):
        best.setdefault(event["document"], (event["value"], event["place"]))
    return sorted(best.values(), key=lambda pair: (-pair[0], pair[1]))[:K]


def sampled(own: list[dict[str, Any]], number: int) -> list[tuple[int, int]]:
    bands: dict[int, list[tuple[int, int]]] = {}
    draws = priorities(np.array([event["place"] for event in own], np.int64), np.full(len(own), number))
    for event, draw in zip(own, draws.tolist(), strict=True):
        bands.setdefault(int(np.floor(np.log2(event["value"]))), []).append((draw, event["place"]))
    return [(band, place) for band in sorted(bands) for _, place in sorted(bands[band])[:SAMPLES]]


def check_text(example: dict[str, Any], at: dict, number: int, store: Any) -> None:
    """The window shows its own document and row, with the feature's activation at every place."""
    start = example["position"] - example["peak"]
    places = range(start, start + len(example["tokens"]))
    assert example["tokens"] == np.asarray(store.tokens[start : places.stop]).tolist()
    assert {store.document_of(place) for place in places} == {example["document"]}
    assert len({place // (CONTEXT - 1) for place in places}) == 1
    reach = [p for p in range(example["position"] - WINDOW, example["position"] + WINDOW + 1) if p in places]
    assert len(reach) == len(places)
    expected = [np.float16(at.get((number, place), 0.0)) for place in places]
    assert example["activations"] == [float(value) for value in expected]


def test_sampled_places_hold_all_that_is_active(case: tuple, everything: list[dict[str, Any]], whole: Path) -> None:
    draws = place_draws(np.arange(case[2].n_tokens))
    cut = np.sort(draws)[PLACES - 1]
    chosen = [e for e in everything if draws[e["place"]] <= cut]
    width = case[1].n_features(0)
    found = [(r["position"], r["layer"] * width + r["feature"], r["value"]) for r in table(whole, "active")]
    assert found == sorted((e["place"], e["number"], e["value"]) for e in chosen)
    assert len({place for place, _, _ in found}) > PLACES // 2


@pytest.mark.parametrize("count", [2, 7])
def test_shards_merge_to_the_same_bits(case: tuple, whole: Path, tmp_path: Path, count: int) -> None:
    model, dictionary, store = case
    folders = [tmp_path / f"{index}" for index in range(count)]
    for index, folder in enumerate(folders):
        build_index(model, dictionary, store, folder, shard=(index, count), **SETTINGS)
    merge_indexes(folders[::-1], store, tmp_path / "merged", model=model)
    assert digest(tmp_path / "merged") == digest(whole)
    assert IndexHeader.open(tmp_path / "merged").identity == IndexHeader.open(whole).identity
    assert IndexHeader.open(tmp_path / "merged").n_places == IndexHeader.open(whole).n_places


@pytest.mark.parametrize("pending", [50, 3000])
def test_how_much_waits_before_a_merge_changes_nothing(
    case: tuple, whole: Path, tmp_path: Path, pending: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lucida.features.build.state.PENDING", pending)
    monkeypatch.setattr("lucida.features.build.state.HISTOGRAM_EVENTS", 10 * pending)
    build_index(*case, tmp_path / "i", **SETTINGS)
    assert digest(tmp_path / "i") == digest(whole)


@pytest.mark.parametrize("stop_after", [1, 20])
def test_resumes_where_it_was_killed(
    case: tuple, whole: Path, tmp_path: Path, stop_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = EventReader.read
    calls = []

    def dies(self: EventReader, number: int, receive: Callable) -> int:
        calls.append(number)
        if len(calls) > stop_after:
            raise KeyboardInterrupt
        return read(self, number, receive)

    with monkeypatch.context() as patched:
        patched.setattr(EventReader, "read", dies)
        with pytest.raises(KeyboardInterrupt):
            build_index(*case, tmp_path / "i", checkpoint_minutes=0.0, **SETTINGS)
    done, wanted = IndexHeader.open(tmp_path / "i").tiles
    assert 0 < done < wanted
    assert not IndexHeader.open(tmp_path / "i").complete
    build_index(*case, tmp_path / "i", **SETTINGS)
    assert digest(tmp_path / "i") == digest(whole)


def test_a_finished_index_is_left_as_it_is(case: tuple, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "i")
    before = digest(tmp_path / "i")
    assert build_index(*case, tmp_path / "i", **SETTINGS).complete
    assert digest(tmp_path / "i") == before
    with pytest.raises(FeatureError, match=r"holds another index \(k: 4, now 5\)"):
        build_index(*case, tmp_path / "i", **{**SETTINGS, "k": 5})


def test_prefix_and_a_cross_layer_dictionary(
    tiny_model: Callable, tiny_features: Callable, store_for: Callable, tmp_path: Path
) -> None:
    model = tiny_model("gpt2")
    dictionary = tiny_features(model, span=model.n_layers, reads_at="resid_mid", writes_at="resid")
    store = store_for(model, 500, prefix=1)
    header = build_index(model, dictionary, store, tmp_path / "i", **SETTINGS)
    events = all_events(model, dictionary, store)
    assert sum(row["count"] for row in table(tmp_path / "i", "stats")) == len(events)
    assert header.n_places <= 500
    assert {e["place"] for e in events} <= set(range(500))


def test_every_place_counts_once_but_those_without_context(case: tuple) -> None:
    tiles = Tiles(case[2], CONTEXT)
    places = np.concatenate([tiles.tile(t).places[:, 1:].reshape(-1) for t in range(len(tiles))])
    assert sorted(places[places >= 0].tolist()) == list(range(case[2].n_tokens))
    assert all((tiles.tile(t).places[:, 0] == -1).all() for t in range(len(tiles)))
    assert [len(tiles.shard(i, 7)) for i in range(7)] == pytest.approx([len(tiles) / 7] * 7, abs=1)
    assert [t for i in range(7) for t in tiles.shard(i, 7)] == list(range(len(tiles)))


def test_wrong_shards_are_refused(case: tuple, tmp_path: Path) -> None:
    model, dictionary, store = case
    folders = [tmp_path / f"{index}" for index in range(3)]
    for index in (0, 1):
        build_index(model, dictionary, store, folders[index], shard=(index, 3), **SETTINGS)
    with pytest.raises(FeatureError, match=r"shards 2 of 3 are missing"):
        merge_indexes(folders[:2], store, tmp_path / "m")
    with pytest.raises(FeatureError, match="shard 1 is there twice"):
        merge_indexes([folders[0], folders[1], folders[1]], store, tmp_path / "m")
    build_index(model, dictionary, store, folders[2], shard=(2, 3), **{**SETTINGS, "samples": 1})
    with pytest.raises(FeatureError, match="a part of another index"):
        merge_indexes(folders, store, tmp_path / "m")
    shutil.rmtree(folders[2])
    build_index(model, dictionary, store, folders[2], shard=(2, 3), **SETTINGS)
    path = folders[2] / "examples.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    with pytest.raises(FeatureError, match="missing or cut short"):
        merge_indexes(folders, store, tmp_path / "m")
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(FeatureError, match="damaged"):
        merge_indexes(folders, store, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_numbers_that_cannot_be(case: tuple, tmp_path: Path) -> None:
    for name, value in (("k", 0), ("samples", -1), ("window", -1), ("context", 1)):
        with pytest.raises(FeatureError, match=r"at least|no room"):
            build_index(*case, tmp_path / "i", **{**SETTINGS, name: value})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    with pytest.raises(FeatureError, match="not a feature index"):
        build_index(*case, tmp_path / "other", **SETTINGS)
    assert one_pass.CONTEXT == 128


def test_bins_come_from_bits() -> None:
    values = np.float32(2.0) ** np.arange(-14, 14, 0.25, dtype=np.float32)
    inside = values[(values >= 2.0**-12) & (values < 2.0**12)]
    assert np.abs(histogram_bins(inside) - np.arange(96)).max() <= 1
    assert histogram_bins(np.array([1.0, 1.18, 1.19, 1.99], np.float32)).tolist() == [48, 48, 49, 51]
    assert histogram_bins(np.array([1e-30, 1e30], np.float32)).tolist() == [0, 95]
    assert torch.is_tensor(torch.zeros(1))
