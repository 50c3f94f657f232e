"""Labels of features: who gave them, how, and how good they are. A person's always wins."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from lucida.errors import FeatureError
from lucida.features.tables import LABELS, read_table, write_table

Kind = Literal["human", "llm", "automatic"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""In order of precedence."""
TRUSTED = 0.6
"""A language model's label is shown before the automatic one if it scores more than this; guessing scores 0.5."""


@dataclass(frozen=True)
class Label:
    """A name for what a feature means. `score` lies between 0 and 1 and is that of `method`; None without one."""

    layer: int
    feature: int
    label: str
    author: str
    method: str
    score: float | None = None
    date: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


def read_labels(folder: str | Path, kind: Kind) -> list[Label]:
    """All labels of a kind in an index, sorted by layer and feature; [] where there are none."""
    path = _path(folder, kind)
    if not path.exists():
        return []
    rows = read_table(path, LABELS).to_pylist()
    return [Label(**{**row, "details": json.loads(row["details"] or "{}")}) for row in rows]


def write_labels(folder: str | Path, kind: Kind, labels: Iterable[Label]) -> None:
    """Add labels of a kind to an index; one that is there for the same feature and kind is replaced.

    An empty `label` takes the feature's label of this kind away. The file is replaced whole or not at all.
    """
    kept = {(label.layer, label.feature): label for label in read_labels(folder, kind)}
    kept |= {(label.layer, label.feature): label for label in labels}
    rows = [kept[key] for key in sorted(kept) if kept[key].label]
    columns = {
        name: [getattr(row, name) for row in rows] for name in ("layer", "feature", "label", "author", "method", "date")
    }
    columns["score"] = [row.score for row in rows]
    columns["details"] = [json.dumps(dict(row.details), sort_keys=True) for row in rows]
    write_table(_path(folder, kind), {name: columns[name] for name in LABELS.names}, LABELS)


def best_labels(folder: str | Path) -> dict[tuple[int, int], Label]:
    """For each labelled feature the label to show: a person's, else a language model's that scores above TRUSTED (or
    was never scored), else the automatic one, else whatever the language model said.
    """
    found = {(label.layer, label.feature): label for label in read_labels(folder, "automatic")}
    for label in read_labels(folder, "llm"):
        if label.score is None or label.score > TRUSTED or (label.layer, label.feature) not in found:
            found[label.layer, label.feature] = label
    return found | {(label.layer, label.feature): label for label in read_labels(folder, "human")}


def _path(folder: str | Path, kind: Kind) -> Path:
    if kind not in KINDS:
        raise FeatureError(f"labels of kind {kind!r} are not known; known are {', '.join(KINDS)}")
    return Path(folder) / "labels" / f"{kind}.parquet"
