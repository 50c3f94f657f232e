"""Our own format: rounding is bounded, what is written is read, writing again changes nothing, damage is refused."""

import hashlib
import json
import math
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from dictionary_files import assert_same
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from safetensors.torch import load_file, save_file

from lucida.dictionaries import (
    Dictionary,
    check_dictionary,
    load_dictionary,
    random_dictionary,
    relative_error,
    write_compact,
)
from lucida.dictionaries.formats.manifest import read_manifest
from lucida.dictionaries.quantise import dequantise, pack, quantise, unpack
from lucida.errors import DictionaryError, SaveError

BITS = (3, 4, 4.5, 5, 6, 8)
shapes = array_shapes(min_dims=2, max_dims=2, max_side=40)


def heavy_tailed(n_rows: int = 64, n_columns: int = 96, seed: int = 0) -> torch.Tensor:
    """Rows like those of a trained encoder and worse: scales over eight decades, a few weights far out."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n_rows, n_columns, generator=generator) * 10.0 ** torch.linspace(-5, 3, n_rows)[:, None]
    rows[::3] *= 1 + 30 * (torch.rand(n_rows, n_columns, generator=generator)[::3] < 0.02)
    rows[7], rows[9, 1:] = 0, 0
    return rows


# Rounding


@given(arrays("int8", shapes, elements=st.integers(-127, 127)))
def test_packed_integers_come_back(codes) -> None:
    there = torch.from_numpy(codes)
    assert torch.equal(unpack(pack(there), len(there), there.shape[1]), there)


def test_packing_takes_no_more_than_the_integers_carry() -> None:
    codes = quantise(torch.randn(400, 300, generator=torch.Generator().manual_seed(0)), 4).codes
    share = torch.bincount(codes.flatten().long() + 128).double() / codes.numel()
    entropy = -float((share[share > 0] * share[share > 0].log2()).sum())
    assert entropy < 8 * len(pack(codes)) / codes.numel() < entropy + 0.1


@pytest.mark.parametrize("bits", BITS)
def test_no_weight_moves_by_more_than_half_a_step(bits: float) -> None:
    rows = heavy_tailed()
    rounded = quantise(rows, bits)
    moved = (dequantise(rounded) - rows).abs()
    assert (moved <= rounded.steps[:, None] / 2 * (1 + 1e-6)).all()
    assert (moved[7] == 0).all()


@pytest.mark.parametrize("bits", [3, 4, 4.5, 5])
def test_rows_of_any_scale_and_tail_lose_the_same_share(bits: float) -> None:
    """The step follows a row's root mean square, so that neither its scale nor its tail decides the error."""
    rows = heavy_tailed()[10:]
    rounded = quantise(rows, bits)
    error = (dequantise(rounded) - rows).norm(dim=1) / rows.norm(dim=1)
    expected = math.sqrt(2 * math.pi * math.e / 12) / 2**bits
    assert error.max() < 1.3 * expected
    gaussian = torch.randn(300, 300, generator=torch.Generator().manual_seed(1))
    assert 8 * len(pack(quantise(gaussian, bits).codes)) / gaussian.numel() == pytest.approx(bits, abs=0.12)


@given(st.integers(0, 1000), st.sampled_from(BITS), st.sampled_from([1, 2, 8, 33]))
def test_rounding_again_changes_nothing(seed: int, bits: float, n_columns: int) -> None:
    rows = heavy_tailed(16, n_columns, seed)
    once = quantise(rows, bits)
    again = quantise(dequantise(once), bits)
    assert torch.equal(dequantise(again), dequantise(once))
    if n_columns > 2:  # a row of one number is whole in many steps
        assert torch.equal(again.codes[10:], once.codes[10:])
        assert torch.equal(again.steps[10:], once.steps[10:])


