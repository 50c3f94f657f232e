"""The scan of a text, as the library makes it."""

import pytest
from tiny_models import word_model
from tiny_page import StandIn, scope_of

from lucida.errors import PromptError
from lucida.microscope import Microscope
from lucida.server.messages import WatchResult
from lucida.server.tasks import watch


def test_the_scan_is_the_librarys() -> None:
    scope, line = scope_of(word_model()), StandIn()
    text = "w5 w17 w3 w88"
    found = WatchResult.model_validate(watch.run(scope, {"text": text, "count": 3}, line))
    expected = scope.watch(text, count=3)
    assert [token.text for token in found.tokens] == [token.text for token in expected.tokens]
    shown = [[(f.layer, f.feature, f.activation) for f in token.features] for token in found.tokens]
    assert shown == [[(f.layer, f.feature, f.activation) for f in token.features] for token in expected.tokens]
    assert any(shown)
    assert [(g.name, tuple(g.positions)) for g in found.groups] == [(g.name, g.positions) for g in expected.groups]
    assert line.stages[-1] == ("reading the text", 1, 1)


def test_a_text_past_the_context_is_refused() -> None:
    scope = scope_of(word_model())
    with pytest.raises(PromptError):
        watch.run(scope, {"text": " ".join(["w5"] * 200)}, StandIn())


@pytest.mark.real
def test_smollm_knows_opposites() -> None:
    found = WatchResult.model_validate(
        watch.run(Microscope("smollm2-135m"), {"text": "The opposite of small is large."}, StandIn())
    )
    assert "opposite" in " ".join(feature.label for feature in found.tokens[0].features)
