"""Swaps, donors, directions and everything that is refused."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_cases import TOKENS, active_places, at_layer, features_of, probe_of, view_of

from lucida.attribution import trace
from lucida.errors import InterventionError
from lucida.interventions import (
    Case,
    Direction,
    Donated,
    Donor,
    Inject,
    Scale,
    Set,
    Stream,
    Swap,
    donor_activations,
    donor_of,
    refuse_other,
    sweep,
)

OTHER = [9, 2, 61, 30]


def edits_of(model: Any, kind: str, edits: Any, **options: Any) -> Any:
    case = Case(edits, **options)
    return sweep(model, features_of(model, kind), TOKENS, [case], view=view_of(model))[0]


def donor_for(model: Any, kind: str, count: int = 3) -> Donor:
    """Features that are active on another prompt."""
    dictionary, found = features_of(model, kind), []
    for feature in range(40):
        donated = donor_activations(model, dictionary, OTHER, [(1, None, feature)]).features[0]
        found += [donated] if donated.activation else []
    assert len(found) > count
    return donor_activations(model, dictionary, OTHER, [(1, None, f.feature) for f in found[:count]])


@pytest.mark.parametrize("kind", ["clt", "plt_topk", "neurons"])
def test_a_swap_is_its_parts(tiny_model: Any, kind: str) -> None:
    """What goes out is scaled, what comes in is injected where that stood; a feature of both gets the donor's value."""
    model = tiny_model("llama")
    donor = donor_for(model, kind)
    out = tuple(at_layer(model, kind, 0)[:2])
    swap = edits_of(model, kind, Swap(out, donor, strength=2.0, suppress=-1.0))
    parts: dict[Any, Any] = {place: Scale(-1.0) for place in out}
    for position in {place[1] for place in out}:
        for feature in donor.features:
            parts[feature.layer, position, feature.feature] = Inject(feature.activation, 2.0)
    expected = edits_of(model, kind, parts)
    assert swap.edits == expected.edits
    assert torch.equal(swap.logits, expected.logits)
    at_end = edits_of(model, kind, Swap(out, donor, positions=5))
    assert {e.position for e in at_end.edits if e.layer == 1} == {5}


def test_a_swap_with_itself_changes_nothing(tiny_model: Any) -> None:
    """A feature that is taken out and put in again from the same prompt stays at its own value."""
    model = tiny_model("llama")
    place = at_layer(model, "clt", 1)[0]
    own = probe_of(model, "clt").recorded([place])[place]
    donor = Donor((Donated(place[0], place[2], own),), probe_of(model, "clt").fingerprint)
    outcome = edits_of(model, "clt", Swap(place, donor))
    assert torch.equal(outcome.logits, outcome.baseline)


def test_donors_of_a_prompt_and_of_its_graph_agree(tiny_model: Any) -> None:
    model = tiny_model("llama")
    dictionary = features_of(model, "clt")
    graph = trace(model, dictionary, TOKENS, [7], max_nodes=None)
    nodes = graph.find(kind="feature", layer=1)
    donor = donor_of(graph, nodes)
    read = donor_activations(model, dictionary, TOKENS, nodes)
    assert donor.dictionary == read.dictionary
    assert [d.feature for d in donor.features] == [d.feature for d in read.features]
    for mine, theirs in zip(donor.features, read.features, strict=True):
        assert mine.activation == pytest.approx(theirs.activation, rel=1e-5)
    with pytest.raises(InterventionError, match="only features can be donated"):
        donor_of(graph, graph.find(kind="embedding"))


def test_the_largest_of_several_positions_is_donated(tiny_model: Any) -> None:
    model = tiny_model("llama")
    activations = probe_of(model, "clt").recorded_layer(0)
    feature = int(activations.sum(0).argmax())
    donor = donor_activations(model, features_of(model, "clt"), TOKENS, [(0, None, feature)])
    assert donor.features[0].activation == pytest.approx(float(activations[:, feature].max()))


def test_a_donor_of_another_dictionary_is_refused(tiny_model: Any) -> None:
    model = tiny_model("llama")
    donor = donor_for(model, "plt")
    with pytest.raises(InterventionError, match="another dictionary") as caught:
        edits_of(model, "clt", Swap(at_layer(model, "clt", 0)[0], donor))
    assert "\n" not in str(caught.value)
    with pytest.raises(InterventionError, match="neurons"):
        edits_of(model, "neurons", Swap(at_layer(model, "neurons", 0)[0], donor))


