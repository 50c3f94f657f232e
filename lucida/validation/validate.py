"""validate(): how far one graph, or several of one model, can be believed."""

import time
from collections.abc import Sequence

from lucida.dictionaries import Dictionary
from lucida.errors import GraphError
from lucida.graph import Graph
from lucida.models.model import Model
from lucida.progress import Progress, silent
from lucida.validation import summary
from lucida.validation.measuring import Counts, Samples, measure
from lucida.validation.subject import Subject, open_subject
from lucida.validation.validation import Ablation, Validation

ABLATIONS = 200
"""Features ablated on each graph."""
TARGETS = 128
"""Features watched on each graph."""
CONTROLS = 32
"""Features of the story that get a matched control."""
PUSHES = 32
"""Features at which the stream is pushed."""
REACH = 2
"""An ablation holds the MLPs up to this many layers above the feature's, as in the paper."""
PROMPT_SHOWN = 80


def validate(
    model: Model,
    dictionary: Dictionary | None,
    graphs: Graph | Sequence[Graph],
    *,
    ablations: int = ABLATIONS,
    targets: int = TARGETS,
    controls: int = CONTROLS,
    pushes: int = PUSHES,
    reach: int | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Validation:
    """Measure on the graph's own prompt what the graph claims ("Circuit Tracing" 2025, "Evaluating mechanistic
    faithfulness"; docs/validation.md).

    `ablations` features are drawn from each graph and taken out one at a time, with attention held and live, and
    `targets` other features watched; `controls` features that pruning keeps are compared with active ones that it does
    not; at `pushes` features the stream is pushed and the local replacement model compared with the model. `reach` is
    how many layers above its own an ablation holds the MLPs (None: 2; 0 for neurons and for skip connections, whose
    edges pass through MLPs). `dictionary` None means neurons: what needs features is left out. Several graphs must be
    of one model and dictionary; intervals are then over graphs.

    Raises GraphError for a graph that is pruned, too small, or of another model or dictionary.
    """
    started = time.perf_counter()
    found = [graphs] if isinstance(graphs, Graph) else list(graphs)
    _refuse_counts(found, ablations=ablations, targets=targets, controls=controls, pushes=pushes, reach=reach)
    held = _reach(dictionary) if reach is None else reach
    counts = Counts(ablations, targets, controls, pushes)
    subjects, samples = [], []
    for index, graph in enumerate(found):
        subject = open_subject(model, dictionary, graph, reach=held)
        told = progress if len(found) == 1 else silent
        progress("graphs", index, len(found)) if len(found) > 1 else None
        samples.append(measure(subject, counts, seed + index, progress=told))
        subjects.append(subject)
    progress("statistics", 0, None)
    return _assemble(subjects, samples, counts, seed, time.perf_counter() - started)


def _refuse_counts(graphs: Sequence[Graph], *, reach: int | None, **counts: int) -> None:
    if not graphs:
        raise GraphError("no graph to validate; give at least one")
    for name, count in counts.items():
        least = 3 if name == "ablations" else 0
        if count < least:
            raise GraphError(f"{name} must be {least} or more, got {count}")
    if reach is not None and reach < 0:
        raise GraphError(f"reach must be 0 or more layers, got {reach}")


def _reach(dictionary: Dictionary | None) -> int:
    return 0 if dictionary is None or dictionary.has_skip else REACH


def _assemble(
    subjects: Sequence[Subject], samples: Sequence[Samples], counts: Counts, seed: int, seconds: float
) -> Validation:
    from lucida import __version__

    first = subjects[0]
    basis, model = first.basis, first.view.model
    graphs = [subject.graph for subject in subjects]
    return Validation(
        model=model.name,
        dictionary="neurons" if basis is None else basis.name,
        kind="neurons" if basis is None else "features",
        prompts=tuple(_prompt(graph) for graph in graphs),
        targets=tuple(_leading(graph) for graph in graphs),
        features=sum(len(subject.features) for subject in subjects),
        reach=first.reach,
        seed=seed,
        pairs=summary.pair_measures(samples, seed),
        nodes=summary.node_measures(samples, seed),
        agreement=summary.agreement_measures(samples, seed),
        attention=summary.attention_measures(samples, seed),
        prediction=summary.prediction_measures(samples, seed),
        errors=summary.error_measures(samples, seed),
        controls=summary.control_measures(samples, seed),
        left_out=_left_out(subjects, samples, counts),
        ablations=tuple(_ablation_records(graphs, samples)),
        sampled_pairs=summary.shown_pairs(samples, seed),
        seconds=round(seconds, 2),
        provenance={"generator": f"camera-lucida {__version__}", "device": str(model.device)},
    )


def _prompt(graph: Graph) -> str:
    text = graph.prompt.text or "".join(graph.prompt.strings)
    return text if len(text) <= PROMPT_SHOWN else "…" + text[-PROMPT_SHOWN:]


def _leading(graph: Graph) -> str:
    """The first logit node: the answer that predictions are of."""
    return graph.nodes.text[int(graph.nodes.is_kind("logit").argmax())]


def _left_out(subjects: Sequence[Subject], samples: Sequence[Samples], counts: Counts) -> tuple[str, ...]:
    """What was not measured, or on less than was asked, and why."""
    notes = []
    if subjects[0].basis is None:
        notes.append(
            "Neurons: pairs of features and the replacement model's agreement are left out; neurons that are no nodes "
            "pass the signal on, so a graph of neurons has no errors, and influence is the size of signed attribution."
        )
    elif samples[0].agreement is None and counts.pushes:
        notes.append("The agreement under pushes is left out: bfloat16 rounds away what a small push changes.")
    fewest = min(len(s.nodes.kl) for s in samples)
    if fewest < counts.ablations:
        notes.append(f"A graph has only {fewest} features: all of them were ablated, not {counts.ablations}.")
    if counts.controls and any(s.controls is None for s in samples):
        notes.append("A graph has no active features outside its story to match controls from.")
    if all(s.pairs is None or s.pairs.is_direct.all() for s in samples) and subjects[0].basis is not None:
        notes.append(
            f"No pair of features is far enough apart for knock-on effects: {subjects[0].view.n_layers} layers, of "
            f"which an ablation holds {subjects[0].reach + 1}."
        )
    return tuple(notes)


def _ablation_records(graphs: Sequence[Graph], samples: Sequence[Samples]) -> list[Ablation]:
    found = []
    for index, (graph, sample) in enumerate(zip(graphs, samples, strict=True)):
        nodes = sample.nodes
        columns = (
            nodes.claims.influence, nodes.claims.activation, nodes.claims.direct, nodes.predicted, nodes.change,
            nodes.live_change, nodes.kl, nodes.live_kl,
        )  # fmt: skip
        table = graph.nodes
        for row, place in enumerate(nodes.nodes.tolist()):
            layer, position, feature = (int(column[place]) for column in (table.layer, table.position, table.feature))
            values = (float(column[row]) for column in columns)
            found.append(Ablation(index, layer, position, feature, graph.node(place).name, *values))
    return found
