"""From a budget in minutes to a number of tokens, and which type of product this machine is faster with."""

import time
from dataclasses import replace
from functools import cache

import torch

from lucida.models.model import Model
from lucida.training.activations import Activations, Rows
from lucida.training.config import TrainingConfig
from lucida.training.loop import advance, begin, new_state

TRIAL_STEPS = 4


@cache
def faster_products(device: str = "cpu") -> str:
    """``bfloat16`` where this machine multiplies matrices faster in it than in float32, by a short trial.

    CPUs differ by a factor of 100 here: 20 times faster with AMX, 5 times slower without.
    """
    seconds = {}
    for name in ("float32", "bfloat16"):
        left, right = (torch.randn(512, 512, device=device).to(getattr(torch, name)) for _ in range(2))
        times = []
        for _ in range(5):
            began = time.perf_counter()
            product = left @ right
            float(product[0, 0])  # waits for a GPU
            times.append(time.perf_counter() - began)
        seconds[name] = min(times)
    return "bfloat16" if seconds["bfloat16"] < seconds["float32"] else "float32"


def tokens_in(model: Model, rows: Rows, config: TrainingConfig, minutes: float) -> int:
    """How many tokens a run of `config` trains on in so many minutes: a few steps at the final sparsity are timed.

    The budget includes the first measurement of activations; at least one step's tokens are returned.
    """
    trial = replace(config, anneal=0.0, normalise_tokens=1)
    activations = Activations(model, rows, trial)
    began = time.perf_counter()
    state = new_state(activations)
    begin(state, activations)
    block = time.perf_counter() - began  # two blocks' streams and the start
    advance(state, activations)
    began = time.perf_counter()
    for _ in range(min(TRIAL_STEPS, activations.steps_per_block - 1)):
        advance(state, activations)
    steps = max(1, min(TRIAL_STEPS, activations.steps_per_block - 1))
    per_step = (time.perf_counter() - began) / steps + block / activations.steps_per_block
    overhead = block * max(1.0, config.normalise_tokens / config.block_tokens)
    return max(config.batch_tokens, int((60 * minutes - overhead) / per_step) * config.batch_tokens)
