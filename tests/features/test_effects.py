"""Token effects against the literal formula, what they promise, and the file they are written to."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_up_index import made_up_index

from lucida.dictionaries import Dictionary
from lucida.dictionaries.random import random_dictionary
from lucida.errors import FeatureError
from lucida.features.effects.directions import written
from lucida.features.effects.effect_table import compute_effects, example_counts
from lucida.features.effects.token_effects import TokenRanking, exciting_tokens, largest, token_effects
from lucida.features.header import IndexHeader
from lucida.features.tables import EFFECTS, EXAMPLES, read_table

LAYERS, WIDTH, TOKENS = 3, 32, 97
"""Of the tiny models of tests/conftest.py."""
COUNTS = np.random.default_rng(5).integers(0, 40, TOKENS)


def dictionary(span: int = 3, writes_at: str = "mlp_out", reads_at: str = "mlp_in") -> Dictionary:
    return random_dictionary(LAYERS, WIDTH, 7, span=span, writes_at=writes_at, reads_at=reads_at, seed=3)


def literal_scores(model: Any, features: Dictionary, layer: int, feature: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Effects and scores of one feature on every token, one at a time, as the docstring has them."""
    direction = torch.zeros(WIDTH)
    for target in features.writes_to(layer):
        row = features.decoder_rows(layer, torch.tensor([feature]), target)[0]
        norm = model.norm(model.layers[target].mlp_post_norm)
        direction += row * norm.weight if norm is not None and features.writes_at == "mlp_out" else row
    head = model.hf.get_output_embeddings().weight.float() * model.final_norm.weight
    if model.final_norm.centred:
        head = head - head.mean(1, keepdim=True)
    share = torch.tensor(COUNTS / COUNTS.sum(), dtype=torch.float32)
    rows = head - sum(share[t] * head[t] for t in range(TOKENS))
    typical = torch.stack([row.square().sum() for row in rows]).median()
    effects, scores = torch.zeros(TOKENS), torch.zeros(TOKENS)
    for token, row in enumerate(rows):
        effects[token] = direction @ row
        seen = float(COUNTS[token])
        scores[token] = effects[token] / (row.square().sum() + typical).sqrt() * seen / (seen + COUNTS.sum() / TOKENS)
    return effects, scores


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("writes_at", ["mlp_out", "resid"])
def test_equals_the_literal_formula(tiny_model: Any, family: str, writes_at: str) -> None:
    model, features = tiny_model(family), dictionary(writes_at=writes_at)
    found = token_effects(model, features, 5, counts=COUNTS)
    for number, (layer, feature) in enumerate((layer, feature) for layer in range(LAYERS) for feature in range(7)):
        effects, scores = literal_scores(model, features, layer, feature)
        for end, order in ((found.promoted, scores.argsort(descending=True)), (found.suppressed, scores.argsort())):
            assert torch.allclose(scores[end.tokens[number]], scores[order[:5]], atol=1e-5)
            assert torch.allclose(end.effects[number], effects[end.tokens[number]], atol=1e-4)


def test_effects_move_the_logits_as_they_say(tiny_model: Any) -> None:
    """With the denominator frozen, adding a unit of the feature moves centred logits by its effects."""
    model, features = tiny_model("llama"), dictionary(writes_at="resid")
    found = token_effects(model, features, 4)
    x = torch.randn(WIDTH, generator=torch.Generator().manual_seed(0))
    scale = model.final_norm.scale(x)
    direction = written(model, features, 1)[2]
    head = model.hf.get_output_embeddings().weight.float()
    moved = head @ (model.final_norm.push(x + direction, scale) - model.final_norm.push(x, scale))
    moved = (moved - moved.mean()) / scale
    number = 7 + 2
    assert torch.allclose(found.promoted.effects[number], moved[found.promoted.tokens[number]], atol=1e-4)


def test_effects_are_centred_over_the_corpus(tiny_model: Any) -> None:
    rows = tiny_model("llama").hf.get_output_embeddings().weight.float()
    ranking = TokenRanking.of(rows, COUNTS)
    share = torch.tensor(COUNTS / COUNTS.sum(), dtype=torch.float32)
    assert torch.allclose(share @ ranking.rows, torch.zeros(WIDTH), atol=1e-5)


