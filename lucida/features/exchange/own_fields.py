"""Our own fields in files of other formats, under the key ``lucida``: with them an index comes back as it was.

Readers of those formats ignore them. What is read is checked like everything a stranger wrote.
"""

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np

from lucida.errors import FeatureError
from lucida.features.exchange.portable import PortableExample, PortableFeature, TokenEffects, shortest
from lucida.features.exchange.untrusted import (
    a_float32,
    a_list,
    a_number,
    a_text,
    a_whole_number,
    an_object,
    numbers,
    one_of,
    same_length,
    short,
)
from lucida.features.header import IndexHeader
from lucida.features.index import FeatureStats
from lucida.features.labels import KINDS, Kind, Label
from lucida.features.tables import HISTOGRAM_BINS, SAMPLE, TOP

KEY = "lucida"
MOST_TOKENS = 32_767
"""Tokens of one example: their places are 16-bit numbers."""
MOST_EXAMPLES = 10_000
"""Examples of one feature."""
MOST_LAYERS = 4_096
MOST_FEATURES = 1 << 20
"""Features of one layer."""
LOWEST_BAND, HIGHEST_BAND = -12, 11


def own_feature(feature: PortableFeature) -> dict[str, Any]:
    """What other formats have no place for."""
    stats = feature.stats
    bins = np.flatnonzero(stats.histogram).tolist()
    return {
        "layer": stats.layer,
        "feature": stats.feature,
        "count": stats.count,
        "mean": stats.mean,
        "maximum": shortest([np.float32(stats.maximum)])[0],
        "first": stats.first,
        "last": stats.last,
        "histogram": [[each, int(stats.histogram[each])] for each in bins],
        **{
            name: {"ids": effects.ids or [], "weights": shortest(np.asarray(effects.weights, dtype=np.float32))}
            for name, effects in (("promoted", feature.promoted), ("suppressed", feature.suppressed))
            if effects.tokens
        },
    }


def own_example(example: PortableExample) -> dict[str, Any]:
    """What other formats have no place for."""
    return {
        "kind": example.kind,
        "band": example.band,
        "rank": example.rank,
        "value": shortest([np.float32(example.value)])[0],
        "position": example.position,
        "document": example.document,
        "peak": example.peak,
        "ids": example.ids or [],
    }


def own_labels(feature: PortableFeature) -> list[dict[str, Any]]:
    """The labels of a feature; the score is rounded to what the table of labels can hold."""
    found = []
    for kind, label in feature.labels:
        row = {"kind": kind, **asdict(label), "details": dict(label.details)}
        row["score"] = None if label.score is None else shortest([np.float32(label.score)])[0]
        found.append({name: value for name, value in row.items() if name not in ("layer", "feature")})
    return found


def read_stats(document: Mapping[str, Any], layer: int, feature: int, n_places: int, where: str) -> FeatureStats:
    """The statistics in our own fields. Raises FeatureError, naming the place, for anything else."""
    stated = document.get("layer"), document.get("feature")
    if stated != (layer, feature):
        raise FeatureError(f"{where} stands where feature {layer}:{feature} should, but says it is {short(stated)}")
    histogram = np.zeros(HISTOGRAM_BINS, dtype=np.int64)
    for pair in a_list(document.get("histogram"), f"'histogram' of {where}", HISTOGRAM_BINS):
        pair = [*a_list(pair, f"'histogram' of {where}", 2), None, None]
        bin = a_whole_number(pair[0], f"a bin of 'histogram' of {where}", 0, HISTOGRAM_BINS)
        histogram[bin] = a_whole_number(pair[1], f"a count of 'histogram' of {where}")
    count = a_whole_number(document.get("count"), f"'count' of {where}")
    places = [a_whole_number(document.get(name), f"{name!r} of {where}", -1) for name in ("first", "last")]
    return FeatureStats(
        layer=layer, feature=feature, count=count, frequency=count / max(1, n_places),
        mean=a_number(document.get("mean"), f"'mean' of {where}"),
        maximum=a_float32(document.get("maximum"), f"'maximum' of {where}"),
        first=places[0], last=places[1], histogram=histogram,
    )  # fmt: skip


