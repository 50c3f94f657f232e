"""Gemma Scope's transcoders: one npz file for each layer.

They read the normalised stream without the norm's weight, and write after the post-norm.
"""

from pathlib import Path

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
from lucida.dictionaries.tensor_files import need, open_npz
from lucida.dictionaries.weights import LayerWeights


def is_gemma_scope(folder: Path) -> bool:
    """Whether the folder holds npz files."""
    return bool(files_named(folder, "*.npz"))


def read_gemma_scope(folder: Path, n_layers: int | None) -> Dictionary:
    """Gemma Scope's per-layer transcoders from `layer_N/.../params.npz`, one for each layer.

    Raises DictionaryError when a file is damaged, pickled, or one of two for the same layer.
    """
    files = files_named(folder, "*.npz")
    paths = by_layer(folder, ((layer_in(path.relative_to(folder).as_posix()), path) for path in files))
    layers, biases = {}, {}
    for layer, path in paths.items():
        layers[layer], biases[layer] = npz_layer(open_npz(path), path)
    count = number_of_layers(layers, n_layers, folder)
    return Dictionary(
        name=folder.name, model_name=None, n_layers=count, d_model=biases[min(biases)].shape[0],
        activation="jumprelu", reads_at="mlp_norm", writes_at="resid",
        weights=layers, decoder_biases=biases_of_layers(biases, count),
        source=source_of(folder, "gemma-scope", paths.values()),
    )  # fmt: skip


def npz_layer(tensors: dict[str, Tensor], path: Path) -> tuple[LayerWeights, Tensor]:
    """The features and the decoder bias of one npz file (its encoder is stored [d_model, feature])."""
    weights = LayerWeights(
        encoder=need(tensors, "W_enc", path, 2).T,
        encoder_bias=need(tensors, "b_enc", path, 1),
        decoders=(need(tensors, "W_dec", path, 2),),
        # It computes relu(h) * (h > threshold): a negative threshold acts as zero.
        threshold=need(tensors, "threshold", path, 1).clamp(min=0),
    )
    return weights, need(tensors, "b_dec", path, 1)
