"""Groups of nodes that a reader may want to take as one concept: what has the same label, near each other."""

from collections.abc import Sequence

import numpy as np

from lucida.graph import Graph
from lucida.graph.pruning import rank_nodes
from lucida.server.messages import LONGEST_NAME, GroupSuggestion
from lucida.server.naming import says_something, words_in
from lucida.server.problems import printable

MOST = 12
MOST_MEMBERS = 16
"""A group is to be read and turned off as one thing; its weakest members add little."""
ALIKE = 0.5
"""Two labels say the same when they share at least this part of the words of the longer one."""


def groups(graph: Graph) -> list[GroupSuggestion]:
    """At most MOST supernodes of two or more features, the most influential first; their nodes strongest first.

    Of the nodes that `graph.prune()` keeps, features at the same token whose labels share at least half of the longer
    one's words are put together, at most MOST_MEMBERS, the strongest. Nodes without a label, or with one that says
    nothing ("fires everywhere", "unclear: ..."), are left out. A group is called what its strongest node is called.
    """
    table = graph.nodes
    kept = np.flatnonzero(rank_nodes(graph).mask & table.is_kind("feature"))
    kept = [int(i) for i in kept[np.argsort(-table.influence[kept], kind="stable")] if says_something(table.label[i])]
    found = [members[:MOST_MEMBERS] for members in together(graph, kept) if len(members) > 1]
    found.sort(key=lambda members: -sum(float(table.influence[i]) for i in members))
    return [
        GroupSuggestion(
            name=printable(name)[:LONGEST_NAME],
            nodes=sorted(members, key=lambda i: -float(table.influence[i])),
            influence=sum(float(table.influence[i]) for i in members),
        )
        for name, members in zip(_names(graph, found[:MOST]), found[:MOST], strict=True)
    ]


def together(graph: Graph, nodes: Sequence[int]) -> list[list[int]]:
    """The nodes in groups of one concept, in the order given. Each joins the first group at its token whose first node
    has a label like its own, so that a chain of half-alike labels cannot drift from where it began.
    """
    words = {label: words_in(label) for label in {graph.nodes.label[i] for i in nodes}}

    def is_alike(a: int, b: int) -> bool:
        own, other = words[graph.nodes.label[a]], words[graph.nodes.label[b]]
        return len(own & other) >= ALIKE * max(len(own), len(other))

    position = graph.nodes.position
    found: list[list[int]] = []
    for index in nodes:
        home = next((g for g in found if position[g[0]] == position[index] and is_alike(g[0], index)), None)
        if home is None:
            found.append([index])
        else:
            home.append(index)
    return found


def _names(graph: Graph, groups: Sequence[Sequence[int]]) -> list[str]:
    """What each group is called: its strongest node's label, with the token where two are called alike, and with the
    token's place where the token is there twice.
    """
    labels = [graph.nodes.label[members[0]] for members in groups]
    tokens = [graph.nodes.text[members[0]].strip() for members in groups]
    places = [int(graph.nodes.position[members[0]]) for members in groups]
    both = list(zip(labels, tokens, strict=True))
    return [
        label
        if labels.count(label) == 1
        else f"{label}, token {place + 1}"
        if both.count((label, token)) > 1
        else f"{label} at {token}"
        for label, token, place in zip(labels, tokens, places, strict=True)
    ]
