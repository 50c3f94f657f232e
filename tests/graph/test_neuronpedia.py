"""Attribution-graph JSON: ours comes back bit for bit, every known trap is avoided, bad files are refused."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from interchange_graphs import TOKENS, assert_same, random_graph

from lucida.errors import GraphError, SaveError
from lucida.graph.graph import Graph
from lucida.graph.influence import influence
from lucida.graph.neuronpedia import read_neuronpedia, write_neuronpedia
from lucida.graph.neuronpedia.names import cantor_pair, cantor_unpair, node_ids

SCHEMA = json.loads(Path(__file__).with_name("neuronpedia_schema.json").read_text())


def written(graph, path, **options):
    options = {"slug": "a-graph", "scan": "tiny"} | options
    write_neuronpedia(graph, path, **options)
    return json.loads(path.read_text())


def reread(document, path):
    path.write_text(json.dumps(document))
    return read_neuronpedia(path)


def as_foreign(document):
    """The document without anything of ours: what another program would have written."""
    document["metadata"].pop("lucida")
    for node in document["nodes"]:
        node.pop("lucida")
    return document


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return json.dumps(written(random_graph(), tmp_path_factory.mktemp("json") / "ours.json"))


@pytest.fixture
def document(pristine):
    return json.loads(pristine)


# our own files


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n_layers=st.integers(2, 5),
    n_features=st.integers(0, 30),
    difference=st.booleans(),
    extras=st.booleans(),
    tokens=st.lists(st.text(max_size=5), min_size=1, max_size=6),
)
def test_round_trip_is_lossless(tmp_path_factory, seed, tokens, **shape):
    graph = random_graph(seed, tokens=tuple(tokens), **shape)
    path = tmp_path_factory.mktemp("json") / "g.json"
    document = written(graph, path)
    jsonschema.validate(document, SCHEMA)
    assert_same(read_neuronpedia(path), graph)


def test_round_trip_of_a_pruned_graph(tmp_path):
    graph = random_graph(3, n_features=40).prune(nodes=0.7, edges=0.9)
    document = written(graph, tmp_path / "g.json")
    jsonschema.validate(document, SCHEMA)
    assert document["metadata"]["pruning_settings"] == {"node_threshold": 0.7, "edge_threshold": 0.9}
    assert_same(read_neuronpedia(tmp_path / "g.json"), graph)


def test_float32_extremes_survive(tmp_path):
    graph = random_graph(n_features=8)
    rows, columns = np.nonzero(graph.edges)
    extremes = np.array([1e-45, 1.17549435e-38, 3.4028235e38, -3.4028235e38, 1 / 3, 16777217], np.float32)
    graph.edges[rows[:6], columns[:6]] = extremes
    written(graph, tmp_path / "g.json")
    assert_same(read_neuronpedia(tmp_path / "g.json"), graph)


def test_the_file_does_not_depend_on_the_process(tmp_path):
    """circuit-tracer names some scans by Python's salted hash, so no two runs agree."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from interchange_graphs import random_graph;"
        "from lucida.graph.neuronpedia import write_neuronpedia;"
        "write_neuronpedia(random_graph(), sys.argv[2], slug='s', scan='m', source_set='x')"
    )
    for seed in ("1", "2"):
        subprocess.run(
            [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path / seed)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
        )
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_pins_and_supernodes_are_written_and_kept(tmp_path):
    graph = random_graph()
    ids = node_ids(graph)[:3]
    path = tmp_path / "g.json"
    document = written(graph, path, pinned=ids[:1], supernodes=[["a group", *ids[1:]]])
    assert document["qParams"]["pinnedIds"] == ids[:1]
    once = read_neuronpedia(path)
    assert once.metadata["neuronpedia"]["supernodes"] == [["a group", *ids[1:]]]
    assert written(once, tmp_path / "again.json")["qParams"] == document["qParams"]


def test_a_label_mended_in_the_front_end_wins(document, tmp_path):
    node = next(n for n in document["nodes"] if n["feature_type"] == "cross layer transcoder")
    node["clerp"] = "a better name"
    assert reread(document, tmp_path / "g.json").find("a better name")


# the traps of the format