def test_a_token_with_an_odd_norm_that_the_corpus_hardly_has_does_not_win() -> None:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(50, 8, generator=generator)
    rows[7] *= 30.0  # a huge row
    rows[9] *= 1e-3  # one that training never touched
    counts = np.full(50, 100)
    counts[7] = 1
    tops = TokenRanking.of(rows, counts).top(torch.randn(200, 8, generator=generator), 5).tokens
    plain = (torch.randn(200, 8, generator=generator) @ rows.T).topk(5).indices
    assert (plain == 7).any(1).float().mean() > 0.4
    assert (tops == 7).any(1).float().mean() < 0.02
    assert (tops == 9).any(1).float().mean() < 0.05


def test_largest_is_exact_at_every_width() -> None:
    for width in (3, 255, 256, 257, 2600, 5121):
        scores = torch.randn(6, width, generator=torch.Generator().manual_seed(width))
        expected = scores.topk(min(5, width), dim=1)
        assert torch.equal(scores.gather(1, largest(scores, 5)), expected.values)


def test_exciting_tokens_drive_the_feature_most(tiny_model: Any) -> None:
    model, features = tiny_model("llama"), dictionary()
    found = exciting_tokens(model, features, 3)
    rows = features.encoder_rows(1, torch.tensor([4]))[0] * model.norm(model.layers[1].mlp_norm).weight
    embeddings = model.hf.get_input_embeddings().weight.float()
    driven = (embeddings - embeddings.mean(0)) @ rows
    number = 7 + 4
    assert torch.allclose(found.effects[number], driven[found.tokens[number]], atol=1e-4)
    assert driven[found.tokens[number, 0]] > 0.5 * driven.max() > 0


def test_counts_of_another_vocabulary_are_refused(tiny_model: Any) -> None:
    with pytest.raises(FeatureError, match="counts of 5 tokens"):
        token_effects(tiny_model("llama"), dictionary(), counts=np.ones(5, dtype=np.int64))


def _index_of(model: Any, features: Dictionary, folder: Path) -> Path:
    made_up_index(folder, n_features=(7,) * LAYERS)
    header = IndexHeader.open(folder)
    fields = {**header.__dict__, "dictionary": features.name, "dictionary_digest": features.source.fingerprint}
    IndexHeader(**fields).save(folder)
    return folder


def test_the_file_has_a_row_for_each_feature_and_is_recorded(tiny_model: Any, tmp_path: Path) -> None:
    model, features = tiny_model("llama"), dictionary()
    folder = _index_of(model, features, tmp_path / "index")
    stages: list[str] = []
    path = compute_effects(model, features, folder, count=4, progress=lambda stage, _done, _total: stages.append(stage))
    rows = read_table(path, EFFECTS).to_pylist()
    assert [(row["layer"], row["feature"]) for row in rows] == [(la, f) for la in range(LAYERS) for f in range(7)]
    assert IndexHeader.open(folder).files["effects.parquet"].size == path.stat().st_size
    said = token_effects(model, features, 4, counts=example_counts(folder, TOKENS))
    for number, row in enumerate(rows):
        assert row["promoted"] == said.promoted.tokens[number].tolist()
        assert len(row["nearest_cosine"]) == 4
        assert len(row["input_features"]) == len(row["input_expected"]) == len(row["input_weights"])
        assert all(source < row["layer"] for source in row["input_layers"])
    assert rows[0]["input_features"] == []
    assert len(rows[-1]["input_features"]) >= 4
    assert len(dict.fromkeys(stages)) == 4


def test_neurons_have_effects_but_no_read_vectors(tiny_model: Any, tmp_path: Path) -> None:
    model = tiny_model("llama")
    made_up_index(tmp_path / "index", n_features=(48,) * LAYERS, n_places=500)
    row = read_table(compute_effects(model, None, tmp_path / "index", count=3), EFFECTS).to_pylist()[5]
    assert len(row["promoted"]) == len(row["nearest_features"]) == 3
    assert row["excited_by_tokens"] == row["input_features"] == []


def test_an_index_of_another_dictionary_is_refused(tiny_model: Any, tmp_path: Path) -> None:
    model, features = tiny_model("llama"), dictionary()
    folder = made_up_index(tmp_path / "index", n_features=(7,) * LAYERS)
    with pytest.raises(FeatureError, match="is the index of made-up-features, not of"):
        compute_effects(model, features, folder)
    assert not (folder / "effects.parquet").exists()


def test_tokens_of_the_examples_are_counted_once_a_place(tmp_path: Path) -> None:
    folder = made_up_index(tmp_path / "index")
    at: dict[int, int] = {}
    for row in read_table(folder / "examples.parquet", EXAMPLES).to_pylist():
        at |= {row["position"] - row["peak"] + i: token for i, token in enumerate(row["tokens"])}
    assert example_counts(folder, 20).tolist() == np.bincount(list(at.values()), minlength=20).tolist()
