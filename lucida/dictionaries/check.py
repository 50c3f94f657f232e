"""The contract of a dictionary, as a check that users run over their own."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lucida.dictionaries.dictionary import Dictionary
from lucida.errors import DictionaryError

_SAMPLED_FEATURES = 256
_SAMPLED_POSITIONS = 16


@dataclass(frozen=True)
class CheckReport:
    """What `check_dictionary` looked at and found in order."""

    name: str
    passed: tuple[str, ...]
    full: bool


class _Subject(NamedTuple):
    """One layer under examination: a sample of its features (ascending) and random inputs."""

    dictionary: Dictionary
    layer: int
    features: Tensor
    x: Tensor


def check_dictionary(dictionary: Dictionary, *, full: bool = False, seed: int = 0) -> CheckReport:
    """Check that a dictionary keeps its contract: a report, or DictionaryError naming the first breach.

    Encoding and decoding are compared with their definitions on random inputs, and weights are searched
    for NaN, in a sample of the features, or in all of them with `full=True` (which reads every file).
    """
    checks = {
        "shapes agree": _shapes,
        "thresholds are not negative": _thresholds,
        "weights are finite": _finite,
        "encode is its definition": _encode,
        "encode_sparse is ordered and agrees with encode": _encode_sparse,
        "decoder rows do not depend on what is asked with them": _decoder_rows,
        "reconstruct is its definition": _reconstruct,
    }
    generator = torch.Generator().manual_seed(seed)
    for layer in dictionary.layers:
        features = torch.arange(dictionary.n_features(layer))
        if not full and len(features) > _SAMPLED_FEATURES:
            features = features[torch.randperm(len(features), generator=generator)[:_SAMPLED_FEATURES]].sort().values
        x = torch.randn(_SAMPLED_POSITIONS, dictionary.d_model, generator=generator)
        for check in checks.values():
            for breach in check(_Subject(dictionary, layer, features, x)):
                raise DictionaryError(f"dictionary {dictionary.name}, layer {layer}: {breach}")
    return CheckReport(dictionary.name, tuple(checks), full)


def check_fits(dictionary: Dictionary, n_layers: int, d_model: int, model_name: str | None = None) -> None:
    """Raise DictionaryError, saying what differs, unless the dictionary is of a model of this shape and name.

    Names are compared without their organisation and in any case; leave `model_name` out to trace a
    model with the dictionary of a close relative.
    """
    name = dictionary.name
    made_for = f"; it was made for {dictionary.model_name}" if dictionary.model_name else ""
    if dictionary.d_model != d_model:
        raise DictionaryError(f"dictionary {name} has d_model {dictionary.d_model}, this model {d_model}{made_for}")
    if dictionary.n_layers != n_layers:
        hint = "; if it covers only some, load it with n_layers" if dictionary.n_layers < n_layers else ""
        raise DictionaryError(
            f"dictionary {name} has {dictionary.n_layers} layers, this model {n_layers}{made_for}{hint}"
        )
    if model_name and dictionary.model_name and _plain(model_name) != _plain(dictionary.model_name):
        raise DictionaryError(f"dictionary {name} is of {dictionary.model_name}, this model is {model_name}")


def _plain(model_name: str) -> str:
    return model_name.rstrip("/").rsplit("/", 1)[-1].casefold()


def _shapes(subject: _Subject) -> Iterator[str]:
    dictionary, layer, features, _ = subject
    shape = (len(features), dictionary.d_model)
    if dictionary.encoder_rows(layer, features).shape != shape:
        yield "encoder rows have a wrong shape"
    if dictionary.encoder_bias(layer, features).shape != shape[:1]:
        yield "encoder biases have a wrong shape"
    if layer not in dictionary.writes_to(layer):
        yield "its features do not write to their own layer"
    for target in dictionary.writes_to(layer):
        if not target < dictionary.n_layers:
            yield f"it writes to layer {target}, which is not there"
        if dictionary.decoder_rows(layer, features, target).shape != shape:
            yield f"decoder rows to layer {target} have a wrong shape"


def _thresholds(subject: _Subject) -> Iterator[str]:
    dictionary, layer, _, _ = subject
    thresholds = dictionary.thresholds(layer, torch.arange(dictionary.n_features(layer)))
    if thresholds is not None and bool((thresholds < 0).any()):
        yield f"a threshold is negative ({float(thresholds.min()):.3g}), so activations would be too"


def _finite(subject: _Subject) -> Iterator[str]:
    dictionary, layer, features, _ = subject
    for part in features.split(4096):
        rows = {
            "encoder": dictionary.encoder_rows(layer, part),
            "biases": dictionary.encoder_bias(layer, part),
        }
        for target in dictionary.writes_to(layer):
            rows[f"decoder to layer {target}"] = dictionary.decoder_rows(layer, part, target)
        for what, found in rows.items():
            if not torch.isfinite(found).all():
                yield f"its {what} hold NaN or infinite numbers"
    for target in dictionary.writes_to(layer):
        if not torch.isfinite(dictionary.decoder_bias(target)).all():
            yield f"the decoder bias of layer {target} holds NaN or infinite numbers"


def _encode(subject: _Subject) -> Iterator[str]:
    dictionary, layer, features, x = subject
    found = dictionary.encode(layer, x)
    h = x @ dictionary.encoder_rows(layer, features).T + dictionary.encoder_bias(layer, features)
    thresholds, k = dictionary.thresholds(layer, features), dictionary.top_k(layer)
    expected = h.clamp(min=0) if thresholds is None else h * (h > thresholds)
    # Within rounding of where a feature switches on, either answer is right.
    undecided = torch.zeros_like(h, dtype=torch.bool)
    if thresholds is not None:
        undecided = (h - thresholds).abs() < 1e-4
    if k is not None:
        if int((found != 0).sum(1).max()) > k:
            yield f"more than k = {k} features are active at one position"
        least = found.topk(min(k, found.shape[1])).values[:, -1:]
        undecided = (h - least).abs() < 1e-4
        expected = torch.where(h < least, 0.0, expected)
    if not (undecided | torch.isclose(found[:, features], expected, rtol=1e-4, atol=1e-4)).all():
        yield "encode differs from its definition"


def _encode_sparse(subject: _Subject) -> Iterator[str]:
    dictionary, layer, _, x = subject
    sparse, dense = dictionary.encode_sparse(layer, x), dictionary.encode(layer, x)
    key = sparse.position * dictionary.n_features(layer) + sparse.feature
    if not (key.diff() > 0).all():
        yield "active features are not ordered by position and feature"
    if not (sparse.activation != 0).all():
        yield "encode_sparse lists a feature that is not active"
    if not torch.allclose(sparse.dense(), dense):
        yield "encode_sparse differs from encode"


def _decoder_rows(subject: _Subject) -> Iterator[str]:
    dictionary, layer, features, _ = subject
    few = slice(None, None, max(1, len(features) // 8))
    for target in dictionary.writes_to(layer):
        together = dictionary.decoder_rows(layer, features, target)
        if not torch.equal(dictionary.decoder_rows(layer, features[few].flip(0), target).flip(0), together[few]):
            yield f"decoder rows to layer {target} depend on which others are asked"


def _reconstruct(subject: _Subject) -> Iterator[str]:
    dictionary, layer, _, x = subject
    sparse = dictionary.encode_sparse(layer, x)
    found = dictionary.reconstruct({layer: sparse}, {layer: x})
    for target in dictionary.writes_to(layer):
        rows = dictionary.decoder_rows(layer, sparse.feature, target)
        expected = dictionary.decoder_bias(target).repeat(len(x), 1)
        expected.index_add_(0, sparse.position, sparse.activation[:, None] * rows)
        skip = dictionary.skip(layer)
        if skip is not None and target == layer:
            expected += x @ skip.T
        if not torch.allclose(found[target], expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max())):
            yield f"reconstruct differs from its definition at layer {target}"