def test_logits_can_be_parsed_as_the_front_ends_do(document):
    logits = [n for n in document["nodes"] if n["feature_type"] == "logit"]
    for node, probability in zip(logits, (0.6, 0.25, 0.0001), strict=True):
        shown = float(node["clerp"].split("(p=")[1].split(")")[0])
        assert shown == pytest.approx(probability, abs=0.0005)
        assert node["token_prob"] == pytest.approx(probability)
    assert [n["is_target_logit"] for n in logits] == [True, False, False]
    assert logits[0]["clerp"] == 'Output " "big"" (p=0.600)'
    assert "(p=0.9)" not in logits[2]["clerp"]


def test_a_difference_target_survives(tmp_path):
    graph = random_graph(difference=True)
    document = written(graph, tmp_path / "g.json")
    logit = document["nodes"][-1]
    assert logit["clerp"] == 'Output " large - small" (p=1.000)'
    assert logit["token_prob"] == 1.0
    assert isinstance(logit["feature"], int)
    assert read_neuronpedia(tmp_path / "g.json").node(len(graph.nodes) - 1).token is None
    foreign = reread(as_foreign(document), tmp_path / "f.json")
    assert foreign.node(len(graph.nodes) - 1).text == " large - small"


def test_error_ids_never_equal_feature_ids():
    """In circuit-tracer's form feature 1 of layer 0 and the error of layer 1 are both 0_1_{position}."""
    graph = random_graph(n_layers=4, n_features=10**6, tokens=TOKENS[:2])
    ids = node_ids(graph)
    assert len(set(ids)) == len(ids)
    assert "1_error_mlp_1" in ids
    assert "0_1_1" in ids


@given(st.integers(0, 10**12), st.integers(0, 10**12))
def test_cantor_numbers_are_exact(layer, feature):
    assert cantor_unpair(cantor_pair(layer, feature)) == (layer, feature)


def test_cantor_numbers_in_the_file(document):
    features = [n for n in document["nodes"] if n["feature_type"] == "cross layer transcoder"]
    assert features
    for node in features:
        layer, feature, _ = map(int, node["node_id"].split("_"))
        assert node["feature"] == (layer + feature) * (layer + feature + 1) // 2 + feature
        assert node["layer"] == str(layer)
        assert node["jsNodeId"] == f"{layer}_{feature}-0"


def test_feature_numbers_beyond_a_browser_are_refused(tmp_path):
    graph = random_graph()
    feature = graph.nodes.feature.copy()
    feature[0] = 2**31
    with pytest.raises(GraphError, match="too large"):
        written(replace(graph, nodes=replace(graph.nodes, feature=feature)), tmp_path / "g.json")
    assert not list(tmp_path.iterdir())


def test_one_layer_graphs_are_refused(tmp_path):
    with pytest.raises(GraphError, match="above layer 0"):
        written(random_graph(n_layers=1), tmp_path / "g.json")
    graph = random_graph(n_layers=3)
    with pytest.raises(GraphError, match="above layer 0"):
        written(graph.subgraph(np.flatnonzero((graph.nodes.layer < 1) | (graph.nodes.layer == 3))), tmp_path / "g")


def test_nodes_without_edges_are_kept(tmp_path):
    graph = random_graph()
    graph.edges[:] = 0
    document = written(graph, tmp_path / "g.json")
    assert document["links"] == []
    assert len(document["nodes"]) == len(graph.nodes)
    assert_same(read_neuronpedia(tmp_path / "g.json"), graph)


def test_source_set_stands_in_both_places(tmp_path):
    about = written(random_graph(), tmp_path / "g.json", source_set="a-set", feature_url="https://f.org/")["metadata"]
    assert about["info"]["neuronpedia_source_set"] == "a-set"
    assert about["feature_details"] == {
        "neuronpedia_source_set": "a-set",
        "feature_json_base_url": "https://f.org/",
    }


