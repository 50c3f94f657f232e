"""Every format: what others write is read exactly, what we write is read back exactly."""

import shutil
from pathlib import Path

import pytest
import torch
from dictionary_files import assert_same, config, gemma_scope, gemma_scope_2, plt_tensors, sparsify
from safetensors.torch import load_file, save_file

from lucida.dictionaries import (
    Dictionary,
    check_dictionary,
    load_dictionary,
    random_dictionary,
    write_circuit_tracer,
    write_saelens,
)
from lucida.errors import DictionaryError, SaveError

GOLDEN = Path(__file__).parents[1] / "golden"


# circuit-tracer and SAELens: what we write, we read


@pytest.mark.parametrize("activation", ["relu", "jumprelu"])
@pytest.mark.parametrize(("span", "skip"), [(1, False), (1, True), (3, False)])
def test_circuit_tracer_round_trip(tmp_path: Path, activation: str, span: int, skip: bool) -> None:
    sites = {1: ("mlp_norm", "resid"), 3: ("resid_mid", "mlp_out")}[span]
    expected = random_dictionary(
        3, 8, 20, span=span, activation=activation, skip=skip, reads_at=sites[0], writes_at=sites[1],
        name="a name", model_name="org/tiny",
    )  # fmt: skip
    found = load_dictionary(write_circuit_tracer(expected, tmp_path / "d"))
    assert_same(found, expected)
    assert (found.name, found.model_name, found.source.format) == ("a name", "org/tiny", "circuit-tracer")


@pytest.mark.parametrize("activation", ["relu", "jumprelu"])
@pytest.mark.parametrize("skip", [False, True])
def test_saelens_round_trip(tmp_path: Path, activation: str, skip: bool) -> None:
    expected = random_dictionary(
        12, 8, 20, activation=activation, skip=skip, reads_at="mlp_norm", writes_at="resid", model_name="tiny"
    )
    found = load_dictionary(write_saelens(expected, tmp_path / "d"))
    assert_same(found, expected)
    assert (found.model_name, found.source.format) == ("tiny", "saelens")


def test_a_partial_dictionary_survives_saelens_and_is_refused_by_circuit_tracer(tmp_path: Path) -> None:
    full = random_dictionary(4, 8, 20)
    biases = full.decoder_biases.clone()
    biases[[0, 2, 3]] = 0
    partial = Dictionary.from_tensors(
        encoders={1: full.weights[1].encoder}, encoder_biases={1: full.weights[1].encoder_bias},
        decoders={1: torch.stack(full.weights[1].decoders, 1)}, decoder_biases=biases, activation="relu",
    )  # fmt: skip
    assert_same(load_dictionary(write_saelens(partial, tmp_path / "d")), partial)
    with pytest.raises(DictionaryError, match="needs every layer"):
        write_circuit_tracer(partial, tmp_path / "e")


def test_bfloat16_files_are_read_exactly(tmp_path: Path) -> None:
    expected = random_dictionary(2, 8, 20)
    found = load_dictionary(write_circuit_tracer(expected, tmp_path / "d", dtype=torch.bfloat16))
    rows = torch.arange(20)
    for layer in range(2):
        rounded = expected.decoder_rows(layer, rows, layer).bfloat16().float()
        assert torch.equal(found.decoder_rows(layer, rows, layer), rounded)
    check_dictionary(found, full=True)


WRITERS = {"circuit-tracer": write_circuit_tracer, "saelens": write_saelens}


