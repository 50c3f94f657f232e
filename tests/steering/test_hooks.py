"""What is written while steering is exactly what was asked, at every layer a feature writes to, once."""

from typing import Any

import pytest
import torch
from test_generate import KINDS, TOKENS, dictionary_for

from lucida.steering import Features, Steer
from lucida.steering.hooks import Steering, replace_along

IDS = torch.tensor([TOKENS, TOKENS])


def run(model: Any, dictionary: Any, rows: list[list[Steer]], **options: Any) -> dict[str, dict[int, torch.Tensor]]:
    """One steered pass: what every MLP read, what it would have written, what left it, and the residual behind it."""
    features = Features(model, dictionary)
    prompt = model.tokenize(TOKENS)
    units = features.units([s for row in rows for s in row], prompt)
    steering = Steering(features, [[(s, units[s]) for s in row] for row in rows], len(TOKENS), **options)
    seen: dict[str, dict[int, torch.Tensor]] = {"mid": {}, "in": {}, "would": {}, "written": {}, "after": {}}
    steering.install()
    handles = []
    for i, parts in enumerate(model.layers):

        def reads(_m: Any, args: tuple, kwargs: dict, i: int = i) -> None:
            seen["mid"][i] = args[0] if args else kwargs["hidden_states"]

        def writes(module: Any, args: tuple, output: Any, i: int = i) -> None:
            seen["in"][i], seen["would"][i], seen["written"][i] = args[0], module.forward(args[0]), output

        def leaves(_m: Any, _args: tuple, output: Any, i: int = i) -> None:
            seen["after"][i] = output[0] if isinstance(output, tuple) else output

        middle = parts.block if model.is_parallel else parts.mlp_norm or parts.mlp
        handles.append(middle.register_forward_pre_hook(reads, with_kwargs=True))
        handles.append(parts.mlp.register_forward_hook(writes))
        handles.append(parts.block.register_forward_hook(leaves))
    steering.begin(0, len(TOKENS))
    model.hf(input_ids=IDS[: len(rows)], use_cache=False)
    steering.end()
    steering.remove()
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", ["add", "clamp", "scale"])
@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_a_feature_writes_exactly_what_was_asked(tiny_model: Any, family: str, kind: str, variant: Any) -> None:
    """At every target layer: add v d, clamp (v - a) d, scale (k - 1) a d, with a measured where the feature reads."""
    model = tiny_model(family)
    dictionary = dictionary_for(model, kind)
    chosen, strength = list(range(0, 40, 3)), 1.5
    steers = [Steer(0, f, strength, variant, maximum=2.0) for f in chosen]
    seen = run(model, dictionary, [[], steers])
    site = seen["in"][0][1]
    if Features(model, dictionary).reads_at != "mlp_in":
        site = seen["mid"][0][1]
        norm = model.norm(model.layers[0].mlp_norm)
        site = site if dictionary.reads_at == "resid_mid" else site * norm.scale(site)[:, None]
    running = dictionary.encode(0, site)[:, chosen]
    assert running.any()
    wanted = {"add": torch.full_like(running, 3.0), "clamp": 3.0 - running, "scale": 0.5 * running}[variant]
    wanted[0] = 0
    for target in range(3):
        change = seen["written"][target] - seen["would"][target]
        assert not change[0].any()
        if target not in dictionary.writes_to(0):
            assert not change[1].any()
            continue
        expected = wanted @ dictionary.decoder_rows(0, torch.tensor(chosen), target)
        assert torch.allclose(change[1], expected, atol=2e-5)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_clamped_neurons_are_the_model_with_them_set(tiny_model: Any, family: str) -> None:
    model = tiny_model(family)
    neurons = [4, 11, 30]
    seen = run(model, None, [[Steer(1, n, 2.0, "clamp", maximum=1.5) for n in neurons]], sink_positions=0)

    def put(_module: Any, args: tuple) -> tuple:
        hidden = args[0].clone()
        hidden[..., neurons] = 3.0
        return (hidden,)

    handle = model.layers[1].mlp.get_submodule(model.family.down).register_forward_pre_hook(put)
    expected = model.layers[1].mlp.forward(seen["in"][1])
    handle.remove()
    assert torch.allclose(seen["written"][1], expected, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma2", "olmo2", "phi"])
@pytest.mark.parametrize("strength", [0.0, 2.0])
def test_orthogonal_puts_the_residuals_component(tiny_model: Any, family: str, strength: float) -> None:
    """Along each direction stands what was asked; behind the others nothing moved."""
    model = tiny_model(family)
    dictionary = dictionary_for(model, "resid_mid")
    direction = torch.linspace(-1, 1, 32)
    raw = Steer(2, None, strength, "orthogonal", direction=direction)
    steers = [Steer(2, 5, strength, "orthogonal", maximum=3.0), raw]
    seen = run(model, dictionary, [[], steers])
    rows = torch.stack([dictionary.decoder_rows(2, torch.tensor([5]), 2)[0], direction])
    wanted = strength * torch.tensor([3.0, 1.0]) @ rows
    steered, plain = seen["after"][2][1, 1:], seen["after"][2][0, 1:]
    assert torch.allclose(steered @ rows.T, (wanted @ rows.T).expand(4, 2), atol=1e-3)
    outside = torch.linalg.qr(rows.T, mode="complete").Q[:, 2:]
    assert torch.allclose(steered @ outside, plain @ outside, atol=1e-4)
    assert torch.allclose(seen["after"][2][1, 0], seen["after"][2][0, 0], atol=1e-6)


def test_orthogonal_goes_through_a_post_norm(tiny_model: Any) -> None:
    """Neurons write before Gemma's post-norm: the direction is the one that arrives, by its running denominator."""
    model = tiny_model("gemma2")
    seen = run(model, None, [[Steer(1, 6, 2.0, "orthogonal", maximum=1.5)]])
    norm = model.norm(model.layers[1].mlp_post_norm)
    row = model.mlp_weights(1).down.T[6] * norm.weight
    scale = norm.scale(seen["written"][1])[0, 1:]
    along = seen["after"][1][0, 1:] @ row / row.square().sum()
    assert torch.allclose(along, 3.0 * scale, rtol=1e-3)


def test_replace_along_takes_repeated_directions_once() -> None:
    x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    d = torch.arange(8.0)
    active = torch.ones(2, 3, 2, dtype=torch.bool)
    once = replace_along(x, d[None], torch.zeros(2, 3, 1), active[..., :1])
    twice = replace_along(x, torch.stack([d, 2 * d]), torch.zeros(2, 3, 2), active)
    assert torch.allclose(once, twice, atol=1e-5)
    assert torch.allclose(once @ d, torch.zeros(2, 3), atol=1e-4)
    untouched = replace_along(x, d[None], torch.ones(2, 3, 1), ~active[..., :1])
    assert torch.equal(untouched, x)


def test_raw_direction_is_added_behind_the_mlp(tiny_model: Any) -> None:
    model = tiny_model("gemma2")
    direction = torch.linspace(0, 1, 32)
    seen = run(model, None, [[], [Steer(2, strength=4.0, direction=direction, where=(1, -1))]])
    moved = seen["after"][2][1] - seen["after"][2][0]
    assert torch.allclose(moved[[1, 4]], 4 * direction.expand(2, 32), atol=1e-5)
    assert not moved[[0, 2, 3]].any()
    assert torch.equal(seen["written"][2][0], seen["written"][2][1])


@pytest.mark.parametrize(
    ("where", "expected"),
    [("all", [1, 2, 3, 4]), ("prompt", [1, 2, 3, 4]), ("generated", []), ("answer", [4]), ((0, -2), [0, 3])],
)
def test_where(tiny_model: Any, where: Any, expected: list[int]) -> None:
    """The first token is a sink and spared, unless its position is named."""
    model = tiny_model("llama")
    seen = run(model, dictionary_for(model), [[Steer(1, 3, 2.0, where=where, maximum=1.0)]])
    change = (seen["written"][1] - seen["would"][1])[0].abs().sum(1)
    assert change.nonzero()[:, 0].tolist() == expected
