"""Which features to ask about, when not all can be paid for."""

import numpy as np

from lucida.errors import FeatureError
from lucida.features.index import FeatureIndex
from lucida.features.llm.cost import FeatureName
from lucida.graph import Graph


def all_features(index: FeatureIndex) -> list[FeatureName]:
    """Every feature of the index, by layer."""
    return _names(index, np.arange(len(index.space)))


def most_frequent(index: FeatureIndex, count: int) -> list[FeatureName]:
    """The `count` features that fire at most places, the most frequent first; silent ones are left out."""
    order = np.argsort(-index.frequencies, kind="stable")[:count]
    return _names(index, order[index.frequencies[order] > 0])


def most_influential(index: FeatureIndex, graph: Graph, count: int) -> list[FeatureName]:
    """The `count` features with most influence in a graph, summed over their positions.

    Raises FeatureError when the graph holds no features, or features that the index has not.
    """
    table = graph.nodes
    rows = np.flatnonzero(table.is_kind("feature"))
    if len(rows) == 0:
        raise FeatureError("the graph holds no features; trace with a dictionary first")
    layers, features = table.layer[rows].tolist(), table.feature[rows].tolist()
    numbers = np.array([index.space.number(*name) for name in zip(layers, features, strict=True)])
    influence = np.bincount(numbers, weights=table.influence[rows], minlength=len(index.space))
    order = np.argsort(-influence, kind="stable")[:count]
    return _names(index, order[influence[order] > 0])


def _names(index: FeatureIndex, numbers: np.ndarray) -> list[FeatureName]:
    layers, features = index.space.layer_and_feature(numbers)
    return list(zip(layers.tolist(), features.tolist(), strict=True))
