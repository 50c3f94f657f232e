"""The one-page report as a single HTML file: no scripts, nothing fetched, light and dark, every text escaped."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from lucida.atomic import replacing
from lucida.validation.plots import Points, bars, linear_axis, lines, log_axis, scatter, signed_axis
from lucida.validation.validation import Ablation, Validation
from lucida.validation.verdicts import Finding, findings, in_short

STYLE = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1c2333;--muted:#5d6678;--hair:#e3e6ee;--a:#2166ac;--b:#d6641e;
--c:#737b8c;--holds:#1b7f5c;--partly:#8a6100;--fails:#b3261e}
@media (prefers-color-scheme:dark){:root{--paper:#12151c;--ink:#e8ebf2;--muted:#9aa4b8;--hair:#2a3040;--a:#6fb1ea;
--b:#f0935a;--c:#9aa4b8;--holds:#5fc79d;--partly:#e0b34d;--fails:#f2857c}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:72rem;padding:1.5rem;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,sans-serif}
h1{font-size:1.4rem;margin:0}h2{font-size:1.05rem;margin:1.6rem 0 .4rem}
.muted,figcaption,.legend,th{color:var(--muted)}
.short{font-size:1.05rem;margin:.8rem 0}
ul.prompts{margin:.2rem 0;padding-left:1.1rem;max-height:9rem;overflow:auto}
q{unicode-bidi:isolate;quotes:none;font-family:ui-monospace,monospace;white-space:pre-wrap;overflow-wrap:anywhere}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;vertical-align:top;padding:.3rem .8rem .3rem 0;border-top:1px solid var(--hair)}
th{font-weight:normal;border-top:0}
td.number{font-variant-numeric:tabular-nums;min-width:11rem}
td.sub{padding-left:1.2rem;color:var(--muted)}
td.level{white-space:nowrap;color:var(--muted)}
td.holds{color:var(--holds)}td.partly{color:var(--partly)}td.fails{color:var(--fails)}
@media (max-width:46rem){tr{display:block;padding:.4rem 0;border-top:1px solid var(--hair)}tr:first-child{display:none}
td,td.sub{display:block;border:0;padding:0}}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(19rem,1fr));gap:1.2rem}
figure{margin:0}figcaption{margin-bottom:.2rem}
svg{width:100%;height:auto;display:block}
svg text{font:11px system-ui,sans-serif;fill:var(--muted)}
svg .hair{stroke:var(--hair)}
circle.a,rect.a{fill:var(--a)}circle.b{fill:var(--b)}circle.c{fill:var(--c)}
circle{fill-opacity:.6}
polyline{fill:none;stroke-width:1.6}
polyline.a{stroke:var(--a)}polyline.b{stroke:var(--b)}polyline.c{stroke:var(--c)}
.legend{margin:.1rem 0 0;font-size:.85rem}
.legend span::before{content:"\\25cf";margin-right:.3em}
.legend span{margin-right:1em;display:inline-block}
.legend .a::before{color:var(--a)}.legend .b::before{color:var(--b)}.legend .c::before{color:var(--c)}
"""
SIGNS = {"holds": "✓ holds", "partly": "~ in part", "fails": "✗ does not hold"}


def page(found: Validation) -> str:
    """The report as an HTML document."""
    found_lines = findings(found)
    title = f"How far to believe this graph: {found.model} through {found.dictionary}"
    pieces = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
        "<h1>How far to believe this graph</h1>"
        if len(found.prompts) == 1
        else "<h1>How far to believe these graphs</h1>",
        _about(found),
        f'<p class="short">{escape(in_short(found_lines))}</p>',
        _table(found_lines),
        _notes(found),
        f'<h2>The samples</h2><div class="plots">{"".join(_plots(found))}</div>',
        _reading(found),
        "</body></html>",
    ]
    return "\n".join(piece for piece in pieces if piece) + "\n"


def save_page(found: Validation, path: str | Path) -> None:
    """Write the report to an HTML file. Raises SaveError when it cannot be written."""
    with replacing(path) as temporary:
        temporary.write_text(page(found), "utf-8")


def _about(found: Validation) -> str:
    number = len(found.ablations)
    text = (
        f"{escape(found.model)} through {escape(found.dictionary)}. {number:,} of {found.features:,} features "
        f"taken out one at a time; seed {found.seed}; {found.seconds:.0f} s."
    )
    asked = "".join(
        f"<li><q>{escape(prompt)}</q> → <q>{escape(target)}</q></li>"
        for prompt, target in zip(found.prompts, found.targets, strict=True)
    )
    return f'<p class="muted">{text}</p><ul class="prompts">{asked}</ul>'


