"""Gemma Scope 2's per-layer and cross-layer transcoders: lower-case names, JumpReLU, optional affine skip."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from lucida.dictionaries.dictionary import Dictionary
from lucida.dictionaries.formats.folder import (
    biases_of_layers,
    by_layer,
    files_named,
    layer_in,
    number_of_layers,
    source_of,
)
from lucida.dictionaries.formats.hooks import reads_at, writes_at
from lucida.dictionaries.formats.settings import read_json, text_or_none
from lucida.dictionaries.tensor_files import need, open_safetensors, read_safetensors_header
from lucida.dictionaries.weights import LayerWeights
from lucida.errors import DictionaryError


def is_gemma_scope_2(found: Path | Mapping[str, Tensor]) -> bool:
    """Whether a file's tensors, or the first params file of a folder, have Gemma Scope 2's names."""
    if not isinstance(found, Path):
        return "w_enc" in found
    files = files_named(found, "params*.safetensors")
    return bool(files) and "w_enc" in read_safetensors_header(files[0])[0]


def read_gemma_scope_2(folder: Path, n_layers: int | None) -> Dictionary:
    """Transcoders of `layer_N_.../params.safetensors`, or a cross-layer one of `params_layer_N.safetensors`.

    Raises DictionaryError when a file is missing, damaged, or one of two for the same layer.
    """
    files = files_named(folder, "params*.safetensors")
    paths = by_layer(folder, ((layer_in(path.relative_to(folder).as_posix()), path) for path in files))
    opened = {layer: open_safetensors(path) for layer, path in paths.items()}
    is_cross = opened[min(opened)]["w_dec"].ndim == 3 if "w_dec" in opened[min(opened)] else False
    count = len(paths) if is_cross else number_of_layers(paths, n_layers, folder)
    if is_cross and (list(paths) != list(range(count)) or n_layers not in (None, count)):
        missing = next(layer for layer in range(n_layers or max(paths) + 1) if layer not in paths)
        raise DictionaryError(f"{folder} holds no layer {missing} of a cross-layer dictionary; fetch it")
    layers, biases = {}, {}
    for layer, path in paths.items():
        read = cross_layer(opened[layer], path, layer, count) if is_cross else per_layer(opened[layer], path)
        layers[layer], biases[layer] = read
    settings = [path.parent / "config.json" for path in paths.values() if (path.parent / "config.json").is_file()]
    reads, writes, model_name = _settings(settings)
    return Dictionary(
        name=folder.name, model_name=model_name, n_layers=count, d_model=biases[min(biases)].shape[0],
        activation="jumprelu", reads_at=reads, writes_at=writes,
        weights=layers, decoder_biases=biases_of_layers(biases, count),
        source=source_of(folder, "gemma-scope-2", [*paths.values(), *settings]),
    )  # fmt: skip


def _settings(paths: list[Path]) -> tuple[str, str, str | None]:
    """Where it reads and writes (published ones: after the norm, after the post-norm), and its model."""
    reads, writes, model_name = "mlp_in", "resid", None
    for path in paths:
        config = read_json(path)
        model_name = text_or_none(config, "model_name") or model_name
        if config.get("type") == "sae":
            raise DictionaryError(f"{path.parent} is a sparse autoencoder, not a transcoder")
        if config.get("architecture") not in (None, "jump_relu", "jumprelu", "transcoder", "clt"):
            raise DictionaryError(f"{path} has architecture {str(config['architecture'])[:80]!r}; known is jump_relu")
        if isinstance(config.get("hf_hook_point_in"), str):
            reads = reads_at(config["hf_hook_point_in"], path)
        if isinstance(config.get("hf_hook_point_out"), str):
            writes = writes_at(config["hf_hook_point_out"], path)
    return reads, writes, model_name


def per_layer(tensors: dict[str, Tensor], path: Path) -> tuple[LayerWeights, Tensor]:
    """The features and the decoder bias of one per-layer file."""
    return _layer(tensors, path, (need(tensors, "w_dec", path, 2),))


def cross_layer(tensors: dict[str, Tensor], path: Path, layer: int, n_layers: int) -> tuple[LayerWeights, Tensor]:
    """The features and the decoder bias of one cross-layer file.

    Its decoder [feature, layer, d_model] has a place for every layer; those below the file's own are unused.
    """
    decoder = need(tensors, "w_dec", path, 3)
    if decoder.shape[1] != n_layers:
        raise DictionaryError(f"{path} writes to {decoder.shape[1]} layers, the folder holds {n_layers}")
    return _layer(tensors, path, decoder.unbind(1)[layer:])


def _layer(tensors: dict[str, Tensor], path: Path, decoders: tuple[Tensor, ...]) -> tuple[LayerWeights, Tensor]:
    skip = tensors.get("affine_skip_connection")
    weights = LayerWeights(
        encoder=need(tensors, "w_enc", path, 2).T,
        encoder_bias=need(tensors, "b_enc", path, 1),
        decoders=decoders,
        # It computes relu(h) * (h > threshold): a negative threshold acts as zero.
        threshold=need(tensors, "threshold", path, 1).clamp(min=0),
        # It applies x @ affine_skip_connection, we x @ skip.T.
        skip=None if skip is None else need(tensors, "affine_skip_connection", path, 2).T,
    )
    return weights, need(tensors, "b_dec", path, 1).to(torch.float32)
