"""What a graph claims about the ablation of single features: the numbers that measurements are held against."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from lucida.evaluation.faithfulness import influence_between
from lucida.graph import Graph
from lucida.graph.influence import attributions, carries_influence, node_influence, normalised, target_weights
from lucida.graph.pruning import lowest_kept

STORY = 0.8
"""The share of the influence that default pruning keeps: what a reader is shown."""


@dataclass(frozen=True)
class NodeClaims:
    """For each source: its influence on the answer (magnitude of the attribution for neurons), activation, the size
    of its direct edges to the answer, and by how much its ablation moves every target, going by the graph.
    """

    influence: Float[np.ndarray, " source"]
    activation: Float[np.ndarray, " source"]
    direct: Float[np.ndarray, " source"]
    predicted: Float[np.ndarray, "source target"]
    predicted_direct: Float[np.ndarray, "source target"]


@dataclass(frozen=True)
class PairClaims:
    """For each pair: influence B_ts; the signed edge, and the share it is of the target's inputs; whether every MLP
    between the two is held in the ablation, so that only the edge itself is tested.
    """

    influence: Float[np.ndarray, "source target"]
    edge: Float[np.ndarray, "source target"]
    share: Float[np.ndarray, "source target"]
    is_direct: Bool[np.ndarray, "source target"]


def node_claims(graph: Graph, sources: np.ndarray, reach: int) -> NodeClaims:
    """What the graph says of each source and the answer. `influence` is the one in its node table."""
    table = graph.nodes
    logits = np.flatnonzero(table.is_kind("logit"))
    rows = {int(target): row for row, target in enumerate(graph.targets)}
    into = graph.edges[[rows[int(logit)] for logit in logits]]
    return NodeClaims(
        influence=table.influence[sources].astype(np.float64),
        activation=np.abs(table.activation[sources]).astype(np.float64),
        direct=target_weights(graph)[logits] @ np.abs(into[:, sources]).astype(np.float64),
        predicted=-linear_effects(graph, sources, reach),
        predicted_direct=-into[:, sources].T.astype(np.float64),
    )


def linear_effects(graph: Graph, sources: np.ndarray, reach: int) -> Float[np.ndarray, "source target"]:
    """What each source contributes to each target on the paths that an ablation leaves open, signed.

    T_ts = edge_ts + sum over u of T_tu edge_us / a_u, with u in layers whose MLP runs live: above the source's by
    more than `reach`. Features change in proportion to their inputs, which holds while none goes out or comes on.
    """
    table = graph.nodes
    total = attributions(graph).per_logit
    logits = np.flatnonzero(table.is_kind("logit"))
    factor = np.zeros((len(logits), len(graph.targets)))
    is_feature = table.is_kind("feature")[graph.targets]
    activation = table.activation[graph.targets].astype(np.float64)
    passes = is_feature & (activation != 0)
    factor[:, passes] = total[:, graph.targets[passes]] / activation[passes]
    # Rows of the logits themselves: their direct edges.
    factor[:, ~is_feature] = logits[:, None] == graph.targets[~is_feature]
    effects = np.zeros((len(sources), len(logits)))
    for layer in np.unique(table.layer[sources]):
        here = np.flatnonzero(table.layer[sources] == layer)
        is_open = ~is_feature | (table.layer[graph.targets] > layer + reach)
        effects[here] = (factor[:, is_open] @ graph.edges[is_open][:, sources[here]]).T
    return effects


def pair_claims(graph: Graph, sources: np.ndarray, targets: np.ndarray, reach: int) -> PairClaims:
    """What the graph says of each source and each watched feature."""
    table = graph.nodes
    rows = {int(target): row for row, target in enumerate(graph.targets)}
    into = graph.edges[[rows[int(target)] for target in targets]]
    layers = table.layer[sources][:, None], table.layer[targets][None]
    return PairClaims(
        influence=influence_between(graph, sources, targets),
        edge=into[:, sources].T.astype(np.float64),
        share=normalised(into, carries_influence(graph))[:, sources].T.astype(np.float64),
        is_direct=layers[1] <= layers[0] + reach + 1,
    )


def story(graph: Graph, share: float = STORY) -> np.ndarray:
    """The features that pruning to `share` of the influence keeps: the ones a reader is shown."""
    strength = node_influence(graph)
    ranked = ~graph.nodes.is_kind("bias", "logit")
    kept = strength >= lowest_kept(strength[ranked], share, exceed=True)
    return np.flatnonzero(kept & graph.nodes.is_kind("feature"))
