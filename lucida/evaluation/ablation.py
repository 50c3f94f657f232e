"""Features taken out one at a time, many in one batch: what other features and the answer become."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lucida.evaluation.basis import DictionaryBasis
from lucida.evaluation.running import run_copies
from lucida.graph import Graph
from lucida.models.linear import FrozenModel
from lucida.models.taps import MLPCall, contribution_site
from lucida.progress import Progress, silent
from lucida.replacement import Active

BATCH = 16
"""Ablations run at once."""

Write = tuple[int, int, Tensor]


@dataclass(frozen=True)
class Ablated:
    """What became of the watched features, and of the residual before the final norm at the answer's position, when
    each source was ablated alone.
    """

    activations: Float[np.ndarray, "source watched"]
    final: Float[Tensor, "source d_model"]


def graph_features(graph: Graph, nodes: Int[np.ndarray, " node"]) -> Active:
    """Feature nodes of a graph as a table of active features, in the order given."""
    table = graph.nodes
    layer, position = (torch.from_numpy(column[nodes].astype(np.int64)) for column in (table.layer, table.position))
    feature, activation = torch.from_numpy(table.feature[nodes]), torch.from_numpy(table.activation[nodes])
    return Active(layer, position, feature, activation)


def no_features() -> Active:
    """An empty table of features."""
    nothing = torch.zeros(0, dtype=torch.long)
    return Active(nothing, nothing, nothing, torch.zeros(0))


@torch.no_grad()
def ablate_features(
    view: FrozenModel,
    basis: DictionaryBasis | None,
    sources: Active,
    watched: Active | None = None,
    *,
    reach: int,
    at: int = -1,
    attention: Literal["frozen", "live"] = "frozen",
    batch: int = BATCH,
    progress: Progress = silent,
) -> Ablated:
    """Ablate each source alone and read what is `watched`; `basis` None means neurons, which cannot be watched.

    MLPs up to layer i + `reach` are held at their recording but for what the source (of layer i) writes to them; above
    they run live, and so do norms. `attention` keeps the recorded patterns or computes them anew. Costs a forward pass
    of the prompt for each source, `batch` at once; batches do not change the result. `at` is the answer's position.
    """
    watched = no_features() if watched is None else watched
    found, final = np.zeros((len(sources), len(watched))), []
    for part in np.array_split(np.arange(len(sources)), max(1, -(-len(sources) // batch))):
        progress(f"ablations, attention {attention}", int(part[0]) if len(part) else 0, len(sources))
        rows = sources.take(torch.from_numpy(part))
        found[part], residual = _ablated(view, basis, rows, watched, reach, attention)
        final.append(residual[:, at])
    progress(f"ablations, attention {attention}", len(sources), len(sources))
    return Ablated(found, torch.cat(final))


def _ablated(
    view: FrozenModel,
    basis: DictionaryBasis | None,
    sources: Active,
    watched: Active,
    reach: int,
    attention: Literal["frozen", "live"],
) -> tuple[np.ndarray, Float[Tensor, "source pos d_model"]]:
    """Activations of the watched, and the last residual, in one batched run whose row b has source b ablated."""
    model = view.model
    writes = feature_writes(view, basis, sources)
    held_to = sources.layer + reach
    found = np.zeros((len(sources), len(watched)))

    def visit(call: MLPCall) -> Tensor | None:
        if call.at == "mlp_out" and basis is not None:
            here = torch.nonzero(watched.layer == call.layer).squeeze(1)
            if len(here):
                x = call.site(model, basis.reads_at)[:, watched.position[here].to(model.device)]
                # numpy takes a tensor of one index for a plain number.
                found[:, here.numpy()] = _activations(basis, call.layer, x, watched.feature[here]).cpu().numpy()
        if call.at != contribution_site(model):
            return None
        written = call.written.float().clone()
        held = torch.nonzero(held_to >= call.layer).squeeze(1)
        written[held.to(written.device)] = view.mlp_contribution(call.layer)
        for row, position, vector in writes.get(call.layer, ()):
            if held_to[row] >= call.layer:
                written[row, position] -= vector
        return written

    return found, run_copies(view, len(sources), visit, attention=attention)


def feature_writes(view: FrozenModel, basis: DictionaryBasis | None, features: Active) -> dict[int, list[Write]]:
    """What each feature writes to the residual, by layer: (number of the feature, position, vector)."""
    device = view.recording.residual_final.device
    found: dict[int, list[Write]] = {}
    for layer in features.layer.unique().tolist():
        here = torch.nonzero(features.layer == layer).squeeze(1)
        positions, activations = features.position[here].to(device), features.activation[here].to(device)
        targets: Sequence[int] = [layer] if basis is None else basis.dictionary.writes_to(layer)
        for target in targets:
            if basis is None:
                rows = view.model.mlp_weights(layer).down.T[features.feature[here].to(device)]
            else:
                rows = basis.dictionary.decoder_rows(layer, features.feature[here], target).to(device)
            rows = rows * activations[:, None]
            if basis is None or basis.dictionary.writes_at == "mlp_out":
                rows = view.push_output(target, rows, positions)
            found.setdefault(target, []).extend(zip(here.tolist(), positions.tolist(), rows, strict=True))
    return found


def _activations(
    basis: DictionaryBasis, layer: int, x: Float[Tensor, "batch target d_model"], which: Int[Tensor, " target"]
) -> Float[Tensor, "batch target"]:
    """The activation of feature `which[t]` where it reads `x[:, t]`."""
    if basis.dictionary.activation == "topk":
        # Which k are largest depends on all the others.
        dense = basis.dictionary.encode(layer, x.flatten(0, 1)).view(*x.shape[:2], -1)
        return dense[:, torch.arange(len(which)), which.to(dense.device)]
    rows = basis.dictionary.encoder_rows(layer, which).to(x.device)
    h = torch.einsum("btd,td->bt", x, rows) + basis.dictionary.encoder_bias(layer, which).to(x.device)
    threshold = basis.dictionary.thresholds(layer, which)
    return h.clamp_min(0) if threshold is None else h * (h > threshold.to(x.device))
