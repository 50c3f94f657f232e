"""What to trust, in words: the rules by which a number becomes a plain sentence, all in this file.

The thresholds are judgements, not theorems. They stand in docs/validation.md.
"""

from dataclasses import dataclass

from lucida.statistics import Interval
from lucida.validation.validation import StepAgreement, Validation

STRONG, MODERATE, WEAK = 0.7, 0.4, 0.2
"""Rank correlations; the paper reports .72 between features for its best dictionary."""
SURE, LIKELY = 0.9, 0.75
"""Shares of right signs; .5 is a coin."""
ALIKE, SIMILAR = 0.8, 0.5
"""Cosines of the change after a push; the paper reports about .8 one layer on."""
FEW, SOME = 0.1, 0.3
"""Shares of an effect through attention patterns."""
DARK, DIM = 0.5, 0.25
"""Shares of the influence that ends without explanation."""
CALIBRATED = (0.67, 1.5)
"""Slopes of the measured on the predicted within which magnitudes may be read."""

BESIDE = "for comparison"
LEVELS = ("holds", "partly", "fails", "by construction", BESIDE, "unknown")


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was measured, the number, how it came out (LEVELS), and what that means."""

    name: str
    value: str
    level: str
    sentence: str


def findings(found: Validation) -> list[Finding]:
    """The page, line by line: every measure that was taken, with what to make of it."""
    lines = [*_nodes(found), *_pairs(found), *_prediction(found), *_agreement(found)]
    return [*lines, *_attention(found), *_errors(found), *_controls(found)]


def _show(value: Interval | None) -> str:
    """``.41 [.33, .49]``: two digits are all that so few samples carry."""
    if value is None:
        return "-"
    spread = "" if value.low is None or value.high is None else f" [{value.low:.2f}, {value.high:.2f}]"
    return f"{value.value:.2f}{spread}"


def _rank(value: Interval | None) -> str:
    """How strong a correlation is; one whose interval holds 0 is "none"."""
    if value is None:
        return "unknown"
    if value.value < WEAK or (value.low is not None and value.low <= 0):
        return "none"
    return "strong" if value.value >= STRONG else "moderate" if value.value >= MODERATE else "weak"


def _line(name: str, value: Interval | None, grade: str, sentences: dict[str, tuple[str, str]]) -> Finding:
    level, sentence = sentences.get(grade, ("unknown", "Too few or too equal samples to say anything."))
    return Finding(name, _show(value), level, sentence)


def _nodes(found: Validation) -> list[Finding]:
    nodes = found.nodes
    what = "Influence" if found.kind == "features" else "Attribution"
    others = f"activation {_show(nodes.activation)}, direct edge {_show(nodes.direct)}"
    rank = _line(f"{what} against ablation (KL), rank", nodes.influence, _rank(nodes.influence), {
        "strong": ("holds", "What the graph calls important is: trust the order of its nodes."),
        "moderate": ("partly", "The order of the nodes is roughly right; do not read much into neighbours in it."),
        "weak": ("partly", "Important nodes are only somewhat more likely to matter; ablate before you believe."),
        "none": ("fails", "Nodes the graph calls important matter no more than others; do not use its order."),
    })  # fmt: skip
    return [rank, Finding("  the same by simpler measures", others, BESIDE, _simpler(found))]


def _simpler(found: Validation) -> str:
    """Whether the graph's paths rank nodes better than what needs no paths."""
    gains = {
        "The direct edge to the answer": found.nodes.over_direct,
        "Its activation": found.nodes.over_activation,
    }
    known = {name: g for name, g in gains.items() if g is not None and g.low is not None and g.high is not None}
    if len(known) < len(gains):
        return "Too few samples to compare with simpler measures."
    name, gain = min(known.items(), key=lambda item: item[1].value)
    if gain.high is not None and gain.high < 0:
        return f"{name} alone ranks a node better than all the graph's paths do."
    if gain.low is not None and gain.low > 0:
        return "All the graph's paths together rank nodes better than any of these."
    return f"{name} alone ranks a node as well as all the graph's paths do."


