"""What a validation found: numbers with intervals, the samples behind them, and both as JSON."""

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lucida.atomic import replacing
from lucida.evaluation.faithfulness import Correlation
from lucida.statistics import Interval

SCHEMA = 1


@dataclass(frozen=True)
class Ablation:
    """One ablated feature. `influence`, `activation` and `direct` edge are the graph's; `predicted` is by how much the
    leading target's logit moves going by the graph, `change` by how much it did with attention held, `live_change`
    with attention live. KL in nats. `graph` numbers the prompt.
    """

    graph: int
    layer: int
    position: int
    feature: int
    name: str
    influence: float
    activation: float
    direct: float
    predicted: float
    change: float
    live_change: float
    kl: float
    live_kl: float


@dataclass(frozen=True)
class Pair:
    """Influence of one feature on another beside |change| / activation when the first is ablated."""

    influence: float
    measured: float
    is_direct: bool


@dataclass(frozen=True)
class PairMeasures:
    """Influence against measured change over pairs of features. `direct` pairs hold by construction; only `knock_on`
    pairs, with live MLPs between, are evidence; `everything` is both, the paper's number. `signs`: share of the pairs
    in which the sign of the edge is that of the effect; `weighted` counts an edge by its share of its target's inputs.
    """

    direct: Correlation
    knock_on: Correlation
    direct_signs: Interval | None
    knock_on_signs: Interval | None
    direct_signs_weighted: Interval | None
    knock_on_signs_weighted: Interval | None
    too_small: float
    """Share of the pairs whose target hardly moved: their signs are not counted."""
    everything: Correlation


@dataclass(frozen=True)
class NodeMeasures:
    """How well each number ranks features by the KL of their ablation: Spearman, and Pearson of the logarithms."""

    influence: Interval | None
    activation: Interval | None
    direct: Interval | None
    log_influence: Interval | None
    log_activation: Interval | None
    log_direct: Interval | None
    over_activation: Interval | None
    """Spearman of influence minus that of activation, on the same draws."""
    over_direct: Interval | None


@dataclass(frozen=True)
class StepAgreement:
    """Change of the residual stream `layers` after a push: the local replacement model's against the model's.

    Mean cosine, and median of |difference|^2 / |model's change|^2 (1 is what saying "no change" would get). Pushes
    along encoders, and at random.
    """

    layers: int
    cosine: Interval | None
    error: Interval | None
    random_cosine: Interval | None
    random_error: Interval | None
    idle_cosine: Interval | None
    """The same where no MLP answers: what the stream and frozen attention alone carry on."""
    idle_error: Interval | None


@dataclass(frozen=True)
class AttentionMeasures:
    """|live - frozen| / |live|: what an effect owes to attention patterns, large effects counting for more."""

    logit: Interval | None
    kl: Interval | None


@dataclass(frozen=True)
class PredictionMeasures:
    """What the graph predicts for the leading target's logit against what happened. `slope` of the measured on the
    predicted (1: magnitudes are right), `signs` the share with the right sign, `weighted` by the prediction's size.
    `direct` predicts by the edge to the answer alone, `story` is of features that pruning keeps.
    """

    spearman: Interval | None
    slope: Interval | None
    signs: Interval | None
    signs_weighted: Interval | None
    direct_spearman: Interval | None
    direct_signs: Interval | None
    story_spearman: Interval | None
    story_signs: Interval | None


@dataclass(frozen=True)
class ErrorMeasures:
    """Shares of the influence on the answer that end without explanation. `by_layer` is of errors, mean over graphs."""

    error: Interval | None
    unexpanded: Interval | None
    by_layer: tuple[float, ...]


@dataclass(frozen=True)
class ControlMeasures:
    """Features of the story against active ones outside it that write as much at the same position: share of the pairs
    in which the feature's ablation moves the answer more, and sum of KL over sum of KL of the controls.
    """

    pairs: int
    wins: Interval | None
    ratio: Interval | None
    size: float
    """Median size of a control, as a multiple of its feature's."""


@dataclass(frozen=True)
class Validation:
    """How far the graphs of one model and dictionary can be believed. None: not measured, `left_out` says why.

    Intervals are of 95 %: over ablations for one graph, over graphs for several. `seconds` of wall clock.
    """

    model: str
    dictionary: str
    kind: str
    prompts: tuple[str, ...]
    targets: tuple[str, ...]
    features: int
    reach: int
    seed: int
    pairs: PairMeasures | None
    nodes: NodeMeasures
    agreement: tuple[StepAgreement, ...]
    attention: AttentionMeasures
    prediction: PredictionMeasures
    errors: ErrorMeasures | None
    controls: ControlMeasures | None
    left_out: tuple[str, ...]
    ablations: tuple[Ablation, ...]
    sampled_pairs: tuple[Pair, ...]
    """Some of the pairs, for a picture."""
    seconds: float
    provenance: dict[str, str]

    def document(self) -> dict[str, Any]:
        """Everything as JSON values, with the findings in words; numbers that do not exist are None."""
        from lucida.validation.verdicts import findings

        words = [dataclasses.asdict(finding) for finding in findings(self)]
        return _plain({"schema": SCHEMA, "findings": words, **dataclasses.asdict(self)})

    def save(self, path: str | Path) -> None:
        """Write the document as JSON. Raises SaveError when the file cannot be written."""
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(self.document(), indent=1, ensure_ascii=False, allow_nan=False), "utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
