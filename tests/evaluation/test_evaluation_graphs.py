"""Graphs of an evaluation are those of `trace`; a perfect basis explains everything, fewer neurons explain less."""

from typing import Any

import numpy as np
import pytest
import torch
from relu_models import fitting_dictionary, perfect_dictionary, random_rows, relu_model
from tiny_models import DENSE_FAMILIES

from lucida.attribution import trace
from lucida.errors import LucidaError
from lucida.evaluation import (
    DictionaryBasis,
    EvaluationPrompt,
    GraphOptions,
    NeuronBasis,
    given_prompts,
    measure_graphs,
)
from lucida.evaluation.graphs import TracedPrompt, summarise
from lucida.models.linear import FrozenModel
from lucida.models.recording import record
from lucida.sweep import Layout, feature_targets, sweep


def some_prompts(model: Any, count: int = 2) -> tuple[EvaluationPrompt, ...]:
    return given_prompts(model, [row.tolist() for row in random_rows(model, count, 9)]).prompts


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox"])
@pytest.mark.parametrize("nodes", [None, 10])
def test_scores_are_those_of_trace(tiny_model: Any, family: str, nodes: int | None) -> None:
    model = tiny_model(family)
    prompts = some_prompts(model)
    dictionary = fitting_dictionary(model, random_rows(model), span=3, reads_at="resid_mid")
    options = GraphOptions(max_nodes=nodes)
    found = measure_graphs(model, {"clt": DictionaryBasis(model, dictionary)}, prompts, options=options)["clt"]
    for prompt, mine in zip(prompts, found.prompts, strict=True):
        scores = trace(model, dictionary, list(prompt.tokens), max_nodes=nodes).scores()
        assert mine.replacement == pytest.approx(scores.replacement)
        assert mine.completeness == pytest.approx(scores.completeness)
        assert mine.path_length == pytest.approx(scores.average_path_length)
        assert mine.unexpanded == pytest.approx(scores.unexpanded)
        # The embeddings' influence is the mass of all paths, and one entry for each token.
        assert sum(mine.by_position) == pytest.approx(sum(scores.path_mass), rel=1e-5)
        assert len(mine.by_position) == len(prompt.tokens)
        assert mine.nodes == (mine.active if nodes is None else nodes)
    assert found.replacement.value == pytest.approx(np.mean([p.replacement for p in found.prompts]))


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_a_perfect_dictionary_explains_everything(family: str) -> None:
    model = relu_model(family)
    basis = DictionaryBasis(model, perfect_dictionary(model))
    found = measure_graphs(model, {"p": basis}, some_prompts(model), options=GraphOptions(max_nodes=None))["p"]
    assert found.replacement.value == pytest.approx(1, abs=1e-4)
    assert found.completeness.value == pytest.approx(1, abs=1e-4)
    assert found.unexpanded.value == 0


@pytest.mark.parametrize("family", DENSE_FAMILIES)
def test_edges_into_thresholded_neurons_add_up(tiny_model: Any, family: str) -> None:
    """Neurons above the threshold, errors, embeddings and bias make up the activation of every neuron that is left."""
    model = tiny_model(family)
    view = FrozenModel(model, record(model, model.tokenize([5, 17, 3, 88, 41, 17, 9])))
    replacement = NeuronBasis(model, 0.4).localise(view, sink_positions=1)
    active = replacement.active
    assert 3 < len(active) < 6 * model.n_layers * model.mlp_weights(0).up.shape[0]
    assert int(active.position.min()) >= 1
    rows = sweep(replacement, feature_targets(replacement, torch.arange(len(active))))
    scale = float(active.activation.abs().max())
    assert torch.allclose(rows.sum(1), active.activation, rtol=1e-3, atol=1e-3 * scale)
    assert rows[:, Layout.of(replacement).errors].abs().max() > 1e-3


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_all_neurons_explain_everything_and_fewer_explain_less(tiny_model: Any, family: str) -> None:
    model = tiny_model(family)
    bases = {str(t): NeuronBasis(model, t) for t in (0.0, 0.5, 2.0)}
    found = measure_graphs(model, bases, some_prompts(model), options=GraphOptions(max_nodes=None))
    assert found["0.0"].replacement.value == pytest.approx(1, abs=1e-4)
    assert found["0.0"].replacement.value > found["0.5"].replacement.value > found["2.0"].replacement.value
    assert found["0.0"].active > found["0.5"].active > found["2.0"].active


def test_every_basis_sees_the_same_targets(tiny_model: Any) -> None:
    model = tiny_model("llama")
    (prompt,) = some_prompts(model, 1)
    traced = TracedPrompt.of(model, prompt, GraphOptions())
    dictionary = fitting_dictionary(model, random_rows(model))
    graphs = [traced.graph(basis) for basis in (DictionaryBasis(model, dictionary), NeuronBasis(model, 0.3))]
    tokens = [graph.nodes.token[graph.nodes.is_kind("logit")].tolist() for graph in graphs]
    assert tokens[0] == tokens[1]
    assert prompt.target == tokens[0][0]


def test_a_graph_needs_a_budget() -> None:
    with pytest.raises(LucidaError, match="at least 1 node"):
        GraphOptions(max_nodes=0)


def test_a_path_length_that_does_not_exist_is_left_out(tiny_model: Any) -> None:
    import dataclasses

    model = tiny_model("llama")
    basis = DictionaryBasis(model, fitting_dictionary(model, random_rows(model)))
    scores = measure_graphs(model, {"p": basis}, some_prompts(model))["p"].prompts
    lost = dataclasses.replace(scores[0], path_length=float("nan"))
    one = summarise([lost, scores[1]]).path_length
    assert one is not None
    assert one.value == scores[1].path_length
    assert summarise([lost]).path_length is None