def _pairs(found: Validation) -> list[Finding]:
    pairs = found.pairs
    if pairs is None:
        return []
    direct = pairs.direct.spearman
    lines = [
        _line("Feature on feature, knock-on", pairs.knock_on.spearman, _rank(pairs.knock_on.spearman), {
            "strong": ("holds", "Effects over several steps follow the graph's order: paths can be read."),
            "moderate": ("partly", "Knock-on effects agree in rank; do not rely on single edges or paths."),
            "weak": ("partly", "Knock-on effects agree a little; take a path as a hypothesis to test."),
            "none": ("fails", "Knock-on effects do not follow the graph: paths of several steps are not confirmed."),
        }),
        Finding("Feature on feature, direct", _show(direct), "by construction",
                "True by construction, as everything between is held: a check of the arithmetic, no evidence."),
    ]  # fmt: skip
    for name, value, weighted, is_evidence in (
        ("Signs of edges, direct", pairs.direct_signs, pairs.direct_signs_weighted, False),
        ("Signs of edges, knock-on", pairs.knock_on_signs, pairs.knock_on_signs_weighted, True),
    ):
        grade = _signs(value)
        sentences = {
            "sure": ("holds", "An edge that says 'excites' excites, also once the layers between answer."),
            "likely": ("partly", "Most edges keep their sign once the layers between answer; check those that matter."),
            "leaning": ("partly", "Once the layers between answer, the sign of an edge is a hint, hardly more."),
            "coin": ("fails", "Once the layers between answer, the sign of an edge is little better than a coin."),
        }
        line = _line(name, value, grade, sentences)
        if not is_evidence and line.level == "fails":
            line = Finding(name, line.value, "fails", "Not even direct edges keep their sign: live norms turn it.")
        elif not is_evidence:
            line = Finding(name, line.value, "by construction", "True by construction, up to what live norms do.")
        lines.append(Finding(line.name, f"{line.value}, by weight {_show(weighted)}", line.level, line.sentence))
    return [line for line in lines if not line.value.startswith("-,")]


def _signs(value: Interval | None) -> str:
    if value is None:
        return "unknown"
    if value.value >= SURE:
        return "sure"
    if value.value >= LIKELY:
        return "likely"
    return "leaning" if value.low is not None and value.low > 0.5 else "coin"


def _prediction(found: Validation) -> list[Finding]:
    prediction = found.prediction
    rank = _rank(prediction.spearman)
    size = _size(prediction.slope, rank)
    lines = [
        _line("Predicted against measured logit, rank", prediction.spearman, rank, {
            "strong": ("holds", "Adding up the graph's paths predicts which ablations move the logit, and which way."),
            "moderate": ("partly", "Adding up the graph's paths gives a rough order of the effects on the logit."),
            "weak": ("partly", "Adding up the graph's paths hardly predicts the effects on the logit."),
            "none": ("fails", "Adding up the graph's paths does not predict the logit: intervene, do not compute."),
        }),
        Finding("  the same by direct edges alone", _show(prediction.direct_spearman), BESIDE, _direct(found)),
        Finding("Slope of measured on predicted logit", _show(prediction.slope), *size),
    ]  # fmt: skip
    signs = _line("Signs towards the answer", prediction.signs, _signs(prediction.signs), {
        "sure": ("holds", "Whether a feature helps or hinders the answer can be read off the graph."),
        "likely": ("partly", "Whether a feature helps or hinders the answer is mostly right."),
        "leaning": ("partly", "Whether a feature helps or hinders the answer is a hint, hardly more: test it."),
        "coin": ("fails", "Whether a feature helps or hinders the answer must be tested: the graph hardly knows."),
    })  # fmt: skip
    weighted = f"{signs.value}, by weight {_show(prediction.signs_weighted)}"
    return [*lines, Finding(signs.name, weighted, signs.level, signs.sentence), *_story(found)]


def _size(slope: Interval | None, rank: str) -> tuple[str, str]:
    """Level and sentence of a slope. A few large effects can make it right: it holds with its interval and the rank."""
    if slope is None or not CALIBRATED[0] <= slope.value <= CALIBRATED[1]:
        return "fails", "Sizes cannot be read off the graph: effects are damped or turned round on the way."
    bounds = [value for value in (slope.low, slope.high) if value is not None]
    is_sure = all(CALIBRATED[0] <= value <= CALIBRATED[1] for value in bounds)
    if not is_sure or rank in ("weak", "none"):
        return "partly", "The largest effects are of the right size; of the others sizes cannot be read off the graph."
    return "holds", "Sizes can be read off the graph."


def _story(found: Validation) -> list[Finding]:
    """The same of the features that a reader of a pruned graph sees."""
    prediction = found.prediction
    if prediction.story_signs is None:
        return []
    line = _line("Signs, features that pruning keeps", prediction.story_signs, _signs(prediction.story_signs), {
        "sure": ("holds", "Of the features one is shown, helpers and hinderers can be told apart."),
        "likely": ("partly", "Of the features one is shown, most helpers help; test those that a story rests on."),
        "leaning": ("partly", "Of the features one is shown, more helpers help than not; test before you tell."),
        "coin": ("fails", "Even of the features one is shown, helpers and hinderers must be told apart by a test."),
    })  # fmt: skip
    value = f"{line.value}, rank {_show(prediction.story_spearman)}"
    return [Finding(line.name, value, line.level, line.sentence)]


