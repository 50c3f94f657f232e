"""A graph as one HTML file to mail: it opens in any browser, asks nothing of any network, and can be read in full."""

import base64
import gzip
import hashlib
import html
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lucida.atomic import replacing
from lucida.graph.graph import Graph
from lucida.graph.page import widget_licences, widget_script
from lucida.graph.view import EDGE_SHARE, NODE_SHARE, view

SCORES = ("replacement", "completeness", "error_share", "unexpanded")

KEPT_NOTES = ("pinned", "supernodes", "labels", "positions")
"""Of what a reader added: experiments stay behind, they are the server's."""

PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="Camera Lucida">
<title>{title}</title>
<style>html, body, #page {{ height: 100%; margin: 0; }}</style>
</head>
<body>
<div id="page"><noscript>A script in this file draws the graph; allow scripts to see it.</noscript></div>
<script type="application/json" id="lucida-graph">{data}</script>
<script type="text/plain" id="licences">{licences}</script>
<script type="module">{script}</script>
</body>
</html>
"""


def export_html(
    graph: Graph,
    path: str | Path,
    *,
    notes: Mapping[str, Any] | None = None,
    summary: str = "",
    node_share: float = NODE_SHARE,
    edge_share: float = EDGE_SHARE,
) -> None:
    """Write the graph to one HTML file that shows it, to be selected, searched and read without a server.

    `notes` are what a reader added, as the page saves it: `pinned`, `supernodes`, `labels`. `summary` is a sentence
    that stands above the graph. The shares of influence that go into the file are those of `view`.

    Nothing in the file reaches out: its content security policy allows its own script by hash, and no connection.
    Raises GraphError when the page was not built, SaveError when the file cannot be written.
    """
    shown = view(graph, node_share=node_share, edge_share=edge_share)
    script = _inside_script(widget_script())
    said = about(graph, summary)
    document = {
        # No time in it: the same graph gives the same file.
        "view": base64.b64encode(gzip.compress(shown.to_bytes(), mtime=0)).decode("ascii"),
        "notes": {name: value for name, value in (notes or {}).items() if name in KEPT_NOTES},
        "about": said,
    }
    page = PAGE.format(
        policy=_policy(script),
        title=html.escape(f"{said['title']} · attribution graph, Camera Lucida"),
        data=json.dumps(document, allow_nan=False).replace("<", "\\u003c"),
        licences=widget_licences().replace("</", "<\\/"),
        script=script,
    )
    with replacing(path) as temporary:
        temporary.write_bytes(page.encode())


def about(graph: Graph, summary: str = "") -> dict[str, Any]:
    """What is said beside a graph where no server can be asked: prompt, answers, scores, where it comes from."""
    scores = asdict(graph.scores())
    metadata = graph.metadata
    provenance = metadata.get("provenance")
    provenance = provenance if isinstance(provenance, dict) else {}
    logits = np.flatnonzero(graph.nodes.is_kind("logit")).tolist()
    answers = [graph.node(index) for index in logits]
    return {
        "title": graph.prompt.text or "".join(graph.prompt.strings),
        "summary": summary,
        "answers": [{"text": node.text, "probability": node.probability} for node in answers],
        "scores": {name: scores[name] for name in SCORES},
        "made": str(provenance.get("created") or ""),
        "generator": str(provenance.get("generator") or ""),
        "origins": {name: _origin(metadata.get(name)) for name in ("model", "dictionary")},
    }


def _origin(record: Any) -> str:
    """Which weights those of a model or dictionary are; never a folder, which would tell of the machine."""
    source = record.get("source") if isinstance(record, dict) else None
    if not isinstance(source, dict):
        return ""
    digest = str(source.get("sha256") or source.get("fingerprint") or "")[:12]
    return ", ".join(part for part in (str(source.get("weights") or ""), digest and f"fingerprint {digest}") if part)


def _policy(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _inside_script(script: str) -> str:
    """The script so that HTML does not end it early: the < of `</script` in a text or a pattern is written as x3c."""
    return re.sub(r"<(?=/script|script|!--)", r"\\x3c", script, flags=re.IGNORECASE)