def test_influence_is_the_cumulative_share(tmp_path):
    graph = random_graph()
    nodes = written(graph, tmp_path / "g.json")["nodes"]
    inner = [(n["influence"], n["lucida"]["influence"]) for n in nodes if n["influence"] is not None]
    inner = sorted(pair for pair in inner if pair[0] > 0)
    total = sum(i for n in nodes for i in [n["lucida"]["influence"]] if n["feature_type"] not in ("logit", "bias"))
    total += sum(n["lucida"]["influence"] for n in nodes if n["feature_type"] == "bias")
    strengths = [own for _, own in inner]
    assert strengths == sorted(strengths, reverse=True)
    assert inner[0][0] == pytest.approx(inner[0][1] / total, rel=1e-3)
    assert inner[-1][0] <= 1
    assert all(n["influence"] is None for n in nodes if n["feature_type"] == "logit")


def test_every_node_has_its_type_and_layer(document):
    nodes = {n["lucida"]["kind"]: n for n in document["nodes"]}
    assert nodes["bias"]["feature_type"] == "bias"
    assert nodes["error"]["feature_type"] == "mlp reconstruction error"
    assert nodes["embedding"]["layer"] == "E"
    assert nodes["embedding"]["node_id"] == "E_106_6"
    assert nodes["logit"]["layer"] == "4"
    assert nodes["logit"]["node_id"] == "4_31999_6"
    assert nodes["logit"]["jsNodeId"] == "L_31999-6"
    assert document["metadata"]["prompt_tokens"][3] == "⏎"


@pytest.mark.parametrize("name", ["", "a b", "org/repo", "é", "a\n"])
def test_slug_and_scan_characters(tmp_path, name):
    for key in ("slug", "scan"):
        with pytest.raises(GraphError, match=f"{key} .* may hold only"):
            written(random_graph(), tmp_path / "g.json", **{key: name})


def test_size_is_reported_and_limited_on_request(tmp_path):
    graph = random_graph()
    path = tmp_path / "g.json"
    report = write_neuronpedia(graph, path, slug="s", scan="m")
    assert report.size == path.stat().st_size
    assert report.nodes == len(graph.nodes)
    assert report.links == np.count_nonzero(graph.edges)
    assert report.warnings == ()
    before = path.read_bytes()
    with pytest.raises(GraphError, match="prune more"):
        write_neuronpedia(graph, path, slug="s", scan="m", size_limit=report.size - 1)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_too_large_to_upload_is_warned_about(tmp_path, monkeypatch):
    monkeypatch.setattr("lucida.graph.neuronpedia.writer.UPLOAD_LIMIT", 100)
    report = write_neuronpedia(random_graph(), tmp_path / "g.json", slug="s", scan="m")
    assert "prune more to upload" in report.warnings[0]


def test_missing_errors_are_warned_about(tmp_path):
    graph = random_graph()
    part = graph.subgraph(np.flatnonzero(~graph.nodes.is_kind("error")))
    report = write_neuronpedia(part, tmp_path / "g.json", slug="s", scan="m")
    assert "21 of 21 error nodes" in report.warnings[0]


def test_numbers_that_are_not_finite_are_not_written(tmp_path):
    graph = random_graph()
    graph.edges[-1, 0] = np.nan
    with pytest.raises(GraphError, match="not finite"):
        written(graph, tmp_path / "g.json")


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError):
        written(random_graph(), tmp_path / "file" / "g.json")


# files of others


def test_a_foreign_file_keeps_what_it_says(document, tmp_path):
    graph = random_graph()
    found = reread(as_foreign(document), tmp_path / "g.json")
    for name in ("kind", "layer", "position", "feature", "activation"):
        np.testing.assert_array_equal(getattr(found.nodes, name), getattr(graph.nodes, name), err_msg=name)
    np.testing.assert_array_equal(found.edges, graph.edges)
    np.testing.assert_array_equal(found.targets, graph.targets)
    logits = graph.nodes.is_kind("logit")
    np.testing.assert_array_equal(found.nodes.token[logits], graph.nodes.token[logits])
    assert found.prompt == graph.prompt
    assert found.metadata["n_layers"] == 3
    np.testing.assert_allclose(found.nodes.influence, influence(graph), rtol=1e-4, atol=1e-7)
    assert found.scores()
    found.save(tmp_path / "g.safetensors")
    assert_same(Graph.load(tmp_path / "g.safetensors"), found)
    written(found.prune(), tmp_path / "again.json")


