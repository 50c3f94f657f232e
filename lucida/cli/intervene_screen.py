"""What `lucida intervene` prints: tables, or one JSON document."""

from typing import TYPE_CHECKING, Any

from lucida.cli.screen import bar, percent, show_table

if TYPE_CHECKING:
    from lucida.cli.intervene import Result
    from lucida.interventions import Outcome

SHOWN_EDITS = 12
SHOWN_NODES = 10


def show(result: "Result", count: int, *, quiet: bool) -> None:
    """Print the tables of everything that was asked for."""
    if not quiet:
        _show_edits(result.main)
    _show_tokens("Before", result.main.top_tokens(count, before=True))
    _show_tokens("After", result.main.top_tokens(count))
    if result.watched:
        _show_watched(result)
    if result.factors:
        _show_factors(result)
    if result.controls:
        _show_controls(result)
    if result.comparisons:
        _show_logits(result)
        _show_nodes(result)
        _show_calibration(result)


def document(result: "Result", count: int) -> dict[str, Any]:
    """The same as one document; what was not asked for is left out."""
    from dataclasses import asdict

    outcome = result.main
    found: dict[str, Any] = {
        "mode": outcome.mode,
        "layers": outcome.layers,
        "attention": outcome.attention,
        "edits": [asdict(edit) for edit in outcome.edits],
        "before": [asdict(token) for token in outcome.top_tokens(count, before=True)],
        "after": [asdict(token) for token in outcome.top_tokens(count)],
        "kl": outcome.kl(),
    }
    if result.watched:
        found["watched"] = [
            {"layer": place[0], "position": place[1], "feature": place[2], "before": before, "after": after}
            for place, before, after in _watched(result)
        ]
    if result.factors:
        found["factors"] = [
            {"factor": factor, "kl": o.kl(), "after": [asdict(token) for token in o.top_tokens(count)]}
            for factor, o in result.factors
        ]
    if result.controls:
        found["controls"] = _control_document(result)
    if result.comparisons:
        found["prediction"] = [
            {
                "graph": comparison.graph,
                "features": asdict(comparison.calibration()),
                "knock_on_features": asdict(comparison.calibration(direct=False)),
                "logits": asdict(comparison.calibration("logits")),
                "not_in_graph": len(comparison.missing),
                "nodes": _node_documents(comparison, graph),
            }
            for comparison, graph in zip(result.comparisons, result.graphs, strict=True)
        ]
    return found


def _node_documents(comparison: Any, graph: Any) -> list[dict[str, Any]]:
    columns = zip(comparison.nodes, comparison.is_direct, comparison.predicted, comparison.measured, strict=True)
    rows = []
    for index, is_direct, predicted, measured in columns:
        node = graph.node(int(index))
        rows.append(
            {
                "kind": node.kind, "layer": node.layer, "position": node.position, "feature": node.feature,
                "token": node.token if node.kind == "logit" else None, "name": node.name, "is_direct": bool(is_direct),
                "predicted": float(predicted), "measured": float(measured),
            }
        )  # fmt: skip
    return rows


def _control_document(result: "Result") -> dict[str, Any]:
    from dataclasses import asdict

    from lucida.interventions.measures import kl, summarise

    return {
        "count": len(result.controls),
        "kl": [control.kl() for control in result.controls],
        "mean_kl": _plain(summarise(result.controls, kl)),
        "edits": [[asdict(edit) for edit in control.edits] for control in result.controls],
    }


def _plain(interval: Any) -> dict[str, Any] | None:
    from dataclasses import asdict

    return None if interval is None else asdict(interval)


# --- tables -------------------------------------------------------------------------------------------


def _show_edits(outcome: "Outcome") -> None:
    shown = outcome.edits[:SHOWN_EDITS]
    rows = [(f"{e.layer}:{e.position}:{e.feature}", f"{e.before:.4g}", f"{e.after:.4g}") for e in shown]
    if len(shown) < len(outcome.edits):
        rows.append((f"and {len(outcome.edits) - len(shown)} more", "", ""))
    title = f"Changed (mode {outcome.mode}, attention {outcome.attention})"
    show_table(title, ("feature", "before", "after"), rows, right=(1, 2))


def _show_tokens(title: str, tokens: Any) -> None:
    rows = [(repr(t.text), percent(t.probability), bar(t.probability)) for t in tokens]
    show_table(title, ("token", "probability", ""), rows, right=(1,))


def _watched(result: "Result") -> list[tuple[tuple[int, int, int], float, float]]:
    """The places of --watch, with their activations before and after."""
    watched = result.main.watched
    number = {place: index for index, place in enumerate(watched.places)}
    chosen = [number[place] for place in result.watched]
    return [(watched.places[i], float(watched.before[i]), float(watched.after[i])) for i in chosen]