def read_effects(document: Mapping[str, Any], name: str, tokens: list[str], where: str) -> TokenEffects:
    """The token effects in our own fields, for the texts that stand beside them."""
    where = f"{name!r} of {where}"
    found = an_object(document.get(name) or {}, where)
    weights = numbers(found, "weights", where, MOST_EXAMPLES)
    ids = _ids(found, where)
    same_length(where, tokens=tokens, weights=weights, ids=ids)
    return TokenEffects(tokens, weights, ids)


def read_example(
    document: Mapping[str, Any], tokens: list[str], activations: list[float], where: str
) -> PortableExample:
    """The example in our own fields, for the tokens and activations that stand beside them."""
    kind = one_of(document.get("kind"), (TOP, SAMPLE), f"'kind' of {where}")
    ids = _ids(document, where)
    same_length(where, tokens=tokens, activations=activations, ids=ids)
    return PortableExample(
        kind=kind,
        band=a_whole_number(document.get("band"), f"'band' of {where}", LOWEST_BAND, HIGHEST_BAND + 1),
        rank=a_whole_number(document.get("rank"), f"'rank' of {where}", 0, MOST_TOKENS + 1),
        value=a_float32(document.get("value"), f"'value' of {where}"),
        position=a_whole_number(document.get("position"), f"'position' of {where}", -1),
        document=a_whole_number(document.get("document"), f"'document' of {where}", -1),
        peak=a_whole_number(document.get("peak"), f"'peak' of {where}", 0, len(tokens)),
        tokens=tokens,
        activations=np.asarray(activations, dtype=np.float32),
        ids=ids,
    )


def read_label(document: Mapping[str, Any], layer: int, feature: int, where: str) -> tuple[Kind, Label]:
    """A label in our own fields, with its kind."""
    texts = {name: a_text(document.get(name), f"{name!r} of {where}") for name in ("label", "author", "method", "date")}
    kind = KINDS[KINDS.index(one_of(document.get("kind"), KINDS, f"'kind' of {where}"))]
    score = document.get("score")
    return kind, Label(
        layer=layer, feature=feature, score=None if score is None else a_float32(score, f"'score' of {where}"),
        details=an_object(document.get("details") or {}, f"'details' of {where}"), **texts,
    )  # fmt: skip


def header_document(header: IndexHeader) -> dict[str, Any]:
    """What the index was made from; the sizes of its own files stay behind."""
    return {"index": asdict(replace(header, files={})), "written_by": "lucida"}


def read_header(document: Any, where: str) -> IndexHeader:
    """The header in ``lucida.json``. Raises FeatureError, naming the place, for anything else."""
    found = an_object(an_object(document, where).get("index"), f"'index' of {where}")
    counts = a_list(found.get("n_features"), f"'n_features' of {where}", MOST_LAYERS)
    shard = [*a_list(found.get("shard"), f"'shard' of {where}", 2), None, None]
    values: dict[str, Any] = {
        "n_features": tuple(a_whole_number(n, f"'n_features' of {where}", 0, MOST_FEATURES + 1) for n in counts),
        "shard": tuple(a_whole_number(n, f"'shard' of {where}") for n in shard[:2]),
        "settings": an_object(found.get("settings"), f"'settings' of {where}"),
    }
    for name in {"tiles", "tiles_done"} & set(values["settings"]):
        a_whole_number(values["settings"][name], f"{name!r} of {where}")
    for field in fields(IndexHeader):
        if field.type in (str, "str"):
            values[field.name] = a_text(found.get(field.name), f"{field.name!r} of {where}")
        elif field.type in (int, "int"):
            values[field.name] = a_whole_number(found.get(field.name), f"{field.name!r} of {where}")
    return IndexHeader(**values)


def _ids(document: Mapping[str, Any], where: str) -> list[int]:
    found = a_list(document.get("ids"), f"'ids' of {where}", MOST_TOKENS)
    return [a_whole_number(each, f"'ids' of {where}", 0, 2**31) for each in found]
