"""A graph in a few plain sentences, for somebody who has never seen one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lucida.graph import Graph
from lucida.graph.influence import levels, target_weights
from lucida.graph.pruning import rank_nodes
from lucida.server.naming import QUOTED, says_something
from lucida.server.suggest import together

NAMED = 3
"""Groups of features that are named."""
TRIED = 16
"""Of so many groups, those with the largest direct effect, it is computed what taking them away would do."""
LONGEST = 40
"""Characters of a label or a token in a sentence."""


@dataclass(frozen=True)
class Push:
    """Features with alike labels at one token, and what they do for an answer, in logits: `direct`, by their own edges
    into it, and `total`, how much the graph predicts it to fall when they are taken away.
    """

    label: str
    token: str
    direct: float
    total: float


@dataclass(frozen=True)
class Summary:
    """A graph in sentences: `short` for two lines above it, `full` with the numbers behind them."""

    short: str
    full: str


def describe(graph: Graph) -> Summary:
    """What the model says, which named features at which tokens raise it most, and how much is not explained."""
    logits = np.flatnonzero(graph.nodes.is_kind("logit"))
    if not len(logits):
        text = "This graph has no answer: nothing in it says what is explained."
        return Summary(text, text)
    # Of several answers the one with the most weight.
    answer = int(logits[int(np.argmax(target_weights(graph)[logits]))])
    opening, found, unexplained = _opening(graph, answer, len(logits) - 1), pushes(graph, answer), _unexplained(graph)
    return Summary(
        " ".join([opening, _pushed_shortly(graph, answer, found), _unexplained_shortly(graph)]),
        " ".join([opening, _pushed(graph, answer, found), unexplained]),
    )


def pushes(graph: Graph, answer: int, count: int = NAMED) -> list[Push]:
    """The groups of features that raise an answer directly and in all, those with the largest direct effect first.

    A group are features with alike labels at one token, of the nodes that `graph.prune()` keeps; features whose label
    says nothing, or has no letter or digit in it, are left out.
    """
    table = graph.nodes
    direct = _inputs(graph, answer)
    kept = np.flatnonzero(rank_nodes(graph).mask & table.is_kind("feature"))
    kept = [int(i) for i in kept[np.argsort(-table.influence[kept], kind="stable")] if _is_telling(table.label[i])]
    groups = [
        members
        for position in sorted({int(table.position[i]) for i in kept})
        for members in together(graph, [i for i in kept if table.position[i] == position])
    ]
    groups.sort(key=lambda members: -float(direct[members].sum()))
    totals = -without(graph, groups[:TRIED])[answer]
    found = []
    for members, total in zip(groups[:TRIED], totals.tolist(), strict=True):
        strongest = max(members, key=lambda i: float(direct[i]))
        push = Push(table.label[strongest], table.text[strongest], float(direct[members].sum()), total)
        if push.direct > 0 and push.total > 0:
            found.append(push)
    return found[:count]


def without(graph: Graph, groups: Sequence[Sequence[int]]) -> Float[np.ndarray, "node group"]:
    """The predicted change of every node, in its own units, when the features of each group are taken away.

    As `lucida.interventions.predict` does it, which needs torch: an edge passes on the share by which its source
    changed. Features whose activation a graph of another tool does not tell pass nothing on.
    """
    table = graph.nodes
    activation = np.nan_to_num(table.activation.astype(np.float64))
    passes = table.is_kind("feature") & (activation != 0)
    inverse = np.divide(1.0, activation, out=np.zeros(len(table)), where=passes)
    change, share = np.zeros((len(table), len(groups))), np.zeros((len(table), len(groups)))
    for column, members in enumerate(groups):
        change[members, column], share[members, column] = -activation[members], -1
    is_fixed = share != 0
    for rows in levels(graph)[::-1]:
        here = graph.targets[rows]
        moved = graph.edges[rows].astype(np.float64) @ share
        change[here] = np.where(is_fixed[here], change[here], moved)
        share[here] = np.where(is_fixed[here], -1, moved * inverse[here, None])
    return change


def _is_telling(label: str) -> bool:
    return says_something(label) and any(letter.isalnum() for letter in label)


def _inputs(graph: Graph, node: int) -> Float[np.ndarray, " node"]:
    """The edges into a node."""
    row = np.flatnonzero(graph.targets == node)
    return graph.edges[row[0]].astype(np.float64) if len(row) else np.zeros(len(graph.nodes))


# --- sentences ------------------------------------------------------------------------------------------


def _opening(graph: Graph, answer: int, others: int) -> str:
    text, probability = graph.nodes.text[answer], float(graph.nodes.probability[answer])
    if not np.isnan(probability):
        beside = f" and {others} other likely token{'' if others == 1 else 's'}" if others else ""
        return f"The model goes on with {_quoted(text)} ({_percent(probability)}); this graph explains that{beside}."
    value, sides = float(_inputs(graph, answer).sum()), text.split(" - ")
    top = _top(graph)
    opening = f"The model goes on with {top}; this" if top else "This"
    if len(sides) != 2:
        return f"{opening} graph explains {_quoted(text)}."
    ahead = f"“{_cut(sides[0])}” is" if value >= 0 else f"“{_cut(sides[1])}” is"
    pair = f"“{_cut(sides[0])}” against “{_cut(sides[1])}”"
    return f"{opening} graph explains {pair}: {ahead} ahead by {abs(value):.2f} logits."


def _top(graph: Graph) -> str:
    """What the model says first, as the graph's metadata record it; "" where they do not."""
    try:
        first = graph.metadata["top_tokens"][0]
        return f"{_quoted(str(first['text']))} ({_percent(float(first['probability']))})"
    except (KeyError, IndexError, TypeError, ValueError):
        return ""


