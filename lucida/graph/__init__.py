"""The attribution graph: the artifact of a trace. Knows no model."""

from lucida.graph.compare import Comparison, EdgeChange, FeatureChange
from lucida.graph.graph import KINDS, Dense, Graph, Node, NodeTable
from lucida.graph.influence import MEASURES, Attributions, attributions, node_influence
from lucida.graph.paths import Path, strongest_paths
from lucida.graph.pruning import PruneMasks, fold_into_errors, prune, prune_masks
from lucida.graph.scores import Scores

__all__ = [
    "KINDS",
    "MEASURES",
    "Attributions",
    "Comparison",
    "Dense",
    "EdgeChange",
    "FeatureChange",
    "Graph",
    "Node",
    "NodeTable",
    "Path",
    "PruneMasks",
    "Scores",
    "attributions",
    "fold_into_errors",
    "node_influence",
    "prune",
    "prune_masks",
    "strongest_paths",
]
