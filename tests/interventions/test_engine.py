"""Laws of a sweep: null is the identity, a batch is its rows, direct effects are edges, ranges hold what they say."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_cases import FEW, SOME, TOKENS, active_places, at_layer, features_of, probe_of, view_of

from lucida.errors import InterventionError
from lucida.interventions import Case, Direction, Scale, Set, Stream, intervene, sweep
from lucida.replacement import replace_features
from lucida.sweep import feature_targets
from lucida.sweep import sweep as sweep_edges
from lucida.targets import choose_targets, logit_targets

MODES: tuple[Any, ...] = ("free", "constrained", "iterative", "frozen")


def mixed_cases(model: Any, kind: str) -> list[Case]:
    """Cases that differ in edits, mode, range and attention."""
    low, high = at_layer(model, kind, 0), at_layer(model, kind, 1)
    ablate = {low[0]: 0.0, low[-1]: -1.0}
    return [
        Case({low[0]: 0.0}),
        Case(ablate, "constrained", (0, 1)),
        Case({high[-1]: Set(2.5)}, "constrained"),
        Case({low[-1]: 3.0}, "iterative", (0, 1)),
        Case(ablate | {high[-1]: Scale(2.0)}, "iterative"),
        Case({high[-1]: 0.0}, "free", None, "frozen"),
        Case({high[-1]: 0.0}, "constrained", (1, 2), "live"),
        Case(ablate, "frozen"),
        Case([{Stream(1, 2): Direction(torch.ones(model.d_model), 0.5)}, {low[0]: 2.0}]),
        Case({Stream(2): Direction(torch.arange(model.d_model) * 0.1, 1.0, True)}, "frozen"),
    ]


def run(model: Any, kind: str, cases: list[Any], **options: Any) -> list[Any]:
    return sweep(model, features_of(model, kind), TOKENS, cases, view=view_of(model), **options)


def assert_close(found: Any, expected: Any, share: float = 1e-5) -> None:
    scale = float(expected.abs().max())
    assert float((found - expected).abs().max()) < share * max(scale, 1.0)


@pytest.mark.parametrize(("family", "kind"), FEW)  # the other families: test_laws.py
def test_null_is_the_identity_to_the_bit(tiny_model: Any, family: str, kind: str) -> None:
    """In every mode, in a batch with other rows: own values of all active features, a factor of one, nothing at all."""
    model = tiny_model(family)
    places = active_places(model, kind)
    own = probe_of(model, kind).recorded(places)
    nulls: list[Any] = [{place: Set(own[place]) for place in places}, {place: 1.0 for place in places}, {}]
    cases = [Case(edits, mode) for edits in nulls for mode in MODES]
    others_live: Any = (("free", "frozen"), ("constrained", "live"), ("iterative", "live"))
    cases += [Case(nulls[0], mode, None, attention) for mode, attention in others_live]
    cases += [Case({Stream(1): Direction(torch.ones(model.d_model), 0.0)}, mode) for mode in MODES]
    others = mixed_cases(model, kind)[:4]
    outcomes = run(model, kind, [*others, *cases], watch=places[:7], keep="recording")
    for outcome in outcomes[len(others) :]:
        assert torch.equal(outcome.logits, outcome.baseline)
        assert np.array_equal(outcome.watched.before, outcome.watched.after)
        assert torch.equal(outcome.recording.residual_final, view_of(model).recording.residual_final)
    for outcome in outcomes[: len(others)]:
        assert not torch.allclose(outcome.logits, outcome.baseline, atol=1e-5)


@pytest.mark.parametrize(("family", "kind"), SOME)
def test_a_batch_is_its_rows(tiny_model: Any, family: str, kind: str) -> None:
    """Every case in a batch, in any order and any size of batch, gives what it gives alone."""
    model = tiny_model(family)
    cases, watch = mixed_cases(model, kind), active_places(model, kind)[::5]
    together = run(model, kind, cases, watch=watch)
    # Twelve pairs are enough to see that neither order nor size of a batch matters.
    backwards = run(model, kind, cases[::-1], watch=watch, rows=3)[::-1] if (family, kind) in FEW else together
    singles = run(model, kind, cases[:-1:3], watch=watch, rows=1)
    singles.append(
        intervene(
            model, features_of(model, kind), TOKENS, cases[-1].edits, mode=cases[-1].mode, layers=cases[-1].layers,
            attention=cases[-1].attention, watch=watch,
        )
    )  # fmt: skip
    for index, alone in zip((*range(0, len(cases) - 1, 3), len(cases) - 1), singles, strict=True):
        for outcome in (together[index], backwards[index]):
            assert (outcome.mode, outcome.layers, outcome.attention) == (alone.mode, alone.layers, alone.attention)
            for edit, other in zip(outcome.edits, alone.edits, strict=True):
                assert dataclasses.astuple(edit) == pytest.approx(dataclasses.astuple(other), rel=1e-5)
            assert_close(outcome.logits, alone.logits)
            # A feature that stands at its threshold may be on in one run and off in the other.
            same = np.isclose(outcome.watched.after, alone.watched.after, rtol=1e-4, atol=1e-4)
            assert same.mean() > 0.98


@pytest.mark.parametrize(("family", "kind"), [(f, k) for f, k in SOME if k not in ("neurons", "plt_skip")])
def test_frozen_direct_effects_are_edges(tiny_model: Any, family: str, kind: str) -> None:
    """Move one source by half: every feature and logit moves by edge / 2, to 1e-4 of the largest."""
    model, view = tiny_model(family), view_of(tiny_model(family))
    dictionary = features_of(model, kind)
    assert dictionary is not None
    replacement = replace_features(view, dictionary)
    active = replacement.active
    places = list(zip(active.layer.tolist(), active.position.tolist(), active.feature.tolist(), strict=True))
    chosen = choose_targets(model, torch.zeros(model.d_vocab), [7, (5, 60)], max_targets=2, target_mass=0.9)
    outputs = logit_targets(view, chosen, view.n_positions - 1)
    features = sweep_edges(replacement, feature_targets(replacement, torch.arange(len(active))))
    logits = sweep_edges(replacement, outputs)
    sources = [places.index(place) for place in (at_layer(model, kind, 0)[0], at_layer(model, kind, 1)[-1])]
    outcomes = run(model, kind, [Case({places[s]: 1.5}, "frozen") for s in sources], watch=places)
    for source, outcome in zip(sources, outcomes, strict=True):
        # The edited feature itself moves because it was told to; no edge says so.
        expected = 0.5 * features[:, source].double().numpy()
        moved = outcome.watched.after - outcome.watched.before
        assert (
            np.abs(moved - expected).max() < 1e-4 * np.abs(expected).max() + 2e-6 * np.abs(outcome.watched.before).max()
        )
        change = _uncapped(model, outcome.logits) - _uncapped(model, outcome.baseline)
        found = [float(change[5] - change[60]), float(change[7] - change.mean())]
        wanted = 0.5 * logits[:, source].double().numpy()
        assert np.abs(np.array(found) - wanted).max() < 1e-4 * np.abs(wanted).max() + 1e-5


def _uncapped(model: Any, logits: torch.Tensor) -> torch.Tensor:
    logits = logits.double()
    return logits if model.softcap is None else torch.atanh(logits / model.softcap) * model.softcap


@pytest.mark.parametrize(("family", "kind"), FEW)
def test_an_empty_range_is_the_baseline(tiny_model: Any, family: str, kind: str) -> None:
    model = tiny_model(family)
    edits = {place: -3.0 for place in at_layer(model, kind, 1)}
    cases = [Case(edits, mode, (first, first - 1)) for mode in ("constrained", "iterative") for first in (0, 1, 3)]
    for outcome in run(model, kind, cases):
        assert torch.equal(outcome.logits, outcome.baseline)


@pytest.mark.parametrize(("family", "kind"), [(f, k) for f, k in FEW if k != "neurons"])
def test_iterative_is_the_dictionary_run_again(tiny_model: Any, family: str, kind: str) -> None:
    """Literally: encode what the changed stream gives layer by layer, clamp, reconstruct, keep the errors."""
    model, view = tiny_model(family), view_of(tiny_model(family))
    dictionary, probe = features_of(model, kind), probe_of(tiny_model(family), kind)
    assert dictionary is not None
    place = at_layer(model, kind, 0)[0]
    outcome = run(model, kind, [Case({place: -2.0}, "iterative", (0, 1), "live")], keep="recording")[0]
    new, inputs = {}, {}
    for layer in range(2):
        x = outcome.recording
        mid, recorded = (r.residual_mid[layer] for r in (x, view.recording))
        site = x.mlp_in[layer] if probe.reads_at == "mlp_in" else mid
        if probe.reads_at == "mlp_norm":
            norm = model.norm(model.layers[layer].mlp_norm)
            site = mid * norm.scale(mid)[:, None]
        inputs[layer] = site
        dense = dictionary.encode(layer, site)
        if layer == 0:
            dense[place[1], place[2]] = outcome.edits[0].after
        else:
            assert not torch.allclose(mid, recorded, atol=1e-5)
        new[layer] = dense
        changed: Any = sum(
            (new[l] - probe.recorded_layer(l)) @ dictionary.decoder_rows(l, torch.arange(40), layer)
            for l in range(layer + 1) if layer in dictionary.writes_to(l)
        )  # fmt: skip
        skip = dictionary.skip(layer)
        if skip is not None:
            changed = changed + (site - view.site(layer, probe.reads_at)) @ skip.T
        if not probe.at_residual:
            changed = view.push_output(layer, changed, torch.arange(len(TOKENS)))
        expected = view.mlp_contribution(layer) + changed
        written = _added_by_mlp(model, outcome.recording, layer)
        assert_close(written, expected, 2e-5)


def _added_by_mlp(model: Any, recording: Any, layer: int) -> torch.Tensor:
    after = recording.residual_pre[layer + 1]
    attention = 0 if not model.is_parallel else recording.attention_out[layer]
    return after - recording.residual_mid[layer] - attention


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2", "phi3", "olmo2"])
def test_iterative_neurons_run_free(tiny_model: Any, family: str) -> None:
    """Neurons are the MLP itself: computed anew over all layers with live attention they are the model."""
    model = tiny_model(family)
    edits = {place: -1.0 for place in active_places(model, "neurons")[::7]}
    free, iterative, held = run(
        model, "neurons", [Case(edits), Case(edits, "iterative", (0, 2), "live"), Case(edits, "constrained")]
    )
    assert_close(iterative.logits, free.logits)
    assert not torch.allclose(held.logits, free.logits, atol=1e-3)


@pytest.mark.parametrize("kind", ["plt", "clt", "plt_topk"])
def test_an_iterative_range_of_one_layer_is_a_constrained_one(tiny_model: Any, kind: str) -> None:
    """No feature reads what an edit of its own layer writes."""
    model = tiny_model("llama")
    edits = {place: 0.0 for place in at_layer(model, kind, 1)}
    pair = [Case(edits, mode, (1, 1)) for mode in ("constrained", "iterative")]
    constrained, iterative = run(model, kind, pair)
    assert_close(iterative.logits, constrained.logits)
    assert not torch.allclose(iterative.logits, iterative.baseline, atol=1e-4)


@pytest.mark.parametrize("mode", ["free", "iterative"])
@pytest.mark.parametrize("kind", ["plt", "clt", "windowed", "plt_topk", "neurons"])
def test_an_edited_feature_stays_at_its_value(tiny_model: Any, kind: str, mode: Any) -> None:
    """What edits below do to a feature that is held at its own value has no effect: hold all above, and the writes are
    the closed form of the edit below alone.
    """
    model = tiny_model("llama")
    low = at_layer(model, kind, 0)[0]
    everything = {p: 1.0 for p in active_places(model, kind) if p[0] == 1}
    held, alone = run(model, kind, [Case({low: -3.0, **everything}, mode), Case({low: -3.0}, mode)], keep="recording")
    assert all(e.before == e.after for e in held.edits if e.layer == 1)
    assert not torch.allclose(held.logits, alone.logits, atol=1e-4)


def test_directions_move_the_stream(tiny_model: Any) -> None:
    """An added vector is one hook on the block; a direction projected out is gone, and gone twice is gone once."""
    model = tiny_model("gemma2")
    vector = torch.linspace(-1, 1, model.d_model)

    def hook(_module: Any, args: tuple) -> Any:
        hidden = args[0].clone()
        hidden[0, 2:4] += 1.5 * vector
        return (hidden, *args[1:])

    handle = model.layers[1].block.register_forward_pre_hook(hook)
    expected = model.hf(input_ids=torch.tensor([TOKENS])).logits[0, -1]
    handle.remove()
    cases = [
        Case({Stream(1, (2, 3)): Direction(vector, 1.5)}),
        Case({Stream(2): Direction(vector, project_out=True)}),
        Case([{Stream(2): Direction(vector, project_out=True)}, {Stream(2): Direction(3 * vector, project_out=True)}]),
    ]
    added, once, twice = run(model, "clt", cases, keep="recording")
    assert torch.allclose(added.logits, expected, atol=1e-5)
    before = (view_of(model).recording.residual_pre[2] @ vector).abs().max()
    assert (once.recording.residual_mid[1] == view_of(model).recording.residual_mid[1]).all()
    assert torch.allclose(twice.logits, once.logits, atol=1e-5)
    assert not torch.allclose(once.logits, once.baseline, atol=1e-3)
    assert before > 0.1


def test_the_final_stream_can_be_moved(tiny_model: Any) -> None:
    model = tiny_model("llama")
    vector = torch.ones(model.d_model)
    outcome = run(model, "plt", [{Stream(3, 5): Direction(vector, 2.0)}])[0]
    expected = model.logits(view_of(model).recording.residual_final[-1:] + 2 * vector)[0]
    assert torch.allclose(outcome.logits, expected, atol=1e-5)


EDITS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 5), st.integers(0, 39), st.floats(-4, 4, width=32)),
    min_size=1, max_size=6, unique_by=lambda edit: edit[:3],
)  # fmt: skip


@settings(max_examples=10)
@given(
    sets=st.lists(EDITS, min_size=2, max_size=4), modes=st.lists(st.sampled_from(MODES), min_size=4, max_size=4),
    kind=st.sampled_from(["clt", "windowed", "plt_skip", "neurons"]),
)  # fmt: skip
def test_random_edits(tiny_model: Any, sets: Any, modes: Any, kind: str) -> None:
    """Any edits: a batch is its rows, and one mapping is the same as several."""
    model = tiny_model("llama")
    cases = [Case({edit[:3]: Set(edit[3]) for edit in edits}, mode) for edits, mode in zip(sets, modes, strict=False)]
    apart = [Case([{key: change} for key, change in case.edits.items()], case.mode) for case in cases]  # pyright: ignore
    for case, joined, alone in zip(cases, run(model, kind, cases), run(model, kind, apart, rows=1), strict=True):
        assert_close(joined.logits, alone.logits, 1e-4)
        assert len(joined.edits) == len(case.edits)  # pyright: ignore


def test_positions(tiny_model: Any) -> None:
    """None, ranges and tuples are positions; where a feature of several is inactive, scaling leaves it alone."""
    model = tiny_model("llama")
    probe = probe_of(model, "clt")
    layer, position, feature = at_layer(model, "clt", 0)[0]
    active = torch.nonzero(probe.recorded_layer(layer)[:, feature]).flatten().tolist()
    everywhere, listed = run(model, "clt", [{(layer, None, feature): 0.0}, {(layer, tuple(active), feature): 0.0}])
    assert [edit.position for edit in everywhere.edits] == active == [edit.position for edit in listed.edits]
    assert_close(everywhere.logits, listed.logits)
    tail = run(model, "clt", [{(layer, range(position, len(TOKENS)), feature): Set(1.0)}])[0]
    assert [edit.position for edit in tail.edits] == list(range(position, len(TOKENS)))


def test_a_sweep_keeps_what_it_is_asked(tiny_model: Any) -> None:
    model = tiny_model("llama")
    outcome = run(model, "clt", [{at_layer(model, "clt", 0)[0]: 0.0}])[0]
    with pytest.raises(InterventionError, match="keep="):
        _ = outcome.recording
    with pytest.raises(InterventionError, match="not watched"):
        outcome.share((0, 1, 1))


def test_batches_fit_the_memory(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With little memory one row runs at a time, and gives the same."""
    model = tiny_model("llama")
    cases = mixed_cases(model, "clt")
    whole = run(model, "clt", cases)
    monkeypatch.setattr("lucida.interventions.engine.BATCH_BYTES", 1)
    seen: list[tuple[int, int | None]] = []
    apart = run(model, "clt", cases, progress=lambda _what, done, total: seen.append((done, total)))
    assert seen == [(n + 1, len(cases)) for n in range(len(cases))]
    for a, b in zip(whole, apart, strict=True):
        assert_close(a.logits, b.logits)


