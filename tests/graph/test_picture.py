"""Pictures: every graph gives one, always the same, with nothing on top of anything else."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from interchange_graphs import random_graph

from lucida.errors import GraphError, SaveError
from lucida.graph.influence import influence
from lucida.graph.picture import POSITIVE, _figure, _plain_settings, draw
from lucida.graph.picture_fonts import Fonts
from lucida.graph.picture_layout import arrange, chosen_edges, place_labels, shown_nodes

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def fonts():
    return Fonts()


def laid_out(graph):
    return arrange(graph, [0.4] * len(graph.prompt), [0.5] * int(graph.nodes.is_kind("logit").sum()))


def texts_of(graph, title=None):
    with _plain_settings():
        figure = _figure(graph, Fonts(), title, 30, 1500)
    return [text.get_text() for text in figure.axes[0].texts]


# files


def test_png_and_svg_are_pictures(tmp_path):
    graph = random_graph(n_features=30).prune()
    draw(graph, tmp_path / "a.png", dpi=50)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    draw(graph, tmp_path / "a.SVG")
    assert ET.parse(tmp_path / "a.SVG").getroot().tag == f"{SVG}svg"


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_the_same_graph_gives_the_same_bytes(tmp_path, suffix):
    graph = random_graph(n_features=30)
    for name in ("a", "b"):
        draw(graph, tmp_path / f"{name}.{suffix}", dpi=40)
    first = (tmp_path / f"a.{suffix}").read_bytes()
    assert first == (tmp_path / f"b.{suffix}").read_bytes()
    assert not re.search(rb"20\d\d-\d\d-\d\d", first)


def test_settings_of_the_user_change_nothing(tmp_path):
    import matplotlib

    graph = random_graph()
    draw(graph, tmp_path / "a.svg")
    with matplotlib.rc_context({"font.size": 40, "lines.linewidth": 9, "svg.hashsalt": None}):
        draw(graph, tmp_path / "b.svg")
        assert matplotlib.rcParams["font.size"] == 40
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


@pytest.mark.parametrize("name", ["a.pdf", "a", "a.jpg", "svg"])
def test_other_formats_are_refused(tmp_path, name):
    with pytest.raises(GraphError, match=r"\.svg or a \.png"):
        draw(random_graph(), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_no_half_file(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    def stop(self, path, **_):
        path.write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Figure, "savefig", stop)
    with pytest.raises(KeyboardInterrupt):
        draw(random_graph(), tmp_path / "a.svg")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError):
        draw(random_graph(), tmp_path / "file" / "a.svg")


def test_matplotlib_is_imported_only_to_draw(tmp_path):
    code = (
        "import sys; import lucida.graph, lucida.graph.picture; assert 'matplotlib' not in sys.modules;"
        "sys.path.insert(0, sys.argv[1]); from interchange_graphs import random_graph;"
        "lucida.graph.picture.draw(random_graph(), sys.argv[2]);"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    here, there = str(Path(__file__).parent), str(tmp_path / "x.svg")
    subprocess.run([sys.executable, "-c", code, here, there], check=True)


# any text, any shape


@settings(max_examples=4, deadline=None)
@given(
    seed=st.integers(0, 1000),
    tokens=st.lists(st.text(max_size=12), min_size=1, max_size=8),
    n_features=st.integers(0, 25),
    difference=st.booleans(),
)
def test_any_tokens_can_be_drawn(tmp_path_factory, seed, tokens, n_features, difference):
    graph = random_graph(seed, tokens=tuple(tokens), n_features=n_features, difference=difference)
    path = tmp_path_factory.mktemp("picture") / "a.svg"
    draw(graph, path)
    ET.parse(path)


def test_formulas_and_white_space_are_shown_as_they_are(tmp_path):
    graph = random_graph(tokens=("$x^2$", "\\frac{", "\n", "\t", "  a", "\x00", "$"))
    draw(graph, tmp_path / "a.svg")
    texts = texts_of(graph)
    for expected in ("$x^2$", "\\frac{", "↵", "→", "␣␣a", "□", "$"):
        assert expected in texts


def test_visible_text(fonts):
    assert fonts.visible(" a b ") == "␣a b␣"
    assert fonts.visible("   ") == "␣␣␣"
    assert fonts.visible("") == ""
    assert fonts.visible("\r\n\t") == "↵→"
    assert fonts.visible("\ud800\x1b") == "□□"
    private = "\U0010fffd"
    assert fonts.visible(private) == "□"


@given(st.text(max_size=60), st.floats(0.2, 3), st.booleans())
@settings(max_examples=30, deadline=None)
def test_a_fitted_text_fits(text, room, keep_end):
    fonts = Fonts()
    text = fonts.visible(text)
    short = fonts.fitted(text, 10.0, room, keep_end=keep_end)
    assert fonts.width(short, 10.0) <= room or short == "…"
    if short != text:
        kept = short.replace("…", "", 1) if keep_end else short[:-1]
        assert text.endswith(kept) if keep_end else text.startswith(kept)


def test_an_empty_graph_shows_tokens_and_logits(tmp_path):
    graph = random_graph(n_features=0, extras=False)
    graph.edges[:] = 0
    draw(graph, tmp_path / "a.svg")
    layout = laid_out(graph)
    assert set(graph.nodes.kind[layout.shown].tolist()) == {2, 5}
    assert "0 of 0 edges" in " ".join(texts_of(graph))


def test_a_graph_without_logits_or_weights_can_be_drawn(tmp_path):
    graph = random_graph()
    draw(replace(graph, metadata={}), tmp_path / "a.svg")
    draw(graph.subgraph(np.flatnonzero(~graph.nodes.is_kind("logit"))), tmp_path / "b.svg")


def test_a_long_prompt_gets_columns_only_where_something_stands():
    tokens = tuple(f" t{i}" for i in range(512))
    layout = laid_out(random_graph(tokens=tokens, n_features=20, n_layers=4, extras=False, density=0.0))
    columns = [c for c in layout.columns if c.position >= 0]
    assert len(columns) <= 60
    assert sum(c.skipped for c in layout.columns) + len(columns) == 512
    assert layout.width <= 40


def test_thousands_of_nodes_fit_a_page():
    tokens = tuple(f" t{i}" for i in range(512))
    graph = random_graph(tokens=tokens, n_features=2500, n_layers=6, extras=False, density=0.002)
    layout = laid_out(graph)
    assert layout.width <= 40.5
    inner = graph.nodes.is_kind("feature", "error")
    assert 1500 < np.isin(layout.shown, np.flatnonzero(inner)).sum() <= 2000


# what stands where


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), n_features=st.integers(0, 120), n_layers=st.integers(1, 8))
def test_nodes_stand_in_their_token_and_layer(seed, n_features, n_layers):
    graph = random_graph(seed, n_features=n_features, n_layers=n_layers)
    layout, table = laid_out(graph), graph.nodes
    columns = {c.position: c for c in layout.columns}
    rows = {r.layer: r for r in layout.rows}
    for index in layout.shown.tolist():
        kind, x, y = graph.node(index).kind, layout.x[index], layout.y[index]
        assert kind != "bias"
        assert 0 < x < layout.width
        row = rows[int(table.layer[index])]
        assert row.bottom <= y <= row.top
        if kind != "logit":
            column = columns[int(table.position[index])]
            assert column.left <= x <= column.right
    places = np.stack([layout.x, layout.y])[:, layout.shown]
    assert len(np.unique(places.round(4), axis=1).T) == len(layout.shown)
    ordered = sorted(layout.rows, key=lambda r: r.layer)
    assert list(layout.rows) == ordered
    assert all(a.top <= b.bottom + 1e-9 for a, b in pairwise(ordered))
    assert all(a.right <= b.left + 1e-9 for a, b in pairwise(layout.columns))


def test_busy_positions_get_wider_columns():
    graph = random_graph(n_features=0, n_layers=3, extras=False)
    busy = random_graph(n_features=10**6, n_layers=3, extras=False)
    part = busy.subgraph(
        np.flatnonzero(~busy.nodes.is_kind("feature") | (busy.nodes.position == 2) & (busy.nodes.feature < 5))
    )
    wide = {c.position: c.right - c.left for c in laid_out(part).columns}
    even = {c.position: c.right - c.left for c in laid_out(graph).columns}
    assert wide[2] > 1.5 * wide[1]
    assert even[2] == pytest.approx(even[1])


def test_layers_without_nodes_take_no_room():
    graph = random_graph(n_features=30, n_layers=40, extras=False, density=0.0)
    with_features = set(graph.nodes.layer[graph.nodes.is_kind("feature")].tolist())
    assert {r.layer for r in laid_out(graph).rows} == with_features | {-1, 40}


def test_errors_without_edges_are_not_drawn():
    graph = random_graph(density=0.05)
    mask = shown_nodes(graph)
    errors = np.flatnonzero(graph.nodes.is_kind("error"))
    np.testing.assert_array_equal(mask[errors], (graph.edges[:, errors] != 0).any(axis=0))
    assert mask[graph.nodes.is_kind("embedding", "logit", "feature")].all()


def test_edges_are_shares_of_inputs_strongest_last():
    graph = random_graph(5, n_features=30)
    graph = replace(graph, nodes=replace(graph.nodes, influence=influence(graph).astype(np.float32)))
    edges = chosen_edges(graph, laid_out(graph), 40)
    assert len(edges.source) == 40
    assert (np.diff(edges.strength) >= 0).all()
    matrix = np.abs(graph.dense().matrix)
    matrix[:, graph.nodes.is_kind("bias")] = 0
    for source, target, share, negative in zip(edges.source, edges.target, edges.share, edges.is_negative, strict=True):
        assert share == pytest.approx(matrix[target, source] / matrix[target].sum(), rel=1e-4)
        assert negative == (graph.dense().matrix[target, source] < 0)
    everything = chosen_edges(graph, laid_out(graph), 10**6)
    drawn = np.flatnonzero(~graph.nodes.is_kind("bias"))
    assert len(everything.source) == everything.total == np.count_nonzero(graph.edges[:, drawn])
    assert edges.strength.min() >= np.sort(everything.strength)[-40] - 1e-12


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), n_features=st.integers(1, 80))
def test_labels_never_cover_each_other(seed, n_features):
    graph = random_graph(seed, n_features=n_features, n_layers=6)
    layout = laid_out(graph)
    features = [i for i in layout.shown.tolist() if graph.node(i).kind == "feature"]
    wanted = [(i, "a label of some length") for i in features]
    placed = place_labels(layout, wanted, np.full(len(graph.nodes), 0.06), lambda text: (0.9, 0.11))
    boxes = [(left, bottom, left + 0.9, bottom + 0.11) for _, _, left, bottom in placed]
    for number, (a, b, c, d) in enumerate(boxes):
        assert a >= 0
        assert c <= layout.width
        assert all(c <= e or g <= a or d <= f or h <= b for e, f, g, h in boxes[:number])
    assert placed
    assert placed[0][0] == features[0] or len(features) > 1


# what is said


def test_title_answer_and_caption():
    graph = random_graph(n_features=40)
    small = graph.prune(nodes=0.6, edges=0.8)
    texts = texts_of(small)
    assert '→ ␣"big"' in texts or '→ ␣"big"' in texts
    caption = next(text for text in texts if "replacement" in text)
    assert f"of {len(graph.nodes):,} nodes" in caption
    assert f"of {np.count_nonzero(graph.edges):,} edges" in caption
    assert "60%" in texts
    assert "<0.1%" in texts
    assert "my title" in texts_of(small, "my title")


def test_sign_is_shown_by_colour_and_by_dash(tmp_path):
    from matplotlib.colors import to_rgb

    graph = random_graph(n_features=20)
    with _plain_settings():
        figure = _figure(graph, Fonts(), None, 0, 1500)
    edges = chosen_edges(graph, laid_out(graph), 1500)
    lines = next(c for c in figure.axes[0].collections if len(c.get_paths()) == len(edges.source))
    blue = np.isclose(lines.get_edgecolor()[:, :3], to_rgb(POSITIVE)).all(axis=1)
    dashed = np.array([pattern is not None for _, pattern in lines.get_linestyle()])
    np.testing.assert_array_equal(blue, ~dashed)
    np.testing.assert_array_equal(dashed, edges.is_negative)
