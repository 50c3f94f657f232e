"""A feature as the JSON that attribution front ends show beside a graph, and back.

circuit-tracer's page and Neuronpedia take the same document; docs/feature-formats.md lists its fields and its traps.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from lucida.atomic import replacing
from lucida.errors import FeatureError
from lucida.features.exchange.foreign import ForeignExample, ForeignHistogram, foreign_examples, foreign_stats
from lucida.features.exchange.histograms import linear_histogram, percentiles
from lucida.features.exchange.own_fields import (
    HIGHEST_BAND,
    KEY,
    LOWEST_BAND,
    MOST_EXAMPLES,
    MOST_FEATURES,
    MOST_LAYERS,
    MOST_TOKENS,
    own_example,
    own_feature,
    own_labels,
    read_effects,
    read_example,
    read_label,
    read_stats,
)
from lucida.features.exchange.portable import (
    NOMINAL_PLACES,
    PortableExample,
    PortableFeature,
    TokenEffects,
    portable_features,
    shortest,
    wanted_layers,
)
from lucida.features.exchange.untrusted import (
    MOST_BYTES_OF_A_RECORD,
    a_float32,
    a_list,
    a_number,
    a_text,
    a_whole_number,
    an_object,
    numbers,
    parse,
    read_bytes,
    same_length,
    texts,
)
from lucida.features.index import FeatureIndex
from lucida.features.labels import KINDS
from lucida.features.tables import TOP
from lucida.graph.neuronpedia.names import LARGEST_EXACT, cantor_pair, cantor_unpair
from lucida.progress import Progress, silent

TOP_ACTIVATIONS = "Top activations"
_MOST_GROUPS = 1_000
_MOST_BARS = 100_000


def feature_document(feature: PortableFeature, *, transcoder: str, own_fields: bool = True) -> dict[str, Any]:
    """The JSON document of a feature, with every field that any of the front ends needs.

    `own_fields` adds ours under the key ``lucida``: places, token numbers, exact counts and labels.
    A silent feature has one group of examples, which is empty: a page that finds no group stops.
    """
    stats = feature.stats
    document = {
        "transcoder_id": transcoder,
        "index": stats.feature,
        "examples_quantiles": _groups(feature, own_fields),
        "top_logits": feature.promoted.tokens,
        "bottom_logits": feature.suppressed.tokens,
        "act_min": 0.0,
        "act_max": shortest([np.float32(stats.maximum)])[0],
        "quantile_values": percentiles(stats.histogram, stats.maximum),
        "histogram": linear_histogram(stats.histogram, stats.maximum),
        "activation_frequency": stats.frequency,
    }
    return document | ({KEY: own_feature(feature) | {"labels": own_labels(feature)}} if own_fields else {})


def parse_feature(
    document: Any, where: str, *, layer: int, feature: int, n_places: int = NOMINAL_PLACES
) -> PortableFeature:
    """The feature in a document of anybody's; with our own fields nothing is lost.

    `where` names the document in messages; `n_places` is the number of places that its frequency is a share of.
    Raises FeatureError for a document without `examples_quantiles`, and for values of the wrong kind.
    """
    document = an_object(document, where)
    if not isinstance(document.get("examples_quantiles"), list):
        raise FeatureError(f"{where} is not a feature: it has no list 'examples_quantiles'")
    listed = [group.get("examples") for group in document["examples_quantiles"] if isinstance(group, dict)]
    if sum(len(each) for each in listed if isinstance(each, list)) > MOST_EXAMPLES:
        raise FeatureError(f"{where} has more than {MOST_EXAMPLES:,} examples: it is not read")
    if KEY not in document:
        return _foreign(document, where, layer, feature, n_places)
    ours = an_object(document[KEY], f"{KEY!r} of {where}")
    examples = []
    for group in a_list(document["examples_quantiles"], f"'examples_quantiles' of {where}", _MOST_GROUPS):
        for example, place in _examples_of(group, where):
            tokens, activations = _tokens_of(example, place)
            fields = an_object(example.get(KEY), f"{KEY!r} of {place}")
            examples.append(read_example(fields, tokens, activations, place))
    labels = a_list(ours.get("labels"), f"'labels' of {where}", len(KINDS))
    return PortableFeature(
        stats=read_stats(ours, layer, feature, n_places, where),
        examples=examples,
        promoted=read_effects(ours, "promoted", texts(document, "top_logits", where, MOST_EXAMPLES), where),
        suppressed=read_effects(ours, "suppressed", texts(document, "bottom_logits", where, MOST_EXAMPLES), where),
        labels=tuple(read_label(an_object(each, where), layer, feature, f"a label of {where}") for each in labels),
    )


def write_feature_json(
    index: FeatureIndex,
    folder: str | Path,
    *,
    layers: Iterable[int] | None = None,
    own_fields: bool = True,
    progress: Progress = silent,
) -> int:
    """Write a folder with one ``{number}.json`` a feature; return how many. The folder appears whole or not at all.

    The number is that of attribution graphs (`cantor_pair`), so a page finds them at ``{folder}/{number}.json``.
    Raises FeatureError when the folder is there already or a layer has no features.
    """
    folder, asked = refuse_existing(folder), wanted_layers(index, layers)
    total = sum(index.space.n_features[layer] for layer in asked)
    with replacing(folder, folder=True) as temporary:
        for done, feature in enumerate(portable_features(index, asked)):
            number = cantor_pair(feature.layer, feature.feature)
            if number >= LARGEST_EXACT:
                raise FeatureError(f"the number of feature {feature.layer}:{feature.feature} is too large for a page")
            name = f"{index.header.dictionary}/{feature.layer}"
            document = feature_document(feature, transcoder=name, own_fields=own_fields)
            (temporary / f"{number}.json").write_text(compact(document), "utf-8")
            progress("writing features", done + 1, total)
    return total


def read_feature_json(path: str | Path, *, n_places: int = NOMINAL_PLACES) -> PortableFeature:
    """The feature in a file; its layer and number come from our own fields, else from the file's name.

    Raises FeatureError when the file is missing, damaged or no feature, or says nowhere which feature it is.
    """
    path = Path(path)
    document = an_object(parse(read_bytes(path, MOST_BYTES_OF_A_RECORD), str(path)), str(path))
    ours = document.get(KEY)
    if isinstance(ours, dict):
        layer, feature = ours.get("layer"), ours.get("feature")
    elif path.stem.isdecimal() and len(path.stem) <= 18:
        layer, feature = cantor_unpair(int(path.stem))
    else:
        raise FeatureError(f"{path} does not say its layer; name it by the number of the feature in graphs, 123.json")
    layer = a_whole_number(layer, f"the layer of {path}", 0, MOST_LAYERS)
    feature = a_whole_number(feature, f"the feature of {path}", 0, MOST_FEATURES)
    return parse_feature(document, str(path), layer=layer, feature=feature, n_places=n_places)


def compact(document: Any) -> str:
    """JSON on one line without blanks, in ASCII."""
    return json.dumps(document, allow_nan=False, separators=(",", ":"))


def refuse_existing(folder: str | Path) -> Path:
    """The folder to write. Raises FeatureError when something is there: an export replaces nothing."""
    folder = Path(folder).expanduser()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FeatureError(f"{folder} is there already; give the name of a new folder")
    return folder


def _groups(feature: PortableFeature, own_fields: bool) -> list[dict[str, Any]]:
    top = [example for example in feature.examples if example.kind == TOP]
    samples: dict[int, list[PortableExample]] = {}
    for example in feature.examples:
        if example.kind != TOP:
            samples.setdefault(example.band, []).append(example)
    seen: set[int] = set()
    groups = [{"quantile_name": TOP_ACTIVATIONS, "examples": [_example(each, seen, own_fields) for each in top]}]
    for band in sorted(samples, reverse=True):
        shown = [_example(each, seen, own_fields) for each in samples[band]]
        groups.append({"quantile_name": _name_of(band), "examples": shown})
    return groups


def _name_of(band: int) -> str:
    if band <= LOWEST_BAND:
        return f"Activations below {2.0 ** (band + 1):g}"
    if band >= HIGHEST_BAND:
        return f"Activations from {2.0**band:g}"
    return f"Activations {2.0**band:g} to {2.0 ** (band + 1):g}"


def _example(example: PortableExample, seen: set[int], own_fields: bool) -> dict[str, Any]:
    """An example; a place that an earlier group has shown is drawn faintly."""
    repeated = example.position >= 0 and example.position in seen
    seen.add(example.position)
    document = {
        "tokens": example.tokens,
        "tokens_acts_list": shortest(example.activations),
        "train_token_ind": example.peak,
        "is_repeated_datapoint": repeated,
    }
    return document | ({KEY: own_example(example)} if own_fields else {})


def _foreign(document: dict[str, Any], where: str, layer: int, feature: int, n_places: int) -> PortableFeature:
    found = []
    for group in a_list(document["examples_quantiles"], f"'examples_quantiles' of {where}", _MOST_GROUPS):
        name = a_text(an_object(group, where).get("quantile_name", ""), f"'quantile_name' of {where}")
        for example, place in _examples_of(group, where):
            tokens, activations = _tokens_of(example, place)
            peak = example.get("train_token_ind")
            peak = None if peak is None else a_whole_number(peak, f"'train_token_ind' of {place}", -(2**31), 2**31)
            found.append(ForeignExample("top" in name.lower(), tokens, activations, peak))
    examples, _ = foreign_examples(found)
    plain = {name: _number(document, name, where) for name in ("act_min", "act_max", "activation_frequency")}
    bars = numbers(document, "histogram", where, _MOST_BARS)
    return PortableFeature(
        stats=foreign_stats(
            layer, feature, n_examples=len(examples), strongest=max((each.value for each in examples), default=0.0),
            frequency=plain["activation_frequency"], maximum=plain["act_max"],
            histogram=ForeignHistogram(bars, plain["act_min"], plain["act_max"]), n_places=n_places,
        ),
        examples=examples,
        promoted=_logits(document, "top_logits", where),
        suppressed=_logits(document, "bottom_logits", where),
        is_exact=False,
    )  # fmt: skip


def _number(document: dict[str, Any], name: str, where: str) -> float:
    value = document.get(name)
    return 0.0 if value is None else a_number(value, f"{name!r} of {where}")


def _examples_of(group: Any, where: str) -> list[tuple[dict[str, Any], str]]:
    listed = a_list(an_object(group, f"a group of {where}").get("examples"), f"'examples' of {where}", MOST_EXAMPLES)
    return [(an_object(each, f"example {i} of {where}"), f"example {i} of {where}") for i, each in enumerate(listed)]


def _tokens_of(example: dict[str, Any], where: str) -> tuple[list[str], list[float]]:
    tokens = texts(example, "tokens", where, MOST_TOKENS)
    activations = numbers(example, "tokens_acts_list", where, MOST_TOKENS)
    same_length(where, tokens=tokens, activations=activations)
    return tokens, activations


def _logits(document: dict[str, Any], name: str, where: str) -> TokenEffects:
    """Tokens, or pairs of token and weight: some programs write these."""
    inside = f"{name!r} of {where}"
    tokens, weights = [], []
    for each in a_list(document.get(name), inside, MOST_EXAMPLES):
        pair = each if isinstance(each, list) and len(each) == 2 else [each, 0.0]
        tokens.append(a_text(pair[0], inside))
        weights.append(a_float32(pair[1], inside))
    return TokenEffects(tokens, weights)
