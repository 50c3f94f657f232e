"""Neuronpedia's bulk export turned into an index of ours: one layer of the model for each of its sources."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lucida.errors import FeatureError
from lucida.features.exchange.foreign import ForeignExample, ForeignHistogram, foreign_examples, foreign_stats
from lucida.features.exchange.into_index import IndexWriter, foreign_header, writing_index
from lucida.features.exchange.neuronpedia import TOP_BIN
from lucida.features.exchange.own_fields import (
    KEY,
    MOST_EXAMPLES,
    MOST_FEATURES,
    MOST_LAYERS,
    MOST_TOKENS,
    read_effects,
    read_example,
    read_header,
    read_label,
    read_stats,
)
from lucida.features.exchange.packs import OUR_HEADER
from lucida.features.exchange.portable import NOMINAL_PLACES, PortableExample, PortableFeature, TokenEffects
from lucida.features.exchange.untrusted import (
    INT64_END,
    a_list,
    a_number,
    a_text,
    a_whole_number,
    an_object,
    json_lines,
    numbers,
    parse,
    read_bytes,
    same_length,
    short,
    texts,
)
from lucida.features.header import IndexHeader
from lucida.features.labels import Kind, Label
from lucida.progress import Progress, silent

_SOURCE = re.compile(r"(\d{1,4})-(.+)")
_MOST_BARS = 100_000
Labels = tuple[tuple[Kind, Label], ...]


@dataclass(frozen=True, eq=False)
class _Source:
    """A folder of one source; `header` is that of the index it was written from, None in exports of others."""

    folder: Path
    layer: int
    source_set: str
    header: IndexHeader | None
    about: dict[str, Any]
    model: dict[str, Any]
    seen: dict[int, tuple[int, float]] = field(default_factory=dict)

    @property
    def n_places(self) -> int | None:
        """Tokens that were looked at, where the row of the source says so."""
        found = [self.about.get(name) for name in ("num_prompts", "num_tokens_in_prompt")]
        if not all(isinstance(each, int) and not isinstance(each, bool) and 0 < each < 2**31 for each in found):
            return None
        return found[0] * found[1]  # type: ignore[operator]


def import_neuronpedia(folder: str | Path, out: str | Path, *, progress: Progress = silent) -> int:
    """Turn a bulk export into an index in the new folder `out`; return how many features it has.

    `folder` is that of a model (with a folder ``{layer}-{set}`` for each source) or of one source; all sources must be
    of one set, since a layer of an index has one numbering. Features that the export leaves out count as silent.
    With our own fields the index comes back as it was; without them see docs/feature-formats.md.
    Raises FeatureError, naming file and line, for whatever is damaged; then nothing is written.
    """
    sources = _sources(Path(folder).expanduser())
    is_ours = all(source.header is not None for source in sources)
    header = sources[0].header if is_ours else None
    places = {source.n_places for source in sources}
    n_places = header.n_places if header else (places.pop() or NOMINAL_PLACES if len(places) == 1 else NOMINAL_PLACES)
    by_layer = {source.layer: source for source in sources}
    left_out = 0
    with writing_index(out, has_ids=is_ours) as writer:
        for layer in range(_n_layers(sources, header)):
            if layer not in by_layer:
                writer.add_layer({}, 0)
                continue
            left_out += _import_source(by_layer[layer], writer, is_ours, n_places)
            progress("reading layers", list(by_layer).index(layer) + 1, len(by_layer))
        writer.finish(header or _header(sources[0], n_places, left_out, writer.labels_left_out))
    return sum(writer.n_features)


def _sources(folder: Path) -> list[_Source]:
    places = [folder] if _SOURCE.fullmatch(folder.name) and (folder / "features").is_dir() else []
    if not places and folder.is_dir():
        places = sorted(path for path in folder.iterdir() if _SOURCE.fullmatch(path.name) and path.is_dir())
        places = [path for path in places if (path / "features").is_dir()]
    if not places:
        raise FeatureError(f"{folder} is no bulk export: it has no folder such as 6-res-jb with features in it")
    sources = sorted((_source(place) for place in places), key=lambda source: source.layer)
    sets = sorted({source.source_set for source in sources})
    if len(sets) > 1:
        raise FeatureError(f"{folder} holds the sets {short(', '.join(sets))}; give the folder of one, or a copy")
    if len({source.layer for source in sources}) < len(sources):
        raise FeatureError(f"{folder} holds a layer twice; give the folder of one source")
    return sources


def _source(place: Path) -> _Source:
    found = _SOURCE.fullmatch(place.name)
    assert found
    layer = a_whole_number(int(found[1]), f"the layer of {place}", 0, MOST_LAYERS)
    ours = place / OUR_HEADER
    header = read_header(parse(read_bytes(ours), str(ours)), str(ours)) if ours.is_file() else None
    if header and not (layer < len(header.n_features)):
        raise FeatureError(f"{ours} is of an index of {len(header.n_features)} layers, which has no layer {layer}")
    return _Source(place, layer, found[2], header, _first(place / "source.jsonl"), _first(place / "model.jsonl"))


def _first(path: Path) -> dict[str, Any]:
    return next((row for _, row in json_lines(path)), {}) if path.is_file() else {}


def _n_layers(sources: list[_Source], header: IndexHeader | None) -> int:
    if header:
        return len(header.n_features)
    stated = sources[0].model.get("layers")
    if not isinstance(stated, int) or not 0 <= stated <= MOST_LAYERS:
        stated = 0
    return max(sources[-1].layer + 1, stated)


def _header(source: _Source, n_places: int, left_out: int, labels_left_out: int) -> IndexHeader:
    texts = {"model": source.model.get("id"), "corpus": source.about.get("dataset")}
    settings = {"examples_left_out": left_out, "labels_left_out": labels_left_out}
    return foreign_header(
        source.source_set, "Neuronpedia bulk export", n_places, settings=settings,
        **{name: a_text(text, name) if isinstance(text, str) else "" for name, text in texts.items()},
    )  # fmt: skip


def _import_source(source: _Source, writer: IndexWriter, is_ours: bool, n_places: int) -> int:
    """Activations, features and explanations of one layer; return how many examples were left out."""
    left_out = 0
    for path in _batches(source.folder / "activations"):
        left_out += _import_activations(source, path, writer, is_ours)
    labels: dict[int, list[tuple[Kind, Label]]] = {}
    for path in _batches(source.folder / "explanations"):
        for where, row in json_lines(path):
            feature = _feature(source, row, where)
            labels.setdefault(feature, []).append(_label(row, source.layer, feature, where, is_ours))
    found: dict[int, PortableFeature] = {}
    for path in _batches(source.folder / "features"):
        for where, row in json_lines(path):
            feature = _feature(source, row, where)
            if feature in found:
                raise FeatureError(f"{where} is feature {feature} for the second time")
            read = _our_feature if is_ours else _foreign_feature
            found[feature] = read(source, row, feature, tuple(labels.pop(feature, ())), n_places, where)
    stray = sorted({*labels, *source.seen} - {*found})
    if stray:
        raise FeatureError(f"{source.folder} has activations or explanations of feature {stray[0]}, but not itself")
    n_features = max(found, default=-1) + 1
    if is_ours and source.header:
        n_features = max(n_features, source.header.n_features[source.layer])
    writer.add_layer(found, n_features)
    return left_out


def _batches(folder: Path) -> list[Path]:
    """The files of a kind, by their number; [] where there is no such folder."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.name.endswith((".jsonl.gz", ".jsonl")) and path.is_file()]
    return sorted(found, key=lambda path: ([int(n) for n in re.findall(r"\d{1,9}", path.name)], path.name))