NOTHING_NAMED = "None of the features that raise it has a name that says something."


def _pushed(graph: Graph, answer: int, found: Sequence[Push]) -> str:
    if not found:
        return NOTHING_NAMED
    named = [_named(push, is_first=number == 0) for number, push in enumerate(found)]
    return f"The named features that push hardest for {_side(graph, answer)}: {'; '.join(named)}."


def _pushed_shortly(graph: Graph, answer: int, found: Sequence[Push]) -> str:
    """The same without numbers, but for the first one's share of what goes into the answer."""
    if not found:
        return NOTHING_NAMED
    named = [f"{_label(push)} at {_quoted(push.token)}" for push in found]
    share = found[0].direct / float(np.abs(_inputs(graph, answer)).sum())
    named[0] += f" ({_percent(share)} of all that goes into it directly)"
    return f"Named features push hardest for {_side(graph, answer)}: {_listed(named)}."


def _side(graph: Graph, answer: int) -> str:
    """What is raised: the answer, or of a difference the first of its two."""
    if not np.isnan(graph.nodes.probability[answer]):
        return "it"
    return f"“{_cut(graph.nodes.text[answer].split(' - ')[0])}”"


def _listed(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _named(push: Push, *, is_first: bool) -> str:
    """``the word “small” at “small” (+0.66 logits directly, +0.14 over all paths)``; later ones without the words."""
    units = (" logits directly", " over all paths") if is_first else ("", "")
    return f"{_label(push)} at {_quoted(push.token)} ({push.direct:+.2f}{units[0]}, {push.total:+.2f}{units[1]})"


def _label(push: Push) -> str:
    word = QUOTED.fullmatch(push.label)
    return f"the {word[1]} “{_cut(word[2])}”" if word else f"“{_cut(push.label)}”"


def _unexplained_shortly(graph: Graph) -> str:
    share = max(0.0, graph.scores().error_share)
    if share < 0.0005:
        return "All of its influence is traced back to the prompt."
    return f"Not explained: {_percent(share)} of the influence on it."


def _unexplained(graph: Graph) -> str:
    found = graph.scores()
    error = max(0.0, found.error_share - found.unexpanded)
    parts = [f"{_percent(error)}, what the features miss (error)"] if error >= 0.0005 else []
    if found.unexpanded >= 0.0005:
        parts.append(f"{_percent(found.unexpanded)}, features that were not expanded")
    if not parts:
        return "All of the influence on the answer is traced back to tokens of the prompt."
    return f"Not explained, of the influence on the answer: {'; '.join(parts)}."


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.095 else f"{100 * share:.1f} %"


def _quoted(text: str) -> str:
    return f"“{_cut(text.strip() or text)}”"


def _cut(text: str) -> str:
    line = " ".join(text.split()) or repr(text)[1:-1]
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"
