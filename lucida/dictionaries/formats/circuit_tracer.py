"""circuit-tracer's dictionaries: config.yaml and one safetensors file for each layer (PLT) or two (CLT)."""

import re
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from lucida.atomic import replacing
from lucida.dictionaries.dictionary import Dictionary
from lucida.dictionaries.formats.folder import by_layer, source_of
from lucida.dictionaries.formats.gemma_scope import npz_layer
from lucida.dictionaries.formats.gemma_scope_2 import cross_layer, is_gemma_scope_2, per_layer
from lucida.dictionaries.formats.hooks import READ_HOOK, WRITE_HOOK, reads_at, writes_at
from lucida.dictionaries.formats.settings import inside, read_yaml, text_or_none
from lucida.dictionaries.tensor_files import in_pieces, need, open_npz, open_safetensors, write_safetensors
from lucida.dictionaries.weights import LayerWeights
from lucida.errors import DictionaryError

PLT, CLT = "transcoder_set", "cross_layer_transcoder"


def is_circuit_tracer(folder: Path) -> bool:
    """Whether the folder holds a config.yaml."""
    return (folder / "config.yaml").is_file()


def read_circuit_tracer(folder: Path, n_layers: int | None) -> Dictionary:
    """A per-layer or cross-layer transcoder in circuit-tracer's format, weights memory-mapped.

    Raises DictionaryError when a file is missing or damaged, or a setting cannot be honoured.
    """
    config_path = folder / "config.yaml"
    config = read_yaml(config_path)
    kind = config.get("model_kind")
    if kind not in (PLT, CLT):
        raise DictionaryError(f"{config_path} has model_kind {str(kind)[:80]!r}; known are {PLT}, {CLT}")
    if kind == CLT and config.get("transcoders") is None:
        files, layers, biases = _read_clt(folder)
    else:
        files, layers, biases = _read_listed(folder, config, cross=kind == CLT)
    if n_layers is not None and n_layers != len(layers):
        raise DictionaryError(f"{folder} holds {len(layers)} layers, the model has {n_layers}")
    return Dictionary(
        name=text_or_none(config, "scan") or folder.name,
        model_name=text_or_none(config, "model_name"),
        n_layers=len(layers),
        d_model=biases.shape[1],
        activation=_activation(layers, folder),
        reads_at=reads_at(config.get("feature_input_hook"), config_path),
        writes_at=writes_at(config.get("feature_output_hook"), config_path),
        weights=layers,
        decoder_biases=biases,
        source=source_of(folder, "circuit-tracer", [config_path, *files]),
    )


Read = tuple[list[Path], dict[int, LayerWeights], Tensor]


def _read_listed(folder: Path, config: dict[str, Any], *, cross: bool) -> Read:
    paths = _listed_files(folder, config)
    layers, biases = {}, []
    for layer, path in enumerate(paths):
        tensors = open_npz(path) if path.suffix == ".npz" else open_safetensors(path)
        if path.suffix == ".npz":
            layers[layer], bias = npz_layer(tensors, path)
        elif cross:
            layers[layer], bias = cross_layer(tensors, path, layer, len(paths))
        elif is_gemma_scope_2(tensors):
            layers[layer], bias = per_layer(tensors, path)
        else:
            layers[layer], bias = _plt_layer(tensors, path, config)
        biases.append(bias)
    return paths, layers, _stack(biases, folder)


def _listed_files(folder: Path, config: dict[str, Any]) -> list[Path]:
    listed = config.get("transcoders")
    if listed is not None:
        if not isinstance(listed, list) or not listed:
            raise DictionaryError(f"{folder / 'config.yaml'} has `transcoders` that is not a list of files")
        return [inside(folder, entry) for entry in listed]
    found = by_layer(folder, ((_number(path), path) for path in sorted(folder.glob("layer_*.safetensors"))))
    return _without_gaps(folder, "layer_{}.safetensors", found)


def _number(path: Path) -> int | None:
    match = re.fullmatch(r"(?:layer|W_enc)_(\d+)\.safetensors", path.name)
    return int(match[1]) if match else None


