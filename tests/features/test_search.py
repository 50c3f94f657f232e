"""Search finds features by the words they fire on, promote or are named by, whatever the form of the word."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up_index import made_up_index

from lucida.errors import FeatureError
from lucida.features.header import IndexHeader, record_files
from lucida.features.index import FeatureIndex
from lucida.features.labels import Label, write_labels
from lucida.features.reading.search_table import NAME, WORDS_KEPT, build_search, has_search
from lucida.features.reading.words import stem, words_of
from lucida.features.tables import EFFECTS, EXAMPLES, SCHEMAS, read_table, write_table

VOCABULARY = (" the", " small", " smaller", " pet", "it", " dog", ",", " Paris", " flower", " flow", "\n", "小", "さい")
THE, SMALL, SMALLER, PET, IT, DOG, COMMA, PARIS, FLOWER, FLOW, NEWLINE, XIAO, SAI = range(13)


def planted(folder: Path, texts: dict[tuple[int, int], list[tuple[list[int], int]]], sizes=(6, 5)) -> Path:
    """An index whose features fire at the given place of the given texts, at their maximum, and nowhere else."""
    made_up_index(folder, n_features=sizes)
    rows = []
    for (layer, feature), examples in sorted(texts.items()):
        for rank, (tokens, peak) in enumerate(examples):
            activations = [0.0] * len(tokens)
            activations[peak] = 2.0
            rows.append({
                "layer": layer, "feature": feature, "kind": "top", "band": 1, "rank": rank, "priority": 0, "value": 2.0,
                "position": rank, "document": rank, "peak": peak, "tokens": tokens, "activations": activations,
            })  # fmt: skip
    stats = read_table(folder / "stats.parquet", SCHEMAS["stats"]).to_pylist()
    stats = [row | {"maximum": 2.0} for row in stats]
    vocabulary = [{"token": i, "text": text} for i, text in enumerate(VOCABULARY)]
    for name, found in (("examples", rows), ("stats", stats), ("vocabulary", vocabulary)):
        schema = SCHEMAS[name]
        write_table(folder / f"{name}.parquet", {c: [row[c] for row in found] for c in schema.names}, schema)
    record(folder, "examples.parquet", "stats.parquet", "vocabulary.parquet")
    return folder


def record(folder: Path, *names: str) -> None:
    header = IndexHeader.open(folder)
    replace(header, files=header.files | record_files(folder, list(names))).save(folder)


def places(index: FeatureIndex, text: str, **more: int) -> list[tuple[int, int]]:
    return [(match.layer, match.feature) for match in index.search(text, **more)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return planted(
        tmp_path / "index",
        {
            (0, 0): [([THE, SMALL, DOG], 1), ([DOG, SMALL], 1)],
            (0, 1): [([THE, SMALLER, DOG], 1), ([DOG, SMALLER], 1)],
            (0, 2): [([THE, SMALL, DOG], 2), ([SMALL, DOG], 1)],
            (1, 0): [([THE, PET, IT, COMMA, DOG], 2), ([PET, IT, NEWLINE], 2)],
            (1, 1): [([THE, FLOWER], 1), ([FLOWER], 0)],
            (1, 2): [([THE, FLOW], 1), ([FLOW], 0)],
            (1, 3): [([THE, XIAO, SAI], 1), ([THE], 0)],
        },
    )


@pytest.fixture
def index(folder: Path) -> FeatureIndex:
    build_search(folder)
    return FeatureIndex.open(folder)


@pytest.mark.parametrize(
    "forms",
    ["small smaller smallest smallness", "run runs running runner", "city cities", "happy happier happiness",
     "large larger largest", "dog dogs dog's", "make makes making", "see sees seeing", "opposite opposites"],
)  # fmt: skip
def test_forms_of_a_word_meet(forms: str) -> None:
    assert len({stem(word) for word in words_of(forms)}) == 1


@pytest.mark.parametrize("words", ["king red sing bed", "this his is was", "capital Paris France", "été petit small"])
def test_other_words_do_not(words: str) -> None:
    found = words_of(words)
    assert len({stem(word) for word in found}) == len(found)


def test_what_fires_on_a_word_comes_before_what_stands_by(index: FeatureIndex) -> None:
    found = places(index, "small")
    assert found[:2] == [(0, 0), (0, 1)]  # the very word before another form of it
    assert found[2] == (0, 2)
    assert (1, 1) not in found
    assert places(index, "smallness")[:2] == [(0, 0), (0, 1)]
    assert places(index, "SMALLER")[0] == (0, 1)
    assert index.search("smallness")[0].words == ("small",)


def test_tokens_are_joined_to_words(index: FeatureIndex) -> None:
    assert places(index, "petit") == [(1, 0)]
    assert places(index, "pet") == []
    assert places(index, "小") == [(1, 3)]


def test_unlike_words_that_meet_are_ranked_apart(index: FeatureIndex) -> None:
    assert places(index, "flower") == [(1, 1), (1, 2)]
    assert places(index, "flow") == [(1, 2), (1, 1)]


def test_rare_words_count_more(index: FeatureIndex) -> None:
    rare, common = index.search("petit")[0], max(index.search("the"), key=lambda match: match.score)
    assert rare.score > common.score
    both = index.search("the petit")
    assert (both[0].layer, both[0].feature) == (1, 0)
    assert set(both[0].words) == {"the", "petit"}
    scores = [match.score for match in both]
    assert scores == sorted(scores, reverse=True)


def test_count_and_nothing(index: FeatureIndex) -> None:
    assert len(places(index, "the", count=2)) == 2
    assert places(index, "the", count=2) == places(index, "the")[:2]
    assert places(index, "zebra") == []
    for text in ("", " ...!"):
        with pytest.raises(FeatureError, match="no word to search for"):
            index.search(text)
    with pytest.raises(FeatureError, match="at least one"):
        index.search("the", count=0)


def test_labels_are_searched_as_they_are_now(index: FeatureIndex) -> None:
    write_labels(index.folder, "automatic", [Label(0, 3, "tiny creatures", "automatic", "tokens")])
    assert places(index, "tinier creature") == [(0, 3)]
    index.set_label(0, 3, "zebras", author="Ada")
    assert places(index, "creature") == []
    (found,) = index.search("zebra")
    assert (found.layer, found.feature, found.label, found.words) == (0, 3, "zebras", ("zebras",))


def test_promoted_tokens_are_found(folder: Path) -> None:
    columns = {name: [[]] * 11 for name in EFFECTS.names}
    columns |= {"layer": [0] * 6 + [1] * 5, "feature": [*range(6), *range(5)]}
    columns["promoted"] = [[]] * 5 + [[PARIS, DOG]] + [[]] * 5
    columns["promoted_by"] = [[]] * 5 + [[0.5, 0.1]] + [[]] * 5
    columns["nearest_layers"], columns["nearest_features"] = [[0, 1]] * 11, [[5, 0]] * 11
    columns["nearest_cosine"] = [[0.5, 0.25]] * 11
    write_table(folder / "effects.parquet", columns, EFFECTS)
    record(folder, "effects.parquet")
    build_search(folder)
    index = FeatureIndex.open(folder)
    assert places(index, "paris") == [(0, 5)]
    index.set_label(0, 5, "say Paris", author="Ada")
    assert [(s.layer, s.feature, s.cosine, s.label) for s in index.similar(1, 0)] == [
        (0, 5, 0.5, "say Paris"),
        (1, 0, 0.25, ""),
    ]


def test_a_table_of_other_files_is_not_used(folder: Path) -> None:
    index = FeatureIndex.open(folder)
    assert not has_search(index)
    assert index.similar(0, 0) == []
    with pytest.raises(FeatureError, match="build_search"):
        index.search("small")
    build_search(folder)
    assert has_search(index)
    write_table(folder / "examples.parquet", EXAMPLES.empty_table(), EXAMPLES)
    record(folder, "examples.parquet")
    assert not has_search(FeatureIndex.open(folder))
    build_search(folder)
    assert places(FeatureIndex.open(folder), "small") == []


def test_a_damaged_table_is_refused(folder: Path) -> None:
    path = build_search(folder)
    whole = path.read_bytes()
    index = FeatureIndex.open(folder)
    path.write_bytes(whole[:4] + bytes(60) + whole[64:])
    with pytest.raises(FeatureError, match=f"{NAME} is damaged"):
        index.search("small")
    path.write_bytes(whole[:-20])
    with pytest.raises(FeatureError, match="no search table"):
        FeatureIndex.open(folder).search("small")


def test_only_the_weightiest_words_are_kept(tmp_path: Path) -> None:
    folder = made_up_index(tmp_path, n_features=(2, 2))
    many = 3 * WORDS_KEPT
    vocabulary = {"token": list(range(many)), "text": [f" w{i}" for i in range(many)]}
    write_table(folder / "vocabulary.parquet", vocabulary, SCHEMAS["vocabulary"])
    tokens = np.arange(many)
    row = {
        "layer": 0, "feature": 0, "kind": "top", "band": 0, "rank": 0, "priority": 0, "value": 1.0, "position": 0,
        "document": 0, "peak": 5, "tokens": tokens.tolist(), "activations": (tokens == 5).astype(float).tolist(),
    }  # fmt: skip
    write_table(folder / "examples.parquet", {name: [row[name]] for name in EXAMPLES.names}, EXAMPLES)
    record(folder, "vocabulary.parquet", "examples.parquet")
    build_search(folder)
    index = FeatureIndex.open(folder)
    found = [i for i in range(many) if index.search(f"w{i}")]
    assert len(found) == WORDS_KEPT
    assert 5 in found