def _feature(source: _Source, row: dict[str, Any], where: str) -> int:
    """The number of the feature that a row is of; it is text there, and a number in other programs' exports."""
    if row.get("layer", source.folder.name) != source.folder.name:
        raise FeatureError(f"{where} is of source {short(row['layer'])}, but lies in {source.folder.name}")
    value = row.get("index")
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value):
        value = int(value)
    return a_whole_number(value, f"'index' of {where}", 0, MOST_FEATURES)


def _import_activations(source: _Source, path: Path, writer: IndexWriter, is_ours: bool) -> int:
    """The examples of one file; a file holds those of about a thousand features, and a feature is in one file."""
    ours: dict[int, list[PortableExample]] = {}
    foreign: dict[int, list[ForeignExample]] = {}
    for where, row in json_lines(path):
        feature = _feature(source, row, where)
        tokens, values = texts(row, "tokens", where, MOST_TOKENS), numbers(row, "values", where, MOST_TOKENS)
        same_length(where, tokens=tokens, values=values)
        if is_ours:
            fields = an_object(row.get(KEY), f"{KEY!r} of {where}")
            ours.setdefault(feature, []).append(read_example(fields, tokens, values, where))
        else:
            foreign.setdefault(feature, []).append(_foreign_example(row, tokens, values, where))
        if max(len(ours.get(feature, ())), len(foreign.get(feature, ()))) > MOST_EXAMPLES:
            raise FeatureError(f"{where} is one of more than {MOST_EXAMPLES:,} examples of feature {feature}")
    left_out = 0
    for feature, found in foreign.items():
        # Top ones come in any order.
        in_order = sorted(found, key=lambda each: -max(each.activations, default=0.0) if each.is_top else 0.0)
        ours[feature], missed = foreign_examples(in_order)
        left_out += missed
    for feature, examples in sorted(ours.items()):
        if feature in source.seen:
            raise FeatureError(f"{path} has activations of feature {feature}, which stand in an earlier file too")
        source.seen[feature] = len(examples), max((example.value for example in examples), default=0.0)
        writer.add_examples(source.layer, feature, examples)
    return left_out