def test_overflow_is_said(tiny_model: Any) -> None:
    model = tiny_model("gpt2")
    with pytest.raises(InterventionError, match=r"overflow.*smaller strength") as caught:
        run(model, "clt", [{at_layer(model, "clt", 0)[0]: Set(3e38)}])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", ["constrained", "frozen"])
@pytest.mark.parametrize(("family", "kind"), [("llama", "clt"), ("gpt_neox", "windowed"), ("gemma2", "windowed")])
def test_cross_layer_writes_are_clamped_once_per_layer(tiny_model: Any, family: str, kind: str, mode: Any) -> None:
    """Every MLP in the range adds its recording plus the closed form of all edits; below the range, its recording."""
    model, view, dictionary = tiny_model(family), view_of(tiny_model(family)), features_of(tiny_model(family), kind)
    assert dictionary is not None
    edits = {at_layer(model, kind, 0)[0]: -1.0, at_layer(model, kind, 1)[-1]: 3.0, (0, 4, 7): Set(1.5)}
    layers = (1, 2) if mode == "constrained" else None
    outcome = run(model, kind, [{}, Case(edits, mode, layers)], keep="recording")[1]
    for layer in range(2):
        expected = view.mlp_contribution(layer).clone()
        for edit in outcome.edits:
            if layer in dictionary.writes_to(edit.layer) and (layers is None or layer >= layers[0]):
                row = dictionary.decoder_rows(edit.layer, torch.tensor([edit.feature]), layer)
                row = (
                    row
                    if probe_of(model, kind).at_residual
                    else view.push_output(layer, row, torch.tensor([edit.position]))
                )
                expected[edit.position] += (edit.after - edit.before) * row[0]
        assert_close(_added_by_mlp(model, outcome.recording, layer), expected, 2e-5)