def _table(found_lines: Sequence[Finding]) -> str:
    rows = []
    for line in found_lines:
        sub = ' class="sub"' if line.name.startswith(" ") else ""
        level = escape(SIGNS.get(line.level, line.level))
        kind = line.level if line.level in SIGNS else ""
        rows.append(
            f'<tr><td{sub}>{escape(line.name.strip())}</td><td class="number">{escape(line.value)}</td>'
            f'<td class="level {kind}">{level}</td><td>{escape(line.sentence)}</td></tr>'
        )
    head = "<tr><th>what the graph claims</th><th>measured [95 %]</th><th></th><th>what to trust</th></tr>"
    return f'<div class="wide"><table>{head}{"".join(rows)}</table></div>'


def _notes(found: Validation) -> str:
    notes = "".join(f"<li>{escape(note)}</li>" for note in found.left_out)
    return f"<h2>Left out</h2><ul>{notes}</ul>" if notes else ""


def _name(ablation: Ablation) -> str:
    return f"{ablation.layer}:{ablation.position}:{ablation.feature} {ablation.name}"


def _plots(found: Validation) -> list[str]:
    ablations = found.ablations
    influence, kl = [a.influence for a in ablations], [a.kl for a in ablations]
    names = [_name(a) for a in ablations]
    plots = [
        scatter(
            [Points("a", "an ablated feature", influence, kl, names)], log_axis(influence), log_axis(kl),
            title="Does influence say what matters?",
            x_name="influence in the graph" if found.kind == "features" else "attribution in the graph",
            y_name="KL of its ablation (nats)",
        ),
        _pairs_plot(found),
        _prediction_plot(found, names),
        *_layer_plots(found),
    ]  # fmt: skip
    return [plot for plot in plots if plot]


def _pairs_plot(found: Validation) -> str:
    if not found.sampled_pairs:
        return ""
    groups = []
    for style, label, is_direct in (("c", "direct: true by construction", True), ("a", "knock-on", False)):
        pairs = [pair for pair in found.sampled_pairs if pair.is_direct == is_direct]
        if pairs:
            groups.append(Points(style, label, [p.influence for p in pairs], [p.measured for p in pairs]))
    x = log_axis([value for group in groups for value in group.x])
    y = log_axis([value for group in groups for value in group.y])
    title = "Does feature move feature as the graph says?"
    return scatter(groups, x, y, title=title, x_name="influence of one on the other", y_name="|change| / activation")


def _prediction_plot(found: Validation, names: Sequence[str]) -> str:
    predicted, change = [a.predicted for a in found.ablations], [a.change for a in found.ablations]
    axis = signed_axis([*predicted, *change])
    return scatter(
        [Points("a", "an ablated feature; on the line it does what was predicted", predicted, change, names)],
        axis, axis, title="Does the graph predict the logit?", x_name="predicted change of the logit",
        y_name="measured change", diagonal=True,
    )  # fmt: skip


def _layer_plots(found: Validation) -> list[str]:
    plots = []
    if found.agreement:
        steps = [float(step.layers) for step in found.agreement]
        groups = []
        for style, label, name in (
            ("a", "push along an encoder", "cosine"),
            ("b", "random push", "random_cosine"),
            ("c", "MLPs that do not answer", "idle_cosine"),
        ):
            values = (getattr(step, name) for step in found.agreement)
            groups.append(Points(style, label, steps, [float("nan") if v is None else v.value for v in values]))
        low = min([0.0, *(v for group in groups for v in group.y if v == v)])
        x = linear_axis([0.0, *steps])
        title = "Does the replacement model answer as the model?"
        y = linear_axis([0.0], low=low, high=1.0)
        plots.append(lines(groups, x, y, title=title, x_name="layers after the push", y_name="cosine of the changes"))
    if found.errors is not None and found.errors.by_layer:
        shares = found.errors.by_layer
        y = linear_axis([0.0, *shares], low=0.0)
        title = "Where does influence end unexplained?"
        plots.append(bars(shares, y, title=title, x_name="layer", y_name="share in error nodes"))
    return plots


def _reading(found: Validation) -> str:
    held = "own layer" if found.reach == 0 else f"own layer and the next {found.reach}"
    return (
        '<p class="muted">A feature is taken out while the MLPs of its '
        f"{held} are held, attention patterns as recorded; the rest runs live. Intervals are of 95 %, over "
        f"{'ablations' if len(found.prompts) == 1 else 'prompts'}. docs/validation.md has every definition and the "
        "rules by which numbers become sentences.</p>"
    )
