"""A feature index is read as it was written, quickly, and refuses what is damaged or of something else."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from made_up_index import WORDS, made_up_index
from numpy.testing import assert_array_equal

from lucida.dictionaries import random_dictionary
from lucida.errors import FeatureError
from lucida.features.header import IndexHeader, record_files
from lucida.features.index import FeatureIndex
from lucida.features.labels import Label, write_labels
from lucida.features.tables import EFFECTS, EXAMPLES, STATS, read_table, write_table


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return made_up_index(tmp_path / "index")


def add_effects(folder: Path, n_features: tuple[int, ...] = (6, 5)) -> None:
    """Effects whose numbers say which feature they are of; every third list is empty."""
    rows = []
    for layer, count in enumerate(n_features):
        for feature in range(count):
            length = 0 if feature % 3 == 2 else 2
            row: dict = {"layer": layer, "feature": feature}
            for name in EFFECTS.names[2:]:
                row[name] = [feature % len(WORDS)] * length
            for name in ("nearest", "input"):
                row |= {f"{name}_layers": [1 - layer] * length, f"{name}_features": [0, 1][:length]}
            rows.append(row)
    path = folder / "effects.parquet"
    write_table(path, {name: [row[name] for row in rows] for name in EFFECTS.names}, EFFECTS)
    header = IndexHeader.open(folder)
    replace(header, files=header.files | record_files(folder, [path.name])).save(folder)


def all_rows(folder: Path) -> list[dict]:
    return read_table(folder / "examples.parquet", EXAMPLES).to_pylist()


def test_everything_is_read_as_it_was_written(folder: Path) -> None:
    index = FeatureIndex.open(folder, check=True)
    rows = all_rows(folder)
    stats = read_table(folder / "stats.parquet", STATS).to_pylist()
    for row in stats:
        place = (row["layer"], row["feature"])
        found = index.stats(*place)
        assert (found.count, found.first, found.last) == (row["count"], row["first"], row["last"])
        assert (found.mean, found.maximum) == (row["mean"], pytest.approx(row["maximum"]))
        assert found.frequency == row["count"] / index.header.n_places
        assert_array_equal(found.histogram, row["histogram"])
        own = [each for each in rows if (each["layer"], each["feature"]) == place]
        examples = index.examples(*place)
        assert sorted((e.kind, e.position) for e in examples) == sorted((r["kind"], r["position"]) for r in own)
        for example in examples:
            (row,) = (r for r in own if (r["kind"], r["position"]) == (example.kind, example.position))
            assert_array_equal(example.tokens, row["tokens"])
            assert_array_equal(example.activations, np.float32(row["activations"]))
            assert example.activations[example.peak] == np.float32(example.value)
            assert (example.band, example.rank, example.document) == (row["band"], row["rank"], row["document"])


def test_examples_come_in_reading_order(folder: Path) -> None:
    examples = FeatureIndex.open(folder).examples(0, 4)
    kinds = [example.kind for example in examples]
    assert kinds == sorted(kinds, key=["top", "sample"].index)
    top, samples = (FeatureIndex.open(folder).examples(0, 4, kind) for kind in ("top", "sample"))
    assert (len(top), len(samples)) == (4, kinds.count("sample"))
    assert [example.rank for example in top] == [0, 1, 2, 3]
    assert sorted((e.value for e in top), reverse=True) == [e.value for e in top]
    assert [(-e.band, e.rank) for e in samples] == sorted((-e.band, e.rank) for e in samples)


def test_small_row_groups_change_nothing(folder: Path) -> None:
    """A feature's rows may lie in any number of row groups, also with those of another layer."""
    whole = [(layer, feature, len(found)) for layer, feature, found in FeatureIndex.open(folder).each()]
    path = folder / "examples.parquet"
    pq.write_table(pq.read_table(path), path, row_group_size=3)
    header = IndexHeader.open(folder)
    replace(header, files=header.files | record_files(folder, [path.name])).save(folder)
    index = FeatureIndex.open(folder)
    assert index.example_table.metadata.num_row_groups > 10
    assert [(layer, feature, len(found)) for layer, feature, found in index.each()] == whole
    for layer, feature, count in whole:
        found = index.examples(layer, feature)
        assert len(found) == count
        assert all(example.activations[example.peak] == np.float32(example.value) for example in found)


def test_each_is_examples_of_each(folder: Path) -> None:
    index = FeatureIndex.open(folder)
    seen = []
    for layer, feature, found in index.each("top"):
        seen.append((layer, feature))
        assert [e.position for e in found] == [e.position for e in index.examples(layer, feature, "top")]
    assert seen == [(0, i) for i in range(6)] + [(1, i) for i in range(5)]


def test_a_silent_feature_has_an_answer(folder: Path) -> None:
    index = FeatureIndex.open(folder)
    stats = index.stats(1, 4)
    assert stats.is_silent
    assert (stats.count, stats.frequency, stats.first, stats.histogram.sum()) == (0, 0.0, -1, 0)
    assert index.examples(1, 4) == []
    assert index.effects(1, 4) is None
    assert index.label(1, 4) is None


def test_arrays_over_all_features(folder: Path) -> None:
    index = FeatureIndex.open(folder)
    for number in range(len(index.space)):
        (layer,), (feature,) = index.space.layer_and_feature(np.asarray([number]))
        stats = index.stats(int(layer), int(feature))
        assert index.frequencies[number] == stats.frequency
        assert index.maxima[number] == np.float32(stats.maximum)


