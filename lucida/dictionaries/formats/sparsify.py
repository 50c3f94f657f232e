"""sparsify's TopK transcoders: a folder for each hookpoint; cross-layer ones from its clt-training fork."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lucida.dictionaries.dictionary import Dictionary
from lucida.dictionaries.formats.folder import by_layer, files_named, number_of_layers, source_of
from lucida.dictionaries.formats.hooks import parse_hook
from lucida.dictionaries.formats.settings import read_json
from lucida.dictionaries.tensor_files import need, open_safetensors
from lucida.dictionaries.weights import LayerWeights
from lucida.errors import DictionaryError

WEIGHTS = "sae.safetensors"
# Settings that change what the weights mean. Off (or absent) is what we read exactly.
_MUST_BE_OFF = (
    "divide_cross_layer", "embed_skip", "gram_lookup", "ito", "matching_pursuit", "normalize_io",
    "per_source_tied", "post_encoder_scale", "secondary_target_tied", "slice_decoder", "slice_encoder",
    "topk_coalesced", "use_fp8",
)  # fmt: skip


def is_sparsify(folder: Path) -> bool:
    """Whether the folder holds sparsify weights."""
    return bool(files_named(folder, WEIGHTS))


def read_sparsify(folder: Path, n_layers: int | None) -> Dictionary:
    """TopK transcoders of `...layers.N.mlp` folders, weights memory-mapped. Per-layer ones may lack layers.

    Raises DictionaryError when a file is missing or damaged, it is an autoencoder, it does not replace
    MLPs, or it uses what we cannot honour exactly (post-encoder biases, coalesced top-k, ...).
    """
    places = by_layer(folder, ((_layer_of(folder, p.parent), p.parent) for p in files_named(folder, WEIGHTS)))
    _refuse_other_inputs(folder)
    read = {layer: _read_layer(place) for layer, place in places.items()}
    if any(len(one.biases) > 1 for one in read.values()) and list(places) != list(range(min(places), max(places) + 1)):
        raise DictionaryError(f"{folder} is cross-layer and lacks a layer between {min(places)} and {max(places)}")
    count = number_of_layers(places, n_layers, folder)
    layers = {layer: one.weights for layer, one in read.items()}
    return Dictionary(
        name=folder.name, model_name=_model_name(folder), n_layers=count,
        d_model=layers[min(layers)].encoder.shape[1],
        activation="topk", reads_at="mlp_in", writes_at="mlp_out",
        weights=layers, decoder_biases=_summed_biases(read, count, folder),
        source=source_of(folder, "sparsify", [p / n for p in places.values() for n in ("cfg.json", WEIGHTS)]),
    )  # fmt: skip


class _Read(NamedTuple):
    """One hookpoint: its features, and the bias that it adds to each of its targets."""

    weights: LayerWeights
    biases: list[Tensor]


def _layer_of(folder: Path, place: Path) -> int | None:
    name = place.relative_to(folder).as_posix() if place != folder else folder.name
    layer, module = parse_hook(name.split("/")[0])
    if (layer is None and re.search(r"(?:layers|h)\.\d+$", name)) or (layer is not None and module != "mlp"):
        raise DictionaryError(f"{place} is for {name}; only transcoders of an `mlp` can replace MLPs")
    return layer


def _refuse_other_inputs(folder: Path) -> None:
    path = folder / "config.json"
    if path.is_file() and (other := read_json(path).get("hookpoints_in")):
        raise DictionaryError(
            f"{path} reads at {str(other)[:80]}; only transcoders that read the MLP's input are supported"
        )


def _model_name(folder: Path) -> str | None:
    path = folder / "config.json"
    model = read_json(path).get("model") if path.is_file() else None
    return model if isinstance(model, str) and model else None


def _read_layer(place: Path) -> _Read:
    config, path = read_json(place / "cfg.json"), place / WEIGHTS
    k = _refuse_unreadable(config, place / "cfg.json")
    tensors = open_safetensors(path)
    _refuse_post_encoders(tensors, path)
    n_targets = config.get("n_targets") or 0
    if not isinstance(n_targets, int):
        raise DictionaryError(f"{place / 'cfg.json'} has n_targets {str(n_targets)[:80]!r}, expected a number")
    if n_targets and "W_decs.0" in tensors:
        decoders = tuple(need(tensors, f"W_decs.{i}", path, 2) for i in range(n_targets))
        biases = [need(tensors, f"b_decs.{i}", path, 1) for i in range(n_targets)]
    elif n_targets > 1:
        raise DictionaryError(f"{path} holds no W_decs.0, although it writes to {n_targets} layers")
    else:
        decoders, biases = (need(tensors, "W_dec", path, 2),), [need(tensors, "b_dec", path, 1)]
    weights = LayerWeights(
        encoder=need(tensors, "encoder.weight", path, 2),
        encoder_bias=need(tensors, "encoder.bias", path, 1),
        decoders=decoders,
        skip=_skip(config, tensors, path, n_targets),
        k=k,
    )
    return _Read(weights, biases)


def _refuse_unreadable(config: dict[str, Any], where: Path) -> int:
    if config.get("transcode") is not True:
        raise DictionaryError(f"{where} does not say `transcode: true`: it is a sparse autoencoder, not a transcoder")
    if config.get("activation", "topk") != "topk":
        raise DictionaryError(f"{where} has activation {str(config['activation'])[:80]!r}; readable is topk")
    on = [name for name in _MUST_BE_OFF if config.get(name)]
    if config.get("coalesce_topk", "none") != "none":
        on.append("coalesce_topk")
    if on:
        raise DictionaryError(f"{where} uses {', '.join(on)}, which we cannot honour exactly")
    k = config.get("k")
    if not isinstance(k, int) or k < 1:
        raise DictionaryError(f"{where} has k {str(k)[:80]}, expected a number above zero")
    return k


def _refuse_post_encoders(tensors: dict[str, Tensor], path: Path) -> None:
    """The fork may bias active features differently for each target: a feature then has no one activation."""
    for name, tensor in tensors.items():
        if name.startswith("post_enc") and bool((tensor != 0).any()):
            raise DictionaryError(f"{path} holds {name} that is not zero, which we cannot honour exactly")


def _skip(config: dict[str, Any], tensors: dict[str, Tensor], path: Path, n_targets: int) -> Tensor | None:
    if not config.get("skip_connection"):
        return None
    if n_targets > 1:
        raise DictionaryError(f"{path} has skip connections to {n_targets} layers; only a layer's own is supported")
    return need(tensors, "W_skips.0" if "W_skips.0" in tensors else "W_skip", path, 2)


def _summed_biases(read: dict[int, _Read], n_layers: int, folder: Path) -> Tensor:
    """Decoder biases [layer, d_model]: every source adds its own to each of its targets."""
    d_model = len(read[min(read)].biases[0])
    table = torch.zeros(n_layers, d_model)
    for layer, one in read.items():
        for offset, bias in enumerate(one.biases):
            if layer + offset >= n_layers or len(bias) != d_model:
                raise DictionaryError(f"{folder} has a bias of layer {layer} that fits no layer {layer + offset}")
            table[layer + offset] += bias.to(torch.float32)
    return table