def test_a_legacy_file_takes_features_from_node_ids(document, tmp_path):
    graph = random_graph()
    document = as_foreign(document)
    del document["metadata"]["schema_version"]
    for node in document["nodes"]:
        if node["feature_type"] == "cross layer transcoder":
            node["feature"] = 98304 * int(node["layer"]) + 5
    np.testing.assert_array_equal(reread(document, tmp_path / "g.json").nodes.feature, graph.nodes.feature)


def test_circuit_tracer_error_ids_are_read(document, tmp_path):
    document = json.loads(json.dumps(as_foreign(document)).replace("_error_mlp_", "#"))
    text = json.dumps(document)
    for node in document["nodes"]:
        if "#" in node["node_id"]:
            layer, position = node["node_id"].split("#")
            text = text.replace(f'"{node["node_id"]}"', f'"0_{layer}_{position}"')
    document = json.loads(text)
    ids = [node["node_id"] for node in document["nodes"]]
    if len(set(ids)) < len(ids):
        with pytest.raises(GraphError, match="stands for two nodes"):
            reread(document, tmp_path / "g.json")
        document["nodes"] = [n for n in document["nodes"] if ids.count(n["node_id"]) == 1]
        left = {n["node_id"] for n in document["nodes"]}
        document["links"] = [k for k in document["links"] if {k["source"], k["target"]} <= left]
    document["qParams"]["pinnedIds"] = "0_2_3,E_100_0"
    found = reread(document, tmp_path / "g.json")
    assert found.nodes.is_kind("error").any()
    assert found.metadata["neuronpedia"]["pinnedIds"] == ["2_error_mlp_3", "E_100_0"]


def test_parameters_saved_by_a_server_are_texts(document, tmp_path):
    first, second = (node["node_id"] for node in document["nodes"][:2])
    lists = {"pinnedIds": [first, second], "supernodes": [["group", first, second]]}
    texts = {"pinnedIds": f"{first},{second}", "supernodes": json.dumps(lists["supernodes"])}
    kept = []
    for parameters in (lists, texts):
        document["qParams"] = {**parameters, "sg_pos": "1 2", "pruningThreshold": "0.6"}
        kept.append(reread(document, tmp_path / "g.json").metadata["neuronpedia"])
    assert kept[0] == kept[1]
    assert kept[0]["supernodes"] == lists["supernodes"]
    assert kept[0]["sg_pos"] == "1 2"


def test_a_probability_is_taken_from_the_text_if_need_be(document, tmp_path):
    document = as_foreign(document)
    for node in document["nodes"]:
        del node["token_prob"]
    found = reread(document, tmp_path / "g.json")
    np.testing.assert_allclose(found.metadata["target_weights"], [0.6, 0.25, 0.0001], rtol=1e-6)


def feature_of(document):
    return next(n for n in document["nodes"] if n["feature_type"] == "cross layer transcoder")


