"""Neuronpedia's bulk export, written from an index: features, activations and explanations of each layer.

``{model}/{layer}-{set}/`` holds a file for each row of the model, release, set and source, and batches of 1,024
features as gzip JSON lines. docs/feature-formats.md lists the columns; what the importer trips over is said there.
"""

import gzip
import hashlib
import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from lucida.atomic import replacing
from lucida.errors import FeatureError
from lucida.features.exchange.feature_json import compact, refuse_existing
from lucida.features.exchange.histograms import linear_histogram
from lucida.features.exchange.own_fields import KEY, header_document, own_example, own_feature, own_labels
from lucida.features.exchange.packs import OUR_HEADER
from lucida.features.exchange.portable import (
    PortableExample,
    PortableFeature,
    portable_features,
    shortest,
    wanted_layers,
)
from lucida.features.index import FeatureIndex
from lucida.features.tables import TOP
from lucida.progress import Progress, silent

BATCH = 1024
CREATOR = "clkht01d40000jv08hvalcvly"
"""The user of a fresh Neuronpedia server to whom imported rows belong: rows must belong to one that exists."""
TOP_BIN = -1.0
"""Stands in `binMin` and `binContains` of the strongest examples, which belong to no bin."""
_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
_EMPTY = (
    "logits_hist_data_bar_heights", "logits_hist_data_bar_values", "neuron_alignment_indices", "neuron_alignment_l1",
    "neuron_alignment_values", "correlated_neurons_indices", "correlated_neurons_l1", "correlated_neurons_pearson",
    "decoder_weights_dist", "vector",
)  # fmt: skip
"""Columns of a feature that an index knows nothing of."""


@dataclass(frozen=True)
class _Source:
    """One layer of a set of features, as Neuronpedia names it."""

    model: str
    source_set: str
    layer: int
    creator: str
    corpus: str
    own_fields: bool

    @property
    def id(self) -> str:
        return f"{self.layer}-{self.source_set}"

    def key(self, feature: int) -> dict[str, Any]:
        """The columns that say which feature a row is of; the number is text there."""
        return {"modelId": self.model, "layer": self.id, "index": str(feature)}

    def ours(self, fields: dict[str, Any]) -> dict[str, Any]:
        return {KEY: fields} if self.own_fields else {}


def write_neuronpedia(
    index: FeatureIndex,
    folder: str | Path,
    *,
    model_id: str | None = None,
    source_set: str | None = None,
    creator_id: str = CREATOR,
    layers: Iterable[int] | None = None,
    own_fields: bool = True,
    progress: Progress = silent,
) -> int:
    """Write the bulk export of an index; return how many features. The folder appears whole or not at all.

    `model_id` and `source_set` are the names on Neuronpedia (by default those of the index, in letters it allows).
    Raises FeatureError when the folder is there already, a layer has no features, or a name cannot be used.
    """
    folder, asked = refuse_existing(folder), wanted_layers(index, layers)
    model = _name(model_id, index.header.model, "model id").lower()
    names = {"model": model, "source_set": _name(source_set, index.header.dictionary, "source set")}
    common = {"creator": creator_id, "corpus": index.header.corpus, "own_fields": own_fields}
    total, done = sum(index.space.n_features[layer] for layer in asked), 0
    features = portable_features(index, asked)
    with replacing(folder, folder=True) as temporary:
        for layer in asked:
            source = _Source(layer=layer, **names, **common)
            place = temporary / model / source.id
            place.mkdir(parents=True)
            _write_about(index, source, place)
            for number, first in enumerate(range(0, index.space.n_features[layer], BATCH)):
                count = min(BATCH, index.space.n_features[layer] - first)
                _write_batch(source, place, number, islice(features, count))
                progress("writing features", done := done + count, total)
    return total


def _name(given: str | None, default: str, what: str) -> str:
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", default).strip("-") if given is None else given
    if not _NAME.fullmatch(name):
        raise FeatureError(f"{what} {name!r} cannot be used on Neuronpedia: letters, digits, '-' and '_' can")
    return name


def _write_about(index: FeatureIndex, source: _Source, place: Path) -> None:
    """The rows of release, model, set and source: only columns that every version of the server knows."""
    header, release = index.header, f"{source.model}-{source.source_set}"
    common = {"creatorId": source.creator, "visibility": "PUBLIC"}
    about = f"{header.dictionary}: {len(index.space):,} features, indexed on {header.corpus or 'an unknown corpus'}"
    rows: dict[str, dict[str, Any]] = {
        "release": {"name": release, "description": about, "creatorName": source.source_set, "urls": []},
        "model": {
            "id": source.model, "displayNameShort": source.model, "displayName": header.model or source.model,
            "layers": index.space.n_layers, "neuronsPerLayer": 0, "owner": "", "instruct": False,
        },
        "sourceset": {
            "modelId": source.model, "name": source.source_set, "description": about, "type": "",
            "creatorName": source.source_set, "urls": [], "releaseName": release, "hasDashboards": True,
        },
        "source": {
            "id": source.id, "modelId": source.model, "setName": source.source_set, "hasDashboards": True,
            "dataset": header.corpus, "notes": f"{header.n_places:,} tokens of {header.n_documents:,} documents",
        },
    }  # fmt: skip
    for name, row in rows.items():
        (place / f"{name}.jsonl").write_text(compact(row | common) + "\n", "utf-8")
    if source.own_fields:
        (place / OUR_HEADER).write_text(compact(header_document(header)) + "\n", "utf-8")


