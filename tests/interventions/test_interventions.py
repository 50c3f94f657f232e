"""Interventions: closed forms, ranges, equivalence with the model itself, and every bad edit."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lucida import Inhibit, Inject, Microscope, Scale, Set
from lucida.dictionaries import Dictionary, random_dictionary
from lucida.errors import InterventionError, PromptError
from lucida.interventions.plans import places_of, settings
from lucida.interventions.prediction import compare, feature_places, predict_and_measure
from lucida.models.linear import FrozenModel
from lucida.models.recording import record

TOKENS = [5, 17, 3, 88, 41]


def scope_with(model: Any, *, span: int = 1, writes_at: str = "resid", reads_at: str = "resid_mid") -> Microscope:
    view = FrozenModel(model, record(model, model.tokenize(TOKENS)))
    samples = {layer: view.site(layer, reads_at)[1:] for layer in range(view.n_layers)}
    dictionary = random_dictionary(
        3, 32, 40, l0=6.0, span=span, samples=samples, reads_at=reads_at, writes_at=writes_at, seed=2
    )
    return Microscope(model, dictionary)


def an_active(scope: Microscope, layer: int = 0) -> tuple[int, int, int]:
    graph = scope.trace(TOKENS, [7], max_nodes=None)
    node = next(n for n in graph.find(kind="feature", layer=layer) if n.position and n.position > 1)
    assert node.layer is not None
    assert node.position is not None
    assert node.feature is not None
    return (node.layer, node.position, node.feature)


@pytest.mark.parametrize("family", ["llama", "gemma2", "olmo2", "gpt_neox", "gpt2"])
@pytest.mark.parametrize("span", [1, 3])
@pytest.mark.parametrize("writes_at", ["resid", "mlp_out"])
def test_free_run_equals_adding_the_decoders(tiny_model: Any, family: str, span: int, writes_at: str) -> None:
    """Ablating one feature of layer 0 is the model with its decoders taken out at every layer it writes to, once."""
    model = tiny_model(family)
    scope = scope_with(model, span=span, writes_at=writes_at)
    assert scope.dictionary is not None
    layer, position, feature = an_active(scope)
    outcome = scope.intervene(TOKENS, {(layer, position, feature): 0.0})
    activation = outcome.edits[0].before
    handles = []
    for target in scope.dictionary.writes_to(layer):
        row = scope.dictionary.decoder_rows(layer, torch.tensor([feature]), target)[0]
        parts = model.layers[target]
        module = parts.mlp_post_norm if writes_at == "resid" and parts.mlp_post_norm is not None else parts.mlp

        def hook(_module: Any, _args: Any, output: torch.Tensor, row: torch.Tensor = row) -> torch.Tensor:
            output = output.clone()
            output[0, position] -= activation * row
            return output

        handles.append(module.register_forward_hook(hook))
    expected = model.hf(input_ids=torch.tensor([TOKENS])).logits[0, -1]
    for handle in handles:
        handle.remove()
    assert torch.allclose(outcome.logits, expected, atol=1e-5)
    assert not torch.allclose(outcome.logits, outcome.baseline, atol=1e-4)


def test_neuron_edit_equals_setting_the_neuron(tiny_model: Any) -> None:
    model = tiny_model("qwen2")
    outcome = Microscope(model).intervene(TOKENS, {(1, 2, 9): Set(3.5)})

    def hook(_module: Any, args: tuple) -> tuple:
        hidden = args[0].clone()
        hidden[0, 2, 9] = 3.5
        return (hidden,)

    handle = model.layers[1].mlp.down_proj.register_forward_pre_hook(hook)
    expected = model.hf(input_ids=torch.tensor([TOKENS])).logits[0, -1]
    handle.remove()
    assert torch.allclose(outcome.logits, expected, atol=1e-5)
    assert outcome.edits[0].after == 3.5


def test_constrained_range(tiny_model: Any) -> None:
    """MLPs up to the last layer are held; an empty range is the baseline; decoders outside it are not edited."""
    model = tiny_model("llama")
    scope = scope_with(model, span=3)
    place = an_active(scope)
    empty = scope.intervene(TOKENS, {place: 0.0}, mode="constrained", layers=(1, 0))
    assert torch.allclose(empty.logits, empty.baseline, atol=1e-5)
    first = scope.intervene(TOKENS, {place: 0.0}, mode="constrained", layers=(0, 0))
    held = scope.intervene(TOKENS, {place: 0.0}, mode="constrained", layers=(0, 2))
    assert not torch.allclose(first.logits, held.logits, atol=1e-4)
    before = record(model, model.tokenize(TOKENS))
    assert scope.dictionary is not None
    for layer in range(3):
        row = scope.dictionary.decoder_rows(place[0], torch.tensor([place[2]]), layer)[0]
        change = held.recording.residual_mid[layer + 1] if layer < 2 else held.recording.residual_final
        assert torch.isfinite(change).all()
        moved = held.recording.mlp_out[layer] - before.mlp_out[layer]
        assert torch.allclose(moved[place[1]], -held.edits[0].before * row, atol=1e-5)


def test_strengths(tiny_model: Any) -> None:
    scope = scope_with(tiny_model("llama"))
    place = an_active(scope)
    after = {
        name: scope.intervene(TOKENS, {place: change}).edits[0]
        for name, change in {
            "scale": Scale(-2.0), "inhibit": Inhibit(2.0), "number": -2.0, "set": Set(4.0), "inject": Inject(2.0, 3.0),
        }.items()
    }  # fmt: skip
    assert after["scale"].after == after["inhibit"].after == after["number"].after == -2 * after["scale"].before
    assert (after["set"].after, after["inject"].after) == (4.0, 6.0)


def test_nodes_and_supernodes_are_keys(tiny_model: Any) -> None:
    scope = scope_with(tiny_model("llama"))
    graph = scope.trace(TOKENS, [7], max_nodes=None)
    nodes = graph.find(kind="feature", layer=1)
    together = scope.intervene(graph.prompt, {nodes: 0.0})
    apart = scope.intervene(graph.prompt, {node: 0.0 for node in nodes})
    assert torch.equal(together.logits, apart.logits)
    assert len(together.edits) == len(nodes)
    tops = together.top_tokens(3)
    assert tops[0].probability >= tops[1].probability
    assert together.probability(tops[0].token) == pytest.approx(tops[0].probability)


def test_model_is_left_as_it_was(tiny_model: Any) -> None:
    model = tiny_model("gemma3")
    before = model.hf(input_ids=torch.tensor([TOKENS])).logits
    scope = scope_with(model)
    for mode in ("free", "constrained", "frozen"):
        scope.intervene(TOKENS, {an_active(scope): 0.0}, mode=mode)  # pyright: ignore
    assert torch.equal(model.hf(input_ids=torch.tensor([TOKENS])).logits, before)


@pytest.mark.parametrize(
    ("edits", "options", "words"),
    [
        ({(9, 1, 1): 0.0}, {}, "layers 0 to 2"),
        ({(0, 9, 1): 0.0}, {}, "outside the prompt of 5"),
        ({(0, 1, 40): 0.0}, {}, "layer 0 has 40"),
        ({(0, 1, 1): float("nan")}, {}, "finite"),
        ({(0, 1, 1): Set(float("inf"))}, {}, "finite"),
        ({(0, 1, 1): Set(1.0)}, {"layers": (0, 1)}, "constrained"),
        ({(0, 1, 1): Set(1.0)}, {"mode": "constrained", "layers": (0, 7)}, "range"),
        ({(0, 1, 1): Set(1.0)}, {"mode": "frozen", "attention": "live"}, "does not go"),
        ({(): 1.0}, {}, "not a node"),
    ],
)
def test_bad_edits(tiny_model: Any, edits: Any, options: Any, words: str) -> None:
    scope = scope_with(tiny_model("llama"))
    with pytest.raises(InterventionError, match=words) as caught:
        scope.intervene(TOKENS, edits, **options)
    assert "\n" not in str(caught.value)


def test_unknown_mode_and_key() -> None:
    """What the type checker would refuse; a caller without one gets a clear line too."""
    with pytest.raises(InterventionError, match="use free, constrained, iterative or frozen"):
        settings("sideways", None, None, [], 3)
    with pytest.raises(InterventionError, match="not a node"):
        places_of("x", 3)


def test_inactive_feature_cannot_be_scaled(tiny_model: Any) -> None:
    scope = scope_with(tiny_model("llama"))
    graph = scope.trace(TOKENS, [7], max_nodes=None)
    active = {n.feature for n in graph.find(kind="feature", layer=0, position=2)}
    silent = next(f for f in range(40) if f not in active)
    with pytest.raises(InterventionError, match="inactive"):
        scope.intervene(TOKENS, {(0, 2, silent): -1.0})
    scope.intervene(TOKENS, {(0, 2, silent): Set(1.0)})


def test_contradictory_edits(tiny_model: Any) -> None:
    scope = scope_with(tiny_model("llama"))
    node = scope.trace(TOKENS, [7], max_nodes=None).find(kind="feature", layer=0)[0]
    place = (node.layer, node.position, node.feature)
    with pytest.raises(InterventionError, match="changed twice"):
        scope.intervene(TOKENS, {node: 0.0, place: 2.0})  # pyright: ignore


def test_other_nodes_cannot_be_changed(tiny_model: Any) -> None:
    scope = scope_with(tiny_model("llama"))
    token = scope.trace(TOKENS, [7]).find(kind="embedding")[0]
    with pytest.raises(InterventionError, match="kind embedding"):
        scope.intervene(TOKENS, {token: 0.0})


def test_golden_model_edits_every_site(golden_folder: Path) -> None:
    scope = Microscope(golden_folder / "model", golden_folder / "plt_jumprelu")
    graph = scope.trace([5, 9, 200, 31], max_nodes=50)
    node = graph.find(kind="feature")[0]
    assert scope.intervene(graph.prompt, {node: 0.0}).edits[0].before == pytest.approx(node.activation, abs=1e-5)
    assert isinstance(scope.dictionary, Dictionary)


@pytest.mark.parametrize("mode", ["free", "constrained", "iterative", "frozen"])
def test_the_answer_is_read_where_it_is_asked_for(tiny_model: Any, mode: Any) -> None:
    """What comes after a position is not seen there: the prompt up to it says the same."""
    scope = scope_with(tiny_model("llama"))
    graph = scope.trace(TOKENS, [7], max_nodes=None)
    edits = {next(n for n in graph.find(kind="feature", layer=0) if n.position in (1, 2, 3)): -2.0}
    whole = scope.intervene(TOKENS, edits, mode=mode, position=3)
    short = scope.intervene(TOKENS[:4], edits, mode=mode)
    assert (whole.position, short.position) == (3, 3)
    torch.testing.assert_close(whole.logits, short.logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(whole.baseline, short.baseline, atol=1e-4, rtol=0)
    assert not torch.equal(whole.logits, scope.intervene(TOKENS, edits, mode=mode).logits)
    with pytest.raises(PromptError, match="position 9 is outside the prompt of 5 tokens"):
        scope.intervene(TOKENS, edits, mode=mode, position=9)


def test_a_prediction_is_of_the_place_where_the_graph_reads(tiny_model: Any) -> None:
    scope = scope_with(tiny_model("llama"))
    graph = scope.trace(TOKENS, [7], position=3, max_nodes=None)
    assert graph.answer_position == 3
    edits = {an_active(scope): 0.0}
    tested = predict_and_measure(scope.model, scope.dictionary, graph, [edits])
    assert tested[0].outcome.position == 3
    elsewhere = scope.sweep(TOKENS, [edits], watch=feature_places(graph))[0]
    with pytest.raises(InterventionError, match="read at position 4, the graph's answer stands at 3"):
        compare(graph, elsewhere)
