"""A small index with effects and labels of all kinds, and what two indexes have to have in common."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from made_up_index import WORDS, made_up_index

from lucida.errors import FeatureError
from lucida.features.header import IndexHeader, record_files
from lucida.features.index import FeatureIndex
from lucida.features.labels import KINDS, Kind, Label, write_labels
from lucida.features.tables import EFFECTS, write_table

SILENT = (0, 5)


def described_index(folder: Path, **settings: Any) -> FeatureIndex:
    """The made-up index with effects of all features but one, and labels of every kind."""
    made_up_index(folder, **settings)
    header = IndexHeader.open(folder)
    generator = np.random.default_rng(7)
    pairs = [(layer, f) for layer, count in enumerate(header.n_features) for f in range(count)]
    rows = []
    for layer, feature in pairs[:-1]:
        row: dict[str, Any] = {name: [] for name in EFFECTS.names} | {"layer": layer, "feature": feature}
        for name in ("promoted", "suppressed"):
            row[name] = generator.choice(len(WORDS), 3, replace=False).tolist()
            row[f"{name}_by"] = generator.normal(size=3).astype(np.float32).tolist()
        row |= {"nearest_layers": [layer, 1 - layer], "nearest_features": [0, 1], "nearest_cosine": [0.5, 0.25]}
        rows.append(row)
    write_table(folder / "effects.parquet", {name: [row[name] for row in rows] for name in EFFECTS.names}, EFFECTS)
    labels: dict[Kind, Label] = {
        "automatic": Label(0, 1, 'the word "small"', "automatic", "peak token", 0.875, "2026-01-02", {"n": 3}),
        "llm": Label(0, 1, "smallness — ☃", "a-model", "detection", 0.1, "2026-01-03"),
        "human": Label(0, 1, "tiny things", "me", "by hand"),
    }
    for kind in KINDS:
        write_labels(folder, kind, [labels[kind], Label(1, 2, f"{kind} label", "x", "y")])
    IndexHeader(
        **{
            **vars(header),
            "files": record_files(folder, sorted(path.name for path in folder.glob("*.parquet"))),
        }
    ).save(folder)
    return FeatureIndex.open(folder)


def same_numbers(one: Path, other: Path, kept: tuple[str, ...] = ("stats", "examples")) -> None:
    """Statistics, examples, labels and tokens' texts are equal, to the last bit."""
    lost = {"stats": ["total"], "examples": ["priority"]}
    for name in kept:
        tables = [pq.read_table(folder / f"{name}.parquet").drop_columns(lost.get(name, [])) for folder in (one, other)]
        assert tables[0].equals(tables[1]), name
    first, second = FeatureIndex.open(one), FeatureIndex.open(other, check=True)
    assert first.labels == second.labels
    assert {name: vars(first.header)[name] for name in vars(first.header) if name != "files"} == {
        name: vars(second.header)[name] for name in vars(second.header) if name != "files"
    }
    texts = pq.read_table(other / "vocabulary.parquet")
    assert first.texts(texts["token"].to_pylist()) == texts["text"].to_pylist()


def same_effects(one: Path, other: Path, columns: tuple[str, ...]) -> None:
    """These columns of the effects are equal."""
    tables: list[pa.Table] = [
        pq.read_table(folder / "effects.parquet", columns=["layer", "feature", *columns]) for folder in (one, other)
    ]
    assert tables[0].equals(tables[1])


def outcome(action: Callable[[], Any]) -> Any:
    """What an action gives, or the FeatureError that it raises, which must be of one line. Others are bugs."""
    try:
        return action()
    except FeatureError as error:
        if "\n" in str(error):
            raise AssertionError("more than one line") from error
        return error


def rewrite_lines(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change every row of a gzip file of JSON lines."""
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    for row in rows:
        change(row)
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
