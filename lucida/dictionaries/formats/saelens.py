"""SAELens' transcoders: one folder for each layer with cfg.json and sae_weights.safetensors."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lucida.atomic import replacing
from lucida.dictionaries.dictionary import Dictionary
from lucida.dictionaries.formats.folder import (
    biases_of_layers,
    by_layer,
    files_named,
    layer_in,
    number_of_layers,
    source_of,
)
from lucida.dictionaries.formats.hooks import READ_HOOK, WRITE_HOOK, parse_hook, reads_at, writes_at
from lucida.dictionaries.formats.settings import read_json, text_or_none
from lucida.dictionaries.tensor_files import in_pieces, need, open_safetensors, write_safetensors
from lucida.dictionaries.weights import LayerWeights
from lucida.errors import DictionaryError

WEIGHTS = "sae_weights.safetensors"
ARCHITECTURES = {
    "transcoder": "relu",
    "skip_transcoder": "relu",
    "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
}
# Older files are read by SAELens with other defaults; the settings below are those of 6.0 and later.
_VERSION = "6.0.0"


def is_saelens(folder: Path) -> bool:
    """Whether the folder holds SAELens weights."""
    return bool(files_named(folder, WEIGHTS))


def read_saelens(folder: Path, n_layers: int | None) -> Dictionary:
    """Per-layer transcoders in SAELens' format, weights memory-mapped. Layers may be missing.

    Raises DictionaryError when a file is missing or damaged, it is no transcoder, or a setting
    (normalised activations, b_dec applied to the input) cannot be honoured exactly.
    """
    settings = {path.parent: read_json(path.parent / "cfg.json") for path in files_named(folder, WEIGHTS)}
    named = ((_layer_of(folder, place, settings[place]), place) for place in settings)
    places = by_layer(folder, named)
    layers, biases, facts = {}, {}, set()
    for layer, place in places.items():
        config, where = settings[place], place / "cfg.json"
        activation = _refuse_unreadable(config, where)
        layers[layer], biases[layer] = _read_layer(place / WEIGHTS, config)
        reads = reads_at(_fact(config, "hook_name"), where)
        writes = writes_at(_fact(config, "hook_name_out") or "hook_mlp_out", where)
        facts.add((activation, reads, writes, text_or_none({"m": _fact(config, "model_name")}, "m")))
    if len(facts) > 1:
        raise DictionaryError(f"{folder} mixes layers of different kinds, hooks or models; keep one kind in a folder")
    activation, reads, writes, model_name = facts.pop()
    stated = _fact(settings[places[max(places)]], "n_layers")
    if n_layers is None and isinstance(stated, int):
        n_layers = stated
    count = number_of_layers(layers, n_layers, folder)
    return Dictionary(
        name=folder.name, model_name=model_name, n_layers=count, d_model=biases[min(biases)].shape[0],
        activation=activation, reads_at=reads, writes_at=writes,
        weights=layers, decoder_biases=biases_of_layers(biases, count),
        source=source_of(folder, "saelens", [p / n for p in places.values() for n in ("cfg.json", WEIGHTS)]),
    )  # fmt: skip


def _fact(config: dict[str, Any], name: str) -> Any:
    """A fact about the model: under `metadata` since 6.0, at the top before."""
    metadata = config.get("metadata")
    return metadata[name] if isinstance(metadata, dict) and name in metadata else config.get(name)


def _layer_of(folder: Path, place: Path, config: dict[str, Any]) -> int | None:
    hook = _fact(config, "hook_name")
    layer = parse_hook(hook).layer if isinstance(hook, str) else None
    return layer if layer is not None else layer_in(place.relative_to(folder).as_posix())


def _refuse_unreadable(config: dict[str, Any], where: Path) -> str:
    architecture = config.get("architecture")
    if architecture not in ARCHITECTURES:
        raise DictionaryError(
            f"{where} has architecture {str(architecture)[:80]!r}; readable are {', '.join(ARCHITECTURES)}"
        )
    for name, allowed in (
        ("apply_b_dec_to_input", (None, False)),
        ("normalize_activations", (None, "none", False)),
        ("reshape_activations", (None, "none")),
    ):
        if config.get(name) not in allowed:
            raise DictionaryError(f"{where} has {name} {str(config[name])[:80]!r}, not honoured exactly; fold it in")
    if config.get("d_in") != config.get("d_out", config.get("d_in")):
        raise DictionaryError(f"{where} reads {config['d_in']} dimensions and writes {config['d_out']}: not an MLP's")
    return ARCHITECTURES[architecture]


def _read_layer(path: Path, config: dict[str, Any]) -> tuple[LayerWeights, Tensor]:
    tensors = open_safetensors(path)
    known = {"W_enc", "W_dec", "b_enc", "b_dec", "threshold", "W_skip"}
    for name, tensor in tensors.items():
        if name not in known and not (name.endswith("scaling_factor") and bool((tensor == 1).all())):
            raise DictionaryError(f"{path} holds {name}, which we cannot honour exactly; fold it into the weights")
    has_threshold = config["architecture"].startswith("jumprelu")
    has_skip = "skip" in config["architecture"]
    if not has_threshold and "threshold" in tensors:
        raise DictionaryError(f"{path} holds thresholds, but its architecture is {config['architecture']}")
    weights = LayerWeights(
        encoder=need(tensors, "W_enc", path, 2).T,
        encoder_bias=need(tensors, "b_enc", path, 1),
        decoders=(need(tensors, "W_dec", path, 2),),
        # SAELens computes relu(h) * (h > threshold): a negative threshold acts as zero.
        threshold=need(tensors, "threshold", path, 1).clamp(min=0) if has_threshold else None,
        skip=need(tensors, "W_skip", path, 2) if has_skip else None,
    )
    return weights, need(tensors, "b_dec", path, 1)


def write_saelens(dictionary: Dictionary, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> Path:
    """Write a per-layer dictionary as one SAELens folder for each layer (`layer_N`); return the folder.

    Raises DictionaryError for what the format cannot hold: features that write to several layers, TopK,
    negative thresholds. Raises SaveError when it cannot be written; nothing half-written is left.
    """
    folder = Path(folder)
    if dictionary.span > 1:
        raise DictionaryError(f"SAELens holds per-layer transcoders; {dictionary.name} has a span of {dictionary.span}")
    if dictionary.activation == "topk":
        raise DictionaryError(f"SAELens has no TopK transcoder; {dictionary.name} is one")
    with replacing(folder, folder=True) as temporary:
        for layer in dictionary.layers:
            weights = dictionary.weights[layer]
            if weights.threshold is not None and bool((weights.threshold < 0).any()):
                raise DictionaryError(f"SAELens takes negative thresholds as zero; layer {layer} has some")
            place = temporary / f"layer_{layer}"
            place.mkdir()
            config = _config(dictionary, layer, dtype)
            (place / "cfg.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
            _write_weights(weights, dictionary.decoder_bias(layer), place / WEIGHTS, dtype)
    return folder


def _config(dictionary: Dictionary, layer: int, dtype: torch.dtype) -> dict[str, Any]:
    jumprelu = "jumprelu_" if dictionary.activation == "jumprelu" else ""
    skip = "skip_" if dictionary.weights[layer].skip is not None else ""
    return {
        "architecture": f"{jumprelu}{skip}transcoder",
        "d_in": dictionary.d_model,
        "d_out": dictionary.d_model,
        "d_sae": dictionary.n_features(layer),
        "dtype": str(dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": _VERSION,
            "model_name": dictionary.model_name,
            "hook_name": f"blocks.{layer}.{READ_HOOK[dictionary.reads_at]}",
            "hook_name_out": f"blocks.{layer}.{WRITE_HOOK[dictionary.writes_at]}",
            "n_layers": dictionary.n_layers,
        },
    }


def _write_weights(weights: LayerWeights, bias: Tensor, path: Path, dtype: torch.dtype) -> None:
    tensors = {
        "W_enc": weights.encoder.T,
        "W_dec": weights.decoders[0],
        "b_enc": weights.encoder_bias,
        "b_dec": bias,
    }
    if weights.threshold is not None:
        tensors["threshold"] = weights.threshold
    if weights.skip is not None:
        tensors["W_skip"] = weights.skip
    write_safetensors(path, {name: in_pieces(tensor) for name, tensor in tensors.items()}, dtype)
