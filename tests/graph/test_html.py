"""A graph as one HTML file: what is in it, and what its texts cannot do. tests/web opens it in a browser."""

import base64
import gzip
import hashlib
import json
import re
from dataclasses import replace

import pytest
from example_graphs import hand_made

from lucida.errors import GraphError
from lucida.graph import page as built
from lucida.graph.html import about, export_html
from lucida.graph.view import view

SCRIPT = 'const text = "</script><!--<SCRIPT>"\nexport default text'


@pytest.fixture(autouse=True)
def _a_script(tmp_path, monkeypatch):
    folder = tmp_path / "static"
    folder.mkdir()
    (folder / "widget.js").write_text(SCRIPT)
    (folder / "widget-licences.txt").write_text("MIT</script>")
    monkeypatch.setattr(built, "STATIC", folder)


def parts(path):
    """The texts of the file's script elements, as a browser finds them."""
    text = path.read_text("utf-8")
    return text, re.findall(r"<script[^>]*>(.*?)</script", text, re.DOTALL | re.IGNORECASE)


def test_it_holds_the_view_and_the_notes(tmp_path):
    notes = {"revision": 3, "pinned": [1], "experiments": [{"text": "stays"}]}
    export_html(hand_made(), tmp_path / "g.html", notes=notes, summary="It says large.")
    _, (data, licences, _) = parts(tmp_path / "g.html")
    carried = json.loads(data)
    assert gzip.decompress(base64.b64decode(carried["view"])) == view(hand_made()).to_bytes()
    assert carried["notes"] == {"pinned": [1]}
    assert carried["about"]["summary"] == "It says large."
    assert carried["about"]["scores"]["replacement"] == hand_made().scores().replacement
    assert "MIT" in licences


def test_it_says_which_weights_but_not_where_they_lay():
    source = {"weights": "pip m==1", "folder": "/srv/somebody/m", "sha256": "0123456789abcdef"}
    metadata = {"model": {"name": "m", "source": source}, "dictionary": "just a name"}
    metadata |= {"provenance": {"created": "2026-11-21T21:04:39+00:00", "generator": "lucida 1"}}
    said = about(replace(hand_made(), metadata=hand_made().metadata | metadata))
    assert said["origins"] == {"model": "pip m==1, fingerprint 0123456789ab", "dictionary": ""}
    assert (said["made"], said["generator"]) == ("2026-11-21T21:04:39+00:00", "lucida 1")


def test_its_policy_allows_its_own_script_and_nothing_else(tmp_path):
    export_html(hand_made(), tmp_path / "g.html")
    text, (*_, script) = parts(tmp_path / "g.html")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search('Content-Security-Policy" content="([^"]*)"', text)[1]
    assert f"script-src 'sha256-{digest}';" in policy
    assert "default-src 'none'" in policy
    assert "connect-src" not in policy  # default-src holds


def test_no_text_ends_an_element(tmp_path):
    hostile = "</script><script>alert(1)</script><!--"
    graph = hand_made()
    nodes = replace(graph.nodes, label=(hostile,) * len(graph.nodes.label))
    graph = replace(graph, nodes=nodes, prompt=replace(graph.prompt, text=f"{hostile}</title>"))
    export_html(graph, tmp_path / "g.html", summary=hostile, notes={"labels": {"1": hostile}})
    text, found = parts(tmp_path / "g.html")
    assert len(found) == 3
    assert text.count("</title>") == 1
    assert text.lower().count("<script") == 3
    assert "<!--" not in text
    assert json.loads(found[0])["notes"]["labels"]["1"] == hostile
    # The script means what it meant.
    assert found[2].replace("\\x3c", "<") == SCRIPT


def test_the_same_graph_gives_the_same_file(tmp_path):
    for name in ("a.html", "b.html"):
        export_html(hand_made(), tmp_path / name)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_a_page_that_is_not_built_leaves_no_file(tmp_path):
    (tmp_path / "static" / "widget.js").unlink()
    with pytest.raises(GraphError, match="make page"):
        export_html(hand_made(), tmp_path / "g.html")
    assert not (tmp_path / "g.html").exists()
