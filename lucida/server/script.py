"""Python that does with the library what was done on the page.

Names that people or models gave (labels, groups, prompts) stand in it as quoted text only: none can become code.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from lucida.server.messages import GraphSummary, InterventionRequest, Notes

SHOWN = 60
"""Characters of a label or a prompt in a comment."""


def intervention_script(
    graph_path: str | Path,
    edits: Mapping[tuple[int, int, int], Any],
    request: InterventionRequest,
    *,
    model: str,
    dictionary: str,
    labels: Mapping[tuple[int, int], str],
    has_text: bool,
    n_controls: int,
) -> str:
    """A script that makes an experiment again: the same changes, their prediction, measurement, controls and text.

    `edits` maps (layer, position, feature) to Scale, Set or Inject; `labels` are those of (layer, feature). When it has
    run, `predicted`, `measured` and `control` hold a number for each target of the graph.
    """
    verbs = sorted({type(change).__name__ for change in edits.values()})
    names = [*verbs, *(["Case", "matched_controls"] if n_controls else [])]
    parts = [
        '"""An experiment on an attribution graph, as it was made on the page of Camera Lucida."""\n',
        "from lucida import Graph, Microscope",
        f"from lucida.interventions import {', '.join(sorted(names))}",
        "from lucida.interventions.prediction import compare, feature_places, logit_changes\n",
        f"graph = Graph.load({str(graph_path)!r})",
        f"scope = Microscope({model!r}, {dictionary!r})",
        "prompt = list(graph.prompt.tokens)\n",
        "# (layer, position, feature): what is done to it",
        "edits = {",
        *(f"    {place}: {_change(change)},{_comment(place, labels)}" for place, change in edits.items()),
        "}",
        f"settings = dict(mode={request.mode!r}, attention={request.attention!r}, position=graph.answer_position)",
        "outcome = scope.intervene(prompt, edits, watch=feature_places(graph), **settings)",
        "comparison = compare(graph, outcome)",
        "predicted = comparison.predicted[comparison.is_logit]",
        "measured = logit_changes(graph, outcome)\n",
        *(_controls(request, n_controls) if n_controls else ["control = None\n"]),
        *_printing(n_controls),
        *(_writing(request.generate) if has_text else []),
    ]
    return "\n".join(parts).rstrip("\n") + "\n"


def view_script(summary: GraphSummary, notes: Notes, *, path: str = "") -> str:
    """A script that reads a saved graph again with what a reader added to it: labels, pins and groups.

    `path` is the graph's file; left out, the name under which the page exports it.
    """
    file = path or f"{summary.id}.graph.safetensors"
    labels = {int(number): text for number, text in sorted(notes.labels.items(), key=lambda entry: int(entry[0]))}
    groups = [(group.name, list(group.nodes)) for group in notes.supernodes]
    parts = [
        '"""An attribution graph as it was read on the page of Camera Lucida."""\n',
        "from lucida import Graph\n",
        f"# {_quoted(summary.title)}: {_quoted(summary.answer)}",
        f"graph = Graph.load({file!r})",
        f"graph = graph.with_labels({_dict(labels)})" if labels else "",
        f"pinned = {list(notes.pinned)!r}",
        "groups = [",
        *(f"    ({name!r}, {nodes!r})," for name, nodes in groups),
        "]\n",
        "print(graph.scores())",
        "for name, nodes in groups:",
        "    influence = sum(graph.node(number).influence for number in nodes)",
        '    print(f"{name}: {len(nodes)} nodes, influence {influence:.3g}")\n',
    ]
    if groups:
        parts += [
            "# To turn a group off (features only), with the model:",
            "# from lucida import Microscope\n#",
            f"# scope = Microscope({summary.model!r}, {summary.dictionary!r})",
            "# nodes = [graph.node(number) for number in groups[0][1]]",
            '# off = {node: 0.0 for node in nodes if node.kind == "feature"}',
            "# outcome = scope.intervene(list(graph.prompt.tokens), off, position=graph.answer_position)",
            "# print(outcome.top_tokens())",
        ]
    return "\n".join(part for part in parts if part) + "\n"


def _change(change: Any) -> str:
    """``Scale(0.0)``: a change as it is written, its numbers in full."""
    values = ", ".join(repr(float(getattr(change, field.name))) for field in fields(change))
    return f"{type(change).__name__}({values})"


def _comment(place: tuple[int, int, int], labels: Mapping[tuple[int, int], str]) -> str:
    label = labels.get((place[0], place[2]), "")
    return f"  # {_quoted(label)}" if label else ""


def _quoted(text: str) -> str:
    """A text for a comment: on one line whatever it holds."""
    return ascii(text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…")


def _dict(entries: Mapping[int, str]) -> str:
    return "{" + ", ".join(f"{number}: {text!r}" for number, text in entries.items()) + "}"


def _controls(request: InterventionRequest, count: int) -> Sequence[str]:
    return [
        "# The same done to other features that are about as strong at the same positions.",
        "from lucida.models.linear import FrozenModel",
        "from lucida.models.recording import record\n",
        "view = FrozenModel(scope.model, record(scope.model, scope.model.tokenize(prompt)))",
        f"draws = matched_controls(view, scope.dictionary, outcome.edits, draws={count}, seed={request.seed})",
        'layers = outcome.layers if outcome.mode in ("constrained", "iterative") else None',
        f"cases = [Case(draw.edits, {request.mode!r}, layers, {request.attention!r}) for draw in draws]",
        "controls = scope.sweep(prompt, cases, position=graph.answer_position)",
        "control = sum(logit_changes(graph, one) for one in controls) / len(controls)\n",
    ]


def _printing(n_controls: int) -> Sequence[str]:
    shown = ", control {control[number]:+.3f}" if n_controls else ""
    return [
        "for number, index in enumerate(comparison.nodes[comparison.is_logit]):",
        "    text = graph.node(int(index)).text",
        f'    print(f"{{text!r}}: predicted {{predicted[number]:+.3f}}, measured {{measured[number]:+.3f}}{shown}")',
        "for before, after in zip(outcome.top_tokens(8, before=True), outcome.top_tokens(8)):",
        '    print(f"{before.text!r:>16} {before.probability:6.1%}    {after.text!r:>16} {after.probability:6.1%}")',
        'print(f"KL divergence {outcome.kl():.3g} nats; {comparison.calibration()}")\n',
    ]


def _writing(count: int) -> Sequence[str]:
    return [
        "# The text that follows, each feature held at its value at its position of the prompt.",
        "from lucida import Steer\n",
        'steers = [Steer(e.layer, e.feature, e.after, "clamp", (e.position,), maximum=1.0) for e in outcome.edits]',
        f"written = scope.steer(prompt, steers, max_tokens=min({count}, scope.model.context - len(prompt)))",
        'print("before:", written.baseline[0].text)',
        'print("after: ", written.steered[0].text)\n',
    ]
