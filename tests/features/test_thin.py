"""A small copy of an index says the same, and less; SQL reads it; a trace takes names from one beside the features."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made_up_index import made_up_index

from lucida.dictionaries import write_circuit_tracer
from lucida.errors import FeatureError
from lucida.features.build.one_pass import build_index
from lucida.features.index import FeatureIndex
from lucida.features.labels import Label, best_labels, write_labels
from lucida.features.reading.search_table import build_search, has_search
from lucida.features.shipped import FOLDER
from lucida.features.tables import BINS_PER_OCTAVE
from lucida.features.thin import thin_index
from lucida.microscope import Microscope


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = made_up_index(tmp_path / "index")
    write_labels(folder, "automatic", [Label(0, 1, "small", "automatic", "word", 0.9, details={"why": 1})])
    return folder


def test_a_thin_copy_keeps_what_a_reader_wants(folder: Path, tmp_path: Path) -> None:
    thin_index(folder, tmp_path / "thin", top=1, before=2, after=1)
    whole, thin = FeatureIndex.open(folder), FeatureIndex.open(tmp_path / "thin", check=True)
    for layer, count in enumerate(whole.space.n_features):
        for feature in range(count):
            assert thin.stats(layer, feature).count == whole.stats(layer, feature).count
            mine, full = thin.examples(layer, feature), whole.examples(layer, feature, "top")[:1]
            assert len(mine) == len(full)
            for small, large in zip(mine, full, strict=True):
                assert small.position == large.position
                assert small.tokens[small.peak] == large.tokens[large.peak]
                assert len(small.tokens) <= 4
                kept = slice(large.peak - small.peak, large.peak - small.peak + len(small.tokens))
                assert small.tokens.tolist() == large.tokens[kept].tolist()
                np.testing.assert_allclose(small.activations, large.activations[kept], rtol=1 / 256)
            bins = thin.stats(layer, feature).histogram, whole.stats(layer, feature).histogram
            octaves = [counts.reshape(-1, BINS_PER_OCTAVE).sum(1).tolist() for counts in bins]
            assert octaves[0] == octaves[1]
    label = thin.label(0, 1)
    assert label is not None
    assert (label.label, dict(label.details)) == ("small", {})


def test_its_search_table_lies_in_the_cache(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUCIDA_CACHE", str(tmp_path / "cache"))
    thin_index(folder, tmp_path / "thin")
    before = sorted(path.name for path in (tmp_path / "thin").rglob("*"))
    thin = FeatureIndex.open(tmp_path / "thin")
    assert not has_search(thin)
    made = build_search(tmp_path / "thin")
    assert made.is_relative_to(tmp_path / "cache")
    assert has_search(thin)
    assert thin.search("small")
    assert sorted(path.name for path in (tmp_path / "thin").rglob("*")) == before


def test_duckdb_reads_a_thin_index(folder: Path, tmp_path: Path) -> None:
    thin_index(folder, tmp_path / "thin", top=1)
    whole, thin = FeatureIndex.open(folder), FeatureIndex.open(tmp_path / "thin")
    examples = "select layer, feature, position, document, tokens[peak + 1] as token from examples"
    for ask in ("select layer, feature, count, maximum from stats", f"{examples} where kind = 'top' and rank = 0"):
        assert thin.sql(ask).to_pylist() == whole.sql(ask).to_pylist()


def test_duckdb_reads_an_index(folder: Path) -> None:
    index = FeatureIndex.open(folder)
    found = index.sql("select label, count from stats join labels using (layer, feature)").to_pylist()
    assert found == [{"label": "small", "count": index.stats(0, 1).count}]
    with pytest.raises(FeatureError, match="DuckDB says"):
        index.sql("select nothing from nowhere")


def test_a_person_is_believed_first_and_a_guessing_model_last(tmp_path: Path) -> None:
    write_labels(tmp_path, "automatic", [Label(0, f, "a rule", "automatic", "word") for f in range(4)])
    scores = {0: 0.9, 1: 0.5, 2: None, 3: 0.9, 4: 0.5}
    write_labels(tmp_path, "llm", [Label(0, f, "a model", "m", "llm", score) for f, score in scores.items()])
    write_labels(tmp_path, "human", [Label(0, 3, "a person", "me", "hand")])
    said = {feature: label.label for (_, feature), label in best_labels(tmp_path).items()}
    assert said == {0: "a model", 1: "a rule", 2: "a model", 3: "a person", 4: "a model"}


def test_traces_take_their_names_from_the_index_beside_the_features(
    tiny_model: Callable, tiny_features: Callable, store_for: Callable, tmp_path: Path
) -> None:
    model = tiny_model("llama")
    write_circuit_tracer(tiny_features(model), tmp_path / "features")
    scope = Microscope(model, tmp_path / "features")
    assert scope.index is None
    assert scope.dictionary is not None
    index = tmp_path / "features" / FOLDER
    build_index(model, scope.dictionary, store_for(model, 600), index, context=16, k=2, samples=1, window=2)
    every = [Label(layer, f, f"name {layer}:{f}", "me", "hand") for layer in range(3) for f in range(40)]
    write_labels(index, "human", every)
    table = Microscope(model, tmp_path / "features").trace([1, 5, 9, 3]).nodes
    features = np.flatnonzero(table.is_kind("feature"))
    assert len(features)
    for node in features.tolist():
        assert table.label[node] == f"name {table.layer[node]}:{table.feature[node]}"