BAD = {
    "no nodes": lambda d: d.pop("nodes"),
    "no metadata": lambda d: d.pop("metadata"),
    "no links": lambda d: d.pop("links"),
    "nodes is a text": lambda d: d.update(nodes="many"),
    "a node is a number": lambda d: d["nodes"].append(3),
    "no prompt": lambda d: d["metadata"].pop("prompt"),
    "no slug": lambda d: d["metadata"].pop("slug"),
    "tokens are numbers": lambda d: d["metadata"].update(prompt_tokens=[1, 2]),
    "no node id": lambda d: d["nodes"][0].pop("node_id"),
    "node id is a number": lambda d: d["nodes"][0].update(node_id=3),
    "unknown type": lambda d: d["nodes"][0].update(feature_type="lorsa"),
    "no layer": lambda d: feature_of(d).pop("layer"),
    "layer is a word": lambda d: feature_of(d).update(layer="first"),
    "layer is huge": lambda d: feature_of(d).update(layer=2**40),
    "layer is true": lambda d: feature_of(d).update(layer=True),
    "position is a real": lambda d: feature_of(d).update(ctx_idx=1.5),
    "position is outside": lambda d: feature_of(d).update(ctx_idx=7),
    "position is negative": lambda d: feature_of(d).update(ctx_idx=-1),
    "feature of another layer": lambda d: feature_of(d).update(feature=feature_of(d)["feature"] + 1),
    "feature is negative": lambda d: feature_of(d).update(feature=-4),
    "feature is missing": lambda d: feature_of(d).update(feature=None),
    "activation is a text": lambda d: feature_of(d).update(activation="1"),
    "activation is NaN": lambda d: feature_of(d).update(activation=float("nan")),
    "weight is NaN": lambda d: d["links"][0].update(weight=float("nan")),
    "weight is infinite": lambda d: d["links"][0].update(weight=float("inf")),
    "weight is no float32": lambda d: d["links"][0].update(weight=1e39),
    "weight is a huge integer": lambda d: d["links"][0].update(weight=10**400),
    "weight is missing": lambda d: d["links"][0].pop("weight"),
    "weight is a text": lambda d: d["links"][0].update(weight="1"),
    "link is a list": lambda d: d["links"].append(["a", "b", 1]),
    "source dangles": lambda d: d["links"][0].update(source="9_9_9"),
    "target dangles": lambda d: d["links"][0].update(target="9_9_9"),
    "twice the same node": lambda d: d["nodes"].append(dict(d["nodes"][0])),
    "twice the same link": lambda d: d["links"].append(dict(d["links"][0])),
    "a cycle": lambda d: d["links"].append(
        {"source": d["links"][-1]["target"], "target": feature_of(d)["node_id"], "weight": 1}
    ),
    "an embedding with inputs": lambda d: d["links"].append(
        {"source": feature_of(d)["node_id"], "target": "E_100_0", "weight": 1}
    ),
    "no logit": lambda d: d.update(
        nodes=[n for n in d["nodes"] if n["feature_type"] != "logit"],
        links=[k for k in d["links"] if not k["target"].startswith("4_")],
    ),
    "logit without probability": lambda d: d["nodes"][-1].update(token_prob=None, clerp="dunno"),
    "probability below 0": lambda d: d["nodes"][-1].update(token_prob=-0.5),
    "pins are numbers": lambda d: d["qParams"].update(pinnedIds=[1]),
    "supernodes are broken": lambda d: d["qParams"].update(supernodes="[["),
    "supernodes are texts": lambda d: d["qParams"].update(supernodes=["a"]),
    "a million nodes": lambda d: d.update(nodes=[{}] * 1_000_001),
    "unpaired surrogate": lambda d: d["nodes"][0].update(feature_type="\ud800\n"),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_faulty_foreign_file_is_refused(document, tmp_path, fault):
    document = as_foreign(document)
    BAD[fault](document)
    with pytest.raises(GraphError) as error:
        reread(document, tmp_path / "g.json")
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 400
    message.encode()


def test_a_graph_too_large_for_the_memory_is_refused(document, tmp_path, monkeypatch):
    monkeypatch.setattr("lucida.graph.neuronpedia.reader.MOST_EDGE_BYTES", 1000)
    with pytest.raises(GraphError, match="does not fit in memory"):
        reread(document, tmp_path / "g.json")


OWN_BAD = {
    "kind": {"kind": "neuron"},
    "layer": {"layer": 1.5},
    "position": {"position": 99},
    "influence": {"influence": None},
    "label": {"text": 3},
    "token": {"token": 2**70},
}


@pytest.mark.parametrize("fault", OWN_BAD)
def test_faulty_fields_of_our_own_are_refused(document, tmp_path, fault):
    document["nodes"][0]["lucida"].update(OWN_BAD[fault])
    with pytest.raises(GraphError):
        reread(document, tmp_path / "g.json")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe\x00", b"3", b"[" * 100_000, b'{"metadata": NaN}', b"9" * 5000]
)
def test_what_is_no_graph_json_is_refused(tmp_path, content):
    (tmp_path / "g.json").write_bytes(content)
    with pytest.raises(GraphError):
        read_neuronpedia(tmp_path / "g.json")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(GraphError, match="cannot read"):
        read_neuronpedia(tmp_path / "none.json")


def test_every_truncation_is_refused(document, tmp_path):
    text = json.dumps(document)
    for length in range(0, len(text), len(text) // 40):
        (tmp_path / "g.json").write_text(text[:length])
        with pytest.raises(GraphError):
            read_neuronpedia(tmp_path / "g.json")
