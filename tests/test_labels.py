"""First labels, and the features that push hardest: on the planted model, whose circuit is known."""

from typing import Any

import torch
from test_trace import planted_model

from lucida import Microscope

PROMPT = [3, 11, 8, 30]


class Words:
    """A tokenizer for the planted model: token 11 reads "word11"."""

    chat_template = None
    unk_token_id = 0

    def decode(self, ids: list[int], **_: Any) -> str:
        return f"word{ids[0]}"

    def convert_ids_to_tokens(self, token: int) -> str:
        return f"word{token}"


def test_labels_name_what_excites_and_what_is_said() -> None:
    model = planted_model()
    model.tokenizer = Words()
    graph = Microscope(model).trace(PROMPT, [23], max_nodes=12)
    (reader,) = graph.find(kind="feature", layer=0, position=1, feature=5)
    (speaker,) = graph.find(kind="feature", layer=2, position=3, feature=7)
    assert reader.label == "word11"
    assert speaker.label.startswith("say word23")
    assert speaker in graph.find("word23")


def test_without_a_tokenizer_there_are_no_labels() -> None:
    graph = Microscope(planted_model()).trace(PROMPT, [23], max_nodes=12)
    assert not any(graph.nodes.label)


def test_strongest_are_the_planted_neurons_and_removing_them_turns_the_answer() -> None:
    scope = Microscope(planted_model())
    graph = scope.trace(PROMPT, [23], max_nodes=12)
    strongest = graph.strongest(2)
    assert {(n.layer, n.position, n.feature) for n in strongest} == {(0, 1, 5), (2, 3, 7)}
    outcome = scope.intervene(graph.prompt, {strongest: 0.0})
    assert outcome.probability(23) < 0.1
    assert torch.isfinite(outcome.logits).all()
    # Traced the other way round, the same neurons hold the answer back: they come last.
    against = scope.trace(PROMPT, (5, 23), max_nodes=12).strongest(12)
    assert {(n.layer, n.position, n.feature) for n in against[-2:]} == {(0, 1, 5), (2, 3, 7)}
