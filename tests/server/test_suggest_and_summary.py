"""Groups that the page proposes and the sentences it begins with: from labels, honestly, and never more than text."""

import string
from dataclasses import replace

import numpy as np
import pytest
import tiny_models
import tiny_page

from lucida.graph import Graph
from lucida.graph.pruning import prune_masks
from lucida.interventions import Edit, predict
from lucida.server.naming import says_something, words_in
from lucida.server.suggest import MOST, MOST_MEMBERS, groups
from lucida.server.summary import describe, pushes, without

ANIMALS = ("dog", "cat", "cow", "hen")


@pytest.fixture(scope="module", params=["plt", "clt", "neurons"])
def bare(request: pytest.FixtureRequest) -> Graph:
    """A graph without labels."""
    graph = tiny_page.graph_of(tiny_page.scope_of(tiny_models.word_model(), request.param))
    return graph.with_labels(dict.fromkeys(range(len(graph.nodes)), ""))


@pytest.fixture(scope="module")
def graph(bare: Graph) -> Graph:
    """The graph with an animal for a label of each feature."""
    table = bare.nodes
    features = np.flatnonzero(table.is_kind("feature")).tolist()
    return bare.with_labels({i: f'the word "{ANIMALS[int(table.feature[i]) % 4]}"' for i in features})


# --- groups ---------------------------------------------------------------------------------------------


def test_groups_hold_strong_features_of_one_label_once(graph: Graph) -> None:
    found = groups(graph)
    assert 0 < len(found) <= MOST
    kept = prune_masks(graph).node_mask & graph.nodes.is_kind("feature")
    members = [node for group in found for node in group.nodes]
    assert len(members) == len(set(members))
    assert kept[members].all()
    for group in found:
        assert len(group.nodes) > 1
        labels = {graph.nodes.label[i] for i in group.nodes}
        assert len(labels) == 1
        assert group.name.startswith(labels.pop())
        strengths = graph.nodes.influence[group.nodes]
        assert (np.diff(strengths) <= 0).all()
        assert group.influence == pytest.approx(float(strengths.sum()), rel=1e-5)
    assert [group.influence for group in found] == sorted((group.influence for group in found), reverse=True)
    assert len({group.name for group in found}) == len(found)
    assert groups(graph) == found


def test_members_are_few_and_of_one_token(graph: Graph) -> None:
    for group in groups(graph):
        assert len(group.nodes) <= MOST_MEMBERS
        assert len(set(graph.nodes.position[group.nodes].tolist())) == 1


def test_labels_that_say_nothing_make_no_group(bare: Graph) -> None:
    assert groups(bare) == []
    features = np.flatnonzero(bare.nodes.is_kind("feature")).tolist()
    for label in ("fires everywhere", "unclear: dog, cat", "the first 2 tokens", "punctuation", "  "):
        assert groups(bare.with_labels(dict.fromkeys(features, label))) == []


@pytest.mark.parametrize(
    ("a", "b", "is_same"),
    [
        ('the word "small"', "small", True),
        ("small, little", "little, small", True),
        ("small", "smaller", True),
        ("small", "large", False),
        ("small", "say small", False),
        ("say small", "not small", False),
        ('the mark """', '"', True),
        ('", “', '", ‘', False),
        ('", “', '",  “', True),
        ('the number "3"', "3", True),
    ],
)
def test_which_labels_have_the_same_words(a: str, b: str, is_same: bool) -> None:
    assert (words_in(a) == words_in(b)) is is_same


def test_every_label_has_words() -> None:
    for label in [*string.printable, "the", "say", "not not", "\u202e", "日本"]:
        assert words_in(label)
    assert says_something("the word first")
    assert not says_something("the first token")


# --- sentences ------------------------------------------------------------------------------------------


def test_what_is_taken_away_is_what_an_experiment_predicts(graph: Graph) -> None:
    """The server's prediction is the library's, which the page shows beside the measurement."""
    table = graph.nodes
    features = np.flatnonzero(table.is_kind("feature")).tolist()
    chosen = [features[:2], features[5:6], features]
    found = without(graph, chosen)
    for column, members in enumerate(chosen):
        edits = [
            Edit(int(table.layer[i]), int(table.position[i]), int(table.feature[i]), float(table.activation[i]), 0.0)
            for i in members
        ]
        assert np.allclose(found[:, column], predict(graph, edits).change, rtol=1e-5, atol=1e-7)


