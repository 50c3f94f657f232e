"""The correctness laws of docs/method.md, for every family and every kind of source."""

import dataclasses
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import DENSE_FAMILIES, FAMILIES, FAMILIES_AND_KINDS, build_hf, dictionary_of_kind

from lucida.attribution import trace
from lucida.attribution_reference import reference_rows
from lucida.errors import ModelError
from lucida.interventions import Case, Scale, Set, intervene
from lucida.interventions import sweep as intervention_sweep
from lucida.models.check import check_model
from lucida.models.linear import FrozenModel
from lucida.models.model import Model
from lucida.models.recording import record
from lucida.neurons import linear_attributions, replace_neurons
from lucida.replacement import Replacement, replace_features
from lucida.sweep import Layout, Targets, feature_targets, sweep
from lucida.targets import choose_targets, logit_targets

TOKENS = [5, 17, 3, 88, 41, 17, 9]


@cache
def view_of(model: Any) -> FrozenModel:
    return FrozenModel(model, record(model, model.tokenize(TOKENS)))


dictionary_for = cache(dictionary_of_kind)


@cache
def replaced(view: FrozenModel, kind: str) -> tuple[Replacement, Targets, torch.Tensor]:
    logits = view.model.logits(view.recording.residual_final[-1:])[0]
    chosen = choose_targets(view.model, logits, [7, (5, 60)], max_targets=10, target_mass=0.95)
    outputs = logit_targets(view, chosen, view.n_positions - 1)
    weights = torch.tensor([t.weight for t in chosen])
    if kind == "neurons":
        return replace_neurons(view, outputs, weights, max_nodes=24), outputs, weights
    return replace_features(view, dictionary_for(view, kind)), outputs, weights


def all_rows(replacement: Replacement, outputs: Targets) -> torch.Tensor:
    features = feature_targets(replacement, torch.arange(len(replacement.active)))
    return torch.cat((sweep(replacement, outputs), sweep(replacement, features)))


@pytest.mark.parametrize("family", FAMILIES)
def test_family_is_read_right(tiny_model: Any, family: str) -> None:
    check_model(tiny_model(family))


@pytest.mark.parametrize("family", FAMILIES)
def test_family_is_read_right_in_bfloat16(family: str) -> None:
    """With one huge direction in the residual, as real models have: there, differences of the stream are rounding."""
    hf = build_hf(family)
    hf.get_input_embeddings().weight[:, 3] += 200.0
    check_model(Model(hf.to(torch.bfloat16), name=family))


def test_a_wrong_row_of_the_table_is_refused() -> None:
    """A family whose norm is read as another kind does not pass the contract check."""
    model = Model(build_hf("gemma2"), name="gemma2")
    model.family = dataclasses.replace(model.family, norm="rms")
    with pytest.raises(ModelError, match="does not reproduce"):
        check_model(model)


@pytest.mark.parametrize(("family", "kind"), FAMILIES_AND_KINDS)
def test_sweep_equals_autograd(tiny_model: Any, family: str, kind: str) -> None:
    view = view_of(tiny_model(family))
    replacement, outputs, _ = replaced(view, kind)
    n_active = len(replacement.active)
    some = torch.randperm(n_active, generator=torch.Generator().manual_seed(0))[:6]
    fast = torch.cat((sweep(replacement, outputs), sweep(replacement, feature_targets(replacement, some))))
    rows, biases = view.model.unembedding(torch.tensor([7, 5]))
    other, bias = view.model.unembedding(torch.tensor([60]))
    directions = torch.stack((rows[0], rows[1] - other[0]))
    constants = torch.stack((biases[0], biases[1] - bias[0]))
    # choose_targets puts the difference (weight 1) first.
    slow = reference_rows(replacement, directions.flip(0), constants.flip(0), view.n_positions - 1, some)
    assert n_active > 12
    scale = slow.abs().max()
    assert (fast - slow).abs().max() < 1e-4 * scale