def _show_watched(result: "Result") -> None:
    rows = [
        (
            ":".join(map(str, place)),
            f"{before:.4g}",
            f"{after:.4g}",
            percent_change(after / before - 1) if before else "",
        )
        for place, before, after in _watched(result)
    ]
    show_table("Watched", ("feature", "before", "after", "change"), rows, right=(1, 2, 3))


def _show_factors(result: "Result") -> None:
    was = result.main.top_tokens(1, before=True)[0]
    rows = []
    for factor, outcome in result.factors:
        top = outcome.top_tokens(1)[0]
        was_now = percent(outcome.probability(was.token))
        rows.append((f"{factor:g}", was_now, repr(top.text), percent(top.probability), f"{outcome.kl():.3g}"))
    columns = ("factor", f"p({was.text!r})", "most probable", "probability", "KL (nats)")
    show_table("The same features at other factors", columns, rows, right=(0, 1, 3, 4))


def _show_controls(result: "Result") -> None:
    from lucida.interventions.measures import is_flipped, kl, summarise

    was = result.main.top_tokens(1, before=True)[0]
    controls = result.controls
    flips = sum(is_flipped(control) for control in controls)
    changed = [percent(o.probability(was.token)) for o in (result.main,)]
    mean_kept = sum(control.probability(was.token) for control in controls) / len(controls)
    rows = [
        ("these features", f"{result.main.kl():.3g}", changed[0], "yes" if is_flipped(result.main) else "no"),
        ("controls, mean", str(summarise(controls, kl)), percent(mean_kept), f"{flips} of {len(controls)}"),
    ]
    title = "Against other features that are as strong at the same positions"
    show_table(title, ("", "KL (nats)", f"p({was.text!r})", "another answer"), rows, right=(1, 2, 3))


def _show_logits(result: "Result") -> None:
    rows: dict[str, list[str]] = {}
    for comparison, graph in zip(result.comparisons, result.graphs, strict=True):
        for index in comparison.nodes[comparison.is_logit]:
            number = int((comparison.nodes == index).argmax())
            text = repr(graph.node(int(index)).name)
            cells = rows.setdefault(text, [f"{comparison.measured[number]:+.3f}"])
            cells.insert(-1, f"{comparison.predicted[number]:+.3f}")
    columns = ("answer", *(f"{comparison.graph} graph says" for comparison in result.comparisons), "measured")
    table = [(text, *cells) for text, cells in rows.items()]
    show_table("Change of the logits", columns, table, right=tuple(range(1, len(columns))))


def _show_nodes(result: "Result") -> None:
    """The features that moved most, as a share of their activation, and what the whole graph says of them."""
    comparison, graph = result.comparisons[0], result.graphs[0]
    order = sorted(
        (int(i) for i in (~comparison.is_logit).nonzero()[0]), key=lambda i: -abs(float(comparison.measured[i]))
    )
    rows = []
    for number in order[:SHOWN_NODES]:
        node = graph.node(int(comparison.nodes[number]))
        kind = "direct" if comparison.is_direct[number] else "knock-on"
        place = f"{node.layer}:{node.position}:{node.feature}"
        cells = percent_change(comparison.predicted[number]), percent_change(comparison.measured[number])
        rows.append((place, *cells, kind, node.label or repr(node.text)))
    columns = ("feature", f"{comparison.graph} graph says", "measured", "", "what")
    show_table("Features that changed most", columns, rows, right=(1, 2), wrap=(4,))


def percent_change(share: float | int) -> str:
    """A signed share: ``-41.2 %``."""
    return f"{100 * float(share):+.1f} %"


def _show_calibration(result: "Result") -> None:
    rows = []
    for comparison in result.comparisons:
        kinds = (
            (("features", None), ("features, knock-on only", False))
            if comparison.is_direct.any()
            else (("features", None),)
        )
        for name, direct in kinds:
            rows.append(_calibration_row(f"{comparison.graph}: {name}", comparison.calibration(direct=direct)))
        rows.append(_calibration_row(f"{comparison.graph}: logits", comparison.calibration("logits")))
    columns = ("prediction", "nodes", "slope", "Spearman", "same sign")
    show_table("Predicted against measured (slope 1: right in size)", columns, rows, right=(1, 2, 3, 4))
    missing = len(result.comparisons[0].missing)
    if missing:
        show_table("", ("", ""), [("not in the graph", f"{missing} of the changed features: it says nothing of them")])


def _calibration_row(name: str, found: Any) -> tuple[str, ...]:
    numbers = ["-" if value is None else f"{value:.2f}" for value in (found.slope, found.spearman)]
    sign = "-" if found.sign_agreement is None else percent(found.sign_agreement)
    return (name, str(found.count), *numbers, sign)
