"""trace() as a user calls it: golden graphs, targets, budgets, files, and every kind of bad input."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import build_hf

from lucida import Graph, Microscope
from lucida.dictionaries import Dictionary, load_dictionary, random_dictionary
from lucida.errors import DictionaryError, LucidaError, ModelError, PromptError
from lucida.graph import prune_masks
from lucida.models.model import Model

TOKENS = [5, 17, 3, 88, 41]


@pytest.fixture
def scope(tiny_model: Any) -> Microscope:
    return Microscope(tiny_model("llama"))


@pytest.mark.parametrize("kind", ["plt_jumprelu", "clt"])
def test_golden_graph_of_circuit_tracer(golden_folder: Path, kind: str) -> None:
    """A graph that circuit-tracer computed comes out equal: nodes, edges, scores, pruned masks."""
    scope = Microscope(golden_folder / "model", dictionaries=golden_folder / kind)
    wanted = np.load(golden_folder / f"{kind}_graph.npz")
    graph = scope.trace([int(i) for i in wanted["input_tokens"]], max_nodes=None)
    nodes, matrix = graph.dense()
    shown = [i for i, node in enumerate(nodes) if node.kind != "bias"]
    assert np.abs(matrix[np.ix_(shown, shown)] - wanted["adjacency"]).max() < 1e-4
    features = [(n.layer, n.position, n.feature) for n in nodes if n.kind == "feature"]
    assert features == [tuple(row) for row in wanted["active_features"].tolist()]
    activations = [n.activation for n in nodes if n.kind == "feature"]
    assert np.allclose(activations, wanted["activation_values"], atol=1e-5)
    logits = [n for n in nodes if n.kind == "logit"]
    assert [n.token for n in logits] == wanted["logit_ids"].tolist()
    assert np.allclose([n.probability for n in logits], wanted["logit_probs"], atol=1e-5)
    scores = graph.scores()
    assert scores.replacement == pytest.approx(float(wanted["replacement"]), abs=1e-4)
    assert scores.completeness_all_rows == pytest.approx(float(wanted["completeness"]), abs=1e-4)
    masks = prune_masks(graph, 0.8, 0.98, "circuit-tracer")
    assert np.array_equal(masks.node_mask[shown], wanted["node_mask"])
    edges = np.zeros(matrix.shape, bool)
    edges[graph.targets] = masks.edge_mask
    assert np.array_equal(edges[np.ix_(shown, shown)], wanted["edge_mask"])


def test_default_targets_reach_the_mass(scope: Microscope) -> None:
    graph = scope.trace(TOKENS, target_mass=0.3, max_targets=50)
    logits = graph.find(kind="logit")
    probabilities = sorted((n.probability or 0 for n in logits), reverse=True)
    assert sum(probabilities) >= 0.3 > sum(probabilities[:-1])
    assert len(scope.trace(TOKENS, max_targets=3).find(kind="logit")) == 3


def test_difference_is_the_difference_of_rows(scope: Microscope) -> None:
    both = scope.trace(TOKENS, [7, 9], max_nodes=None)
    pair = scope.trace(TOKENS, (7, 9), max_nodes=None)
    rows = {both.nodes.token[t]: both.edges[r] for r, t in enumerate(both.targets) if both.nodes.token[t] in (7, 9)
            and both.nodes.is_kind("logit")[t]}  # fmt: skip
    n = int(pair.nodes.is_kind("feature").sum())
    assert np.allclose(pair.edges[-1][:n], (rows[7] - rows[9])[:n], atol=1e-4)
    node = pair.find(kind="logit")[0]
    assert (node.text, node.token, node.probability) == ("7 - 9", None, None)
    assert pair.metadata["target_weights"] == [1.0]
    assert pair.metadata["differences"] == [[7, 9]]


def test_position_reads_the_answer_there(scope: Microscope) -> None:
    """Tracing an earlier position equals tracing the prompt cut off there."""
    early = scope.trace(TOKENS, [7], position=2, max_nodes=20)
    cut = scope.trace(TOKENS[:3], [7], max_nodes=20)
    assert early.find(kind="logit")[0].position == cut.find(kind="logit")[0].position == 2
    assert np.allclose(early.edges.sum(1), cut.edges.sum(1), atol=1e-4)


def test_graph_survives_the_file(scope: Microscope, tmp_path: Path) -> None:
    graph = scope.trace(TOKENS, max_nodes=30)
    graph.save(tmp_path / "g.safetensors")
    again = Graph.load(tmp_path / "g.safetensors")
    assert np.array_equal(again.edges, graph.edges)
    assert again.metadata == graph.metadata
    assert again.prompt == graph.prompt
    assert json.loads(json.dumps(graph.metadata)) == graph.metadata


def test_prompt_forms_agree(scope: Microscope) -> None:
    prompt = scope.model.tokenize(TOKENS)
    assert np.array_equal(scope.trace(prompt, [7]).edges, scope.trace(TOKENS, [7]).edges)


def exact_relu_model() -> tuple[Model, Dictionary]:
    """A GPT-2 with ReLU MLPs, and the transcoder that is its MLP: no error by construction."""
    import transformers

    config = transformers.GPT2Config(
        vocab_size=97, n_embd=32, n_layer=3, n_head=4, n_positions=64, activation_function="relu",
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(4)
    hf = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    hf.requires_grad_(False)
    mlps = [block.mlp for block in hf.transformer.h]
    dictionary = Dictionary.from_tensors(
        encoders={i: m.c_fc.weight.T.contiguous() for i, m in enumerate(mlps)},
        encoder_biases={i: m.c_fc.bias for i, m in enumerate(mlps)},
        decoders={i: m.c_proj.weight[:, None].contiguous() for i, m in enumerate(mlps)},
        decoder_biases=torch.stack([m.c_proj.bias for m in mlps]),
        activation="relu",
    )
    return Model(hf, name="relu"), dictionary


def test_exact_dictionary_has_no_error_and_equals_the_neurons() -> None:
    model, dictionary = exact_relu_model()
    features = Microscope(model, dictionary).trace(TOKENS, [7], max_nodes=None)
    assert np.abs(features.edges[:, features.nodes.is_kind("error")]).max() < 1e-5
    assert features.scores().replacement == pytest.approx(1.0, abs=1e-4)
    neurons = Microscope(model).trace(TOKENS, [7], max_nodes=None)

    def table(graph: Graph) -> dict[Any, dict[Any, float]]:
        nodes = [graph.node(i) for i in range(len(graph.nodes))]
        names = [(n.kind, n.layer, n.position, n.feature) for n in nodes]
        live = [i for i, n in enumerate(nodes) if n.kind != "feature" or (n.activation or 0) > 0]
        return {
            names[t]: {names[s]: float(graph.edges[r, s]) for s in live if graph.edges[r, s]}
            for r, t in enumerate(graph.targets)
            if t in live
        }

    ours, theirs = table(features), table(neurons)
    shared = set(ours) & set(theirs)
    assert len(shared) > 20
    for target in shared:
        for source in set(ours[target]) & set(theirs[target]):
            assert ours[target][source] == pytest.approx(theirs[target][source], abs=1e-4)


def planted_model() -> Model:
    """Token 11 at any position makes neuron 5 of layer 0 fire; a head of layer 1 carries its direction to the last
    position; there neuron 7 of layer 2 reads it and says token 23. Nothing else is in the model."""
    import transformers

    config = transformers.GPT2Config(
        vocab_size=40, n_embd=48, n_layer=3, n_head=1, n_positions=16, activation_function="relu",
        bos_token_id=1, eos_token_id=2, tie_word_embeddings=False,
    )  # fmt: skip
    hf = transformers.GPT2LMHeadModel._from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            parameter.fill_(1.0 if "ln_" in name and name.endswith("weight") else 0.0)
        generator = torch.Generator().manual_seed(0)
        embed = torch.randn(40, 48, generator=generator)
        embed[:, 40:] = 0
        embed[:, :40] -= embed[:, :40].mean(1, keepdim=True)
        hf.transformer.wte.weight.copy_(embed)
        blocks = hf.transformer.h
        blocks[0].mlp.c_fc.weight[:, 5] = embed[11] / embed[11].norm()
        blocks[0].mlp.c_fc.bias[5] = -2.0
        blocks[0].mlp.c_proj.weight[5, 40], blocks[0].mlp.c_proj.weight[5, 41] = 6.0, -6.0
        # Uniform attention moves dimension 40 to dimension 42 and 41 to 43.
        value = blocks[1].attn.c_attn.weight[:, 96:]
        value[40, 0], value[41, 1] = 1.0, 1.0
        blocks[1].attn.c_proj.weight[0, 42], blocks[1].attn.c_proj.weight[1, 43] = 8.0, 8.0
        blocks[2].mlp.c_fc.weight[42, 7], blocks[2].mlp.c_fc.weight[43, 7] = 1.0, -1.0
        blocks[2].mlp.c_proj.weight[7, 44], blocks[2].mlp.c_proj.weight[7, 45] = 9.0, -9.0
        hf.lm_head.weight[23, 44], hf.lm_head.weight[23, 45] = 1.0, -1.0
    return Model(hf.requires_grad_(False), name="planted")


def test_planted_circuit_is_found() -> None:
    scope = Microscope(planted_model())
    graph = scope.trace([3, 11, 8, 30], [23], max_nodes=12)
    path = next(p for p in graph.paths(5) if len(p.nodes) == 4)
    assert [(n.kind, n.layer, n.position) for n in path.nodes] == [
        ("embedding", None, 1), ("feature", 0, 1), ("feature", 2, 3), ("logit", 3, 3),
    ]  # fmt: skip
    assert (path.nodes[1].feature, path.nodes[2].feature) == (5, 7)
    assert scope.top_tokens([3, 11, 8, 30], 1)[0].token == 23
    off = scope.intervene([3, 11, 8, 30], {(0, 1, 5): 0.0})
    assert off.probability(23) < 0.1 < 0.9 < off.probability(23, before=True)


# --- bad input: one line each ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ([], "empty"),
        ([97], "not in the vocabulary of 97"),
        ([-1], "not in the vocabulary"),
        (list(range(65)), "65 tokens, the context of this model is 64"),
        ("text", "no tokenizer"),
        ("", "empty"),
        ([{"role": "user", "content": "hi"}], "no chat template"),
    ],
)
def test_bad_prompts(scope: Microscope, prompt: Any, words: str) -> None:
    with pytest.raises(PromptError, match=words) as caught:
        scope.model.tokenize(prompt)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"targets": [97]}, "97 is not in the vocabulary"),
        ({"targets": "x"}, "no tokenizer"),
        ({"targets": []}, "empty list"),
        ({"targets": [7, 7]}, "twice"),
        ({"targets": (7, 7)}, "itself"),
        ({"position": 5}, "outside the prompt of 5"),
        ({"max_nodes": 0}, "max_nodes"),
        ({"max_targets": 0}, "max_targets"),
        ({"target_mass": 1.5}, "target_mass"),
        ({"dtype": "int8"}, "float32 or bfloat16"),
        ({"sink_positions": -1}, "sink_positions"),
    ],
)
def test_bad_arguments(scope: Microscope, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(LucidaError, match=words) as caught:
        scope.trace(TOKENS, **arguments)
    assert "\n" not in str(caught.value)


def test_single_token_prompt_has_no_features(scope: Microscope) -> None:
    with pytest.raises(LucidaError, match="sink"):
        scope.trace([5])


def test_no_active_feature(tiny_model: Any) -> None:
    model = tiny_model("llama")
    silent = random_dictionary(3, 32, 8, seed=0)
    dead = Dictionary.from_tensors(
        encoders={i: silent.weights[i].encoder for i in range(3)},
        encoder_biases={i: torch.full((8,), -1e6) for i in range(3)},
        decoders={i: torch.randn(8, 1, 32) for i in range(3)},
        decoder_biases=torch.zeros(3, 32),
        activation="relu",
    )
    with pytest.raises(DictionaryError, match="no feature"):
        Microscope(model, dead).trace(TOKENS)


def test_dictionary_of_another_shape(tiny_model: Any, golden_folder: Path) -> None:
    with pytest.raises(DictionaryError):
        Microscope(tiny_model("llama"), golden_folder / "clt")


def test_damaged_weights_are_named(tiny_model: Any) -> None:
    hf = build_hf("llama", seed=5)
    hf.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj"):
        Microscope(Model(hf, name="broken")).trace(TOKENS)


def test_unsupported_architecture_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bloom", "architectures": ["BloomForCausalLM"]}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError) as caught:
        Microscope(tmp_path)
    assert "\n" not in str(caught.value)


def test_neurons_of_a_mixture_are_refused(tiny_model: Any) -> None:
    with pytest.raises(ModelError, match="mixture of experts"):
        Microscope(tiny_model("mixtral")).trace(TOKENS)


def test_golden_dictionary_loads_with_the_models_layers(golden_folder: Path) -> None:
    assert load_dictionary(golden_folder / "clt", n_layers=4).span == 4
