"""Mapped tensor files: exact, lazy, and never trusting what the file says of itself."""

import contextlib
import json
import resource
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from lucida.dictionaries import load_dictionary
from lucida.dictionaries.tensor_files import in_pieces, open_npz, open_safetensors, write_safetensors
from lucida.errors import DictionaryError

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@pytest.mark.parametrize("dtype", DTYPES)
def test_mapped_tensors_equal_those_of_the_safetensors_library(tmp_path: Path, dtype: torch.dtype) -> None:
    written = {
        "a": torch.randn(5, 3).to(dtype),
        "W_dec": torch.randn(2, 4, 3).to(dtype),
        "k": torch.tensor(7),
    }
    save_file(written, tmp_path / "x.safetensors")
    for name, tensor in open_safetensors(tmp_path / "x.safetensors").items():
        assert tensor.dtype == written[name].dtype
        assert torch.equal(tensor, written[name])


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_safetensors_library_reads_what_we_write(tmp_path: Path, dtype: torch.dtype) -> None:
    written = {
        "a": torch.randn(50, 3).to(dtype),
        "b": torch.randn(4).to(dtype),
        "c": torch.zeros(0, 2).to(dtype),
    }
    pieces = {name: in_pieces(tensor, n_bytes=100) for name, tensor in written.items()}
    write_safetensors(tmp_path / "x.safetensors", pieces, dtype)
    read = load_file(tmp_path / "x.safetensors")
    assert all(torch.equal(read[name], written[name]) for name in written)


def test_a_header_that_is_not_aligned_is_read(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}).encode()
    header += b" " * (-(len(header) - 1) % 4)
    values = np.array([1.0, 2.0, 3.0], "<f4").tobytes()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + values)
    tensor = open_safetensors(tmp_path / "x.safetensors")["a"]
    assert (tensor + 0).tolist() == [1.0, 2.0, 3.0]


def test_writing_into_a_mapped_tensor_does_not_reach_the_file(tmp_path: Path) -> None:
    save_file({"a": torch.ones(4)}, tmp_path / "x.safetensors")
    open_safetensors(tmp_path / "x.safetensors")["a"].zero_()
    assert open_safetensors(tmp_path / "x.safetensors")["a"].tolist() == [1.0] * 4


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_one_line(tmp_path: Path, data: st.DataObject) -> None:
    """Cut the file anywhere, or change any byte of its header: it is read, or refused in one line."""
    path = tmp_path / "x.safetensors"
    save_file({"W_enc": torch.randn(6, 4), "b": torch.zeros(6)}, path)
    raw = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw) - 1))]
        path.write_bytes(raw)
        with pytest.raises(DictionaryError) as caught:
            open_safetensors(path)
        assert "\n" not in str(caught.value)
        return
    raw[data.draw(st.integers(0, len(raw) - 6 * 4 * 4 - 25))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    # Anything but our own error fails the test; some changes (a name) leave a good file.
    with contextlib.suppress(DictionaryError):
        open_safetensors(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_is_read_exactly(tmp_path: Path, save) -> None:
    arrays = {
        "W": np.random.default_rng(0).normal(size=(5, 3)),
        "f": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    }
    arrays["h"] = arrays["W"].astype(np.float16)
    save(tmp_path / "x.npz", **arrays)
    read = open_npz(tmp_path / "x.npz")
    assert set(read) == set(arrays)
    for name, array in arrays.items():
        assert np.array_equal(read[name].numpy(), array)


def test_a_pickle_in_an_npz_is_refused_unread(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    np.savez(tmp_path / "x.npz", W_enc=np.array([Bomb()], dtype=object))
    with pytest.raises(DictionaryError, match="never loaded"):
        open_npz(tmp_path / "x.npz")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("keep", [0, 10, 200, -30])
def test_a_truncated_npz_is_refused(tmp_path: Path, keep: int) -> None:
    np.savez(tmp_path / "x.npz", W=np.zeros((20, 20)))
    raw = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "x.npz").write_bytes(raw[:keep])
    with pytest.raises(DictionaryError):
        open_npz(tmp_path / "x.npz")


def sparse_file(path: Path, shapes: dict[str, list[int]]) -> int:
    """A safetensors file of zeros that takes no room on the disk."""
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return end


def test_a_dictionary_larger_than_memory_serves_its_rows(tmp_path: Path) -> None:
    """Loading 64 GB of decoders and reading a few rows takes a few megabytes (the files are holes)."""
    n_features, d_model, n_layers = 1 << 20, 1024, 8
    size = 0
    for layer in range(n_layers):
        shape = {f"W_enc_{layer}": [4, d_model], f"b_enc_{layer}": [4], f"b_dec_{layer}": [d_model]}
        if layer == 0:
            shape = {"W_enc_0": [n_features, d_model], "b_enc_0": [n_features], "b_dec_0": [d_model]}
        sparse_file(tmp_path / f"W_enc_{layer}.safetensors", shape)
        features = n_features if layer == 0 else 4
        decoder = {f"W_dec_{layer}": [features, n_layers - layer, d_model]}
        size += sparse_file(tmp_path / f"W_dec_{layer}.safetensors", decoder)
    (tmp_path / "config.yaml").write_text(
        "model_kind: cross_layer_transcoder\nfeature_input_hook: hook_resid_mid\nfeature_output_hook: hook_mlp_out\n"
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    dictionary = load_dictionary(tmp_path)
    features = torch.arange(0, n_features, n_features // 64)
    for target in dictionary.writes_to(0):
        assert dictionary.decoder_rows(0, features, target).shape == (64, d_model)
    assert dictionary.encoder_rows(0, features).shape == (64, d_model)
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert size > 3e10
    assert grown < 1e8
