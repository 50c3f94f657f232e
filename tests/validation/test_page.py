"""The page is one file that says what was found, whatever labels and prompts hold."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lucida.errors import SaveError
from lucida.evaluation.faithfulness import Correlation
from lucida.statistics import Interval
from lucida.validation import Ablation, Pair, Validation, findings
from lucida.validation.page import page, save_page
from lucida.validation.plots import linear_axis, log_axis, signed_axis
from lucida.validation.validation import (
    AttentionMeasures,
    ControlMeasures,
    ErrorMeasures,
    NodeMeasures,
    PairMeasures,
    PredictionMeasures,
    StepAgreement,
)
from lucida.validation.verdicts import in_short

HOSTILE = "<script>alert('x')</script> & \"q\" ]]> </svg> \u202e"


def number(value: float, spread: float = 0.05) -> Interval:
    return Interval(value, value - spread, value + spread, 50)


def validation(rank: float = 0.5, **changes: object) -> Validation:
    """A validation in which everything is a little right."""
    some = number(rank)
    found = Validation(
        model="tiny", dictionary="features", kind="features", prompts=(HOSTILE,), targets=(HOSTILE,), features=50,
        reach=2, seed=0,
        pairs=PairMeasures(*[Correlation(some, 9)] * 2, some, some, some, some, 0.1, Correlation(some, 18)),
        nodes=NodeMeasures(some, some, some, some, some, some, number(0.0), number(0.0)),
        agreement=(StepAgreement(1, some, some, some, some, some, some),),
        attention=AttentionMeasures(some, some),
        prediction=PredictionMeasures(some, some, some, some, some, some, some, some),
        errors=ErrorMeasures(some, some, (0.2, 0.3)),
        controls=ControlMeasures(9, some, some, 1.0),
        left_out=(HOSTILE,),
        ablations=tuple(
            Ablation(0, 1, 2, index, HOSTILE, 0.1 * index, 1.0, 0.1, -0.1 * index, 0.1, 0.1, 10.0**-index, 0.0)
            for index in range(5)
        ),
        sampled_pairs=(Pair(0.1, 0.2, True), Pair(0.0, 0.0, False)),
        seconds=1.0,
        provenance={},
    )  # fmt: skip
    return replace(found, **changes)  # type: ignore[arg-type]


class Tags(HTMLParser):
    """Every tag of a document, and whether all are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.seen.append(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_hostile_labels_are_text() -> None:
    text = page(validation())
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert "script" not in tags.seen
    assert "&lt;script&gt;" in text
    assert not re.search(r"https?:|src=|href=|url\(|@import", text)
    assert tags.seen.count("svg") == 5
    assert page(validation()) == text


def test_every_finding_is_on_the_page(tmp_path: Path) -> None:
    found = validation()
    save_page(found, tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text("utf-8")
    lines = findings(found)
    assert len(lines) > 12
    for line in lines:
        assert line.sentence.replace("'", "&#x27;") in text
    with pytest.raises(SaveError):
        save_page(found, tmp_path / "r.html" / "below.html")


def test_what_was_not_measured_is_left_out() -> None:
    nothing = PredictionMeasures(*[None] * 8)
    found = validation(
        pairs=None, agreement=(), errors=None, controls=None, prediction=nothing, sampled_pairs=(), ablations=(),
        nodes=NodeMeasures(*[None] * 8), attention=AttentionMeasures(None, None), kind="neurons",
    )  # fmt: skip
    assert page(found).count("<svg") == 2
    assert {line.level for line in findings(found)} <= {"unknown", "for comparison", "fails"}


@pytest.mark.parametrize(("rank", "level"), [(0.8, "holds"), (0.5, "partly"), (0.3, "partly"), (0.1, "fails")])
def test_the_same_number_gives_the_same_words(rank: float, level: str) -> None:
    named = {line.name: line for line in findings(validation(rank))}
    assert named["Feature on feature, knock-on"].level == level
    assert named["Influence against ablation (KL), rank"].level == level
    assert named["Feature on feature, direct"].level == "by construction"


def test_an_interval_that_holds_zero_is_no_correlation() -> None:
    wide = Interval(0.6, -0.1, 0.9, 5)
    found = validation(nodes=NodeMeasures(*[wide] * 8))
    assert findings(found)[0].level == "fails"
    assert "do not" in in_short(findings(found))


def test_axes_keep_order_and_bounds() -> None:
    values = [-3.0, -0.001, 0.0, 0.002, 50.0]
    for axis, shown in ((signed_axis(values), values), (log_axis([1e-9, 0.5, 3.0]), [0.0, 1e-9, 0.5, 3.0])):
        places = [axis.place(value) for value in shown]
        assert places == sorted(places)
        assert all(0 <= place <= 1 for place in places)
        assert all(0 <= place <= 1 for place, _ in axis.ticks)
    assert [text for _, text in linear_axis([0.0, 1.0]).ticks] == ["0", "0.5", "1"]
    assert linear_axis([]).ticks
    assert log_axis([]).ticks
    assert signed_axis([0.0, 0.0]).ticks


@pytest.mark.parametrize(
    ("slope", "spread", "rank", "level"),
    [(1.0, 0.1, 0.8, "holds"), (1.0, 0.6, 0.8, "partly"), (1.0, 0.1, 0.25, "partly"), (0.3, 0.1, 0.8, "fails")],
)
def test_a_slope_is_believed_with_interval_and_rank(slope: float, spread: float, rank: float, level: str) -> None:
    found = validation(rank)
    found = replace(found, prediction=replace(found.prediction, slope=number(slope, spread)))
    assert next(line for line in findings(found) if line.name.startswith("Slope")).level == level
