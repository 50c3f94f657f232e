"""An index of every kind of unit (windowed, cross-layer, TopK, neurons, a bfloat16 model) against a slow one."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import build_hf

from lucida.dictionaries import Dictionary
from lucida.errors import FeatureError
from lucida.evaluation.basis import NeuronBasis, neuron_activations
from lucida.features.build.one_pass import build_index, merge_indexes
from lucida.features.build.tiles import Tiles
from lucida.features.finish import finish_index
from lucida.features.header import IndexHeader
from lucida.features.index import FeatureIndex
from lucida.features.reading.contrast import contrast, precision_recall
from lucida.features.reading.read_text import read_text
from lucida.features.reading.watch import watch
from lucida.features.tables import SCHEMAS, read_table
from lucida.microscope import Microscope
from lucida.models.model import Model
from lucida.models.sinks import find_sinks
from lucida.models.taps import run

SETTINGS: dict[str, Any] = {"context": 16, "k": 3, "samples": 2, "window": 3, "sampled_places": 60}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "windowed": ("llama", {"span": 2}),
    "cross-layer": ("gemma2", {"span": 3, "reads_at": "resid_mid", "writes_at": "resid"}),
    "topk": ("llama", {"activation": "topk"}),
    "relu": ("gpt_neox", {"activation": "relu", "reads_at": "mlp_norm"}),
}
"""A family, and the settings of a dictionary for it."""


def activations(model: Model, units: Any, store: Any, site: str = "mlp_in") -> np.ndarray:
    """What every unit does at every place that counts, [place, unit], and NaN at places that do not."""
    tiles = Tiles(store, SETTINGS["context"])
    sinks = find_sinks(model, tiles.tile(0).tokens)
    layers = range(model.n_layers)
    found = np.full((store.n_tokens, sum(units.n_features(layer) for layer in layers)), np.nan, np.float32)
    for number in range(len(tiles)):
        tile, values, lengths = tiles.tile(number), [], []

        def visit(call: Any, values: list = values, lengths: list = lengths) -> None:
            if call.at != "mlp_out":
                return
            lengths.append(call.residual.float().norm(dim=-1))
            if isinstance(units, Dictionary):
                values.append(units.encode(call.layer, call.site(model, site).flatten(0, 1)))
            else:
                x = call.mlp_in.float().flatten(0, 1)
                activation = neuron_activations(model, call.layer, x)
                values.append(torch.where(units.scores(call.layer, activation) >= units.threshold, activation, 0.0))

        run(model, tile.tokens, visit)
        counted = sinks.counted(torch.stack(lengths)).numpy() & (tile.places >= 0)
        found[tile.places[counted]] = torch.cat(values, 1).abs().numpy()[counted.ravel()]
    return found


def digest(folder: Path) -> str:
    names = ("stats", "examples", "active", "vocabulary")
    return "".join(hashlib.sha256((folder / f"{n}.parquet").read_bytes()).hexdigest()[:12] for n in names)


def check(folder: Path, slow: np.ndarray, *, tolerance: float = 1e-5) -> None:
    """The numbers of an index against activations [place, unit]."""
    stats = read_table(folder / "stats.parquet", SCHEMAS["stats"]).to_pandas()
    slow = slow[~np.isnan(slow).any(1)]
    assert IndexHeader.open(folder).n_places == len(slow)
    count = (slow > 0).sum(0)
    assert np.abs(stats["count"] - count).sum() <= 5 * tolerance * count.sum()
    assert count.sum() > 1000
    assert stats["maximum"].to_numpy() == pytest.approx(slow.max(0), rel=tolerance, abs=tolerance)
    total = (stats["total"] * 2.0**-20).to_numpy()
    expected = slow.sum(0, dtype=np.float64)
    assert np.abs(total - expected).sum() <= 5 * tolerance * expected.sum()


def check_parts(model: Model, units: Any, store: Any, folder: Path) -> None:
    """Two parts merge to the bits of `folder`/whole."""
    parts = [folder / f"{part}" for part in range(2)]
    for part, place in enumerate(parts):
        build_index(model, units, store, place, shard=(part, 2), **SETTINGS)
    merge_indexes(parts, store, folder / "merged", model=model)
    assert digest(folder / "merged") == digest(folder / "whole")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_dictionary(
    tiny_model: Callable, tiny_features: Callable, store_for: Callable, tmp_path: Path, kind: str
) -> None:
    family, settings = KINDS[kind]
    model = tiny_model(family)
    dictionary, store = tiny_features(model, **settings), store_for(model, 600)
    build_index(model, dictionary, store, tmp_path / "whole", **SETTINGS)
    site = "mlp_in" if family == "gpt_neox" else dictionary.reads_at  # what a LayerNorm gives is the MLP's input
    check(tmp_path / "whole", activations(model, dictionary, store, site))
    check_parts(model, dictionary, store, tmp_path)
    index = FeatureIndex.open(tmp_path / "merged", check=True)
    assert index.card(2, 3).text()
    assert watch(model, dictionary, [1, 5, 17, 3], index, densest=1.0).tokens


@pytest.mark.parametrize("activation", ["jumprelu", "topk"])
def test_a_bfloat16_model(tiny_features: Callable, store_for: Callable, tmp_path: Path, activation: str) -> None:
    """Encoders multiply in bfloat16 then, which is right to about .3 %."""
    model = Model(build_hf("llama").to(torch.bfloat16), name="tiny-bfloat16")
    dictionary, store = tiny_features(model, activation=activation), store_for(model, 600)
    build_index(model, dictionary, store, tmp_path / "whole", **SETTINGS)
    check(tmp_path / "whole", activations(model, dictionary, store), tolerance=0.01)
    check_parts(model, dictionary, store, tmp_path)
    other = Model(build_hf("llama"), name="tiny-bfloat16")
    with pytest.raises(FeatureError, match=r"dtype: 'torch.bfloat16', now 'torch.float32'"):
        build_index(other, dictionary, store, tmp_path / "whole", **SETTINGS)


@pytest.fixture
def neurons(tiny_model: Callable) -> NeuronBasis:
    return NeuronBasis(tiny_model("llama"), 0.5, scales=(1.0, 2.0, 1.5))


def test_neurons(neurons: NeuronBasis, store_for: Callable, tmp_path: Path) -> None:
    """They are indexed at their threshold, by the size of their activation, and read from a text in the same way."""
    model, store = neurons.model, store_for(neurons.model, 600)
    build_index(model, neurons, store, tmp_path / "whole", **SETTINGS)
    check(tmp_path / "whole", activations(model, neurons, store))
    check_parts(model, neurons, store, tmp_path)
    finish_index(model, None, tmp_path / "whole")
    scope = Microscope(model, "neurons")
    index = scope.features(tmp_path / "whole")
    assert index.header.settings["units"] == neurons.settings
    tokens = Tiles(store, SETTINGS["context"]).tile(0).tokens[0].tolist()
    seen = scope.watch(tokens, index, count=999, densest=1.0)
    slow = activations(model, neurons, store)
    width = neurons.n_features(0)
    for token in seen.tokens:
        own = slow[token.position - 1]
        assert {each.layer * width + each.feature for each in token.features} == set(np.flatnonzero(own > 0).tolist())
        for each in token.features:
            assert each.activation == pytest.approx(own[each.layer * width + each.feature], rel=1e-4)
    assert any(each.label for token in seen.tokens for each in token.features)


def test_neurons_at_another_threshold_are_another_index(
    neurons: NeuronBasis, store_for: Callable, tmp_path: Path
) -> None:
    model, store = neurons.model, store_for(neurons.model, 300)
    build_index(model, neurons, store, tmp_path / "i", **SETTINGS)
    other = NeuronBasis(model, 0.6, scales=neurons.scales)
    with pytest.raises(FeatureError, match=r"units: .*'threshold': 0.5.*, now .*'threshold': 0.6"):
        build_index(model, other, store, tmp_path / "i", **SETTINGS)
    parts = [tmp_path / "0", tmp_path / "1"]
    for part, (units, place) in enumerate(zip((neurons, other), parts, strict=True)):
        build_index(model, units, store, place, shard=(part, 2), **SETTINGS)
    with pytest.raises(FeatureError, match=r"part of another index .*\(units: "):
        merge_indexes(parts, store, tmp_path / "m")
    index = FeatureIndex.open(tmp_path / "i")
    with pytest.raises(FeatureError, match="another threshold"):
        watch(model, other, [1, 5, 17], index)


def test_neurons_tell_texts_apart(neurons: NeuronBasis, store_for: Callable, tmp_path: Path) -> None:
    model, store = neurons.model, store_for(neurons.model, 300)
    build_index(model, neurons, store, tmp_path / "i", **SETTINGS)
    with_, without = [[5, 42, 7], [5, 42, 9], [6, 42, 7]], [[5, 17, 7], [5, 18, 9], [6, 19, 7]]
    scope = Microscope(model, "neurons")
    found = scope.contrast(with_, without, tmp_path / "i")
    assert found.separations
    assert found == contrast(model, neurons, with_, without)
    best = found.separations[0]
    measured = scope.precision_recall(best.layer, best.feature, with_, without, tmp_path / "i")
    assert measured == precision_recall(model, neurons, best.layer, best.feature, with_, without)
    for ask in (
        lambda: scope.contrast(with_, without),
        lambda: scope.watch([1, 5, 17]),
        lambda: read_text(model, None, [1, 2]),
    ):
        with pytest.raises(FeatureError, match="index of neurons"):
            ask()


def test_the_neurons_of_another_model(tiny_model: Callable, store_for: Callable, tmp_path: Path) -> None:
    model = tiny_model("llama")
    build_index(model, NeuronBasis(model, 0.5), store_for(model, 300), tmp_path / "i", **SETTINGS)
    with pytest.raises(FeatureError, match="is of the neurons of tiny-llama"):
        Microscope(tiny_model("gpt2"), "neurons").features(tmp_path / "i")