@pytest.mark.parametrize(
    ("writer", "options", "message"),
    [
        ("circuit-tracer", {"activation": "topk"}, "cannot load TopK"),
        ("circuit-tracer", {"span": 2}, "span of 1 or of every layer"),
        ("circuit-tracer", {"span": 3, "skip": True}, "drops skip"),
        ("saelens", {"activation": "topk"}, "no TopK"),
        ("saelens", {"span": 2}, "span of 2"),
        ("saelens", {"span": 3}, "span of 3"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(tmp_path: Path, writer: str, options: dict, message: str) -> None:
    with pytest.raises(DictionaryError, match=message):
        WRITERS[writer](random_dictionary(3, 8, 20, **options), tmp_path / "d")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("writer", list(WRITERS))
def test_a_failed_write_leaves_the_old_folder(tmp_path: Path, writer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    old = random_dictionary(2, 8, 20)
    folder = WRITERS[writer](old, tmp_path / "d")

    def full_disk(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    module = write_circuit_tracer.__module__ if writer == "circuit-tracer" else write_saelens.__module__
    monkeypatch.setattr(f"{module}.write_safetensors", full_disk)
    with pytest.raises(SaveError, match="No space left"):
        WRITERS[writer](random_dictionary(2, 8, 20, seed=1), folder)
    monkeypatch.undo()
    assert_same(load_dictionary(folder), old)
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


# Golden files, made by circuit-tracer


@pytest.mark.parametrize("name", ["plt_jumprelu", "clt"])
def test_golden_dictionaries(name: str) -> None:
    dictionary = load_dictionary(GOLDEN / name)
    x = torch.randn(9, 64, generator=torch.Generator().manual_seed(0))
    out = torch.zeros(4, 9, 64)
    for layer in range(4):
        if name == "clt":
            raw = load_file(GOLDEN / name / f"W_enc_{layer}.safetensors")
            h = x @ raw[f"W_enc_{layer}"].T + raw[f"b_enc_{layer}"]
            expected = h.clamp(min=0)
            decoder = load_file(GOLDEN / name / f"W_dec_{layer}.safetensors")[f"W_dec_{layer}"]
            out[layer] += raw[f"b_dec_{layer}"]
            out[layer:] += torch.einsum("pf,ftd->tpd", expected, decoder)
        else:
            raw = load_file(GOLDEN / name / f"layer_{layer}.safetensors")
            h = x @ raw["W_enc"].T + raw["b_enc"]
            expected = h * (h > raw["activation_function.threshold"])
            out[layer] = expected @ raw["W_dec"] + raw["b_dec"]
        assert torch.equal(dictionary.encode(layer, x) != 0, expected != 0)
        torch.testing.assert_close(dictionary.encode(layer, x), expected)
    found = dictionary.reconstruct({layer: dictionary.encode_sparse(layer, x) for layer in range(4)})
    torch.testing.assert_close(found, out, rtol=1e-4, atol=1e-4)
    assert (dictionary.span, dictionary.model_name) == (4 if name == "clt" else 1, "tiny-llama")
    sites = {"clt": ("resid_mid", "resid"), "plt_jumprelu": ("mlp_in", "mlp_out")}
    assert (dictionary.reads_at, dictionary.writes_at) == sites[name]
    check_dictionary(dictionary, full=True)


# Formats that we only read: fixtures as their specifications say


def test_circuit_tracer_list_of_files_and_topk(tmp_path: Path) -> None:
    expected = random_dictionary(2, 8, 20, activation="topk", l0=3)
    config(tmp_path, activation="topk", k=3, transcoders=["sub/zero.safetensors", "one.safetensors"])
    (tmp_path / "sub").mkdir()
    save_file(plt_tensors(expected, 0), tmp_path / "sub/zero.safetensors")
    save_file(plt_tensors(expected, 1), tmp_path / "one.safetensors")
    assert_same(load_dictionary(tmp_path), expected)


def test_circuit_tracer_cross_layer_skip_is_transposed(tmp_path: Path) -> None:
    """circuit-tracer applies x @ W_skip in cross-layer files and x @ W_skip.T in per-layer ones."""
    plain = random_dictionary(2, 8, 20, span=2, activation="relu")
    write_circuit_tracer(plain, tmp_path / "d")
    skip = torch.randn(8, 8)
    for layer in range(2):
        path = tmp_path / f"d/W_enc_{layer}.safetensors"
        save_file(load_file(path) | {f"W_skip_{layer}": skip}, path)
    found = load_dictionary(tmp_path / "d")
    x = torch.randn(3, 8)
    sparse = {layer: plain.encode_sparse(layer, x) for layer in range(2)}
    with_skip = found.reconstruct(sparse, {0: x, 1: x})
    torch.testing.assert_close(with_skip, plain.reconstruct(sparse) + x @ skip)


def test_gemma_scope(tmp_path: Path) -> None:
    expected = random_dictionary(3, 8, 20, reads_at="mlp_norm", writes_at="resid")
    gemma_scope(tmp_path / "g", expected)
    assert_same(load_dictionary(tmp_path / "g"), expected)


def test_gemma_scope_through_circuit_tracer_settings(tmp_path: Path) -> None:
    expected = random_dictionary(2, 8, 20, reads_at="mlp_norm", writes_at="resid")
    gemma_scope(tmp_path / "g", expected)
    paths = [f"layer_{layer}/width_16k/average_l0_5/params.npz" for layer in range(2)]
    hooks = {"feature_input_hook": "ln2.hook_normalized", "feature_output_hook": "hook_mlp_out"}
    config(tmp_path / "g", transcoders=paths, **hooks)
    found = load_dictionary(tmp_path / "g")
    assert found.source.format == "circuit-tracer"
    assert_same(found, expected)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("span", [1, 3])
def test_gemma_scope_2(tmp_path: Path, skip: bool, span: int) -> None:
    expected = random_dictionary(3, 8, 20, span=span, skip=skip, reads_at="mlp_in", writes_at="resid")
    gemma_scope_2(tmp_path / "g", expected)
    found = load_dictionary(tmp_path / "g")
    assert found.source.format == "gemma-scope-2"
    assert_same(found, expected)


@pytest.mark.parametrize("span", [1, 3])
def test_gemma_scope_2_through_circuit_tracer_settings(tmp_path: Path, span: int) -> None:
    expected = random_dictionary(3, 8, 20, span=span, skip=True, reads_at="mlp_in", writes_at="resid")
    gemma_scope_2(tmp_path / "g", expected)
    name = "params_layer_{}.safetensors" if span > 1 else "layer_{}_width_16k_l0_small_affine/params.safetensors"
    kind = "cross_layer_transcoder" if span > 1 else "transcoder_set"
    listed = [name.format(layer) for layer in range(3)]
    config(tmp_path / "g", kind, transcoders=listed, feature_output_hook="hook_mlp_out")
    assert_same(load_dictionary(tmp_path / "g"), expected)


@pytest.mark.parametrize(("span", "skip"), [(1, False), (1, True), (2, False), (3, False)])
def test_sparsify(tmp_path: Path, span: int, skip: bool) -> None:
    expected = random_dictionary(3, 8, 20, span=span, skip=skip, activation="topk", l0=4)
    sparsify(tmp_path / "s", expected)
    found = load_dictionary(tmp_path / "s")
    if span > 1:
        shares = torch.zeros(3, 8)
        for layer in range(3):
            raw = load_file(tmp_path / f"s/layers.{layer}.mlp/sae.safetensors")
            for offset in range(min(span, 3 - layer)):
                shares[layer + offset] += raw[f"b_decs.{offset}"]
        torch.testing.assert_close(found.decoder_biases, shares)
        expected = Dictionary(
            **{n: getattr(expected, n) for n in expected.__dataclass_fields__}
            | {"decoder_biases": found.decoder_biases}
        )
    assert_same(found, expected)


def test_layers_may_be_missing_where_the_format_allows(tmp_path: Path) -> None:
    gemma_scope(tmp_path / "g", random_dictionary(4, 8, 20))
    shutil.rmtree(tmp_path / "g/layer_0")
    assert load_dictionary(tmp_path / "g").layers == (1, 2, 3)
    assert load_dictionary(tmp_path / "g", n_layers=9).n_layers == 9
    with pytest.raises(DictionaryError, match="features at layer 3, the model has 3"):
        load_dictionary(tmp_path / "g", n_layers=3)


def test_negative_thresholds_act_as_zero_where_the_format_clamps(tmp_path: Path) -> None:
    expected = random_dictionary(1, 8, 20, reads_at="mlp_norm", writes_at="resid")
    assert expected.weights[0].threshold is not None
    expected.weights[0].threshold[:10] = -1.0
    gemma_scope(tmp_path / "g", expected)
    found, x = load_dictionary(tmp_path / "g"), torch.randn(50, 8)
    weights = expected.weights[0]
    h = x @ weights.encoder.T + weights.encoder_bias
    torch.testing.assert_close(found.encode(0, x), h.relu() * (h > weights.threshold))


def test_fingerprint_follows_the_content_not_the_place(tmp_path: Path) -> None:
    one = load_dictionary(write_circuit_tracer(random_dictionary(2, 8, 20, name="n"), tmp_path / "one"))
    same = load_dictionary(shutil.copytree(tmp_path / "one", tmp_path / "same"))
    other = load_dictionary(write_circuit_tracer(random_dictionary(2, 8, 20, seed=1, name="n"), tmp_path / "two"))
    assert one.source.fingerprint == same.source.fingerprint != other.source.fingerprint
    assert one.source.path != same.source.path
