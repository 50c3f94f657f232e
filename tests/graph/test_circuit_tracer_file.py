"""Files of circuit-tracer: genuine ones are read as they are, and nothing in any file is ever run."""

import builtins
import contextlib
import os
import pickle
import re
import subprocess
import sys
import types
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from interchange_graphs import assert_same

from lucida.errors import GraphError
from lucida.graph.circuit_tracer import read_circuit_tracer
from lucida.graph.graph import Graph
from lucida.graph.influence import influence
from lucida.graph.neuronpedia.names import node_ids

GOLDEN = next((p / "shared" / "golden" for p in Path(__file__).parents if (p / "shared" / "golden").is_dir()), None)


@pytest.fixture
def classes(monkeypatch):
    """The two classes of a genuine file, under the module names that circuit-tracer pickles them by."""

    class LogitTarget(NamedTuple):
        token_str: str
        vocab_idx: int

    @dataclass
    class UnifiedConfig:
        n_layers: int
        d_vocab: int
        model_name: str = "a-model"
        dtype: object = torch.float32

    for module, cls in (
        ("circuit_tracer.attribution.targets", LogitTarget),
        ("circuit_tracer.utils.tl_nnsight_mapping", UnifiedConfig),
    ):
        cls.__module__, cls.__qualname__ = module, cls.__name__
        parts = module.split(".")
        for depth in range(1, len(parts) + 1):
            monkeypatch.setitem(sys.modules, ".".join(parts[:depth]), types.ModuleType(parts[depth - 1]))
        setattr(sys.modules[module], cls.__name__, cls)
    return types.SimpleNamespace(LogitTarget=LogitTarget, UnifiedConfig=UnifiedConfig)


def random_contents(classes, seed=0, n_layers=3, n_pos=4, n_active=9, vocab=50):
    """A genuine dictionary: two targets, one of which is a difference numbered above the vocabulary."""
    rng = np.random.default_rng(seed)
    spots = [(l, p, f) for l in range(n_layers) for p in range(n_pos) for f in range(6)]
    active = np.array(sorted(spots[i] for i in rng.choice(len(spots), n_active, replace=False)))
    selected = np.sort(rng.choice(n_active, n_active - 2, replace=False))
    features = active[selected]
    layer = np.concatenate(
        [features[:, 0], np.repeat(np.arange(n_layers), n_pos), np.full(n_pos, -1), np.full(2, n_layers)]
    )
    matrix = rng.normal(size=(len(layer), len(layer))).astype(np.float32)
    matrix[layer[None, :] >= layer[:, None]] = 0
    matrix[len(features) : -2] = 0
    return {
        "input_string": "four tokens stand here",
        "adjacency_matrix": torch.tensor(matrix),
        "cfg": classes.UnifiedConfig(n_layers, vocab),
        "active_features": torch.tensor(active),
        "logit_targets": [classes.LogitTarget(" big", 7), classes.LogitTarget("A - B", vocab + 1)],
        "logit_probabilities": torch.tensor([0.7, 0.2]),
        "vocab_size": vocab,
        "input_tokens": torch.tensor(rng.integers(0, vocab, n_pos)),
        "selected_features": torch.tensor(selected),
        "activation_values": torch.tensor(rng.random(n_active).astype(np.float32)),
        "scan_name": "org/dictionary",
    }


def saved(contents, path, **options):
    torch.save(contents, path, **options)
    return path


def assert_reads_as(graph, contents):
    matrix, active = contents["adjacency_matrix"].numpy(), contents["active_features"].numpy()
    selected = contents["selected_features"].numpy()
    np.testing.assert_array_equal(graph.dense().matrix, matrix)
    features = graph.nodes.is_kind("feature")
    found = np.stack([graph.nodes.layer, graph.nodes.position, graph.nodes.feature], 1)[features]
    np.testing.assert_array_equal(found, active[selected])
    np.testing.assert_array_equal(graph.nodes.activation[features], contents["activation_values"].numpy()[selected])
    assert graph.prompt.tokens == tuple(contents["input_tokens"].tolist())
    np.testing.assert_allclose(graph.metadata["target_weights"], contents["logit_probabilities"].numpy())


