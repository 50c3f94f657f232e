"""Neuronpedia's bulk export: what its importer needs is there, and what others exported becomes an index."""

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from exchange_bench import SILENT, described_index, outcome, rewrite_lines, same_effects, same_numbers
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_index import WORDS

from lucida.errors import FeatureError
from lucida.features.exchange import import_neuronpedia, neuronpedia, portable_features, write_neuronpedia
from lucida.features.exchange.neuronpedia import CREATOR, _storable
from lucida.features.exchange.portable import NOMINAL_PLACES
from lucida.features.header import IndexHeader, record_files
from lucida.features.index import FeatureIndex
from lucida.features.tables import VOCABULARY, write_table

TEXT, NUMBER, WHOLE = {"type": "string"}, {"type": "number"}, {"type": "integer"}
TEXTS, NUMBERS = {"type": "array", "items": TEXT}, {"type": "array", "items": NUMBER}
KEY = {"modelId": TEXT, "layer": TEXT, "index": {"type": "string", "pattern": "^[0-9]+$"}}
ROWS = {
    "features": KEY | {
        "maxActApprox": NUMBER, "creatorId": TEXT, "frac_nonzero": NUMBER, "freq_hist_data_bar_heights": NUMBERS,
        "freq_hist_data_bar_values": NUMBERS, "logits_hist_data_bar_heights": NUMBERS,
        "logits_hist_data_bar_values": NUMBERS, "neuron_alignment_indices": NUMBERS, "neuron_alignment_l1": NUMBERS,
        "neuron_alignment_values": NUMBERS, "correlated_neurons_indices": NUMBERS, "correlated_neurons_l1": NUMBERS,
        "correlated_neurons_pearson": NUMBERS, "decoder_weights_dist": NUMBERS, "neg_str": TEXTS,
        "neg_values": NUMBERS, "pos_str": TEXTS, "pos_values": NUMBERS, "sourceSetName": TEXT,
        "topkCosSimIndices": {"type": "array", "items": WHOLE}, "topkCosSimValues": NUMBERS, "vector": NUMBERS,
        "vectorLabel": {"type": "null"}, "hookName": {"type": "null"}, "vectorDefaultSteerStrength": NUMBER,
        "hasVector": {"type": "boolean"},
    },
    "activations": KEY | {
        "id": {"type": "string", "minLength": 25, "maxLength": 25}, "creatorId": TEXT, "dataSource": TEXT,
        "tokens": TEXTS, "maxValue": NUMBER, "minValue": NUMBER, "values": NUMBERS, "maxValueTokenIndex": WHOLE,
        "dfaValues": NUMBERS, "dfaMaxValue": {"type": "null"}, "dfaTargetIndex": {"type": "null"},
        "binContains": NUMBER, "binMin": NUMBER, "binMax": NUMBER,
    },
    "explanations": KEY | {
        "id": {"type": "string", "minLength": 25, "maxLength": 25}, "authorId": TEXT, "description": TEXT,
        "embedding": {"type": "null"}, "typeName": {"type": "null"}, "explanationModelName": {"type": "null"},
        "umap_x": NUMBER, "umap_y": NUMBER, "umap_cluster": WHOLE, "umap_log_feature_sparsity": NUMBER,
    },
}  # fmt: skip
"""The columns of Neuronpedia's own export, and the types of its tables."""
ABOUT = {
    "release": {"name", "description", "creatorName", "creatorId", "urls"},
    "model": {"id", "creatorId", "layers", "neuronsPerLayer", "owner"},
    "sourceset": {"modelId", "name", "description", "creatorName", "creatorId", "urls", "releaseName"},
    "source": {"id", "modelId", "setName", "creatorId"},
}
"""Columns without a default: a row that lacks one cannot be stored."""


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> FeatureIndex:
    return described_index(tmp_path_factory.mktemp("neuronpedia") / "index")


