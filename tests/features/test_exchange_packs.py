"""Feature packs: read by offset, whole or not at all, and safe whoever wrote them."""

import gzip
import json
import shutil
import struct
import tempfile
import zlib
from pathlib import Path
from typing import Any

import pytest
from exchange_bench import described_index, outcome, same_effects, same_numbers
from hypothesis import given, settings
from hypothesis import strategies as st

from lucida.errors import FeatureError
from lucida.features.exchange import (
    FeaturePack,
    feature_document,
    import_pack,
    parse_feature,
    portable_feature,
    write_pack,
)
from lucida.features.exchange.packs import OFFSETS
from lucida.features.exchange.portable import NOMINAL_PLACES
from lucida.features.index import FeatureIndex


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> FeatureIndex:
    return described_index(tmp_path_factory.mktemp("packs") / "index")


@pytest.fixture(scope="module")
def written(index: FeatureIndex, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written") / "transcoders" / "features"
    assert write_pack(index, folder) == len(index.space)
    return folder


@pytest.fixture
def pack(written: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(written, tmp_path / "pack"))


def as_the_page_reads(folder: Path, layer: int, feature: int) -> Any:
    """What circuit-tracer's page does: the offsets, an inclusive range of bytes, a length, and so much unfolded."""
    entry = json.loads(gzip.decompress((folder / "index.json.gz").read_bytes()))[layer]
    start, end = entry["offsets"][feature], entry["offsets"][feature + 1]
    data = (folder / entry["filename"]).read_bytes()[start : end + 1]
    length = data[0] | data[1] << 8 | data[2] << 16 | data[3] << 24
    return json.loads(gzip.decompress(data[4 : 4 + length]))


def test_a_page_finds_every_feature_silent_ones_too(index: FeatureIndex, written: Path) -> None:
    pack = FeaturePack.open(written.parent)  # the folder of the transcoders will do
    assert pack.n_features == index.space.n_features
    for layer, count in enumerate(index.space.n_features):
        for feature in range(count):
            document = as_the_page_reads(written, layer, feature)
            expected = feature_document(
                portable_feature(index, layer, feature), transcoder=f"{index.header.dictionary}/{layer}"
            )
            assert document == json.loads(json.dumps(expected))
            assert pack.document(layer, feature) == document


def test_a_pack_of_ours_comes_back_as_the_same_index(index: FeatureIndex, written: Path, tmp_path: Path) -> None:
    assert import_pack(written, tmp_path / "back") == len(index.space)
    same_numbers(index.folder, tmp_path / "back")
    same_effects(index.folder, tmp_path / "back", ("promoted", "promoted_by", "suppressed", "suppressed_by"))


def test_the_same_index_gives_the_same_bytes(index: FeatureIndex, written: Path, tmp_path: Path) -> None:
    write_pack(index, tmp_path / "again")
    for path in written.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_layers_left_out_are_empty_and_the_others_the_same(index: FeatureIndex, written: Path, tmp_path: Path) -> None:
    folder = tmp_path / "some"
    assert write_pack(index, folder, layers=[1]) == index.space.n_features[1]
    assert FeaturePack.open(folder).n_features == (0, index.space.n_features[1])
    assert as_the_page_reads(folder, 1, 2) == as_the_page_reads(written, 1, 2)
    import_pack(folder, tmp_path / "back")
    assert FeatureIndex.open(tmp_path / "back").space.n_features == (0, 5)
    with pytest.raises(FeatureError, match="feature 0:0 was asked for"):
        FeaturePack.open(folder).feature(0, 0)


def test_a_plain_pack_becomes_an_index_that_says_what_it_does_not_know(index: FeatureIndex, tmp_path: Path) -> None:
    write_pack(index, tmp_path / "plain", own_fields=False)
    import_pack(tmp_path / "plain", tmp_path / "back")
    back = FeatureIndex.open(tmp_path / "back", check=True)
    assert back.header.settings["imported_from"] == "circuit-tracer feature pack"
    assert back.header.n_places == NOMINAL_PLACES
    assert back.space == index.space
    for layer, feature, examples in index.each():
        found, stats = back.examples(layer, feature), index.stats(layer, feature)
        assert [(e.kind, e.band, e.rank, e.value) for e in found] == [
            (e.kind, e.band, e.rank, e.value) for e in examples
        ]
        assert [back.texts(e.tokens.tolist()) for e in found] == [index.texts(e.tokens.tolist()) for e in examples]
        assert {(e.position, e.document) for e in found} <= {(-1, -1)}
        known = back.stats(layer, feature)
        assert (known.maximum, known.frequency) == (stats.maximum, pytest.approx(stats.frequency))
        assert (known.first, known.last, known.mean) == (-1, -1, 0.0)
        assert known.is_silent == stats.is_silent
        effects, expected = back.effects(layer, feature), index.effects(layer, feature)
        if expected is not None and effects is not None:
            assert back.texts(effects.promoted.tolist()) == index.texts(expected.promoted.tolist())


def test_packs_of_others_may_use_zlib_an_object_and_empty_records(tmp_path: Path) -> None:
    document = {"examples_quantiles": [], "top_logits": ["a"], "activation_frequency": 0.25, "act_max": 2.0}
    record = zlib.compress(json.dumps(document).encode())
    data = struct.pack("<I", len(record)) + record
    (tmp_path / "l.bin").write_bytes(data)
    entries = {"2": {"filename": "l.bin", "offsets": [0, 0, len(data)]}, "0": None}
    (tmp_path / OFFSETS).write_bytes(gzip.compress(json.dumps(entries).encode()))
    pack = FeaturePack.open(tmp_path)
    assert pack.n_features == (0, 0, 2)
    assert pack.document(2, 0) is None
    assert pack.feature(2, 0).stats.is_silent
    stats = pack.feature(2, 1).stats
    assert (stats.frequency, stats.maximum) == (0.25, 2.0)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b.bin", "a\\b.bin", "..", "", "c:x", "a\0b", 5, None])
def test_a_name_that_leaves_the_folder_is_refused(pack: Path, name: Any) -> None:
    (pack.parent / "secret").write_bytes(b"x")
    entries = json.loads(gzip.decompress((pack / OFFSETS).read_bytes()))
    entries[0]["filename"] = name
    (pack / OFFSETS).write_bytes(gzip.compress(json.dumps(entries).encode()))
    with pytest.raises(FeatureError, match=r"index\.json\.gz"):
        FeaturePack.open(pack)


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([5, 4], "do not rise"),
        ([-1, 4], "must lie between 0"),
        ([0, 10**9], "has 1,000,000,000 bytes, more than"),
        ([10**8, 10**8 + 9], "beyond the file's end"),
        ([0, 2.5], "must be a whole number"),
        ([0, True], "must be a whole number"),
        ([0, 2], "it is damaged"),
        ([1, 900], "it is damaged"),
        ({}, "must be a list"),
    ],
)
def test_offsets_are_not_trusted(pack: Path, offsets: Any, message: str) -> None:
    entries = json.loads(gzip.decompress((pack / OFFSETS).read_bytes()))
    entries[0]["offsets"] = offsets
    (pack / OFFSETS).write_bytes(gzip.compress(json.dumps(entries).encode()))
    with pytest.raises(FeatureError, match=message):
        FeaturePack.open(pack).feature(0, 0)


