"""Bad dictionaries: each is refused in one line that says what was found, and nothing foreign is run."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from dictionary_files import config, gemma_scope, sparsify
from safetensors.torch import load_file, save_file
from torch import Tensor

from lucida.dictionaries import (
    FORMATS,
    load_dictionary,
    random_dictionary,
    write_circuit_tracer,
    write_saelens,
)
from lucida.errors import DictionaryError

Build = Callable[[Path], object]


def broken(build: Build, *, bare: bool = False) -> Build:
    def make(folder: Path) -> None:
        if not bare:
            write_circuit_tracer(random_dictionary(3, 8, 20), folder)
        build(folder)

    return make


def broken_clt(build: Build) -> Build:
    def make(folder: Path) -> None:
        write_circuit_tracer(random_dictionary(3, 8, 20, span=3), folder)
        build(folder)

    return make


def broken_saelens(hook_name: str | None = None, **settings: object) -> Build:
    def make(folder: Path) -> None:
        write_saelens(random_dictionary(2, 8, 20), folder)
        path = folder / "layer_1/cfg.json"
        found = json.loads(path.read_text()) | settings
        if hook_name is not None:
            found["metadata"]["hook_name"] = hook_name
        path.write_text(json.dumps(found))

    return make


def broken_sparsify(**settings: object) -> Build:
    return lambda folder: sparsify(folder, random_dictionary(2, 8, 20, activation="topk"), **settings)


def retensor(name: str, **change: Tensor | None) -> Build:
    def build(folder: Path) -> None:
        tensors = load_file(folder / name)
        for key, tensor in change.items():
            tensors.pop(key, None)
            if tensor is not None:
                tensors[key] = tensor
        save_file(tensors, folder / name)

    return build


def truncate(name: str) -> Build:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-100])


def settings(content: str) -> Build:
    return broken(lambda folder: (folder / "config.yaml").write_text(content))


def write_text(path: Path, content: str, beside: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(content)
    (path.parents[1] / beside).write_text("x")


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nmodel_kind: *b\n"
NAN = torch.full((20,), torch.nan)
ONE = "layer_1.safetensors"
HOOK = "blocks.1.hook_resid_post"
THRESHOLD = "activation_function.threshold"


def lists(*entries: object) -> Build:
    return broken(lambda folder: config(folder, transcoders=list(entries)))


BAD: dict[str, tuple[Build, str]] = {
    "missing folder": (lambda folder: None, "does not exist"),
    "file": (lambda folder: folder.write_text("x"), "is not a folder"),
    "empty folder": (lambda folder: folder.mkdir(), "no dictionary of a known format.*tracer.*found nothing"),
    "other files": (lambda f: (f.mkdir(), (f / "notes.txt").write_text("x")), "found notes.txt"),
    "unknown kind": (settings("model_kind: lorsa"), "model_kind 'lorsa'; known are"),
    "yaml syntax": (settings("{"), "not plain YAML"),
    "yaml deep": (settings("[" * 50_000), "not plain YAML"),
    "yaml deep blocks": (settings("- " * 50_000), "not plain YAML"),
    "yaml list": (settings("[1]"), "expected names and values"),
    "yaml object": (settings("x: !!python/object/apply:os.getcwd []"), "not plain YAML"),
    "yaml bomb": (settings(BOMB), "not plain YAML"),
    "yaml huge": (settings(" " * 2_000_000), "larger than 1 MiB"),
    "yaml binary": (broken(lambda f: (f / "config.yaml").write_bytes(b"\xff\xfe\x00")), "not text"),
    "hook": (broken(lambda f: config(f, feature_input_hook="hook_mlp_im")), "did you mean hook_mlp_in"),
    "no hook": (settings("model_kind: transcoder_set"), "'None'.*known are"),
    "outside": (lists("../x.safetensors"), "outside the folder"),
    "outside in the middle": (lists("a/../../x"), "outside the folder"),
    "absolute": (lists("/etc/passwd"), "outside the folder"),
    "hub": (lists("hf://o/r/x.safetensors"), "fetch that file"),
    "list of numbers": (lists(3), "expected a path"),
    "no list": (broken(lambda f: config(f, transcoders="x")), "not a list"),
    "listed but missing": (lists("x.safetensors"), "cannot read.*No such file"),
    "activation": (broken(lambda f: config(f, activation="gelu")), "activation 'gelu'"),
    "no layer": (broken(lambda f: [p.unlink() for p in f.glob("layer_*")]), "no layer_0.safetensors"),
    "gap": (broken(lambda f: (f / ONE).unlink()), "no layer_1.safetensors"),
    "truncated": (broken(truncate(ONE)), "truncated"),
    "no tensor": (broken(retensor(ONE, W_dec=None)), "holds no W_dec; found"),
    "axes": (broken(retensor(ONE, W_dec=torch.zeros(20))), "expected 2 axes"),
    "shape": (broken(retensor(ONE, W_dec=torch.zeros(20, 9))), "decoder 0 of layer 1.*expected"),
    "other model": (broken(retensor(ONE, b_dec=torch.zeros(9))), "different sizes"),
    "integers": (broken(retensor(ONE, W_dec=torch.ones(20, 8).int())), "floating"),
    "eight bits": (broken(retensor(ONE, W_dec=torch.ones(20, 8).char())), "as I8; readable are"),
    "nan": (broken(retensor(ONE, b_enc=NAN)), "encoder biases of layer 1.*NaN"),
    "thresholds in some": (broken(retensor(ONE, **{THRESHOLD: None})), "in 2 of 3 layers"),
    "clt without decoder": (broken_clt(lambda f: (f / "W_dec_1.safetensors").unlink()), "no W_dec_1"),
    "clt gap": (broken_clt(lambda f: (f / "W_enc_1.safetensors").unlink()), "no W_enc_1.safetensors"),
    "clt targets": (
        broken_clt(retensor("W_dec_0.safetensors", W_dec_0=torch.zeros(20, 2, 8))),
        "to 2 layers",
    ),
    "saelens sae": (broken_saelens(architecture="jumprelu"), "architecture 'jumprelu'; readable are"),
    "saelens b_dec": (broken_saelens(apply_b_dec_to_input=True), "apply_b_dec_to_input"),
    "saelens norm": (
        broken_saelens(normalize_activations="layer_norm"),
        "normalize_activations 'layer_norm'",
    ),
    "saelens width": (broken_saelens(d_out=9), "writes 9"),
    "saelens mixed": (broken_saelens(hook_name="blocks.1.ln2.hook_normalized"), "mixes layers"),
    "saelens twice": (broken_saelens(hook_name="blocks.0.mlp.hook_in"), "two dictionaries for layer 0"),
    "saelens hook": (broken_saelens(hook_name=HOOK), "hook_resid_post"),
    "saelens json": (
        broken(lambda f: write_text(f / "x/cfg.json", "{", "x/sae_weights.safetensors"), bare=True),
        "JSON",
    ),
    "sparsify sae": (broken_sparsify(transcode=False), "autoencoder"),
    "sparsify groupmax": (broken_sparsify(activation="groupmax"), "readable is topk"),
    "sparsify io": (broken_sparsify(normalize_io=True), "normalize_io, which we cannot honour"),
    "sparsify coalesced": (broken_sparsify(coalesce_topk="concat"), "coalesce_topk"),
    "sparsify k": (broken_sparsify(k="many"), "k many"),
    "sparsify targets": (broken_sparsify(n_targets=2), "no W_decs.0"),
}


@pytest.mark.parametrize("case", list(BAD))
def test_bad_input_is_one_line(tmp_path: Path, case: str) -> None:
    build, message = BAD[case]
    build(tmp_path / "d")
    with pytest.raises(DictionaryError, match=message) as caught:
        load_dictionary(tmp_path / "d")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_post_encoder_biases_are_refused(tmp_path: Path) -> None:
    dictionary = random_dictionary(2, 8, 20, span=2, activation="topk")
    sparsify(tmp_path / "s", dictionary)
    path = tmp_path / "s/layers.1.mlp/sae.safetensors"
    save_file(load_file(path) | {"post_encs.0": torch.ones(20)}, path)
    with pytest.raises(DictionaryError, match=r"post_encs\.0 that is not zero"):
        load_dictionary(tmp_path / "s")


@pytest.mark.parametrize("name", ["layers.0", "h.0.attn"])
def test_sparsify_of_other_modules_is_refused(tmp_path: Path, name: str) -> None:
    sparsify(tmp_path / "s", random_dictionary(1, 8, 20, activation="topk"))
    (tmp_path / "s/layers.0.mlp").rename(tmp_path / "s" / name)
    with pytest.raises(DictionaryError, match="only transcoders of an `mlp`"):
        load_dictionary(tmp_path / "s")


def test_two_sizes_for_one_layer_are_refused(tmp_path: Path) -> None:
    gemma_scope(tmp_path / "g", random_dictionary(1, 8, 20))
    shutil.copytree(tmp_path / "g/layer_0/width_16k", tmp_path / "g/layer_0/width_65k")
    with pytest.raises(DictionaryError, match="two dictionaries for layer 0"):
        load_dictionary(tmp_path / "g")


def test_the_format_can_be_given(tmp_path: Path) -> None:
    folder = write_circuit_tracer(random_dictionary(1, 8, 20), tmp_path / "d")
    assert load_dictionary(folder, "circuit-tracer").n_layers == 1
    with pytest.raises(DictionaryError, match="did you mean saelens"):
        load_dictionary(folder, "saelen")
    with pytest.raises(DictionaryError, match=r"known format \(saelens\)"):
        load_dictionary(folder, "saelens")
    assert next(iter(FORMATS)) == "lucida"
    assert set(FORMATS) == {"lucida", "circuit-tracer", "saelens", "sparsify", "gemma-scope", "gemma-scope-2"}