@pytest.mark.parametrize("seed", range(5))
def test_a_genuine_file_is_read_as_it_is(classes, tmp_path, seed):
    contents = random_contents(classes, seed)
    graph = read_circuit_tracer(saved(contents, tmp_path / "g.pt"))
    assert_reads_as(graph, contents)
    n = len(graph.nodes)
    assert (graph.node(n - 2).text, graph.node(n - 2).token) == (" big", 7)
    assert graph.node(n - 2).probability == pytest.approx(0.7)
    assert (graph.node(n - 1).text, graph.node(n - 1).token) == ("A - B", None)
    assert graph.node(n - 1).probability is None
    assert graph.metadata["model"] == "a-model"
    assert graph.metadata["dictionary"] == "org/dictionary"
    assert graph.prompt.text == "four tokens stand here"
    errors = graph.nodes.is_kind("error")
    np.testing.assert_array_equal(graph.nodes.layer[errors], np.repeat([0, 1, 2], 4))
    np.testing.assert_array_equal(graph.nodes.position[errors], np.tile([0, 1, 2, 3], 3))
    assert len(set(node_ids(graph))) == n
    graph.save(tmp_path / "g.safetensors")
    assert_same(Graph.load(tmp_path / "g.safetensors"), graph)


@pytest.mark.skipif(GOLDEN is None, reason="the golden graphs of circuit-tracer are not on this machine")
@pytest.mark.parametrize("name", ["plt_jumprelu", "clt"])
def test_golden_graphs(classes, tmp_path, name):
    with np.load(GOLDEN / f"{name}_graph.npz") as golden:
        arrays = {key: golden[key] for key in golden}
    targets = [classes.LogitTarget(f"t{i}", int(i)) for i in arrays["logit_ids"]]
    contents = {
        "input_string": "",
        "adjacency_matrix": torch.tensor(arrays["adjacency"]),
        "cfg": classes.UnifiedConfig(4, 1024),
        "logit_targets": targets,
        "logit_probabilities": torch.tensor(arrays["logit_probs"]),
        "vocab_size": 1024,
        "scan_name": ["a", "b"],
    } | {
        key: torch.tensor(arrays[key])
        for key in ("active_features", "input_tokens", "selected_features", "activation_values")
    }
    graph = read_circuit_tracer(saved(contents, tmp_path / "g.pt"))
    assert_reads_as(graph, contents)
    scores = graph.scores()
    assert scores.replacement == pytest.approx(float(arrays["replacement"]), abs=1e-4)
    assert scores.completeness_all_rows == pytest.approx(float(arrays["completeness"]), abs=1e-4)
    np.testing.assert_array_equal(
        np.argsort(-graph.nodes.influence)[:5], np.argsort(-influence(graph).astype(np.float32))[:5]
    )


def test_old_variants(classes, tmp_path):
    contents = random_contents(classes)
    contents["logit_targets"] = [contents["logit_targets"][0], classes.LogitTarget("x", 9)]
    expected = read_circuit_tracer(saved(contents, tmp_path / "new.pt"))

    old = dict(contents)
    old["logit_tokens"] = torch.tensor([7, 9])
    old["scan"] = old.pop("scan_name")
    del old["logit_targets"], old["vocab_size"]
    tensor_targets = contents | {"logit_targets": torch.tensor([7, 9])}
    bare = contents | {"cfg": None, "input_tokens": contents["input_tokens"].tolist()}
    for variant in (old, tensor_targets, bare):
        found = read_circuit_tracer(saved(variant, tmp_path / "old.pt"))
        np.testing.assert_array_equal(found.edges, expected.edges)
        np.testing.assert_array_equal(found.nodes.token, expected.nodes.token)
        assert found.metadata["dictionary"] == "org/dictionary"
        assert found.metadata["n_layers"] == 3


def test_all_active_features_when_none_are_selected(classes, tmp_path):
    contents = random_contents(classes)
    chosen = contents.pop("selected_features")
    contents["active_features"] = contents["active_features"][chosen]
    contents["activation_values"] = contents["activation_values"][chosen]
    graph = read_circuit_tracer(saved(contents, tmp_path / "g.pt"))
    assert_reads_as(graph, contents | {"selected_features": torch.arange(len(chosen))})


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_precisions(classes, tmp_path, dtype):
    contents = random_contents(classes)
    contents["adjacency_matrix"] = contents["adjacency_matrix"].to(dtype)
    graph = read_circuit_tracer(saved(contents, tmp_path / "g.pt"))
    np.testing.assert_array_equal(graph.dense().matrix, contents["adjacency_matrix"].float().numpy())