def test_a_record_or_an_index_that_unfolds_without_bound_is_not_unfolded(pack: Path, tmp_path: Path) -> None:
    bomb = gzip.compress(b" " * (65 << 20))
    data = struct.pack("<I", len(bomb)) + bomb
    (pack / "layer_0.bin").write_bytes(data)
    entries = json.loads(gzip.decompress((pack / OFFSETS).read_bytes()))
    entries[0]["offsets"] = [0, len(data)]
    (pack / OFFSETS).write_bytes(gzip.compress(json.dumps(entries).encode()))
    with pytest.raises(FeatureError, match=r"feature 0:0 in .*layer_0\.bin unfolds to more than"):
        FeaturePack.open(pack).feature(0, 0)
    with pytest.raises(FeatureError, match="unfolds to more than"):
        import_pack(pack, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_file_and_a_folder_that_is_no_pack_are_named(pack: Path, tmp_path: Path) -> None:
    (pack / "layer_1.bin").unlink()
    assert FeaturePack.open(pack).feature(0, 1).stats.count == 8
    with pytest.raises(FeatureError, match=r"there is no file .*layer_1\.bin"):
        FeaturePack.open(pack).feature(1, 0)
    with pytest.raises(FeatureError, match="is not a feature pack"):
        FeaturePack.open(tmp_path)


def test_one_token_with_two_texts_is_refused(pack: Path, tmp_path: Path) -> None:
    """Token numbers are taken from our own fields; a file in which they contradict each other is not ours."""
    entries = json.loads(gzip.decompress((pack / OFFSETS).read_bytes()))
    document = as_the_page_reads(pack, 0, 0)
    example = document["examples_quantiles"][0]["examples"][0]
    example["tokens"] = [f"{token}?" for token in example["tokens"]]
    record = gzip.compress(json.dumps(document).encode())
    old = (pack / "layer_0.bin").read_bytes()[entries[0]["offsets"][1] :]
    data = struct.pack("<I", len(record)) + record
    shift = len(data) - entries[0]["offsets"][1]
    entries[0]["offsets"] = [0, *(offset + shift for offset in entries[0]["offsets"][1:])]
    (pack / "layer_0.bin").write_bytes(data + old)
    (pack / OFFSETS).write_bytes(gzip.compress(json.dumps(entries).encode()))
    with pytest.raises(FeatureError, match=r"in one place and .* in another"):
        import_pack(pack, tmp_path / "out")


def test_nothing_is_replaced_and_nothing_half_written_stays(index: FeatureIndex, pack: Path, tmp_path: Path) -> None:
    with pytest.raises(FeatureError, match="is there already"):
        write_pack(index, pack)
    with pytest.raises(FeatureError, match="is there already"):
        import_pack(pack, index.folder)

    def stop(stage: str, done: int, total: int | None) -> None:
        if done == 3:
            raise KeyboardInterrupt

    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        write_pack(index, tmp_path / "new", progress=stop)
    with pytest.raises(KeyboardInterrupt):
        import_pack(pack, tmp_path / "new", progress=stop)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@settings(max_examples=30)
@given(data=st.data())
def test_damaged_bytes_are_refused_or_give_a_sound_index(written: Path, data: st.DataObject) -> None:
    """Whatever byte is changed or cut off, what is raised is a FeatureError of one line, and no index is left."""
    with tempfile.TemporaryDirectory() as folder:
        pack = Path(shutil.copytree(written, Path(folder) / "pack"))
        path = pack / data.draw(st.sampled_from(sorted(p.name for p in pack.iterdir() if p.stat().st_size)))
        content = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            content = content[:at]
        else:
            content[at] ^= data.draw(st.integers(1, 255))
        path.write_bytes(bytes(content))
        out = Path(folder) / "out"
        if isinstance(outcome(lambda: import_pack(pack, out)), FeatureError):
            assert not out.exists()
        else:
            FeatureIndex.open(out, check=True)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=60)
@given(data=st.data())
def test_any_value_in_any_place_of_a_document_is_taken_or_refused(index: FeatureIndex, data: st.DataObject) -> None:
    own_fields = data.draw(st.booleans())
    document = feature_document(portable_feature(index, 0, 1), transcoder="t", own_fields=own_fields)
    document = json.loads(json.dumps(document))
    inner: Any = document
    while True:
        key = data.draw(st.sampled_from(sorted(inner) if isinstance(inner, dict) else range(len(inner))))
        if not isinstance(inner[key], dict | list) or not inner[key] or data.draw(st.booleans()):
            break
        inner = inner[key]
    inner[key] = data.draw(values)
    feature = outcome(lambda: parse_feature(document, "it", layer=0, feature=1))
    if not isinstance(feature, FeatureError):
        json.dumps(feature_document(feature, transcoder="t"), allow_nan=False)
