"""What features write to the residual stream and read from it, as vectors: decoders and encoders seen from outside.

Norms are frozen and their denominators left out (METHODS 5.1): they only scale, differently at every position. So
numbers made from these vectors compare features with one another; they are no activations.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lucida.dictionaries import Dictionary
from lucida.errors import FeatureError
from lucida.features.space import FeatureSpace
from lucida.models.model import Model
from lucida.models.norms import Norm


def feature_space(model: Model, dictionary: Dictionary | None) -> FeatureSpace:
    """The features of a dictionary; without one the model's own neurons.

    Raises FeatureError when the two do not belong together.
    """
    if dictionary is None:
        return FeatureSpace(tuple(model.mlp_weights(layer).down.shape[1] for layer in range(model.n_layers)))
    if (dictionary.n_layers, dictionary.d_model) != (model.n_layers, model.d_model):
        found = f"{dictionary.n_layers} layers of {dictionary.d_model} dimensions"
        raise FeatureError(
            f"{dictionary.name} is for {found}, {model.name or 'the model'} has {model.n_layers} of {model.d_model}; "
            "give the dictionary of this model"
        )
    return FeatureSpace.of(dictionary)


def frozen_norm(model: Model, module: nn.Module | None) -> Norm | None:
    """The linear part of a norm, on the CPU: everything here is computed there, a block at a time."""
    norm = model.norm(module)
    return None if norm is None else replace(norm, weight=norm.weight.cpu(), bias=None)


def decoders(
    model: Model, dictionary: Dictionary | None, layer: int, target: int, *, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "feature d_model"]:
    """What a unit of each feature of `layer` adds to the residual at `target`, through its post-norm if it has one."""
    norm = frozen_norm(model, model.layers[target].mlp_post_norm)
    if dictionary is None:
        rows = model.mlp_weights(layer).down.T.cpu()
    else:
        every = torch.arange(dictionary.n_features(layer))
        rows = dictionary.decoder_rows(layer, every, target)
        norm = norm if dictionary.writes_at == "mlp_out" else None
    return (rows if norm is None else norm.push(rows, torch.ones(len(rows)))).to(dtype)


def targets_of(dictionary: Dictionary | None, layer: int) -> range:
    """The layers that features of `layer` write to."""
    return range(layer, layer + 1) if dictionary is None else dictionary.writes_to(layer)


def written(
    model: Model, dictionary: Dictionary | None, layer: int, *, below: int | None = None
) -> Float[Tensor, "feature d_model"]:
    """What a unit of each feature of `layer` adds in all, or to the layers below `below` only; in float32."""
    targets = [t for t in targets_of(dictionary, layer) if below is None or t < below]
    if not targets:
        raise FeatureError(f"features of layer {layer} write to no layer below {below}")
    total = decoders(model, dictionary, layer, targets[0])
    for target in targets[1:]:
        total = total + decoders(model, dictionary, layer, target)
    return total


def read(model: Model, dictionary: Dictionary, layer: int) -> Float[Tensor, "feature d_model"]:
    """The read vectors of all features of `layer`, as vectors of the residual before the MLP's norm; in float32."""
    rows = dictionary.encoder_rows(layer, torch.arange(dictionary.n_features(layer)))
    norm = frozen_norm(model, model.layers[layer].mlp_norm)
    if norm is None or dictionary.reads_at == "resid_mid":
        return rows
    # TransformerLens' hook_normalized comes before the weight of an RMS norm, after that of a layer norm.
    weighted = dictionary.reads_at == "mlp_in" or model.family.norm == "layer"
    return norm.pull(rows, torch.ones(len(rows)), weighted=weighted)