def test_pushes_raise_the_answer_the_strongest_first(graph: Graph) -> None:
    answer = int(np.flatnonzero(graph.nodes.is_kind("logit"))[0])
    found = pushes(graph, answer, 100)
    assert found
    assert all(push.direct > 0 and push.total > 0 for push in found)
    assert [push.direct for push in found] == sorted((push.direct for push in found), reverse=True)
    row = graph.edges[np.flatnonzero(graph.targets == answer)[0]]
    positive = float(row[graph.nodes.is_kind("feature")].clip(min=0).sum())
    assert sum(push.direct for push in found) <= positive * (1 + 1e-5)


def test_a_summary_says_what_there_is(graph: Graph, bare: Graph) -> None:
    best = int(np.argmax(graph.metadata["target_weights"]))
    logits = np.flatnonzero(graph.nodes.is_kind("logit"))
    scores = graph.scores()
    for said, unnamed in ((describe(graph).short, describe(bare).short), (describe(graph).full, describe(bare).full)):
        assert f"“{graph.nodes.text[int(logits[best])].strip()}”" in said
        assert any(animal in said for animal in ANIMALS)
        assert "\n" not in said
        assert "None of the features" in unnamed
        assert not any(animal in unnamed for animal in ANIMALS)
    if scores.error_share > 0.1:
        error = scores.error_share - scores.unexpanded
        assert f"{100 * error:.0f} %, what the features miss" in describe(graph).full
        assert f"Not explained: {100 * scores.error_share:.0f} %" in describe(graph).short


def test_the_short_summary_names_the_same_features_with_one_share(graph: Graph) -> None:
    answer = int(np.flatnonzero(graph.nodes.is_kind("logit"))[int(np.argmax(graph.metadata["target_weights"]))])
    said = describe(graph)
    found = pushes(graph, answer)
    row = np.abs(graph.edges[np.flatnonzero(graph.targets == answer)[0]]).sum()
    assert said.short.count("goes into it directly)") == 1
    share = 100 * found[0].direct / float(row)
    assert f"({share:.0f} %" in said.short or f"({share:.1f} %" in said.short
    for push in found:
        assert push.token.strip() in said.short
    assert "logits directly" not in said.short
    assert said.short.split("; ")[0] == said.full.split("; ")[0]


def test_a_difference_says_which_is_ahead() -> None:
    scope = tiny_page.scope_of(tiny_models.word_model())
    sides = [scope.trace(tiny_page.TOKENS, [pair]) for pair in ((7, 60), (60, 7))]
    said = [describe(graph).short for graph in sides]
    assert all("“w7”" in text and "“w60”" in text for text in said)
    ahead = ["“w7” is ahead" in text for text in said]
    assert ahead[0] == ahead[1]
    assert ahead[0] != ("“w60” is ahead" in said[0])


def test_hostile_labels_and_tokens_stay_one_line_of_text(graph: Graph) -> None:
    table = graph.nodes
    hostile = "<script>alert(1)</script>\r\n\u2028" + "x" * 500
    nodes = replace(table, text=tuple([hostile] * len(table)), label=tuple([hostile] * len(table)))
    wild = replace(graph, nodes=nodes, metadata=graph.metadata | {"top_tokens": [{"text": None}]})
    for said in (describe(wild).short, describe(wild).full):
        assert "<script>" in said
        assert len(said) < 1000
        assert len(said.splitlines()) == 1
    assert all(len(group.name) <= 200 for group in groups(wild))


def test_a_graph_without_answer_is_described_too(graph: Graph) -> None:
    kept = np.flatnonzero(~graph.nodes.is_kind("logit"))
    small = graph.subgraph(kept)
    assert "no answer" in describe(small).short


@pytest.mark.real
def test_paris_on_smollm() -> None:
    from lucida.microscope import Microscope

    graph = Microscope("smollm2-135m").trace("The capital of France is", max_nodes=1000)
    said = describe(graph).full
    assert said.startswith("The model goes on with “Paris”")
    assert "“say " in said
    names = [group.name for group in groups(graph)]
    assert any("capital" in name for name in names)
    assert any("France" in name for name in names)
