"""What a validation costs, and an ablation beside circuit-tracer's `feature_intervention`.

python benchmarks/validate.py                                  # 200 ablations on SmolLM2, its shipped dictionary
python benchmarks/validate.py --peer-python PATH/bin/python    # and circuit-tracer on the same places, same numbers
"""

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from meter import measure

from lucida import Microscope
from lucida.dictionaries import write_circuit_tracer
from lucida.dictionaries.formats.circuit_tracer import READ_HOOK, WRITE_HOOK
from lucida.evaluation.ablation import ablate_features, graph_features, watched_activations
from lucida.validation import validate
from lucida.validation.subject import open_subject

HERE = Path(__file__).parent
PROMPT = 'The opposite of "small" is "'
GOAL = 90.0
"""CPU seconds for 200 ablations."""


def main() -> None:
    """Print a line for each measurement."""
    options = _options()
    if options.threads:
        torch.set_num_threads(options.threads)
    scope = Microscope(options.model, options.dictionaries, offline=options.offline)
    tokens = list(scope.model.tokenize(options.prompt).tokens)
    bos = None if scope.model.tokenizer is None else scope.model.tokenizer.bos_token_id
    # circuit-tracer puts a special token in front: give both tools the same tokens.
    graph = scope.trace(tokens if bos is None or tokens[0] == bos else [bos, *tokens])
    features = int(graph.nodes.is_kind("feature").sum())
    print(f"{scope.model.name}, {len(graph.prompt)} tokens, {features:,} features; {torch.get_num_threads()} threads")
    with measure() as cost:
        validate(scope.model, scope.dictionary, graph, ablations=options.ablations)
    _print(f"validate, {options.ablations} ablations (goal {GOAL:g})", cost.as_dict(), None)
    if scope.dictionary is None:
        return
    subject = open_subject(scope.model, scope.dictionary, graph, reach=2)
    generator = np.random.default_rng(0)
    sources, watched = (np.sort(generator.choice(subject.features, n, replace=False)) for n in (options.ablations, 128))
    tables = graph_features(graph, sources), graph_features(graph, watched)
    with measure() as cost:
        found = ablate_features(subject.view, scope.dictionary, *tables, reach=2, at=subject.at)
    _print("its batched ablations alone, attention frozen", cost.as_dict(), len(sources))
    if options.peer_python:
        few = np.sort(generator.choice(len(sources), min(options.peer_ablations, len(sources)), replace=False))
        with torch.no_grad():
            ours = torch.stack([found[i].logits for i in few]).cpu().numpy()
        _peer(options, scope, graph, sources[few], watched, ours, watched_activations(found, len(watched))[few])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dictionaries", help="default: the shipped one")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--ablations", type=int, default=200)
    parser.add_argument("--threads", type=int, help="threads of every process (default: torch's own)")
    parser.add_argument("--peer-python", help="interpreter with circuit-tracer")
    parser.add_argument("--peer-ablations", type=int, default=20, help="it is slow: so many of the same ablations")
    parser.add_argument("--offline", action="store_true", help="use cached weights only")
    return parser.parse_args()


def _peer(
    options: argparse.Namespace, scope: Microscope, graph: Any, sources: np.ndarray, watched: np.ndarray,
    logits: np.ndarray, activations: np.ndarray,
) -> None:  # fmt: skip
    """circuit-tracer on the same places, and how far its numbers are from ours."""
    assert scope.dictionary is not None

    def places(nodes: np.ndarray) -> list[list[int]]:
        table = graph.nodes
        return np.stack((table.layer[nodes], table.position[nodes], table.feature[nodes]), 1).tolist()

    with tempfile.TemporaryDirectory(prefix="lucida-benchmark-") as scratch:
        write_circuit_tracer(scope.dictionary, Path(scratch) / "dictionary")
        spec = {
            "model": str(Path(scope.model.hf.config._name_or_path).resolve()), "tokens": list(graph.prompt.tokens),
            "dictionary": str(Path(scratch) / "dictionary"), "reach": 2, "places": places(sources),
            "reads_at": READ_HOOK[scope.dictionary.reads_at], "writes_at": WRITE_HOOK[scope.dictionary.writes_at],
            "watched": places(watched), "save": str(Path(scratch) / "peer.npz"),
        }  # fmt: skip
        environment = dict(os.environ) | ({"OMP_NUM_THREADS": str(options.threads)} if options.threads else {})
        command = [options.peer_python, str(HERE / "peer_ablations.py"), json.dumps(spec)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"peer_ablations.py failed:\n{done.stderr.strip()[-3000:]}")
        result = json.loads(done.stdout.strip().splitlines()[-1])
        theirs = np.load(Path(scratch) / "peer.npz")
        _print("circuit-tracer, feature_intervention", result["cost"], result["ablations"])
        print(f"  versions {result['versions']}")
        # Both tools may add a constant to all logits.
        gap = (logits - logits.mean(1, keepdims=True)) - (theirs["logits"] - theirs["logits"].mean(1, keepdims=True))
        print(f"  largest difference: logits {np.abs(gap).max():.2g} of {np.abs(logits).max():.3g}, ", end="")
        above = graph.nodes.layer[watched][None] > graph.nodes.layer[sources][:, None]
        off = np.abs(activations - theirs["activations"])[above]
        print(f"watched activations {off.max():.2g} of {activations.max():.3g}")


def _print(what: str, cost: dict[str, Any], count: int | None) -> None:
    each = "" if count is None else f", {1000 * cost['cpu'] / count:.0f} ms of CPU each"
    print(f"{what}: CPU {cost['cpu']:.1f} s, wall {cost['wall']:.1f} s, load {cost['load']:.1f}{each}", flush=True)


if __name__ == "__main__":
    main()