def _write_batch(source: _Source, place: Path, number: int, features: Iterable[PortableFeature]) -> None:
    """Features, activations and explanations of 1,024 features; an empty file would stop the import: none is left."""
    paths = {name: place / name / f"batch-{number}.jsonl.gz" for name in ("features", "activations", "explanations")}
    with (
        _lines(paths["features"]) as rows,
        _lines(paths["activations"]) as activations,
        _lines(paths["explanations"]) as explanations,
    ):
        for feature in features:
            rows(_feature_row(source, feature))
            for example in feature.examples:
                activations(_activation_row(source, feature, example))
            for row in _explanation_rows(source, feature):
                explanations(row)


@contextmanager
def _lines(path: Path) -> Iterator[Any]:
    """A function that adds a row to a gzip file of JSON lines; a file without rows is taken away."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with path.open("wb") as plain, gzip.GzipFile("", "wb", 5, plain, mtime=0) as file:

        def add(row: dict[str, Any]) -> None:
            nonlocal count
            count += 1
            file.write((_storable(compact(row)) + "\n").encode("ascii"))

        yield add
    if not count:
        path.unlink()


def _storable(line: str) -> str:
    r"""The line as the importer can take it: it replaces every ``\u0000``, which its database cannot hold.

    It would do so within ``\\u0000`` too, a backslash before other letters, and then choke on what is left.
    """
    if "\\u0000" not in line:
        return line
    line = re.sub(r"(?<!\\)((?:\\\\)*)\\u0000", r"\1 ", line)
    return line.replace("\\\\u0000", "\\u005cu0000")


def _feature_row(source: _Source, feature: PortableFeature) -> dict[str, Any]:
    stats = feature.stats
    heights = linear_histogram(stats.histogram, stats.maximum)
    centres = [(i + 0.5) * stats.maximum / len(heights) for i in range(len(heights))]
    return {
        **source.key(stats.feature),
        "maxActApprox": shortest([np.float32(stats.maximum)])[0],
        "creatorId": source.creator,
        "frac_nonzero": stats.frequency,
        "freq_hist_data_bar_heights": heights,
        "freq_hist_data_bar_values": [float(f"{centre:.6g}") for centre in centres],
        **{name: [] for name in _EMPTY},
        "neg_str": feature.suppressed.tokens,
        "neg_values": shortest(np.asarray(feature.suppressed.weights, dtype=np.float32)),
        "pos_str": feature.promoted.tokens,
        "pos_values": shortest(np.asarray(feature.promoted.weights, dtype=np.float32)),
        "sourceSetName": source.source_set,
        "topkCosSimIndices": [other for other, _ in feature.nearest],
        "topkCosSimValues": shortest(np.asarray([cosine for _, cosine in feature.nearest], dtype=np.float32)),
        "vectorLabel": None,
        "hookName": None,
        "vectorDefaultSteerStrength": 10,
        "hasVector": False,
        **source.ours(own_feature(feature)),
    }


def _activation_row(source: _Source, feature: PortableFeature, example: PortableExample) -> dict[str, Any]:
    values = shortest(example.activations)
    return {
        "id": _id(source, feature, f"{example.kind} {example.band} {example.rank}"),
        **source.key(feature.feature),
        "creatorId": source.creator,
        "dataSource": source.corpus,
        "dataIndex": str(example.position),
        "tokens": example.tokens,
        "values": values,
        "maxValue": max(values),
        "maxValueTokenIndex": values.index(max(values)),
        "minValue": min(values),
        "qualifyingTokenIndex": example.peak,
        "dfaValues": [],
        "dfaMaxValue": None,
        "dfaTargetIndex": None,
        **_bin(feature, example),
        **source.ours(own_example(example)),
    }


def _bin(feature: PortableFeature, example: PortableExample) -> dict[str, float]:
    """The bin of an example. The page sorts by `binMax` and moves what is not below it: top ones lie just above all."""
    maximum = feature.stats.maximum
    if example.kind == TOP:
        return {"binMin": TOP_BIN, "binMax": math.floor(maximum * 1000) / 1000 + 0.001, "binContains": TOP_BIN}
    bins = feature.stats.histogram.reshape(-1, 4)[example.band + 12]
    share = float(bins.sum()) / max(1, feature.stats.count)
    return {"binMin": 2.0**example.band, "binMax": min(2.0 ** (example.band + 1), maximum), "binContains": share}


def _explanation_rows(source: _Source, feature: PortableFeature) -> Iterator[dict[str, Any]]:
    """All labels. Their type and model are null: both must be rows that the server already has."""
    for (kind, label), ours in zip(feature.labels, own_labels(feature), strict=True):
        score = "" if label.score is None else f", score {label.score:.3f}"
        yield {
            "id": _id(source, feature, kind),
            **source.key(feature.feature),
            "authorId": source.creator,
            "description": label.label,
            "embedding": None,
            "typeName": None,
            "explanationModelName": None,
            "umap_x": 0,
            "umap_y": 0,
            "umap_cluster": 0,
            "umap_log_feature_sparsity": 0,
            "notes": f"{kind}: {label.method} by {label.author}{score}",
            **source.ours(ours),
        }


def _id(source: _Source, feature: PortableFeature, what: str) -> str:
    """An id of 25 characters that follows from what the row is: the same index gives the same bytes."""
    text = f"{source.model}/{source.id}/{feature.feature}/{what}"
    return "c" + hashlib.sha256(text.encode()).hexdigest()[:24]
