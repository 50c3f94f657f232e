"""Dictionary files as other projects write them, made from a dictionary of ours."""

import json
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from lucida.dictionaries import Dictionary, check_dictionary


def assert_same(found: Dictionary, expected: Dictionary) -> None:
    """Equal in everything but where it lies."""
    for name in ("n_layers", "d_model", "activation", "reads_at", "writes_at", "layers", "span", "has_skip"):
        assert getattr(found, name) == getattr(expected, name), name
    assert torch.equal(found.decoder_biases, expected.decoder_biases)
    for layer in expected.layers:
        ours, theirs = found.weights[layer].named(), expected.weights[layer].named()
        assert list(ours) == list(theirs)
        for name in theirs:
            assert torch.equal(ours[name].float(), theirs[name].float()), (layer, name)
        assert found.weights[layer].k == expected.weights[layer].k
    check_dictionary(found)


def config(folder: Path, kind: str = "transcoder_set", **more: object) -> None:
    settings = {
        "model_kind": kind, "model_name": "tiny",
        "feature_input_hook": "mlp.hook_in", "feature_output_hook": "mlp.hook_out",
    } | more  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))


def plt_tensors(dictionary: Dictionary, layer: int) -> dict[str, Tensor]:
    weights = dictionary.weights[layer]
    tensors = {
        "W_enc": weights.encoder, "W_dec": weights.decoders[0].contiguous(), "b_enc": weights.encoder_bias,
        "b_dec": dictionary.decoder_bias(layer),
    }  # fmt: skip
    return tensors | ({} if weights.threshold is None else {"threshold": weights.threshold})


def gemma_scope(folder: Path, dictionary: Dictionary) -> None:
    for layer in dictionary.layers:
        place = folder / f"layer_{layer}/width_16k/average_l0_5"
        place.mkdir(parents=True)
        tensors = plt_tensors(dictionary, layer)
        tensors["W_enc"] = tensors["W_enc"].T
        np.savez(place / "params.npz", **{name: tensor.numpy() for name, tensor in tensors.items()})


def gemma_scope_2(folder: Path, dictionary: Dictionary) -> None:
    for layer in dictionary.layers:
        tensors = {name.lower(): tensor for name, tensor in plt_tensors(dictionary, layer).items()}
        tensors["w_enc"] = tensors["w_enc"].T.contiguous()
        weights = dictionary.weights[layer]
        if weights.skip is not None:
            tensors["affine_skip_connection"] = weights.skip.T.contiguous()
        if dictionary.span > 1:
            decoder = torch.zeros(len(weights.encoder), dictionary.n_layers, dictionary.d_model)
            decoder[:, layer:] = torch.stack(weights.decoders, 1)
            tensors["w_dec"] = decoder
            folder.mkdir(exist_ok=True)
            save_file(tensors, folder / f"params_layer_{layer}.safetensors")
            continue
        place = folder / f"layer_{layer}_width_16k_l0_small_affine"
        place.mkdir(parents=True)
        save_file(tensors, place / "params.safetensors")
        settings = {
            "architecture": "jump_relu", "model_name": "google/tiny",
            "hf_hook_point_in": f"model.layers.{layer}.pre_feedforward_layernorm.output",
            "hf_hook_point_out": f"model.layers.{layer}.post_feedforward_layernorm.output",
        }  # fmt: skip
        (place / "config.json").write_text(json.dumps(settings))


def sparsify(folder: Path, dictionary: Dictionary, **more: object) -> None:
    for layer in dictionary.layers:
        weights = dictionary.weights[layer]
        settings = {"activation": "topk", "k": weights.k, "transcode": True, "d_in": dictionary.d_model}
        tensors = {"encoder.weight": weights.encoder, "encoder.bias": weights.encoder_bias}
        if dictionary.span == 1:
            tensors |= {"W_dec": weights.decoders[0].contiguous(), "b_dec": dictionary.decoder_bias(layer)}
            if weights.skip is not None:
                settings["skip_connection"], tensors["W_skip"] = True, weights.skip
        else:
            settings["n_targets"] = len(weights.decoders)
            # Every source adds its own share of a target's bias.
            shares = [dictionary.decoder_bias(t) / (2 ** min(t, 1) * max(t, 1)) for t in dictionary.writes_to(layer)]
            shares[0] = dictionary.decoder_bias(layer) / (2 if layer else 1)
            for offset, decoder in enumerate(weights.decoders):
                tensors[f"W_decs.{offset}"] = decoder.contiguous()
                tensors[f"b_decs.{offset}"] = shares[offset].contiguous()
                tensors[f"post_encs.{offset}"] = torch.zeros(len(weights.encoder))
        place = folder / f"layers.{layer}.mlp"
        place.mkdir(parents=True)
        save_file(tensors, place / "sae.safetensors")
        (place / "cfg.json").write_text(json.dumps(settings | more))