def test_strides_and_shared_storages(classes, tmp_path):
    contents = random_contents(classes)
    matrix = contents["adjacency_matrix"]
    contents["adjacency_matrix"] = matrix.T.contiguous().T
    contents["active_features"] = torch.cat([torch.zeros(5, 3, dtype=torch.int64), contents["active_features"]])[5:]
    assert not contents["adjacency_matrix"].is_contiguous()
    np.testing.assert_array_equal(
        read_circuit_tracer(saved(contents, tmp_path / "g.pt")).dense().matrix, matrix.numpy()
    )


def test_unsorted_features_are_put_in_order(classes, tmp_path):
    contents = random_contents(classes)
    expected = read_circuit_tracer(saved(contents, tmp_path / "g.pt"))
    n = len(contents["selected_features"])
    flip = torch.cat([torch.arange(n).flip(0), torch.arange(n, len(contents["adjacency_matrix"]))])
    contents["selected_features"] = contents["selected_features"].flip(0)
    contents["adjacency_matrix"] = contents["adjacency_matrix"][flip][:, flip]
    found = read_circuit_tracer(saved(contents, tmp_path / "g.pt"))
    np.testing.assert_array_equal(found.edges, expected.edges)
    np.testing.assert_array_equal(found.nodes.activation, expected.nodes.activation)