@pytest.fixture(scope="module")
def written(index: FeatureIndex, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written") / "export"
    assert write_neuronpedia(index, folder) == len(index.space)
    return folder / "made-up"


@pytest.fixture
def export(written: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(written, tmp_path / "export"))


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def test_every_row_has_the_columns_and_types_of_the_tables(index: FeatureIndex, written: Path) -> None:
    assert sorted(path.name for path in written.iterdir()) == ["0-made-up-features", "1-made-up-features"]
    for name, properties in ROWS.items():
        schema = {"type": "object", "required": list(properties), "properties": properties}
        for source in written.iterdir():
            found = rows(source / name / "batch-0.jsonl.gz")
            assert len({tuple(row) for row in found}) == 1  # columns are taken from the first line
            for row in found:
                jsonschema.validate(row, schema)
                assert (row["layer"], row["modelId"]) == (source.name, "made-up")
            if name != "features":
                assert len({row["id"] for row in found}) == len(found)
    for name, needed in ABOUT.items():
        row = json.loads((written / "1-made-up-features" / f"{name}.jsonl").read_text())
        assert needed <= set(row)
        assert row["creatorId"] == CREATOR
    assert json.loads((written / "1-made-up-features" / "source.jsonl").read_text())["dataset"] == index.header.corpus


def test_a_page_would_show_what_the_index_says(index: FeatureIndex, written: Path) -> None:
    source = written / "0-made-up-features"
    features = {int(row["index"]): row for row in rows(source / "features" / "batch-0.jsonl.gz")}
    assert sorted(features) == list(range(index.space.n_features[0]))
    for number, row in features.items():
        stats = index.stats(0, number)
        assert (row["frac_nonzero"], row["maxActApprox"]) == (stats.frequency, pytest.approx(stats.maximum))
        assert len(row["freq_hist_data_bar_heights"]) == len(row["freq_hist_data_bar_values"])
        assert sum(row["freq_hist_data_bar_heights"]) == pytest.approx(stats.count, abs=0.05)
    assert features[SILENT[1]]["freq_hist_data_bar_heights"] == []
    for row in rows(source / "activations" / "batch-0.jsonl.gz"):
        assert row["values"][row["maxValueTokenIndex"]] == row["maxValue"] == max(row["values"])
        assert row["binMin"] == -1 or row["binMin"] <= row["values"][row["qualifyingTokenIndex"]]
        # Front ends sort by the upper end of the bin: the top ones must come first.
        maximum = index.stats(0, int(row["index"])).maximum
        assert (row["binMax"] > maximum) == (row["binMin"] == -1)
    texts = [row["description"] for row in rows(source / "explanations" / "batch-0.jsonl.gz") if row["index"] == "1"]
    assert texts == ["tiny things", "smallness — ☃", 'the word "small"']


def test_an_export_of_ours_comes_back_as_the_same_index(index: FeatureIndex, written: Path, tmp_path: Path) -> None:
    assert import_neuronpedia(written, tmp_path / "back") == len(index.space)
    same_numbers(index.folder, tmp_path / "back")
    same_effects(index.folder, tmp_path / "back", ("promoted", "promoted_by", "suppressed", "suppressed_by"))
    same_layer = {(f.layer, f.feature): f.nearest for f in portable_features(index)}
    assert {(f.layer, f.feature): f.nearest for f in portable_features(FeatureIndex.open(tmp_path / "back"))} == (
        same_layer
    )


def test_one_source_becomes_one_layer_of_the_index(index: FeatureIndex, written: Path, tmp_path: Path) -> None:
    import_neuronpedia(written / "1-made-up-features", tmp_path / "back")
    back = FeatureIndex.open(tmp_path / "back", check=True)
    assert back.space.n_features == (0, index.space.n_features[1])
    assert vars(back.stats(1, 3))["count"] == index.stats(1, 3).count


def test_features_in_any_order_and_many_batches_are_put_in_order(index: FeatureIndex, export: Path) -> None:
    """Neuronpedia orders its rows by a text: 0, 1, 10, 11, 2; and a batch may come before an earlier one."""
    for source in export.iterdir():
        for name in ("features", "activations", "explanations"):
            path = source / name / "batch-0.jsonl.gz"
            if not path.exists():
                continue
            found = rows(path)
            even = [row for row in reversed(found) if int(row["index"]) % 2 == 0]
            odd = [row for row in found if int(row["index"]) % 2]
            for number, part in ((2, odd), (10, even)):
                text = "".join(json.dumps(row) + "\n" for row in part)
                (source / name / f"batch-{number}.jsonl.gz").write_bytes(gzip.compress(text.encode()))
            path.unlink()
    import_neuronpedia(export, export.parent / "back")
    same_numbers(index.folder, export.parent / "back")


def test_a_plain_export_becomes_an_index_that_says_what_it_does_not_know(index: FeatureIndex, tmp_path: Path) -> None:
    write_neuronpedia(index, tmp_path / "plain", own_fields=False, model_id="M_1", source_set="set-2")
    import_neuronpedia(tmp_path / "plain" / "m_1", tmp_path / "back")
    back = FeatureIndex.open(tmp_path / "back", check=True)
    header = back.header
    assert (header.dictionary, header.model, header.corpus) == ("set-2", "m_1", index.header.corpus)
    assert (header.n_places, header.settings["imported_from"]) == (NOMINAL_PLACES, "Neuronpedia bulk export")
    assert header.settings["labels_left_out"] == 4  # three explanations of one feature, of which none says its author
    for layer, feature, examples in index.each():
        found, stats = back.examples(layer, feature), index.stats(layer, feature)
        assert sorted((e.kind, e.value) for e in found if e.kind == "top") == sorted(
            (e.kind, e.value) for e in examples if e.kind == "top"
        )
        assert len(found) == len(examples)
        assert back.stats(layer, feature).maximum == stats.maximum
        assert back.stats(layer, feature).frequency == pytest.approx(stats.frequency)
        effects, expected = back.effects(layer, feature), index.effects(layer, feature)
        if expected is not None and effects is not None:
            assert back.texts(effects.promoted.tolist()) == index.texts(expected.promoted.tolist())
            assert effects.promoted_by.tolist() == expected.promoted_by.tolist()
    label = back.label(0, 1)
    assert label is not None
    assert (label.label, label.author) == ("tiny things", "neuronpedia")


def foreign_export(folder: Path, **feature: Any) -> Path:
    """A source as SAEDashboard's converter writes it: numbers as numbers, a token index that is always 0."""
    source = folder / "model" / "6-res-jb"
    row: dict[str, Any] = {"modelId": "model", "layer": "6-res-jb", "index": 3, "maxActApprox": 4.0}
    row |= {"frac_nonzero": 0.5, "pos_str": ["a"], "pos_values": [1.5], "neg_str": [], "neg_values": []}
    row |= {"vector": [0.5] * 9} | feature
    common = {"modelId": "model", "layer": "6-res-jb", "index": 3, "qualifyingTokenIndex": 0}
    acts = [
        {"tokens": ["x", "y"], "values": [0.0, 3.0], "binMin": -1, "binContains": -1},
        {"tokens": ["x", "z"], "values": [0.0, 4.0], "binMin": -1, "binContains": -1},
        {"tokens": ["z", "y"], "values": [0.0, 1.0], "binMin": 0.5, "binContains": 0.1},
        {"tokens": ["z", "y"], "values": [0.0, 0.0], "binMin": 0, "binContains": 0.1},
    ]
    texts = [
        {"description": "a thing", "typeName": "np_max-act", "explanationModelName": "m", "createdAt": "2025-01-02T03"},
        {"description": "another", "typeName": "np_max-act", "explanationModelName": "m"},
    ]
    tables = {"features": [row], "activations": [common | a for a in acts], "explanations": [common | t for t in texts]}
    for name, found in tables.items():
        (source / name).mkdir(parents=True)
        content = "".join(json.dumps(each) + "\n\n" for each in found)
        (source / name / "batch-0.jsonl.gz").write_bytes(gzip.compress(content.encode()))
    about = {"id": "6-res-jb", "num_prompts": 100, "num_tokens_in_prompt": 20, "dataset": "pile"}
    (source / "source.jsonl").write_text(json.dumps(about) + "\n")
    (source / "model.jsonl").write_text(json.dumps({"id": "model", "layers": 12}) + "\n")
    return source.parent


def test_an_export_of_others_is_read_as_far_as_it_says(tmp_path: Path) -> None:
    import_neuronpedia(foreign_export(tmp_path), tmp_path / "back")
    back = FeatureIndex.open(tmp_path / "back", check=True)
    assert back.space.n_features == (0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0)
    assert (back.header.n_places, back.header.corpus) == (2000, "pile")
    stats = back.stats(6, 3)
    assert (stats.count, stats.frequency, stats.maximum) == (1000, 0.5, 4.0)
    assert back.stats(6, 0).is_silent
    found = [(e.kind, e.rank, e.peak, e.value, back.texts(e.tokens.tolist())) for e in back.examples(6, 3)]
    assert found == [
        ("top", 0, 1, 4.0, ["x", "z"]),
        ("top", 1, 1, 3.0, ["x", "y"]),
        ("sample", 0, 1, 1.0, ["z", "y"]),
    ]
    label = back.label(6, 3)
    assert label is not None
    assert (label.label, label.author, label.method, label.date) == ("a thing", "m", "np_max-act", "2025-01-02")
    settings = back.header.settings
    assert (settings["examples_left_out"], settings["labels_left_out"]) == (1, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"index": "12x"}, "'index' of line 1 of .*features"),
        ({"index": 2_000_000}, "must lie between 0 and 1048575"),
        ({"index": 4}, "activations or explanations of feature 3"),
        ({"layer": "7-res-jb"}, "is of source 7-res-jb, but lies in 6-res-jb"),
        ({"pos_values": [1.0, 2.0]}, "1 pos_str, 2 pos_values"),
        ({"frac_nonzero": "0.5"}, "'frac_nonzero' of line 1 of .* must be a number"),
    ],
)
def test_wrong_rows_are_refused_with_file_and_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(FeatureError, match=message):
        import_neuronpedia(foreign_export(tmp_path, **change), tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_folders_that_do_not_fit_together_are_refused(export: Path, tmp_path: Path) -> None:
    with pytest.raises(FeatureError, match="is no bulk export"):
        import_neuronpedia(export.parent, tmp_path / "back")
    shutil.copytree(export / "1-made-up-features", export / "1-other")
    with pytest.raises(FeatureError, match="holds the sets made-up-features, other"):
        import_neuronpedia(export, tmp_path / "back")


def test_names_that_neuronpedia_cannot_use_are_refused(index: FeatureIndex, tmp_path: Path) -> None:
    for names in ({"model_id": "a/b"}, {"source_set": ""}, {"source_set": "a.b"}):
        with pytest.raises(FeatureError, match="cannot be used on Neuronpedia"):
            write_neuronpedia(index, tmp_path / "out", **names)
    assert not (tmp_path / "out").exists()


def test_no_batch_is_empty(index: FeatureIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The importer parses the first line of a file before it looks whether there is one: an empty file stops it."""
    monkeypatch.setattr(neuronpedia, "BATCH", 5)  # then the silent last feature of layer 0 is alone in its batch
    write_neuronpedia(index, tmp_path / "out")
    found = {str(path.relative_to(tmp_path / "out" / "made-up")): len(rows(path)) for path in tmp_path.rglob("*.gz")}
    assert min(found.values()) > 0
    counts = [count for path, count in sorted(found.items()) if "/features/" in path]
    assert counts == [5, 1, 5]
    assert sum("/activations/" in path for path in found) == 2
    import_neuronpedia(tmp_path / "out" / "made-up", tmp_path / "back")
    same_numbers(index.folder, tmp_path / "back")


@given(st.text(alphabet='\\u0a\0" é'))
def test_lines_survive_the_importers_replacement_of_zeros(text: str) -> None:
    """The importer puts a blank in the place of every backslash u0000: what is left must be JSON, and the same text."""
    line = _storable(json.dumps({"text": text}))
    assert json.loads(line.replace("\\u0000", " ")) == {"text": text.replace("\0", " ")}


def test_tokens_with_zeros_and_escapes_come_through(index: FeatureIndex, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(index.folder, tmp_path / "index"))
    texts = ["\\u0000", "\0", "\\", '"', "\n", "\u2028", *WORDS[6:]]
    write_table(folder / "vocabulary.parquet", {"token": list(range(len(texts))), "text": texts}, VOCABULARY)
    header = IndexHeader.open(folder)
    files = header.files | record_files(folder, ["vocabulary.parquet"])
    IndexHeader(**{**vars(header), "files": files}).save(folder)
    write_neuronpedia(FeatureIndex.open(folder), tmp_path / "out")
    import_neuronpedia(tmp_path / "out" / "made-up", tmp_path / "back")
    back = FeatureIndex.open(tmp_path / "back")
    assert back.texts(range(len(texts))) == [text.replace("\0", " ") for text in texts]


@settings(max_examples=12)
@given(data=st.data())
def test_damaged_bytes_are_refused_or_give_a_sound_index(written: Path, data: st.DataObject) -> None:
    folder = written.parent.parent / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    export = Path(shutil.copytree(written, folder / "export"))
    path = data.draw(st.sampled_from(sorted(path for path in export.rglob("*") if path.is_file())))
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:at]
    else:
        content[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(content))
    if isinstance(outcome(lambda: import_neuronpedia(export, folder / "out")), FeatureError):
        assert not (folder / "out").exists()
    else:
        FeatureIndex.open(folder / "out", check=True)


def test_a_value_of_another_kind_in_our_own_fields_is_refused_by_name(export: Path, tmp_path: Path) -> None:
    path = export / "0-made-up-features" / "activations" / "batch-0.jsonl.gz"
    rewrite_lines(path, lambda row: row["lucida"].update(band=99))
    with pytest.raises(FeatureError, match=r"'band' of line 1 of .*batch-0.* must lie between -12 and 11, found 99"):
        import_neuronpedia(export, tmp_path / "back")
