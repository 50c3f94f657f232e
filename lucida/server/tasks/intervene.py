"""The experiment behind the page's button: change features, and see prediction, measurement and controls together."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lucida.dictionaries import shipped_dictionaries
from lucida.errors import InterventionError
from lucida.graph import Graph
from lucida.interventions import Case, Outcome, Plan, matched_controls, predict, resolve, sweep
from lucida.interventions.prediction import Prediction, compare, feature_places
from lucida.interventions.probe import Probe
from lucida.models.linear import FrozenModel
from lucida.models.recording import record
from lucida.server.messages import InterventionRequest, InterventionResult
from lucida.server.script import intervention_script
from lucida.server.tasks.edits import asked_edits, is_null
from lucida.server.tasks.effects import agreement, node_effects, supernode_effects, target_effects, token_changes
from lucida.server.tasks.writing import Written, write

if TYPE_CHECKING:
    from lucida.microscope import Microscope
    from lucida.server.line import Line

ADDED = ("graph_path", "donor_paths", "model", "dictionaries")
"""What the server adds to the page's request."""

MODES = {
    "free": "Everything after the change ran anew.",
    "constrained": "The MLPs up to the highest changed layer were held as they were.",
    "iterative": "Only features from the changed layers up were computed anew; the rest of the MLPs was held.",
    "frozen": "All MLPs and norms were held: only direct effects are measured.",
}
ATTENTION = {
    "live": "Attention ran live: its patterns may change, which the graph, made with frozen ones, cannot predict.",
    "frozen": "Attention patterns were held as they were, as in the graph.",
}


def run(scope: "Microscope", request: dict[str, Any], line: "Line") -> dict[str, Any]:
    """An InterventionResult, as a dict. `request` is an InterventionRequest, the graph's `graph_path` and, for swaps,
    `donor_paths` by graph id; `model` and `dictionaries` are what the microscope was opened with, where that is known,
    for the script.

    The change and its controls run as one batch. Raises LucidaError for a request that cannot be met.
    """
    fields = {name: value for name, value in request.items() if name not in ADDED}
    asked_for = InterventionRequest.model_validate(fields)
    line.progress("reading the graph", 0, 1)
    graph = Graph.load(request["graph_path"])
    asked = asked_edits(scope, graph, asked_for, request.get("donor_paths") or {})
    line.progress("forward pass", 0, 1)
    view = FrozenModel(scope.model, record(scope.model, scope.model.tokenize(list(graph.prompt.tokens))))
    main = Case(asked.edits, asked_for.mode, None, asked_for.attention)
    plan = resolve(Probe(view, scope.dictionary), [main])[0]
    prediction = predict(graph, plan.edits, mode=plan.mode, layers=plan.layers)
    line.send({"predicted": _told_at_once(graph, plan, prediction)})
    line.progress("choosing controls", 0, 1)
    controls, notes = _controls(scope, view, plan, asked_for)
    line.progress("interventions", 0, 1 + len(controls))
    outcomes = sweep(
        scope.model, scope.dictionary, list(graph.prompt.tokens), [main, *controls], position=graph.answer_position,
        watch=feature_places(graph), view=view, progress=line.progress,
    )  # fmt: skip
    written = write(scope, graph.prompt.tokens, plan, asked_for.generate, line.progress)
    python = intervention_script(
        request["graph_path"], asked.edits, asked_for, model=request.get("model") or scope.model.name,
        dictionary=request.get("dictionaries") or _dictionary_name(scope),
        labels=_labels(graph), has_text=bool(written.before or written.after), n_controls=len(controls),
    )  # fmt: skip
    notes = [*_notes(graph, plan, prediction), *asked.notes, *notes, *written.notes]
    return _result(graph, outcomes, prediction, asked_for, written, notes, python).model_dump()


def _controls(
    scope: "Microscope", view: FrozenModel, plan: Plan, request: InterventionRequest
) -> tuple[list[Case], list[str]]:
    """The same change of other features, and a note where there are none."""
    if not request.controls:
        return [], []
    try:
        drawn = matched_controls(view, scope.dictionary, plan.edits, draws=request.controls, seed=request.seed)
    except InterventionError as error:
        return [], [f"There is no control: {error}."]
    layers = plan.layers if plan.mode in ("constrained", "iterative") else None
    cases = [Case(control.edits, request.mode, layers, request.attention) for control in drawn]
    near = sum(control.same_layer for control in drawn) / (len(drawn) * len(plan.edits))
    note = (
        f"Control: {len(drawn)} draws of {_count(len(plan.edits), 'other feature')}, active at the same positions and "
        f"about as strong ({100 * near:.0f} % of them in the same layer), changed by the same factor."
    )
    return cases, [note]


def _told_at_once(graph: Graph, plan: Plan, prediction: Prediction) -> list[dict[str, Any]]:
    """What the graph predicts for its targets, which is known before anything is measured."""
    is_silent = len(prediction.missing) == len(plan.edits)
    logits = graph.nodes.is_kind("logit").nonzero()[0].tolist()
    return [
        {"text": graph.nodes.text[i], "predicted": None if is_silent else float(prediction.change[i])} for i in logits
    ]


def _result(
    graph: Graph, outcomes: Sequence[Outcome], prediction: Prediction, request: InterventionRequest, written: Written,
    notes: Sequence[str], python: str,
) -> InterventionResult:  # fmt: skip
    outcome, controls = outcomes[0], outcomes[1:]
    comparison = compare(graph, outcome, name="whole")
    return InterventionResult(
        tokens=token_changes(outcome),
        targets=target_effects(graph, outcome, prediction, controls),
        nodes=node_effects(comparison),
        supernodes=supernode_effects(graph, outcome, prediction, request.watch),
        agreement=agreement(comparison),
        kl=outcome.kl(),
        n_changed=len(outcome.edits),
        n_unpredicted=len(prediction.missing),
        text_before=written.before,
        text_after=written.after,
        notes=list(notes),
        python=python,
    )


def _notes(graph: Graph, plan: Plan, prediction: Prediction) -> list[str]:
    found = [f"{MODES[plan.mode]} {ATTENTION[plan.attention]}"]
    if is_null((edit.before, edit.after) for edit in plan.edits):
        found.append("Nothing was changed: every feature already had this value.")
    if prediction.missing:
        found.append(
            f"{len(prediction.missing)} of {_count(len(plan.edits), 'changed feature')} are not in the graph, which "
            "says nothing of what they do."
        )
    if graph.answer_position != len(graph.prompt) - 1:
        found.append(
            f"The answer is read at position {graph.answer_position}; text is written on from the end of the prompt."
        )
    return found


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _labels(graph: Graph) -> dict[tuple[int, int], str]:
    """The labels of the graph's features, by layer and feature."""
    table = graph.nodes
    columns = zip(table.layer.tolist(), table.feature.tolist(), table.label, strict=True)
    return {(layer, feature): label for layer, feature, label in columns if feature >= 0 and label}


def _dictionary_name(scope: "Microscope") -> str:
    """What `Microscope` takes for this dictionary: the name of a shipped one, else its folder."""
    if scope.dictionary is None:
        return "neurons"
    path = scope.dictionary.source.path
    if path is None:
        return scope.dictionary.name
    return next((known.name for known in shipped_dictionaries() if known.folder == Path(path)), path)
