"""Real models, fetched once into the cache: the numbers that README and docs state, as tests."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lucida import Microscope
from lucida.attribution import trace
from lucida.dictionaries import random_dictionary
from lucida.dictionaries.shipped import default_dictionary
from lucida.errors import FetchError
from lucida.graph import attributions
from lucida.models.linear import FrozenModel
from lucida.models.recording import record
from lucida.neurons import linear_attributions
from lucida.targets import choose_targets, logit_targets

pytestmark = pytest.mark.real

PROMPT = 'The opposite of "small" is "'
LONGER = 'The opposite of "small" is "large", and hot is'
ANTONYMS = ("small", "hot", "tall", "fast", "happy", "old", "rich", "hard", "light", "up")
CAPITALS = ("France", "Germany", "Italy", "Spain", "Japan", "England", "Greece", "Portugal", "Austria", "Ireland")


@pytest.fixture(scope="module")
def smollm() -> Iterator[Microscope]:
    threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    try:
        yield _smollm()
    finally:
        torch.set_num_threads(threads)


def _smollm() -> Microscope:
    try:
        return Microscope("smollm2-135m", "neurons")
    except FetchError as error:
        pytest.skip(f"no source of SmolLM2 can be reached: {error}")


def test_answer(smollm: Microscope) -> None:
    assert smollm.top_tokens(PROMPT, 1)[0].text == "large"


def test_embeddings_add_up_to_the_logit_difference(smollm: Microscope) -> None:
    """SmolLM2 has no biases: the token embeddings alone make up the difference of two logits."""
    view = FrozenModel(smollm.model, record(smollm.model, smollm.model.tokenize(PROMPT)))
    logits = smollm.model.logits(view.recording.residual_final[-1:])[0]
    chosen = choose_targets(smollm.model, logits, ("large", "small"), max_targets=1, target_mass=0.9)
    outputs = logit_targets(view, chosen, view.n_positions - 1)
    found = linear_attributions(view, outputs, torch.ones(1))
    difference = float(logits[chosen[0].token] - logits[chosen[0].minus or 0])
    assert float(found.bias.abs().sum()) == 0
    assert float(found.embeddings.sum()) == pytest.approx(difference, rel=1e-4)


def test_neuron_graph_rows_add_up(smollm: Microscope) -> None:
    graph = smollm.trace(PROMPT, ("large", "small"), max_nodes=100)
    features = graph.nodes.is_kind("feature")[graph.targets]
    sums, activations = graph.edges.sum(1)[features], graph.nodes.activation[: features.sum()]
    assert np.abs(sums - activations).max() < 1e-3 * np.abs(activations).max()


@pytest.mark.parametrize("family", ["antonyms", "capitals"])
def test_top_neurons_carry_the_answer(smollm: Microscope, family: str) -> None:
    """Zeroing the 50 neuron-positions of largest attribution changes the answer on 8 of 10 prompts, 50 random ones
    leave its probability (benchmarks/neurons.py makes the table in docs/neurons.md)."""
    antonyms = [f'The opposite of "{word}" is "' for word in ANTONYMS]
    prompts = antonyms if family == "antonyms" else [f"the capital of {name} is" for name in CAPITALS]
    flipped, moved = 0, []
    generator = torch.Generator().manual_seed(0)
    for prompt in prompts:
        answer = smollm.top_tokens(prompt, 1)[0]
        rival = smollm.top_tokens(prompt, 2)[1]
        graph = smollm.trace(prompt, (answer.token, rival.token), max_nodes=100)
        signed = attributions(graph).signed
        nodes = tuple(sorted(graph.find(kind="feature"), key=lambda node: -signed[node.index])[:50])
        flipped += smollm.intervene(prompt, {nodes: 0.0}).top_tokens(1)[0].token != answer.token
        length = len(smollm.model.tokenize(prompt))
        random: dict[Any, float] = {}
        while len(random) < 50:
            layer, position, neuron = (
                int(torch.randint(low, high, (1,), generator=generator))
                for low, high in ((0, 30), (1, length), (0, 1536))
            )
            random[(layer, position, neuron)] = 0.0
        moved.append(abs(smollm.intervene(prompt, random).probability(answer.token) - answer.probability))
    assert flipped >= 8
    assert np.mean(moved) < 0.02


@pytest.fixture(scope="module")
def synthetic(smollm: Microscope) -> Any:
    view = FrozenModel(smollm.model, record(smollm.model, smollm.model.tokenize(LONGER)))
    samples = {layer: view.site(layer, "mlp_in")[1:] for layer in range(30)}
    return random_dictionary(30, 576, 4096, l0=38.0, samples=samples, seed=0)


def test_selection_keeps_at_least_what_greedy_keeps(smollm: Microscope, synthetic: Any) -> None:
    """1,000 of 13,680 features: circuit-tracer's rule expands the top 1,000 by influence straight from the logits
    (it ranks anew every 1,024 rows)."""
    from lucida.replacement import replace_features
    from lucida.selection import _Rows

    model = smollm.model
    ours = trace(model, synthetic, LONGER, max_nodes=1000)
    view = FrozenModel(model, record(model, model.tokenize(LONGER)))
    replacement = replace_features(view, synthetic)
    logits = model.logits(view.recording.residual_final[-1:])[0]
    chosen = choose_targets(model, logits, None, max_targets=10, target_mass=0.95)
    outputs = logit_targets(view, chosen, view.n_positions - 1)
    weights = torch.tensor([t.weight for t in chosen])
    assert len(replacement.active) > 13_000
    rows = _Rows(replacement, outputs, weights, capacity=1000, chunk_bytes=32 << 20)
    rows.add(rows.influence(rows.expanded).topk(1000).indices)
    influence = rows.influence(rows.expanded)
    influence[rows.expanded] = 0
    greedy = float(influence.sum() / weights.double().sum())
    assert ours.metadata["selection"]["unexpanded_influence"] <= greedy
    assert ours.metadata["selection"]["is_consistent"]


def test_synthetic_dictionary_obeys_the_laws(smollm: Microscope, synthetic: Any) -> None:
    graph = trace(smollm.model, synthetic, LONGER, max_nodes=300)
    activations = graph.nodes.activation[:300]
    assert np.abs(graph.edges[:300].sum(1) - activations).max() < 1e-3 * np.abs(activations).max()


def test_demo_files(smollm: Microscope, tmp_path: Path) -> None:
    from lucida.graph.picture import draw

    graph = smollm.trace(PROMPT, ("large", "small"))
    graph.save(tmp_path / "g.safetensors")
    draw(graph.prune(nodes=0.5, edges=0.8), tmp_path / "g.png")
    assert (tmp_path / "g.png").stat().st_size > 20_000


def test_the_features_that_ship_carry_the_answer(smollm: Microscope) -> None:
    """What README shows: with its own features SmolLM2's graph explains .45, and 10 of them turn the answer."""
    scope = Microscope(smollm.model, "smollm2-135m-plt")
    graph = scope.trace(PROMPT, ("large", "small"))
    assert graph.scores().replacement > 0.4
    outcome = scope.intervene(graph.prompt, dict.fromkeys(graph.strongest(10), 0.0))
    assert [outcome.top_tokens(1, before=before)[0].text for before in (True, False)] == ["large", "small"]
    assert outcome.probability("large") < 0.05 < 0.2 < outcome.probability("large", before=True)
    assert outcome.probability("small") > 1.5 * outcome.probability("small", before=True)
    assert sum(bool(node.label) for node in graph.strongest(10)) > 5, "names come from the index beside the features"


def test_the_default_features_are_the_ones_that_ship() -> None:
    assert default_dictionary("smollm2-135m").name == "smollm2-135m-plt"
    assert default_dictionary("stories15m").name == "stories15m-clt"
    assert default_dictionary("gpt2") is None
