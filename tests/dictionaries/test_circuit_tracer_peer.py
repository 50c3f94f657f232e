"""What `lucida train` exports, read by circuit-tracer's own classes: the same activations and reconstructions.

Optional: circuit-tracer needs another transformers than we do, so it lives in an environment of its own. Say where
with LUCIDA_CIRCUIT_TRACER_PYTHON=PATH/bin/python (`pip install torch circuit-tracer`).
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lucida.dictionaries import Dictionary, write_circuit_tracer
from lucida.training import TrainingConfig
from lucida.training.export import export
from lucida.training.normalise import Normalisation
from lucida.training.transcoder import Transcoder

PEER = os.environ.get("LUCIDA_CIRCUIT_TRACER_PYTHON", "")
SCRIPT = """
import json, sys, torch
from pathlib import Path
from safetensors.torch import load_file, save_file
from circuit_tracer.transcoder.cross_layer_transcoder import load_clt
from circuit_tracer.transcoder.single_layer_transcoder import load_transcoder_set

given = json.loads(sys.argv[1])
x, common = load_file(given["inputs"])["x"], dict(device=torch.device("cpu"), dtype=torch.float32)
if given["span"] == 1:
    paths = {int(p.stem.split("_")[1]): str(p) for p in Path(given["folder"]).glob("layer_*.safetensors")}
    loaded = load_transcoder_set(paths, scan="s", feature_input_hook="hook_resid_mid",
                                 feature_output_hook="hook_mlp_out", lazy_encoder=False, lazy_decoder=False, **common)
    codes = torch.stack([loaded.transcoders[layer].encode(x[layer]) for layer in range(len(x))])
    output = torch.stack([loaded.transcoders[layer].decode(codes[layer]) for layer in range(len(x))])
else:
    loaded = load_clt(given["folder"], lazy_decoder=False, **common)
    codes = loaded.encode(x)
    output = loaded.decode(codes.to_sparse())
save_file({"codes": codes.detach().contiguous(), "output": output.detach().contiguous()}, given["outputs"])
"""

pytestmark = pytest.mark.skipif(not PEER, reason="LUCIDA_CIRCUIT_TRACER_PYTHON is not set")


def exported(span: int) -> Dictionary:
    """An export with a normalisation that is not the identity."""
    generator = torch.Generator().manual_seed(span)
    config = TrainingConfig.plan(n_layers=3, d_model=8, n_features=20, n_tokens=1000, span=span, k=4.0)
    transcoder = Transcoder(config)
    with torch.no_grad():
        for _, tensor in transcoder.named():
            tensor += 0.2 * torch.randn(tensor.shape, generator=generator)
    means, scales = torch.randn(2, 3, 8, generator=generator), 0.5 + torch.rand(2, 3, generator=generator)
    normalisation = Normalisation(means[0], scales[0], means[1], scales[1])
    return export(transcoder, normalisation, torch.tensor([0.1, 0.2, 0.3]), name="peer", model_name="tiny")


@pytest.mark.parametrize("span", [1, 3])
def test_circuit_tracer_reads_what_training_exports(span: int, tmp_path: Path) -> None:
    dictionary = exported(span)
    folder = write_circuit_tracer(dictionary, tmp_path / "dictionary")
    x = torch.randn(3, 11, 8, generator=torch.Generator().manual_seed(9))
    save_file({"x": x}, tmp_path / "in.safetensors")
    given = {"span": span, "folder": str(folder), "inputs": str(tmp_path / "in.safetensors")}
    given["outputs"] = str(tmp_path / "out.safetensors")
    subprocess.run([PEER, "-c", SCRIPT, json.dumps(given)], check=True, capture_output=True, timeout=300)
    found = load_file(tmp_path / "out.safetensors")
    codes = {layer: dictionary.encode_sparse(layer, x[layer]) for layer in range(3)}
    torch.testing.assert_close(found["codes"], torch.stack([codes[layer].dense() for layer in range(3)]))
    assert float((found["codes"] > 0).float().mean()) > 0.05
    torch.testing.assert_close(found["output"], dictionary.reconstruct(codes))