@pytest.mark.parametrize(
    ("packed", "message"),
    [
        (b"\xff\xff\xff", "not a deflate stream"),
        (pack(torch.zeros(4, 3, dtype=torch.int8))[:-1], "does not end"),
        (pack(torch.zeros(4, 3, dtype=torch.int8)) + b"x", "does not end"),
        (pack(torch.zeros(5, 3, dtype=torch.int8)), "holds 13 integers|does not end"),
        (pack(torch.zeros(5, 2, dtype=torch.int8)), "holds 10 integers"),
        (zlib.compress(bytes(10_000_000), wbits=-15), "does not end|holds 13"),
    ],
)
def test_a_bad_stream_is_refused(packed: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unpack(packed, 4, 3)


# What is written is read


@pytest.mark.parametrize("activation", ["relu", "jumprelu", "topk"])
@pytest.mark.parametrize(("span", "skip"), [(1, False), (1, True), (2, False), (3, True)])
def test_every_kind_comes_back(tmp_path: Path, activation: str, span: int, skip: bool) -> None:
    expected = random_dictionary(
        3, 8, 20, span=span, activation=activation, skip=skip, reads_at="resid_mid", writes_at="resid",
        name="a name", model_name="org/tiny",
    )  # fmt: skip
    exact = load_dictionary(write_compact(expected, tmp_path / "exact", bits=32))
    assert_same(exact, expected)
    assert (exact.name, exact.model_name, exact.source.format) == ("a name", "org/tiny", "lucida")
    found = load_dictionary(write_compact(expected, tmp_path / "rounded", bits=6))
    for layer in range(3):
        ours, theirs = found.weights[layer], expected.weights[layer]
        assert torch.equal(ours.encoder_bias, theirs.encoder_bias)
        assert ours.k == theirs.k
        assert (ours.threshold is None) == (theirs.threshold is None)
        for name, matrix in theirs.named().items():
            if matrix.ndim == 2:
                half = quantise(matrix, 6).steps[:, None] / 2
                assert ((ours.named()[name] - matrix).abs() <= half * (1 + 1e-6)).all()
                assert not torch.equal(ours.named()[name], matrix)
    check_dictionary(found, full=True)
    assert relative_error(found, expected) == pytest.approx(0.019, abs=0.003)
    assert relative_error(exact, expected) == 0


@pytest.mark.parametrize("bits", [*BITS, 16, 32])
def test_writing_what_was_read_is_byte_identical(tmp_path: Path, bits: float) -> None:
    card = {"data": "stories", "metrics": {"nmse": 0.25}, "default": True}
    dictionary = random_dictionary(3, 32, 20, span=3, skip=True, name="n", model_name="tiny")
    first = write_compact(dictionary, tmp_path / "first", bits=bits, card=card)
    second = write_compact(load_dictionary(first), tmp_path / "second", bits=bits, card=read_manifest(first).card)
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in second.iterdir())
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


def test_layers_may_be_missing_and_of_different_sizes(tmp_path: Path) -> None:
    wide, narrow = random_dictionary(4, 8, 20), random_dictionary(4, 8, 5)
    weights = {1: wide.weights[1], 3: narrow.weights[3]}
    partial = Dictionary(**{n: getattr(wide, n) for n in wide.__dataclass_fields__} | {"weights": weights})
    assert_same(load_dictionary(write_compact(partial, tmp_path / "d", bits=32)), partial)


@pytest.mark.parametrize("bits", [8, 32])
def test_no_file_reaches_five_million_bytes(tmp_path: Path, bits: int) -> None:
    dictionary = random_dictionary(1, 512, 6000, activation="relu")
    folder = write_compact(dictionary, tmp_path / "d", bits=bits)
    sizes = [file.stat().st_size for file in sorted(folder.glob("weights-*.safetensors"))]
    assert len(sizes) == {8: 2, 32: 6}[bits]
    assert max(sizes) < 5_000_000
    assert sum(sizes) == read_manifest(folder).size
    assert relative_error(load_dictionary(folder), dictionary) < 0.01


def test_the_weights_can_be_trained_further(tmp_path: Path) -> None:
    """A later training run starts from the shipped dictionary: its tensors are ordinary and nobody else's."""
    folder = write_compact(random_dictionary(2, 8, 20), tmp_path / "d", bits=5)
    for tensor in load_dictionary(folder).weights[1].named().values():
        assert tensor.dtype == torch.float32
        tensor.mul_(2)
    assert_same(load_dictionary(folder), load_dictionary(shutil.copytree(folder, tmp_path / "copy")))