def _without_gaps(folder: Path, pattern: str, found: dict[int, Path]) -> list[Path]:
    for layer in range(max(found, default=0) + 1):
        if layer not in found:
            raise DictionaryError(f"{folder} holds no {pattern.format(layer)}; fetch the missing file")
    return list(found.values())


def _plt_layer(tensors: dict[str, Tensor], path: Path, config: dict[str, Any]) -> tuple[LayerWeights, Tensor]:
    threshold = tensors.get("activation_function.threshold")
    skip = tensors.get("W_skip")
    weights = LayerWeights(
        encoder=need(tensors, "W_enc", path, 2),
        encoder_bias=need(tensors, "b_enc", path, 1),
        decoders=(need(tensors, "W_dec", path, 2),),
        threshold=None if threshold is None else threshold.flatten(),
        skip=None if skip is None else need(tensors, "W_skip", path, 2),
        k=_top_k(tensors, path, config),
    )
    return weights, need(tensors, "b_dec", path, 1)


def _top_k(tensors: dict[str, Tensor], path: Path, config: dict[str, Any]) -> int | None:
    activation = config.get("activation")
    if activation in (None, "relu"):
        if "k" in tensors:
            raise DictionaryError(f"{path} holds k, but config.yaml does not say `activation: topk`; add it")
        return None
    k = config.get("k", tensors["k"].flatten()[0].item() if "k" in tensors else None)
    if activation != "topk" or not isinstance(k, int):
        raise DictionaryError(
            f"{path.parent / 'config.yaml'} has activation {str(activation)[:80]!r} and k {str(k)[:80]}; "
            "known are relu, and topk with k"
        )
    return k


def _read_clt(folder: Path) -> Read:
    found = by_layer(folder, ((_number(path), path) for path in sorted(folder.glob("W_enc_*.safetensors"))))
    encoders = _without_gaps(folder, "W_enc_{}.safetensors", found)
    files, layers, biases = [], {}, []
    for layer, path in enumerate(encoders):
        tensors = open_safetensors(path)
        decoder_path = folder / f"W_dec_{layer}.safetensors"
        if not decoder_path.is_file():
            raise DictionaryError(f"{folder} holds no {decoder_path.name}; fetch the missing file")
        decoder = need(open_safetensors(decoder_path), f"W_dec_{layer}", decoder_path, 3)
        if decoder.shape[1] != len(encoders) - layer:
            raise DictionaryError(
                f"{decoder_path} writes to {decoder.shape[1]} layers, expected {len(encoders) - layer}"
            )
        threshold, skip = tensors.get(f"threshold_{layer}"), tensors.get(f"W_skip_{layer}")
        layers[layer] = LayerWeights(
            encoder=need(tensors, f"W_enc_{layer}", path, 2),
            encoder_bias=need(tensors, f"b_enc_{layer}", path, 1),
            decoders=decoder.unbind(1),
            threshold=None if threshold is None else threshold.flatten(),
            # Unlike in its per-layer files, circuit-tracer applies x @ W_skip here.
            skip=None if skip is None else need(tensors, f"W_skip_{layer}", path, 2).T,
        )
        biases.append(need(tensors, f"b_dec_{layer}", path, 1))
        files += [path, decoder_path]
    return files, layers, _stack(biases, folder)


def _stack(biases: list[Tensor], folder: Path) -> Tensor:
    if len({tuple(bias.shape) for bias in biases}) != 1:
        raise DictionaryError(f"{folder} has decoder biases of different sizes; its layers are of different models")
    return torch.stack([bias.to(torch.float32) for bias in biases])


def _activation(layers: dict[int, LayerWeights], folder: Path) -> str:
    if all(weights.k is not None for weights in layers.values()):
        return "topk"
    with_threshold = sum(weights.threshold is not None for weights in layers.values())
    if with_threshold not in (0, len(layers)):
        raise DictionaryError(f"{folder} has thresholds in {with_threshold} of {len(layers)} layers; fetch it again")
    return "jumprelu" if with_threshold else "relu"


