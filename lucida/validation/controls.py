"""Matched controls: for a feature of the graph's story another active one that writes as much at the same place."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lucida.evaluation.ablation import graph_features
from lucida.interventions.probe import Probe
from lucida.replacement import Active
from lucida.validation.claims import story
from lucida.validation.subject import Subject, activations

CLOSE = 1.5
"""A control of the same layer is taken when the sizes differ by at most this factor; else any layer's nearest."""


@dataclass(frozen=True)
class Matched:
    """Features of the story (`nodes` of the graph), and a control for each: row by row. `ratio` is the control's size
    over the feature's.
    """

    nodes: Int[np.ndarray, " feature"]
    chosen: Active
    controls: Active
    ratio: Float[np.ndarray, " feature"]


@torch.no_grad()
def matched_controls(subject: Subject, count: int, generator: np.random.Generator) -> Matched | None:
    """`count` features drawn from the story, and for each an active feature outside it, at the same position, in the
    same layer if there is a close one, of the nearest size: activation times length of what is written.

    No control is used twice. None when no feature of the story has one.
    """
    kept = story(subject.graph)
    drawn = np.sort(generator.choice(kept, min(count, len(kept)), replace=False))
    pool, sizes = _pool(subject)
    table = subject.graph.nodes
    key = _keys(pool.layer.numpy(), pool.position.numpy(), pool.feature.numpy())
    free = ~np.isin(key, _keys(table.layer[kept], table.position[kept], table.feature[kept])) & (sizes > 0)
    size_of = dict(zip(key.tolist(), sizes.tolist(), strict=True))
    chosen, controls, ratios = [], [], []
    places = _keys(table.layer[drawn], table.position[drawn], table.feature[drawn])
    for node, place in zip(drawn.tolist(), places.tolist(), strict=True):
        size = size_of.get(place, 0.0)
        found = _nearest(pool, sizes, free, int(table.layer[node]), int(table.position[node]), size)
        if found is None:
            continue
        free[found] = False
        chosen.append(node)
        controls.append(found)
        ratios.append(sizes[found] / size)
    if not chosen:
        return None
    nodes = np.array(chosen)
    return Matched(nodes, graph_features(subject.graph, nodes), pool.take(torch.tensor(controls)), np.array(ratios))


def _nearest(pool: Active, sizes: np.ndarray, free: np.ndarray, layer: int, position: int, size: float) -> int | None:
    there = np.flatnonzero(free & (pool.position.numpy() == position))
    if not len(there) or size <= 0:
        return None
    off = np.abs(np.log(sizes[there] / size))
    here = pool.layer.numpy()[there] == layer
    if here.any() and off[here].min() <= np.log(CLOSE):
        there, off = there[here], off[here]
    return int(there[off.argmin()])


def _keys(layer: np.ndarray, position: np.ndarray, feature: np.ndarray) -> np.ndarray:
    """One number for each place."""
    return (layer.astype(np.int64) << 48) | (position.astype(np.int64) << 28) | feature.astype(np.int64)


def _pool(subject: Subject) -> tuple[Active, np.ndarray]:
    """Every active feature behind the sink positions, and its size."""
    columns: list[list[Tensor]] = [[], [], [], []]
    sizes = []
    probe = Probe(subject.view, None if subject.basis is None else subject.basis.dictionary)
    for layer in range(subject.view.n_layers):
        found = activations(subject, layer)
        if found is None:
            continue
        found[: subject.sink_positions] = 0
        position, feature = found.nonzero(as_tuple=True)
        activation = found[position, feature]
        sizes.append((activation.abs() * probe.strengths(layer, feature)).cpu())
        for column, values in zip(
            columns, (torch.full_like(position, layer), position, feature, activation), strict=True
        ):
            column.append(values.cpu())
    return Active(*(torch.cat(column) for column in columns)), torch.cat(sizes).double().numpy()