def test_effects(folder: Path) -> None:
    assert FeatureIndex.open(folder).effects(0, 0) is None
    add_effects(folder)
    index = FeatureIndex.open(folder)
    effects = index.effects(1, 4)
    assert effects is not None
    assert effects.promoted.tolist() == [4, 4]
    assert effects.nearest_layers.tolist() == [0, 0]
    nothing = index.effects(1, 2)
    assert nothing is not None
    assert len(nothing.promoted) == len(nothing.nearest_cosine) == 0


def test_text(folder: Path) -> None:
    index = FeatureIndex.open(folder)
    assert index.texts([0, 3, 11]) == [" small", " the", "\n"]
    with pytest.raises(FeatureError, match="token 99 is not in the vocabulary"):
        index.text(99)


def test_labels_are_the_best_and_fresh(folder: Path) -> None:
    index = FeatureIndex.open(folder)
    write_labels(folder, "automatic", [Label(0, 1, "the word", "automatic", "tokens", 0.5)])
    assert index.labels[0, 1].label == "the word"
    given = index.set_label(0, 1, "  my\n words ", author="Ada")
    found = index.label(0, 1)
    assert found == given
    assert (found.label, found.author) == ("my words", "Ada")
    index.set_label(0, 1, "", author="Ada")
    assert index.labels[0, 1].author == "automatic"
    with pytest.raises(FeatureError, match="author"):
        index.set_label(0, 1, "x", author=" ")


@pytest.mark.parametrize("place", [(2, 0), (-1, 0), (0, 6), (1, -1)])
def test_a_feature_that_does_not_exist(folder: Path, place: tuple[int, int]) -> None:
    index = FeatureIndex.open(folder)
    for ask in (index.stats, index.examples, index.effects, index.label):
        with pytest.raises(FeatureError, match="was asked for"):
            ask(*place)


def test_an_index_is_of_one_dictionary(folder: Path) -> None:
    dictionary = random_dictionary(2, 8, 6, seed=1, name="mine")
    other = random_dictionary(2, 8, 6, seed=2, name="other")
    header = IndexHeader.open(folder)
    sizes, digest = (6, 6), dictionary.source.fingerprint
    replace(header, n_features=sizes, dictionary="mine", dictionary_digest=digest).save(folder)
    index = FeatureIndex.open(folder)
    index.check(dictionary)
    with pytest.raises(FeatureError, match=r"is of mine .*, not of other .*"):
        index.check(other)
    with pytest.raises(FeatureError, match="not of neurons"):
        index.check(None)
    replace(header, dictionary="neurons").save(folder)
    FeatureIndex.open(folder).check(None)


@pytest.mark.parametrize("name", ["stats.parquet", "examples.parquet", "vocabulary.parquet", "active.parquet"])
def test_a_missing_or_altered_file_is_named(folder: Path, name: str) -> None:
    path = folder / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    with pytest.raises(FeatureError, match=rf"{name} has .* cut short"):
        FeatureIndex.open(folder)
    path.write_bytes(whole[:40] + bytes([whole[40] ^ 1]) + whole[41:])
    FeatureIndex.open(folder)
    with pytest.raises(FeatureError, match=rf"{name} is not what was written"):
        FeatureIndex.open(folder, check=True)
    path.unlink()
    with pytest.raises(FeatureError, match=f"lacks {name}"):
        FeatureIndex.open(folder)


def test_no_index_at_all(tmp_path: Path) -> None:
    with pytest.raises(FeatureError, match="is not a feature index"):
        FeatureIndex.open(tmp_path)


def rewritten(folder: Path, name: str, change) -> FeatureIndex:
    """The index after one of its files was changed, its record too: as another version might have written it."""
    path = folder / name
    change(path)
    header = IndexHeader.open(folder)
    replace(header, files=header.files | record_files(folder, [name])).save(folder)
    return FeatureIndex.open(folder)


def test_damage_that_sizes_do_not_show(folder: Path) -> None:
    table = pq.read_table(folder / "examples.parquet")
    index = rewritten(
        folder, "examples.parquet", lambda path: pq.write_table(table.take([*range(len(table))][::-1]), path)
    )
    with pytest.raises(FeatureError, match="not sorted"):
        index.examples(0, 1)
    index = rewritten(folder, "examples.parquet", lambda path: pq.write_table(table.drop_columns("peak"), path))
    with pytest.raises(FeatureError, match="lacks the columns peak"):
        index.examples(0, 1)
    index = rewritten(folder, "examples.parquet", lambda path: path.write_bytes(path.read_bytes()[:200]))
    with pytest.raises(FeatureError, match="damaged or cut short"):
        index.examples(0, 1)
    stats = pq.read_table(folder / "stats.parquet")
    index = rewritten(folder, "stats.parquet", lambda path: pq.write_table(stats.slice(0, 9), path))
    with pytest.raises(FeatureError, match="one row for each of 11 features"):
        index.stats(0, 0)


def test_features_of_a_larger_dictionary_are_refused(folder: Path) -> None:
    header = IndexHeader.open(folder)
    replace(header, n_features=(6, 3)).save(folder)
    with pytest.raises(FeatureError, match="holds feature 1:3, which this index does not have"):
        FeatureIndex.open(folder).examples(0, 0)