def test_the_fingerprint_follows_the_features_not_the_card(tmp_path: Path) -> None:
    def fingerprint(place: str, seed: int = 0, **more: dict) -> str:
        folder = write_compact(random_dictionary(2, 8, 20, seed=seed, name="n"), tmp_path / place, **more)
        return load_dictionary(folder).source.fingerprint

    assert fingerprint("one") == fingerprint("two", card={"data": "other"}) != fingerprint("three", seed=1)


# What cannot be written


@pytest.mark.parametrize("bits", [2, 9, 12, 64, 2.5])
def test_other_widths_are_refused(tmp_path: Path, bits: float) -> None:
    with pytest.raises(DictionaryError, match=f"bits is {bits}; give a number from 3 to 8"):
        write_compact(random_dictionary(1, 8, 20), tmp_path / "d", bits=bits)


@pytest.mark.parametrize(
    ("value", "bits", "message"),
    [(math.nan, 8, "NaN or infinite"), (math.inf, 32, "NaN or infinite"), (1e6, 16, "too large for 16 bits")],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, value: float, bits: int, message: str) -> None:
    dictionary = random_dictionary(1, 8, 20)
    dictionary.weights[0].encoder[3, 3] = value
    with pytest.raises(DictionaryError, match=f"encoder of layer 0.*{message}"):
        write_compact(dictionary, tmp_path / "d", bits=bits)
    assert list(tmp_path.iterdir()) == []


def test_a_card_that_is_not_plain_is_refused(tmp_path: Path) -> None:
    for card in ({"path": Path()}, {"loss": math.nan}):
        with pytest.raises(DictionaryError, match="card of n is not plain JSON"):
            write_compact(random_dictionary(1, 8, 20, name="n"), tmp_path / "d", card=card)


def test_a_failed_write_leaves_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = random_dictionary(2, 8, 20)
    folder = write_compact(old, tmp_path / "d", bits=32)

    def full_disk(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"{write_compact.__module__}.write_manifest", full_disk)
    with pytest.raises(SaveError, match="No space left"):
        write_compact(random_dictionary(2, 8, 20, seed=1), folder)
    assert_same(load_dictionary(folder), old)
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


# Damage

Break = Callable[[Path], object]
ONE = "weights-00001-of-00001.safetensors"


def manifest(**change: object) -> Break:
    def build(folder: Path) -> None:
        path = folder / "dictionary.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))

    return build


def first_entry(where: str, **change: object) -> Break:
    def build(folder: Path) -> None:
        path = folder / "dictionary.json"
        found = json.loads(path.read_text())
        found[where][0] |= change
        path.write_text(json.dumps(found))

    return build


def sealed(**change: torch.Tensor | None) -> Break:
    """Change tensors and set the sha256 right: what a stranger could do, not what an accident does."""

    def build(folder: Path) -> None:
        tensors = load_file(folder / ONE)
        for name, tensor in change.items():
            tensors.pop(name.replace("__", "."), None)
            if tensor is not None:
                tensors[name.replace("__", ".")] = tensor
        save_file(tensors, folder / ONE)
        data = (folder / ONE).read_bytes()
        first_entry("files", size=len(data), sha256=hashlib.sha256(data).hexdigest())(folder)

    return build


def flip(folder: Path) -> None:
    data = bytearray((folder / ONE).read_bytes())
    data[-100] ^= 1
    (folder / ONE).write_bytes(data)


def one_file_fewer(folder: Path) -> None:
    (folder / ONE).unlink()


def listed_twice(folder: Path) -> None:
    path = folder / "dictionary.json"
    found = json.loads(path.read_text())
    path.write_text(json.dumps(found | {"files": found["files"] * 2}))


