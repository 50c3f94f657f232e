"""How well a basis reconstructs every MLP's output on held-out text, and how sparsely: NMSE, L0, dead share."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from lucida.dictionaries import SparseActivations
from lucida.evaluation.basis import Basis
from lucida.evaluation.running import Base, Reconstructing, batches, run_base
from lucida.models.model import Model
from lucida.models.sinks import Sinks, find_sinks
from lucida.progress import Progress, silent

FREQUENCIES = tuple(round(10 ** (exponent / 2), 9) for exponent in range(-12, 1))
"""Edges of the histogram of frequencies: two bins for each power of ten, from one in a million tokens to every one."""


@dataclass(frozen=True)
class LayerReconstruction:
    """One layer. `nmse` is None where no feature writes, `dead` where none reads; `features` is their number."""

    layer: int
    nmse: float | None
    l0: float
    dead: float | None
    features: int


@dataclass(frozen=True)
class Reconstruction:
    """How a basis reconstructs the MLPs on `tokens` tokens, one entry of `layers` for each layer of the model.

    `nmse` is the mean over layers of sum ||y - y'||^2 / sum ||y - mean(y)||^2 (0 is perfect, 1 no better than the
    mean), `l0` the active features per token over all layers, `dead` the share of all features that never fired on
    these tokens. `frequencies[i]` counts features that fire on a share of the tokens between FREQUENCIES[i] and the
    next; those that never fired are in none.
    """

    tokens: int
    nmse: float
    l0: float
    dead: float
    layers: tuple[LayerReconstruction, ...]
    frequencies: tuple[int, ...]


class ReconstructionTally:
    """Sums over tokens for one basis, in float64; `update` with run after run, then `result`."""

    def __init__(self, model: Model, basis: Basis) -> None:
        self.model, self.basis, self.tokens = model, basis, 0
        self._fired = {layer: torch.zeros(basis.n_features(layer), dtype=torch.int64) for layer in basis.layers}
        self._missed = torch.zeros(model.n_layers, dtype=torch.float64)
        self._squares = torch.zeros(model.n_layers, dtype=torch.float64)
        self._sums = torch.zeros(model.n_layers, model.d_model, dtype=torch.float64)

    def update(self, base: Base) -> None:
        """Count the tokens of one run in."""
        self.tokens += int(base.counted.sum())
        reads, outputs = base.sites[self.basis.reads_at], base.outputs[self.basis.writes_at]
        reconstructing = Reconstructing(self.basis)
        for layer, (x, y) in enumerate(zip(reads, outputs, strict=True)):
            found = reconstructing.layer(layer, x, self._count)
            if found is None:
                continue
            self._missed[layer] += (y - found).double().square().sum().cpu()
            exact = y.double()
            self._squares[layer] += exact.square().sum().cpu()
            self._sums[layer] += exact.sum(0).cpu()

    def _count(self, layer: int, active: SparseActivations) -> None:
        self._fired[layer] += torch.bincount(active.feature, minlength=len(self._fired[layer])).cpu()

    def result(self) -> Reconstruction:
        """The measures of all tokens so far."""
        layers = tuple(self._layer(layer) for layer in range(self.model.n_layers))
        fired = torch.cat([self._fired[layer] for layer in self.basis.layers])
        missed = [layer.nmse for layer in layers if layer.nmse is not None]
        edges = torch.tensor(FREQUENCIES[1:-1], dtype=torch.float64)
        bins = torch.bucketize(fired[fired > 0].double() / max(1, self.tokens), edges, right=True)
        return Reconstruction(
            tokens=self.tokens,
            nmse=math.fsum(missed) / len(missed),
            l0=float(fired.sum()) / max(1, self.tokens),
            dead=float((fired == 0).double().mean()),
            layers=layers,
            frequencies=tuple(torch.bincount(bins, minlength=len(FREQUENCIES) - 1).tolist()),
        )

    def _layer(self, layer: int) -> LayerReconstruction:
        nmse = None
        if layer in self.basis.targets:
            spread = float(self._squares[layer] - self._sums[layer].square().sum() / max(1, self.tokens))
            nmse = float(self._missed[layer]) / spread if spread > 0 else float(self._missed[layer] > 0)
        if layer not in self._fired:
            return LayerReconstruction(layer, nmse, 0.0, None, 0)
        fired = self._fired[layer]
        l0 = float(fired.sum()) / max(1, self.tokens)
        return LayerReconstruction(layer, nmse, l0, float((fired == 0).double().mean()), len(fired))


def measure_reconstruction(
    model: Model,
    bases: Sequence[Basis],
    rows: Int[Tensor, "row pos"],
    *,
    sinks: Sinks | None = None,
    progress: Progress = silent,
) -> list[Reconstruction]:
    """How each basis reconstructs the MLPs on held-out `rows`; attention sinks and first positions do not count.

    The model reads its own residual stream everywhere (compare `measure_replacement`). Raises LucidaError for rows
    that the model cannot read.
    """
    sinks = sinks or find_sinks(model, rows)
    tallies = [ReconstructionTally(model, basis) for basis in bases]
    done = 0
    for batch in batches(model, rows):
        progress("held-out text", done, rows.numel())
        base = run_base(
            model, batch, sinks, reads_at={b.reads_at for b in bases}, writes_at={b.writes_at for b in bases}
        )
        for tally in tallies:
            tally.update(base)
        done += batch.numel()
    progress("held-out text", done, rows.numel())
    return [tally.result() for tally in tallies]
