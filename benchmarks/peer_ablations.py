"""circuit-tracer ablations, one by one: `PEER_PYTHON benchmarks/peer_ablations.py SPEC`, JSON in, JSON and .npz out.

Runs under the interpreter that has circuit-tracer, without lucida. Each ablation is its `feature_intervention` with the
feature at 0, attention frozen and the MLPs of the range held: what lucida/evaluation/ablation.py does in batches.
"""

# pyright: reportMissingImports=false

import json
import sys
from pathlib import Path

import numpy as np
import torch
from meter import measure
from peer_circuit_tracer import load, versions


@torch.no_grad()
def main() -> None:
    """Ablate every place of the spec; save the logits at the last position and the watched activations."""
    spec = json.loads(sys.argv[1])
    model = load(Path(spec["model"]), Path(spec["dictionary"]), reads_at=spec["reads_at"], writes_at=spec["writes_at"])
    tokens, last = torch.tensor(spec["tokens"]), model.cfg.n_layers
    watched = [torch.tensor(column) for column in zip(*spec["watched"], strict=True)]
    torch.mm(torch.randn(512, 512), torch.randn(512, 512))
    logits, found = [], []
    with measure() as cost:
        for layer, position, feature in spec["places"]:
            held = range(layer, min(layer + spec["reach"] + 1, last))
            out, activations = model.feature_intervention(
                tokens, [(layer, position, feature, 0.0)], constrained_layers=held, freeze_attention=True
            )
            logits.append(out[0, -1])
            found.append(activations[watched[0], watched[1], watched[2]])
    np.savez(spec["save"], logits=torch.stack(logits).numpy(), activations=torch.stack(found).numpy())
    print(json.dumps({"cost": cost.as_dict(), "ablations": len(logits)} | versions()))


if __name__ == "__main__":
    main()