def _foreign_example(row: dict[str, Any], tokens: list[str], values: list[float], where: str) -> ForeignExample:
    """Which token is meant: the strongest of a top example; of others the one that put it into its bin, if said."""
    low = row.get("binMin")
    is_top = low is None or a_number(low, f"'binMin' of {where}") == TOP_BIN
    peak = row.get("qualifyingTokenIndex")
    if peak is not None:
        peak = a_whole_number(peak, f"'qualifyingTokenIndex' of {where}", -INT64_END)
    # Many exports say 0 where they mean nothing.
    says = not is_top and peak is not None and 0 <= peak < len(values) and values[peak] > 0
    return ForeignExample(is_top, tokens, values, peak if says else None)


def _our_feature(
    source: _Source,
    row: dict[str, Any],
    feature: int,
    labels: tuple[tuple[Kind, Label], ...],
    n_places: int,
    where: str,
) -> PortableFeature:
    fields = an_object(row.get(KEY), f"{KEY!r} of {where}")
    return PortableFeature(
        stats=read_stats(fields, source.layer, feature, n_places, where),
        examples=[],
        promoted=read_effects(fields, "promoted", texts(row, "pos_str", where, MOST_EXAMPLES), where),
        suppressed=read_effects(fields, "suppressed", texts(row, "neg_str", where, MOST_EXAMPLES), where),
        labels=labels,
        nearest=_nearest(row, where),
    )


def _foreign_feature(
    source: _Source,
    row: dict[str, Any],
    feature: int,
    labels: tuple[tuple[Kind, Label], ...],
    n_places: int,
    where: str,
) -> PortableFeature:
    n_examples, strongest = source.seen.get(feature, (0, 0.0))
    maximum, frequency = (
        0.0 if row.get(name) is None else a_number(row[name], f"{name!r} of {where}")
        for name in ("maxActApprox", "frac_nonzero")
    )
    heights = numbers(row, "freq_hist_data_bar_heights", where, _MOST_BARS)
    return PortableFeature(
        stats=foreign_stats(
            source.layer, feature, n_examples=n_examples, strongest=strongest, frequency=frequency, maximum=maximum,
            histogram=ForeignHistogram(heights), n_places=n_places,
        ),
        examples=[],
        promoted=_effects(row, "pos", where),
        suppressed=_effects(row, "neg", where),
        labels=labels,
        nearest=_nearest(row, where),
        is_exact=False,
    )  # fmt: skip


def _effects(row: dict[str, Any], name: str, where: str) -> TokenEffects:
    tokens = texts(row, f"{name}_str", where, MOST_EXAMPLES)
    weights = numbers(row, f"{name}_values", where, MOST_EXAMPLES) or [0.0] * len(tokens)
    same_length(where, **{f"{name}_str": tokens, f"{name}_values": weights})
    return TokenEffects(tokens, weights)


def _nearest(row: dict[str, Any], where: str) -> tuple[tuple[int, float], ...]:
    inside = f"'topkCosSimIndices' of {where}"
    others = a_list(row.get("topkCosSimIndices"), inside, MOST_EXAMPLES)
    others = [a_whole_number(each, inside, 0, MOST_FEATURES) for each in others]
    cosines = numbers(row, "topkCosSimValues", where, MOST_EXAMPLES)
    same_length(where, topkCosSimIndices=others, topkCosSimValues=cosines)
    return tuple(zip(others, cosines, strict=True))


def _label(row: dict[str, Any], layer: int, feature: int, where: str, is_ours: bool) -> tuple[Kind, Label]:
    """An explanation; one that names no model and no type was written by a person."""
    if is_ours:
        return read_label(an_object(row.get(KEY), f"{KEY!r} of {where}"), layer, feature, where)
    named = [row.get(name) for name in ("explanationModelName", "typeName", "createdAt")]
    model, method, date = ("" if each is None else a_text(each, where) for each in named)
    description = a_text(row.get("description"), f"'description' of {where}")
    kind: Kind = "llm" if model or method else "human"
    label = Label(layer, feature, description, author=model or "neuronpedia", method=method, date=date[:10])
    return kind, label