def write_circuit_tracer(dictionary: Dictionary, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> Path:
    """Write a dictionary as a folder that circuit-tracer and we read; return the folder.

    Raises DictionaryError for what the format cannot hold: TopK (its file cannot be loaded again), a
    windowed span, a skip connection in a cross-layer dictionary, layers without features or of
    different sizes. Raises SaveError when it cannot be written; nothing half-written is left.
    """
    folder = Path(folder)
    cross = dictionary.span > 1
    _refuse_unwritable(dictionary, cross=cross)
    config = {
        "model_name": dictionary.model_name,
        "model_kind": CLT if cross else PLT,
        "feature_input_hook": READ_HOOK[dictionary.reads_at],
        "feature_output_hook": WRITE_HOOK[dictionary.writes_at],
        "scan": dictionary.name,
    }
    with replacing(folder, folder=True) as temporary:
        text = yaml.safe_dump({name: value for name, value in config.items() if value is not None})
        (temporary / "config.yaml").write_text(text, encoding="utf-8")
        for layer in dictionary.layers:
            _write_layer(dictionary, layer, temporary, dtype, cross=cross)
    return folder


def _refuse_unwritable(dictionary: Dictionary, *, cross: bool) -> None:
    name, n_layers = dictionary.name, dictionary.n_layers
    if dictionary.activation == "topk":
        raise DictionaryError(f"circuit-tracer cannot load TopK files again, so {name} is not written as one")
    if dictionary.layers != tuple(range(n_layers)):
        raise DictionaryError(f"circuit-tracer needs every layer; {name} has {len(dictionary.layers)} of {n_layers}")
    if cross and any(len(dictionary.writes_to(layer)) != n_layers - layer for layer in dictionary.layers):
        raise DictionaryError(f"circuit-tracer needs a span of 1 or of every layer above; {name} has {dictionary.span}")
    if cross and dictionary.has_skip:
        raise DictionaryError(f"circuit-tracer drops skip connections of cross-layer files; {name} has them")
    if len({dictionary.n_features(layer) for layer in dictionary.layers}) > 1:
        raise DictionaryError(f"circuit-tracer needs equally many features at each layer; {name} differs")


def _write_layer(dictionary: Dictionary, layer: int, folder: Path, dtype: torch.dtype, *, cross: bool) -> None:
    weights, bias = dictionary.weights[layer], dictionary.decoder_bias(layer)
    if not cross:
        tensors = {
            "W_enc": weights.encoder,
            "W_dec": weights.decoders[0],
            "b_enc": weights.encoder_bias,
            "b_dec": bias,
        }
        if weights.threshold is not None:
            tensors["activation_function.threshold"] = weights.threshold
        if weights.skip is not None:
            tensors["W_skip"] = weights.skip
        pieces = {name: in_pieces(tensor) for name, tensor in tensors.items()}
        write_safetensors(folder / f"layer_{layer}.safetensors", pieces, dtype)
        return
    tensors = {
        f"W_enc_{layer}": weights.encoder,
        f"b_enc_{layer}": weights.encoder_bias,
        f"b_dec_{layer}": bias,
    }
    if weights.threshold is not None:
        tensors[f"threshold_{layer}"] = weights.threshold
    pieces = {name: in_pieces(tensor) for name, tensor in tensors.items()}
    write_safetensors(folder / f"W_enc_{layer}.safetensors", pieces, dtype)
    n_targets, rows = len(weights.decoders), max(1, (1 << 24) // (len(weights.decoders) * dictionary.d_model))
    shape = (len(weights.encoder), n_targets, dictionary.d_model)
    starts = range(0, shape[0], rows)
    stacked = (torch.stack([d[start : start + rows] for d in weights.decoders], dim=1) for start in starts)
    write_safetensors(folder / f"W_dec_{layer}.safetensors", {f"W_dec_{layer}": (shape, stacked)}, dtype)
