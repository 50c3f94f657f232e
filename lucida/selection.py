"""Which features to expand under a node budget: the most influential ones, exactly.

A feature's influence on the logits is known once everything above it is expanded. Rows are kept, so correcting the
set costs only the rows it lacks: expand in a few rounds by the influence known so far, then repeat "the top
`max_nodes` by influence through the set itself" until the set no longer changes. Then every expanded feature has at
least the influence, through the expanded set, of every one left out (`is_consistent`: whether that was reached).
"""

import itertools
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lucida.progress import Progress, silent
from lucida.replacement import Replacement
from lucida.sweep import Layout, Targets, feature_targets, sweep

ROUNDS = 8
CORRECTIONS = 6
SPILL_BYTES = 2 << 30
"""Rows beyond this size live in an unnamed temporary file instead of memory."""


@dataclass(frozen=True)
class Expansion:
    """The rows of a graph: logits first, then the expanded features `nodes` (indices of the active
    table). `unexpanded` is the share of the logits' influence that ends in features without a row
    (before opposite signs cancel inside an unexpanded node; `scores().unexpanded` is taken after).
    """

    nodes: Int[Tensor, " expanded"]
    rows: Float[Tensor, "row source"]
    unexpanded: float
    threshold: float
    """Least influence of an expanded feature."""
    is_consistent: bool
    """Whether no feature left out has more influence, through the expanded set, than one expanded."""


@torch.no_grad()
def expand(
    replacement: Replacement,
    logits: Targets,
    weights: Float[Tensor, " logit"],
    *,
    max_nodes: int | None,
    chunk_bytes: int | None,
    progress: Progress = silent,
) -> Expansion:
    """Sweep the logits and the `max_nodes` most influential features (None: every active one)."""
    n_active = len(replacement.active)
    if max_nodes is None or max_nodes >= n_active:
        return _expand_all(replacement, logits, chunk_bytes, progress)
    store = _Rows(replacement, logits, weights, capacity=int(max_nodes * 1.5) + 64, chunk_bytes=chunk_bytes)
    done = 0
    progress("edges", 0, max_nodes)
    for size in _round_sizes(max_nodes):
        influence = store.influence(store.expanded)
        influence[store.expanded] = -1
        store.add(influence.topk(size).indices)
        done += size
        progress("edges", done, max_nodes)
    chosen, consistent = _settle(store, max_nodes)
    influence = store.influence(chosen)
    outside = torch.ones(n_active, dtype=torch.bool)
    outside[chosen] = False
    return Expansion(
        nodes=chosen,
        rows=torch.cat((store.rows[: len(logits)], store.rows[store.row_of[chosen]])),
        unexpanded=float(influence[outside].sum() / weights.double().sum()),
        threshold=float(influence[chosen].min()) if len(chosen) else 0.0,
        is_consistent=consistent,
    )


def _round_sizes(max_nodes: int) -> list[int]:
    bounds = [round(max_nodes * i / ROUNDS) for i in range(ROUNDS + 1)]
    return [b - a for a, b in itertools.pairwise(bounds) if b > a]


def _settle(store: "_Rows", max_nodes: int) -> tuple[Tensor, bool]:
    """The set that is its own top `max_nodes`, starting from what the rounds expanded."""
    chosen = store.expanded
    for _ in range(CORRECTIONS):
        best = store.influence(chosen).topk(max_nodes).indices.sort().values
        if torch.equal(best, chosen):
            return chosen, True
        missing = best[store.row_of[best] < 0]
        if store.count + len(missing) > len(store.rows):
            break
        store.add(missing)
        chosen = best
    return chosen, torch.equal(store.influence(chosen).topk(max_nodes).indices.sort().values, chosen)


def _expand_all(replacement: Replacement, logits: Targets, chunk_bytes: int | None, progress: Progress) -> Expansion:
    everything = torch.arange(len(replacement.active), device=replacement.active.layer.device)
    rows = _allocate(len(logits) + len(everything), Layout.of(replacement).width)
    sweep(replacement, logits, out=rows[: len(logits)], chunk_bytes=chunk_bytes)
    features = feature_targets(replacement, everything)
    sweep(replacement, features, out=rows[len(logits) :], chunk_bytes=chunk_bytes, progress=progress)
    return Expansion(everything.cpu(), rows, unexpanded=0.0, threshold=0.0, is_consistent=True)


class _Rows:
    """Rows computed so far, and the influence they carry. Rows stay on the CPU, in float32."""

    def __init__(
        self, replacement: Replacement, logits: Targets, weights: Tensor, *, capacity: int, chunk_bytes: int | None
    ) -> None:
        self.replacement, self.chunk_bytes = replacement, chunk_bytes
        self.layout = Layout.of(replacement)
        capacity = min(capacity, self.layout.n_active)
        self.rows = _allocate(len(logits) + capacity, self.layout.width)
        self.totals = torch.zeros(len(self.rows), dtype=torch.float64)
        self.row_of = torch.full((self.layout.n_active,), -1)
        self.layers = replacement.active.layer.cpu()
        self.n_logits = self.count = len(logits)
        self.weights = weights.double().cpu()
        sweep(replacement, logits, out=self.rows[: self.count], chunk_bytes=chunk_bytes)
        self._sum(0, self.count)

    @property
    def expanded(self) -> Tensor:
        """The features with a row, ascending."""
        return torch.nonzero(self.row_of >= 0).squeeze(1)

    def add(self, features: Tensor) -> None:
        """Compute the rows of further features."""
        if len(features) == 0:
            return
        stop = self.count + len(features)
        targets = feature_targets(self.replacement, features.to(self.replacement.active.layer.device))
        sweep(self.replacement, targets, out=self.rows[self.count : stop], chunk_bytes=self.chunk_bytes)
        self._sum(self.count, stop)
        self.row_of[features] = torch.arange(self.count, stop)
        self.count = stop

    def _sum(self, start: int, stop: int) -> None:
        # The bias column carries no influence.
        self.totals[start:stop] = _absolute_sums(self.rows[start:stop, : self.layout.bias])

    def influence(self, through: Tensor) -> Float[Tensor, " active"]:
        """Influence of every active feature on the logits through the features `through` (all with a
        row): I = w^T (A + A^2 + ...), one descent over the layers.
        """
        influence = torch.zeros(self.layout.n_active, dtype=torch.float64)
        self._descend(influence, torch.arange(self.n_logits), self.weights)
        layers = self.layers[through]
        for layer in layers.unique().flip(0):
            here = through[layers == layer]
            self._descend(influence, self.row_of[here], influence[here])
        return influence

    def _descend(self, influence: Tensor, rows: Tensor, amount: Tensor) -> None:
        share = (amount / self.totals[rows].clamp_min(1e-300)).float()
        for part in torch.arange(len(rows)).split(256):
            block = self.rows[rows[part], : self.layout.n_active].abs_()
            influence += share[part] @ block


def _absolute_sums(rows: Tensor) -> Tensor:
    return torch.cat([part.abs().sum(1).double() for part in rows.split(256)])


def _allocate(count: int, width: int) -> Tensor:
    """Zeroed float32 rows; beyond SPILL_BYTES in a file that has no name and goes with the process."""
    if count * width * 4 <= SPILL_BYTES:
        return torch.zeros(count, width)
    with tempfile.TemporaryDirectory(prefix="lucida-rows-") as folder:
        # The mapping outlives the name: nothing is left behind, whatever happens.
        return torch.from_file(str(Path(folder) / "rows"), shared=True, size=count * width).view(count, width)
