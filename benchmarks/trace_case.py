"""One measured case in a fresh process: `python benchmarks/trace_case.py SPEC`, SPEC and result are JSON.

benchmarks/trace.py starts this file; a process of its own keeps the peak memory of one case apart from the next.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from floor import matmul_rate, sweep_floor
from meter import measure
from shapes import write_random_model
from stages import watch_stages

from lucida.attribution import trace
from lucida.dictionaries import Dictionary, load_dictionary, random_dictionary, write_circuit_tracer
from lucida.models.linear import FrozenModel
from lucida.models.load import load_model
from lucida.models.model import Model
from lucida.models.recording import record

TEXT = (
    "A camera obscura is a dark room with a small hole in one wall. Light from the scene outside passes through the "
    "hole and paints an upside-down picture on the opposite wall. Painters used it to study perspective, and "
    "astronomers used it to watch the sun without hurting their eyes. Later a lens took the place of the hole, a "
    "mirror turned the picture the right way up, and a sheet of paper took the place of the wall. In 1806 William "
    "Hyde Wollaston patented another device, the camera lucida, which needs no dark room at all. It is a small prism "
    "on a stand: the artist looks down through its edge and sees the scene and the paper at the same time, one upon "
    "the other, so that a pencil can follow every outline. Microscopists liked it too. With the prism above the "
    "eyepiece they could draw what they saw, cell by cell, at the right scale, and compare one drawing with another. "
)
"""Our own words, for prompts of any length."""


def main() -> None:
    """Run the case that the first argument describes and print its result as one line of JSON."""
    spec = json.loads(sys.argv[1])
    result = prepare(spec) if spec["task"] == "prepare" else measure_trace(spec)
    print(json.dumps(result))


def prepare(spec: dict[str, Any]) -> dict[str, Any]:
    """Tokenise the prompts and write the dictionary of a run; see `trace.py` for the fields."""
    if spec["random"] and not Path(spec["model"]).exists():
        write_random_model(spec["random"], Path(spec["model"]), seed=spec["seed"])
    model = load_model(spec["model"], offline=spec["offline"])
    if model.tokenizer is None:
        ids = torch.randint(model.d_vocab, (max(13, *spec["lengths"]) if spec["lengths"] else 13,)).tolist()
        prompts = {"prompt": ids[:13]} | {str(length): ids[:length] for length in spec["lengths"]}
    else:
        prompts = {"prompt": _with_bos(model, list(model.tokenize(spec["prompt"]).tokens))}
        for length in spec["lengths"]:
            repeated = TEXT * (1 + length // 60)
            prompts[str(length)] = _with_bos(model, list(model.tokenize(repeated).tokens))[:length]
    longest = max(prompts.values(), key=len)
    view = FrozenModel(model, record(model, model.tokenize(longest)))
    samples = {layer: view.site(layer, "mlp_in")[1:] for layer in range(model.n_layers)}
    dictionary = random_dictionary(
        model.n_layers, model.d_model, spec["features"],
        l0=spec["l0"], samples=samples, seed=spec["seed"], model_name=model.name,
    )  # fmt: skip
    write_circuit_tracer(dictionary, spec["dictionary"])
    folder = model.hf.config._name_or_path
    return {"prompts": prompts, "folder": str(Path(folder).resolve()) if folder else None}


def _with_bos(model: Model, tokens: list[int]) -> list[int]:
    # circuit-tracer puts a special token in front if there is none: give both tools the same tokens.
    bos = model.tokenizer.bos_token_id
    return tokens if bos is None or tokens[0] in model.tokenizer.all_special_ids else [bos, *tokens]


def measure_trace(spec: dict[str, Any]) -> dict[str, Any]:
    """Trace once and give costs, stages, floor and rates."""
    on_gpu = spec["device"] != "cpu"
    settle = torch.cuda.synchronize if on_gpu else lambda: None
    model = load_model(spec["model"], offline=True, dtype=spec["weights"], device=spec["device"])
    dictionary = _in_memory(load_dictionary(Path(spec["dictionary"])))
    if on_gpu:
        dictionary = dictionary.to(spec["device"], decoders=True)
    if spec["layers"] is not None:
        model, dictionary = _lowest_layers(model, dictionary, spec["layers"])
    dtype = getattr(torch, spec["dtype"])
    own_shape = (2048, model.d_model, model.n_heads * model.d_head)
    before = [matmul_rate(dtype, shape, device=spec["device"]) for shape in (None, own_shape)]
    resident = torch.cuda.memory_allocated() if on_gpu else 0
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    with measure() as cost, watch_stages(settle) as stages:
        graph = trace(model, dictionary, spec["tokens"], max_nodes=spec["max_nodes"], dtype=spec["dtype"])
        settle()
    gpu_peak = torch.cuda.max_memory_allocated() - resident if on_gpu else None
    after = [matmul_rate(dtype, shape, device=spec["device"]) for shape in (None, own_shape)]
    replacement = stages.calls["active features"][0][1]
    is_target = graph.targets
    floor = sweep_floor(
        replacement,
        torch.tensor(graph.nodes.layer[is_target], dtype=torch.int64),
        torch.tensor(graph.nodes.position[is_target], dtype=torch.int64),
    )
    if spec["save"]:
        graph.save(spec["save"])
    return {
        "cost": cost.as_dict(),
        "stages": {"cpu": stages.cpu, "wall": stages.wall},
        "floor": floor.as_dict(),
        "rate": {name: (b + a) / 2 for name, b, a in _rates(before[0], after[0])},
        "rate_own_shape": {name: (b + a) / 2 for name, b, a in _rates(before[1], after[1])},
        "rows": {
            "kept": len(graph.targets),
            "swept": sum(len(args[1]) for args, _ in stages.calls["sweep"]),
        },
        "active": len(replacement.active),
        "l0": len(replacement.active) / model.n_layers / max(len(spec["tokens"]) - 1, 1),
        "positions": len(spec["tokens"]),
        "layers": model.n_layers,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "gpu_peak": gpu_peak,
        "torch": str(torch.__version__),
        "unexpanded": graph.metadata["selection"]["unexpanded_influence"],
    }


def _rates(before: Any, after: Any) -> list[tuple[str, float, float]]:
    return [(name, getattr(before, name), getattr(after, name)) for name in ("per_wall", "per_cpu")]


def _in_memory(dictionary: Dictionary) -> Dictionary:
    """Copies of the mapped weights: "above the loaded dictionary" must not count the reading of files."""
    weights = {
        layer: replace(
            kept,
            encoder=kept.encoder.clone(),
            decoders=tuple(decoder.clone() for decoder in kept.decoders),
        )
        for layer, kept in dictionary.weights.items()
    }
    return replace(dictionary, weights=weights)


def _lowest_layers(model: Model, dictionary: Dictionary, count: int) -> tuple[Model, Dictionary]:
    """The model cut off above its lowest `count` layers, and the part of the dictionary that fits it."""
    hf = model.hf
    hf.model.layers = hf.model.layers[:count]
    hf.config.num_hidden_layers = count
    weights = {layer: kept for layer, kept in dictionary.weights.items() if layer < count}
    cut = replace(dictionary, n_layers=count, weights=weights, decoder_biases=dictionary.decoder_biases[:count])
    return Model(hf, model.tokenizer, name=f"{model.name}, {count} layers"), cut


if __name__ == "__main__":
    main()