def _direct(found: Validation) -> str:
    whole, direct = found.prediction.spearman, found.prediction.direct_spearman
    if whole is None or direct is None:
        return "Too few samples to compare."
    if _rank(whole) == _rank(direct) == "none":
        return "Nor does the direct edge to the answer alone."
    if direct.value >= whole.value:
        return "No worse than all paths: what runs through other features adds nothing to rely on."
    return "Less than all paths give: what runs through other features adds something."


def _agreement(found: Validation) -> list[Finding]:
    return [_step(step) for step in found.agreement]


def _step(step: StepAgreement) -> Finding:
    cosine, idle = step.cosine, step.idle_cosine
    plural = "layer" if step.layers == 1 else "layers"
    value = f"cosine {_show(cosine)}, error {_show(step.error)}"
    if cosine is None:
        return Finding(f"After a push, {step.layers} {plural} on", value, "unknown", "Not measured.")
    if idle is not None and cosine.value <= idle.value:
        level, text = "fails", f"No better than a model whose MLPs do not answer at all (cosine {idle.value:.2f})."
    elif cosine.value >= ALIKE:
        level, text = "holds", "The replacement model answers a push as the model does."
    elif cosine.value >= SIMILAR:
        level, text = "partly", "The replacement model answers a push in roughly the model's direction."
    else:
        level, text = "fails", "The replacement model answers a push in another direction than the model."
    if step.error is not None and step.error.value > 1 and level != "fails":
        level, text = "partly", f"{text} Not in size: it is further off than no change at all would be."
    return Finding(f"After a push, {step.layers} {plural} on", value, level, text)


def _attention(found: Validation) -> list[Finding]:
    share = found.attention.logit
    grade = "unknown" if share is None else "few" if share.value <= FEW else "some" if share.value <= SOME else "much"
    line = _line("Share through attention patterns, logit", share, grade, {
        "few": ("holds", "Next to nothing goes through where attention looks, which a graph does not show."),
        "some": ("partly", "A part of the effects goes through where attention looks, which the graph does not show."),
        "much": ("fails", "Much of an effect goes through where attention looks: the graph shows only the rest."),
    })  # fmt: skip
    return [Finding(line.name, f"{line.value}, KL {_show(found.attention.kl)}", line.level, line.sentence)]


def _errors(found: Validation) -> list[Finding]:
    errors = found.errors
    if errors is None or errors.error is None or errors.unexpanded is None:
        return []
    dark = errors.error.value + errors.unexpanded.value
    level = "fails" if dark > DARK else "partly" if dark > DIM else "holds"
    sentence = {
        "fails": "Most of the influence on the answer ends in what the features do not explain: a partial story.",
        "partly": "A good part of the influence ends in what the features do not explain.",
        "holds": "Little of the influence ends in what the features do not explain.",
    }[level]
    value = f"errors {_show(errors.error)}, not expanded {_show(errors.unexpanded)}"
    return [Finding("Influence that ends unexplained", value, level, sentence)]


def _controls(found: Validation) -> list[Finding]:
    controls = found.controls
    if controls is None:
        return []
    wins = controls.wins
    if wins is None or wins.low is None:
        level, text = "unknown", "Too few matched controls to say anything."
    elif wins.low <= 0.5:
        level, text = "fails", "Features of the graph matter no more than others that write as much at the same place."
    elif wins.value >= SURE:
        level, text = "holds", "Features of the graph matter more than others that write as much at the same place."
    else:
        level, text = "partly", "Features of the graph mostly matter more than others that write as much there."
    value = f"{_show(wins)} win, KL x {_show(controls.ratio)}"
    return [Finding(f"Against {controls.pairs} matched controls", value, level, text)]


def in_short(lines: list[Finding]) -> str:
    """One sentence: how many of the findings that are evidence hold."""
    counted = [line.level for line in lines if line.level in ("holds", "partly", "fails")]
    parts = [f"{counted.count(level)} {word}" for level, word in (("holds", "hold"), ("partly", "hold in part"))]
    return f"Of {len(counted)} things this graph claims, {parts[0]}, {parts[1]}, {counted.count('fails')} do not."
