"""delphi's caching step, measured: `PEER_PYTHON benchmarks/peer_delphi.py SPEC`, SPEC and the last line are JSON.

Runs under the interpreter that has delphi (`pip install eai-delphi`), without lucida. Its own `LatentCache` does all
the work: `run` and then `save_splits` into five files a hook point, as its command line does. The encoders are its own
`JumpReluSae` with the weights of our dictionary, read from a folder in circuit-tracer's format. Importing it asks for
packages that caching does not use; where they are not installed, empty ones take their places.
"""

# pyright: reportMissingImports=false

import importlib.util
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import datasets  # noqa: F401  (looks whether faiss is there, so before it seems to be)
import numpy as np
import torch
from meter import measure
from safetensors import safe_open
from transformers import AutoModel

NOT_FOR_CACHING = ("vllm", "faiss", "sentence_transformers", "bitsandbytes")
MISSING = [name for name in NOT_FOR_CACHING if importlib.util.find_spec(name) is None]
sys.modules.update({name: mock.MagicMock(name=name) for name in MISSING})
from delphi.latents.cache import LatentCache  # noqa: E402
from delphi.sparse_coders.custom.gemmascope import JumpReluSae  # noqa: E402

for name in MISSING:
    del sys.modules[name]

BATCH_ROWS, SPLITS = 32, 5
"""delphi's defaults. Its rows are of 256 tokens by default; here they are those of our index."""
HOOK_POINTS = {"resid_mid": "layers.{}.post_attention_layernorm", "mlp_in": "layers.{}.mlp"}
"""The modules of a Llama whose input (`transcode=True`) is what a dictionary reads."""


@torch.no_grad()
def main() -> None:
    """Cache the rows of a file; then compare how often each feature fired where our index counts."""
    spec = json.loads(sys.argv[1])
    torch.set_num_threads(spec["threads"])
    dtype = getattr(torch, spec["dtype"])
    model = AutoModel.from_pretrained(Path(spec["model"]), dtype=dtype)
    rows = torch.from_numpy(np.load(spec["rows"]))
    encoders = {
        HOOK_POINTS[spec["reads_at"]].format(layer): read_encoder(Path(spec["dictionary"]), layer).to(dtype)
        for layer in range(spec["layers"])
    }
    encode = {name: encoder.encode for name, encoder in encoders.items()}
    with tempfile.TemporaryDirectory(prefix="lucida-benchmark-") as scratch:
        with measure() as cost:
            cache = LatentCache(model, encode, batch_size=BATCH_ROWS, transcode=True)
            cache.run(rows.numel(), rows)
            cache.save_splits(SPLITS, Path(scratch))
        disk = sum(path.stat().st_size for path in Path(scratch).rglob("*") if path.is_file())
    events = sum(len(each) for each in cache.cache.latent_activations.values())
    result = {"cost": cost.as_dict(), "disk": disk, "events": events, **compare(cache, spec), **versions()}
    print(json.dumps(result), flush=True)
    os._exit(0)  # with what was imported above, the interpreter collected garbage for minutes before it ended


def read_encoder(folder: Path, layer: int) -> JumpReluSae:
    """The encoder of a layer, from either kind of circuit-tracer's files; its decoder stays zero and unused."""
    path, end = folder / f"W_enc_{layer}.safetensors", f"_{layer}"
    if not path.exists():
        path, end = folder / f"layer_{layer}.safetensors", ""
    with safe_open(path, "pt") as file:
        weight, bias = file.get_tensor(f"W_enc{end}").float(), file.get_tensor(f"b_enc{end}").float()
        threshold = next((file.get_tensor(key).float() for key in file.keys() if "threshold" in key), None)  # noqa: SIM118
    encoder = JumpReluSae(weight.shape[1], weight.shape[0])
    # Laid out as in the file: a transposed view, which a product reads as fast.
    encoder.W_enc, encoder.b_enc = torch.nn.Parameter(weight.T), torch.nn.Parameter(bias)
    encoder.threshold = torch.nn.Parameter(torch.zeros_like(bias) if threshold is None else threshold)
    return encoder


def compare(cache: LatentCache, spec: dict[str, Any]) -> dict[str, Any]:
    """How far the firing counts are from ours. delphi counts at every token of a row, our index neither at the first
    nor at attention sinks: its events at these are taken away first.
    """
    ours = np.load(spec["ours"])
    counted = torch.from_numpy(ours["counted"])
    counts = []
    for hookpoint, locations in cache.cache.latent_locations.items():
        row, position, feature = locations.long().unbind(1)
        kept = counted[row, position]
        width = len(cache.hookpoint_firing_counts[hookpoint])
        counts.append(torch.bincount(feature[kept], minlength=width))
    difference = np.abs(torch.cat(counts).numpy() - ours["counts"])
    return {
        "comparable": int(sum(int(each.sum()) for each in counts)),
        "features_differing": int((difference > 0).sum()),
        "largest_difference": int(difference.max()),
        "total_difference": int(difference.sum()),
    }


def versions() -> dict[str, Any]:
    """The versions that ran."""
    from importlib.metadata import version

    return {"versions": {name: version(name) for name in ("eai-delphi", "torch", "transformers")}}


if __name__ == "__main__":
    main()