def test_torch_is_not_imported(classes, tmp_path):
    saved(random_contents(classes), tmp_path / "g.pt")
    code = (
        "import sys; from lucida.graph.circuit_tracer import read_circuit_tracer;"
        "read_circuit_tracer(sys.argv[1]); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "g.pt")], check=True)


# hostile files


class Runs:
    """Pickles as a call of `function(*arguments)`."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def hostile_calls(sentinel):
    code = f"open({str(sentinel)!r}, 'w')"
    return {
        "posix.system": Runs(os.system, f"touch {sentinel}"),
        "builtins.eval": Runs(eval, code),
        "builtins.exec": Runs(exec, code),
        "builtins.open": Runs(open, str(sentinel), "w"),
        "builtins.getattr": Runs(getattr, "a", "upper"),
        "subprocess.Popen": Runs(subprocess.Popen, ["touch", str(sentinel)]),
        "torch.serialization.load": Runs(torch.load, str(sentinel)),
        "torch.storage._load_from_bytes": Runs(torch.storage._load_from_bytes, b"abc"),
        "torch.hub.load": Runs(torch.hub.load, "a/b", "c"),
        "builtins.__import__": Runs(builtins.__import__, "os"),
    }


def placements(call, contents):
    """Where a file can hide a call."""
    yield call
    yield contents | {"input_string": call}
    yield contents | {"more": [{"deep": (call,)}]}
    yield {call: 1}
    target = contents["logit_targets"][0]
    yield contents | {"logit_targets": [target._replace(token_str=call)]}
    cfg = contents["cfg"]
    yield contents | {"cfg": type(cfg)(3, 50, call)}


@pytest.mark.parametrize("name", list(hostile_calls("x")))
def test_no_call_is_made(classes, tmp_path, name):
    sentinel = tmp_path / "sentinel"
    call = hostile_calls(sentinel)[name]
    for place, contents in enumerate(placements(call, random_contents(classes))):
        path = saved(contents, tmp_path / f"{place}.pt")
        with pytest.raises(GraphError) as error:
            read_circuit_tracer(path)
        # Old protocols rename modules (builtins to __builtin__), never what is called.
        assert re.search(rf"names [\w.]+\.{name.split('.')[-1]},", str(error.value))
        assert "\n" not in str(error.value)
        assert not sentinel.exists()


def test_the_sentinel_would_be_made(tmp_path):
    """The hostile files are hostile: an ordinary pickle reader does run them."""
    torch.save(hostile_calls(tmp_path / "sentinel")["posix.system"], tmp_path / "g.pt")
    torch.load(tmp_path / "g.pt", weights_only=False)
    assert (tmp_path / "sentinel").exists()


def archive(path, program, storages=(), compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("g/data.pkl", program)
        file.writestr("g/byteorder", b"little")
        for key, content in storages:
            file.writestr(f"g/data/{key}", content)
    return path


def op(text):
    return text.encode()


HAND_WRITTEN = {
    # A storage whose type, key or size is the result of a call.
    "call inside a storage": b"\x80\x02(X\x07\x00\x00\x00storagecposix\nsystem\nX\x01\x00\x00\x00x\x85RQ.",
    "type of a storage": b"\x80\x02(X\x07\x00\x00\x00storagecbuiltins\neval\nX\x01\x00\x00\x000"
    b"X\x03\x00\x00\x00cpuK\x01tQ.",
    "dotted name of an allowed module": b"\x80\x04\x8c\x0ctorch._utils\x8c\x1e_rebuild_tensor_v2.__globals__\x93.",
    "attribute of a record": b"\x80\x04\x8c\x0ecircuit_tracer\x8c\x15LogitTarget.__class__\x93.",
    "a module that only begins alike": b"\x80\x02ccircuit_tracer_evil\nLogitTarget\n.",
    "old instruction INST": b"(S'echo'\niposix\nsystem\n.",
    "extension registry": b"\x80\x02\x82\x01.",
    "text persistent id": b"Pevil\n.",
    "far memo": b"\x80\x02}r\xff\xff\xff\x7f.",
    "missing stop": b"\x80\x02}",
    "empty": b"",
    "stack underflow": b"\x80\x02R.",
    "unknown protocol": b"\x80\x63}.",
    "call of a text": b"\x80\x02ctorch\nfloat32\n)R.",
    "slots of a record class": b"\x80\x02ccircuit_tracer\nLogitTarget\nN}X\x01\x00\x00\x00aK\x01s\x86b.",
    "state of a function": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00aK\x01sb.",
    "rebuild without a storage": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x00K\x01\x85K\x01\x85\x89}tR.",
    "not a dictionary": b"\x80\x02K\x01.",
    "deep nesting": b"\x80\x02)" + b"\x85" * 30_000 + b".",
}


@pytest.mark.parametrize("name", HAND_WRITTEN)
def test_hand_written_programs_are_refused(tmp_path, name):
    path = archive(tmp_path / "g.pt", HAND_WRITTEN[name])
    with pytest.raises(GraphError) as error:
        read_circuit_tracer(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_a_reading_changes_nothing_that_outlives_it(tmp_path):
    """A program may set attributes on what it was handed; the next file must not see them."""
    from lucida.graph import torch_archive

    before = {name: dict(vars(value)) for name, value in vars(torch_archive).items() if callable(value)
              and getattr(value, "__module__", "") == torch_archive.__name__}  # fmt: skip
    for name in ("slots of a record class", "state of a function"):
        with pytest.raises(GraphError):
            read_circuit_tracer(archive(tmp_path / "g.pt", HAND_WRITTEN[name]))
    after = {name: dict(vars(getattr(torch_archive, name))) for name in before}
    assert before == after


def tensor_program(size, stride, offset=0, count=4):
    """A program that rebuilds one tensor of the given shape from a storage of `count` numbers."""

    def number(n):
        return b"\x8a\x08" + n.to_bytes(8, "little", signed=True)

    def numbers(ns):
        return b"(" + b"".join(number(n) for n in ns) + b"t"

    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    storage += number(count) + b"tQ"
    return (
        b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n("
        + storage + number(offset) + numbers(size) + numbers(stride) + b"\x89}tRs."
    )  # fmt: skip


@pytest.mark.parametrize(
    "shape",
    [
        {"size": [5], "stride": [1]},
        {"size": [4], "stride": [1], "offset": 1},
        {"size": [2, 2], "stride": [3, 1]},
        {"size": [1_000_000, 1_000_000], "stride": [0, 0]},
        {"size": [2], "stride": [-1], "offset": 3},
        {"size": [2], "stride": [1], "offset": -1},
        {"size": [-2], "stride": [1]},
        {"size": [2, 2], "stride": [1]},
        {"size": [2**62], "stride": [2**62]},
        {"size": [4], "stride": [1], "count": 5},
        {"size": [4], "stride": [1], "count": 2**40},
        {"size": [4], "stride": [1], "count": -1},
    ],
)
def test_tensors_that_reach_beyond_their_storage_are_refused(tmp_path, shape):
    path = archive(tmp_path / "g.pt", tensor_program(**shape), [("0", np.arange(4, dtype="<f4").tobytes())])
    with pytest.raises(GraphError):
        read_circuit_tracer(path)


def test_the_tensor_program_is_sound(tmp_path):
    """The shapes above are refused for themselves: within bounds the same program is read."""
    from lucida.graph.torch_archive import read_torch_archive

    content = [("0", np.arange(4, dtype="<f4").tobytes())]
    path = archive(tmp_path / "g.pt", tensor_program(size=[2, 2], stride=[1, 2]), content)
    found = read_torch_archive(path, lambda module, name: False)["a"]
    np.testing.assert_array_equal(found, [[0, 2], [1, 3]])


def test_compressed_archives_are_refused(tmp_path):
    path = archive(tmp_path / "g.pt", b"\x80\x02}." + b"\0" * 10**6, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(GraphError, match="compressed"):
        read_circuit_tracer(path)


# damaged files


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a zip", pickle.dumps({"a": 1}), b"\x1f\x8b" * 100])
def test_what_is_no_archive_is_refused(tmp_path, content):
    (tmp_path / "g.pt").write_bytes(content)
    with pytest.raises(GraphError, match="not a complete torch archive"):
        read_circuit_tracer(tmp_path / "g.pt")


def test_missing_files_and_folders_are_refused(tmp_path):
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(GraphError, match="cannot read"):
            read_circuit_tracer(path)


def test_the_old_format_of_torch_is_refused(classes, tmp_path):
    path = saved(random_contents(classes), tmp_path / "g.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(GraphError, match="not a complete torch archive"):
        read_circuit_tracer(path)


def test_truncated_and_flipped_files_are_refused_or_equal(classes, tmp_path):
    path = saved(random_contents(classes), tmp_path / "g.pt")
    content, expected = path.read_bytes(), read_circuit_tracer(path)
    for length in range(0, len(content), len(content) // 25):
        path.write_bytes(content[:length])
        with pytest.raises(GraphError):
            read_circuit_tracer(path)
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(content), 150):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x41]) + content[place + 1 :])
        with contextlib.suppress(GraphError):
            found = read_circuit_tracer(path)
            np.testing.assert_array_equal(found.edges, expected.edges)


BAD = {
    "no matrix": lambda d: d.pop("adjacency_matrix"),
    "matrix of text": lambda d: d.update(adjacency_matrix="x"),
    "matrix not square": lambda d: d.update(adjacency_matrix=d["adjacency_matrix"][:, 1:]),
    "matrix too small": lambda d: d.update(adjacency_matrix=d["adjacency_matrix"][1:, 1:]),
    "matrix with NaN": lambda d: d["adjacency_matrix"].fill_(float("nan")),
    "an error with inputs": lambda d: d["adjacency_matrix"].__setitem__((8, 0), 1.0),
    "a cycle": lambda d: d["adjacency_matrix"].__setitem__((0, slice(0, 7)), 1.0),
    "features of two numbers": lambda d: d.update(active_features=d["active_features"][:, :2]),
    "features are reals": lambda d: d.update(active_features=d["active_features"].float()),
    "feature above the layers": lambda d: d["active_features"].__setitem__((slice(None), 0), 3),
    "feature beyond the prompt": lambda d: d["active_features"].__setitem__((slice(None), 1), 4),
    "feature below 0": lambda d: d["active_features"].__setitem__((slice(None), 2), -1),
    "selection beyond": lambda d: d["selected_features"].__setitem__(0, 9),
    "selection below 0": lambda d: d["selected_features"].__setitem__(0, -1),
    "too few activations": lambda d: d.update(activation_values=d["activation_values"][:3]),
    "too few probabilities": lambda d: d.update(logit_probabilities=torch.tensor([0.5])),
    "probability below 0": lambda d: d.update(logit_probabilities=torch.tensor([0.5, -0.1])),
    "no targets": lambda d: d.update(logit_targets=[], logit_probabilities=torch.zeros(0)),
    "targets missing": lambda d: d.pop("logit_targets"),
    "targets of the wrong types": lambda d: d.update(logit_targets=[("a", "b"), ("c", "d")]),
    "targets are numbers": lambda d: d.update(logit_targets=[1, 2]),
    "token is huge": lambda d: d.update(logit_targets=[("a", 2**80), ("b", 1)], vocab_size=2**90),
    "layers are a text": lambda d: setattr(d["cfg"], "n_layers", "3"),
    "wrong number of layers": lambda d: setattr(d["cfg"], "n_layers", 4),
    "no prompt": lambda d: d.update(input_tokens=torch.zeros(0, dtype=torch.int64)),
    "two prompts": lambda d: d.update(input_tokens=d["input_tokens"][None]),
}


@pytest.mark.parametrize("fault", BAD)
def test_an_incomplete_graph_is_refused(classes, tmp_path, fault):
    contents = random_contents(classes)
    BAD[fault](contents)
    with pytest.raises(GraphError) as error:
        read_circuit_tracer(saved(contents, tmp_path / "g.pt"))
    assert "\n" not in str(error.value)


def test_ordered_dictionaries_are_plain(classes, tmp_path):
    contents = random_contents(classes)
    graph = read_circuit_tracer(saved(OrderedDict(contents), tmp_path / "g.pt"))
    assert_reads_as(graph, contents)