@pytest.mark.parametrize(("family", "kind"), FAMILIES_AND_KINDS)
def test_rows_add_up(tiny_model: Any, family: str, kind: str) -> None:
    """Edges + error + bias = pre-activation of a feature, or the (demeaned, uncapped) logit."""
    view = view_of(tiny_model(family))
    replacement, outputs, _ = replaced(view, kind)
    sums = all_rows(replacement, outputs).sum(1)
    expected = replacement.active.activation
    assert torch.allclose(sums[2:], expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    head, norm = view.model.hf.get_output_embeddings(), view.model.final_norm_module
    logits = head(norm(view.recording.residual_final[-1]))
    wanted = torch.stack((logits[5] - logits[60], logits[7] - logits.mean()))
    assert torch.allclose(sums[:2], wanted, rtol=1e-3, atol=1e-3 * float(logits.abs().max()))


@pytest.mark.parametrize(("family", "kind"), FAMILIES_AND_KINDS)
def test_replacement_reproduces_the_logits(tiny_model: Any, family: str, kind: str) -> None:
    """Features + bypass + error + constants, put in the place of every MLP, give the model's logits."""
    view = view_of(tiny_model(family))
    model = view.model
    replacement, _, _ = replaced(view, kind)
    handles = []
    for layer in range(model.n_layers):
        rebuilt = replacement.error[layer] + replacement.constant[layer] + replacement.sources.bypassed(layer)
        rebuilt += replacement.writes(layer).vectors[:, 2:].sum(1)
        module = model.layers[layer].mlp_post_norm or model.layers[layer].mlp
        handles.append(module.register_forward_hook(lambda *_, value=rebuilt: value[None]))
    try:
        found = model.hf(input_ids=torch.tensor([TOKENS])).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    expected = model.hf(input_ids=torch.tensor([TOKENS])).logits[0]
    assert (found - expected).abs().max() < 1e-3


@pytest.mark.parametrize(("family", "kind"), FAMILIES_AND_KINDS)
def test_direct_effects_equal_edges(tiny_model: Any, family: str, kind: str) -> None:
    """Perturb one source by delta in the fully frozen model: every target moves by edge * delta / activation."""
    if kind == "neurons":
        pytest.skip("edges between neurons also go through the neurons that pass; see the next test")
    view = view_of(tiny_model(family))
    model = view.model
    dictionary = dictionary_for(view, kind)
    if dictionary.has_skip:
        pytest.skip("a frozen MLP holds its skip connection, the replacement's passes the signal on")
    replacement = replace_features(view, dictionary)
    active = replacement.active
    rows = sweep(replacement, feature_targets(replacement, torch.arange(len(active))))
    source = int((active.layer == 0).nonzero()[0])
    place = tuple(int(column[source]) for column in (active.layer, active.position, active.feature))
    activation = float(active.activation[source])
    outcome = intervene(model, dictionary, TOKENS, {place: Set(activation + 0.5)}, mode="frozen")
    after = FrozenModel(model, outcome.recording)
    for layer in range(model.n_layers):
        targets = (active.layer == layer).nonzero()[:, 0]
        which = active.feature[targets]
        frozen_site = _frozen_site(view, after, layer, view.reading_site(dictionary.reads_at))[active.position[targets]]
        values = (dictionary.encoder_rows(layer, which) * frozen_site).sum(1) + dictionary.encoder_bias(layer, which)
        moved = values - active.activation[targets]
        expected = rows[targets, source] * 0.5 / activation
        assert len(targets)
        assert torch.allclose(moved, expected, rtol=0, atol=2e-4 * float(active.activation.max()))


def _frozen_site(before: FrozenModel, after: FrozenModel, layer: int, reads_at: str) -> torch.Tensor:
    """The site as the frozen model sees it: recorded denominators, running residual."""
    if reads_at == "mlp_in":
        return after.recording.mlp_in[layer]
    moved = after.recording.residual_mid[layer] - before.recording.residual_mid[layer]
    if reads_at == "resid_mid":
        return before.site(layer, reads_at) + moved
    norm = before.model.norm(before.model.layers[layer].mlp_norm)
    if norm is None:
        return after.recording.residual_mid[layer]
    return before.site(layer, reads_at) + moved * norm.scale(before.recording.residual_mid[layer])[:, None]


@pytest.mark.parametrize("family", DENSE_FAMILIES)
def test_signed_attributions_add_up_over_the_embeddings(tiny_model: Any, family: str) -> None:
    """With every MLP linear, embeddings (and biases, where there are any) make up the logit difference."""
    view = view_of(tiny_model(family))
    logits = view.model.logits(view.recording.residual_final[-1:])[0]
    chosen = choose_targets(view.model, logits, [(5, 60)], max_targets=1, target_mass=0.9)
    outputs = logit_targets(view, chosen, view.n_positions - 1)
    found = linear_attributions(view, outputs, torch.ones(1))
    uncapped = view.model.hf.get_output_embeddings()(view.model.final_norm_module(view.recording.residual_final[-1]))
    difference = float(uncapped[5] - uncapped[60])
    total = float(found.embeddings.sum() + found.bias.sum())
    assert total == pytest.approx(difference, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("family", DENSE_FAMILIES)
def test_neuron_graph_gives_the_total_attributions(tiny_model: Any, family: str) -> None:
    """Paths through the graph of a few chosen neurons add up to each one's activation x gradient in the
    fully linear model: choosing nodes and passing the rest loses nothing."""
    from lucida.graph import attributions

    graph = trace(tiny_model(family), None, TOKENS, [(5, 60)], max_nodes=20)
    view = view_of(tiny_model(family))
    chosen = choose_targets(view.model, torch.zeros(view.model.d_vocab), [(5, 60)], max_targets=1, target_mass=0.9)
    outputs = logit_targets(view, chosen, view.n_positions - 1)
    totals = linear_attributions(view, outputs, torch.ones(1), sink_positions=1).neurons
    table = graph.nodes
    features = np.flatnonzero(table.is_kind("feature"))
    assert len(features) == 20
    expected = totals[table.layer[features], table.position[features], table.feature[features]]
    found = attributions(graph).magnitude[features]
    assert np.allclose(found, expected.numpy(), rtol=1e-3, atol=1e-4 * float(expected.max()))


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox", "gpt2"])
@pytest.mark.parametrize("kind", ["plt", "clt", "neurons"])
def test_chunks_do_not_matter(tiny_model: Any, family: str, kind: str) -> None:
    view = view_of(tiny_model(family))
    replacement, _outputs, _ = replaced(view, kind)
    features = feature_targets(replacement, torch.arange(len(replacement.active)))
    whole = sweep(replacement, features)
    small = sweep(replacement, features, chunk_bytes=4000)
    order = torch.randperm(len(features.layer), generator=torch.Generator().manual_seed(0))
    shuffled = Targets(*(getattr(features, n)[order] for n in ("layer", "position", "vector", "constant")))
    scale = whole.abs().max()
    assert (whole - small).abs().max() < 1e-5 * scale
    assert (whole[order] - sweep(replacement, shuffled)).abs().max() < 1e-5 * scale


@pytest.mark.parametrize(("family", "kind"), [(f, k) for f, k in FAMILIES_AND_KINDS if k in ("clt", "neurons")])
def test_null_intervention_changes_nothing(tiny_model: Any, family: str, kind: str) -> None:
    """To the bit: every active feature scaled by one, in every mode, attention live or frozen."""
    model = tiny_model(family)
    view = view_of(model)
    dictionary = None if kind == "neurons" else dictionary_for(view, kind)
    if dictionary is None:
        places = [(layer, position, 3) for layer in range(3) for position in range(1, 5)]
    else:
        active = replace_features(view, dictionary).active
        places = list(zip(active.layer.tolist(), active.position.tolist(), active.feature.tolist(), strict=True))
    edits = {place: Scale(1.0) for place in places}
    modes: tuple[Any, ...] = ("free", "constrained", "iterative", "frozen")
    cases = [*(Case(edits, mode) for mode in modes), Case(edits, "free", None, "frozen")]
    for outcome in intervention_sweep(model, dictionary, TOKENS, cases, view=view):
        assert torch.equal(outcome.logits, outcome.baseline)


@pytest.mark.parametrize("dtype", ["bfloat16"])
def test_bfloat16_products_stay_close(tiny_model: Any, dtype: str) -> None:
    view = view_of(tiny_model("llama"))
    dictionary = dictionary_for(view, "plt")
    exact = trace(tiny_model("llama"), dictionary, TOKENS, max_nodes=None)
    rough = trace(tiny_model("llama"), dictionary, TOKENS, max_nodes=None, dtype=dtype)
    assert rough.edges.shape == exact.edges.shape
    assert np.abs(rough.edges - exact.edges).max() < 0.03 * np.abs(exact.edges).max()
    assert np.abs(rough.edges - exact.edges).max() > 0


def test_layout_covers_every_column(tiny_model: Any) -> None:
    view = view_of(tiny_model("llama"))
    replacement, _, _ = replaced(view, "plt")
    layout = Layout.of(replacement)
    assert layout.errors.start == len(replacement.active)
    assert layout.embeddings == slice(layout.errors.stop, layout.bias)
    assert layout.width == layout.bias + 1