BAD: dict[str, tuple[Break, str]] = {
    "flipped bit": (flip, "damaged or was changed"),
    "missing": (one_file_fewer, f"lacks {ONE}; fetch"),
    "truncated": (lambda f: (f / ONE).write_bytes((f / ONE).read_bytes()[:-7]), "bytes, expected"),
    "extra": (lambda f: shutil.copy(f / ONE, f / "weights-2.safetensors"), "weights-2.safetensors, which .* not list"),
    "no json": (lambda f: (f / "dictionary.json").write_text("{"), "not JSON"),
    "list": (lambda f: (f / "dictionary.json").write_text("[]"), "expected names"),
    "other json": (lambda f: (f / "dictionary.json").write_text('{"a": 1}'), "not of a lucida dictionary.*None"),
    "version": (manifest(version=2), "version 2, this program reads 1; update camera-lucida"),
    "outside": (first_entry("files", name="../x.safetensors"), "outside the folder"),
    "absolute": (first_entry("files", name="/etc/passwd"), "outside the folder"),
    "hub": (first_entry("files", name="hf://a/b"), "fetch that file"),
    "no name": (manifest(name=3), "has name '3'"),
    "no width": (manifest(d_model=0), "without layers or width"),
    "negative": (manifest(d_model=-8), "has d_model '-8'"),
    "true": (manifest(n_layers=True), "has n_layers 'True'"),
    "layers": (manifest(layers=[]), "lists no layer"),
    "no list": (manifest(layers={}), "has layers"),
    "list of numbers": (manifest(layers=[3]), "has layer 'None'"),
    "layer twice": (first_entry("layers", layer=1), "a layer twice"),
    "activation": (manifest(activation="gelu"), "activation of .* is 'gelu'"),
    "no threshold": (manifest(activation="relu"), "layers.0.threshold, which"),
    "width": (manifest(d_model=7), r"damaged layers\.0\.encoder|expected"),
    "features": (first_entry("layers", n_features=21), r"\[20\] as layers.0.encoder.steps, expected .*\[21\]"),
    "span": (first_entry("layers", span=3), r"nothing as layers.0.decoder.2"),
    "shorter span": (first_entry("layers", span=1), r"holds layers.0.decoder.1.block.0, which"),
    "skip": (first_entry("layers", skip=True), "nothing as layers.0.skip"),
    "bits": (manifest(bits=32), r"torch.uint8 .* in a block of layers.0.encoder"),
    "too many layers": (manifest(n_layers=1), "layer 1 .* writes|expected"),
    "no block": (sealed(layers__0__encoder__block__0=None), "0 rows of layers.0.encoder, expected 20"),
    "other block": (sealed(layers__0__encoder__block__0=torch.zeros(9, dtype=torch.uint8)), "damaged layers.0.enc"),
    "bomb": (
        sealed(layers__0__encoder__block__0=torch.frombuffer(
            bytearray(zlib.compress(bytes(10_000_000), wbits=-15)), dtype=torch.uint8)),
        "damaged layers.0.encoder",
    ),
    "twice": (listed_twice, "decoder_biases twice"),
    "more": (sealed(more=torch.zeros(3)), "holds more, which"),
    "nan": (sealed(layers__0__encoder_bias=torch.full((20,), math.nan)), "encoder biases of layer 0.*NaN"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(BAD))
def test_damage_is_one_line(tmp_path: Path, case: str) -> None:
    damage, message = BAD[case]
    folder = write_compact(random_dictionary(2, 8, 20, span=2, name="n"), tmp_path / "d")
    damage(folder)
    with pytest.raises(DictionaryError, match=message) as caught:
        load_dictionary(folder)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_every_changed_byte_is_found(tmp_path: Path) -> None:
    folder = write_compact(random_dictionary(1, 4, 5), tmp_path / "d")
    whole = (folder / ONE).read_bytes()
    for place in range(0, len(whole), 17):
        (folder / ONE).write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        with pytest.raises(DictionaryError, match="damaged or was changed"):
            load_dictionary(folder)


def test_a_dictionary_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = write_compact(random_dictionary(2, 8, 20, name="n", model_name="tiny"), tmp_path / "d")
    with pytest.raises(DictionaryError, match="dictionary n is of tiny, which has 2 layers; this model has 3"):
        load_dictionary(folder, n_layers=3)