def test_a_graph_of_another_dictionary_is_refused(tiny_model: Any) -> None:
    model = tiny_model("llama")
    clt, plt = features_of(model, "clt"), features_of(model, "plt")
    graph = trace(model, clt, TOKENS, [7])
    refuse_other(graph, clt)
    for other in (plt, None):
        with pytest.raises(InterventionError, match="load the same dictionary"):
            refuse_other(graph, other)
    with pytest.raises(InterventionError, match="neurons"):
        refuse_other(trace(model, None, TOKENS, [7]), clt)
    with pytest.raises(InterventionError, match="the graph is of the model tiny-llama, not of another"):
        refuse_other(graph, clt, model="another")
    # Graphs of other tools do not say which features they are of.
    refuse_other(dataclasses.replace(graph, metadata={}), plt)


NAN = float("nan")


@pytest.mark.parametrize(
    ("edits", "options", "words"),
    [
        ({(0, (1, 9), 1): Set(1.0)}, {}, "position 9 is outside the prompt of 6"),
        ({(0, range(3, 9), 1): Set(1.0)}, {}, "position 6 is outside"),
        ({(0, (), 1): Set(1.0)}, {}, "not a position"),
        ({(0, -1, 1): Set(1.0)}, {}, "outside the prompt"),
        ({(0, 1, 1): Inject(NAN)}, {}, "finite"),
        ({(0, 1, 1): Inject(1.0, float("inf"))}, {}, "finite"),
        ({(0, 1, 1): Scale(float("-inf"))}, {}, "finite"),
        ([{(0, 1, 1): Set(1.0)}, {(0, (1, 2), 1): Set(2.0)}], {}, "changed twice"),
        ({(0, 1, 1): Set(1.0)}, {"mode": "constrained", "layers": (2, 0)}, "range"),
        ({(0, 1, 1): Set(1.0)}, {"mode": "iterative", "layers": (0, 3)}, "range"),
        ({(0, 1, 1): Set(1.0)}, {"mode": "frozen", "layers": (0, 1)}, "constrained and iterative"),
        ({(0, 1, 1): Direction(torch.ones(32))}, {}, "Stream"),
        ({Stream(0): Scale(1.0)}, {}, "Stream"),
        ({Stream(4): Direction(torch.ones(32))}, {}, "layers 0 to 3"),
        ({Stream(0, 6): Direction(torch.ones(32))}, {}, "outside the prompt"),
        ({Stream(0): Direction(torch.ones(31))}, {}, "the model's stream 32"),
        ({Stream(0): Direction(torch.full((32,), NAN))}, {}, "finite"),
        ({Stream(0): Direction(torch.ones(32), NAN)}, {}, "finite"),
        ({Stream(0): Direction(torch.zeros(32), project_out=True)}, {}, "length zero"),
    ],
)  # fmt: skip
def test_bad_edits_are_one_line(tiny_model: Any, edits: Any, options: Any, words: str) -> None:
    with pytest.raises(InterventionError, match=words) as caught:
        edits_of(tiny_model("llama"), "clt", edits, **options)
    assert "\n" not in str(caught.value)


def test_scaling_what_is_inactive_everywhere_is_refused(tiny_model: Any) -> None:
    model = tiny_model("llama")
    activations = probe_of(model, "clt").recorded_layer(0)
    silent = int((activations == 0).all(0).nonzero()[0])
    with pytest.raises(InterventionError, match="inactive at all of these positions"):
        edits_of(model, "clt", {(0, None, silent): 0.0})
    edits_of(model, "clt", {(0, None, silent): Set(0.5)})


def test_a_bad_case_of_a_sweep_stops_it_before_it_runs(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is computed when one of many cases cannot be made."""
    model = tiny_model("llama")

    def never(*_: Any) -> None:
        raise AssertionError("ran")

    monkeypatch.setattr("lucida.interventions.engine.run_body", never)
    good = {active_places(model, "clt")[0]: 0.0}
    with pytest.raises(InterventionError, match="layer 7"):
        sweep(model, features_of(model, "clt"), TOKENS, [good, {(7, 1, 1): 0.0}], view=view_of(model))


def test_no_case_is_no_outcome(tiny_model: Any, tmp_path: Path) -> None:
    model = tiny_model("llama")
    assert sweep(model, features_of(model, "clt"), TOKENS, [], view=view_of(model)) == []
