"""Labels without a language model: of the rules that a feature's examples suggest, the one that predicts it best.

Rules are found in half of the examples and scored on the other half, texts of other documents: recall is the share of
the activation there that falls where the rule holds (strongest examples and uniform samples counting half each),
precision the share of tokens where it holds that are active, silent tokens of the same windows included. The score
is their harmonic mean. A rule must reach `BAR` and be right at `RIGHT` places; a feature for which none does is
called "unclear", with the tokens of its peaks. So a label says how well it holds, and noise gets none.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lucida.features.index import FeatureIndex
from lucida.features.labels import Label
from lucida.features.naming.evidence import Evidence, Places, each_evidence
from lucida.features.naming.lexicon import CODE, FUNCTION_WORDS, TOPICS, Lexicon
from lucida.features.naming.rules import Background, Firing, Rule, Speech, near_word, quoted, rules_for
from lucida.features.tables import EFFECTS, read_table
from lucida.graph import Graph
from lucida.progress import Progress, silent

AUTHOR = "automatic"
BAR = 0.5
"""The score that a rule must reach."""
RIGHT = 3
"""Tested places at which a rule must have been right: with fewer, some rule fits noise by chance."""
LATE = 0.5
"""Features in this upper part of the model may be labelled by what they say."""
DENSE = 0.2
"""A feature active at this share of all places fires everywhere, if nothing better is known of it."""
COMMON = 0.2
"""A topic is no news when more than this share of all windows is in it."""
UNCLEAR = "unclear"


def automatic_labels(index: FeatureIndex, *, progress: Progress = silent) -> list[Label]:
    """A label for every feature that is not silent, in the order of the index. Deterministic; no model is needed.

    `method` is the rule that won, `score` how well it holds (see the module); the peak tokens of a feature that
    no rule describes carry the method "unclear". Labels by what a feature says need ``effects.parquet``.
    """
    lexicon = Lexicon.open(index)
    promoted = _promoted(index)
    background = background_of(index, lexicon)
    frequencies = index.frequencies
    layers, features = index.space.layer_and_feature(np.arange(len(index.space)))
    found: list[Label] = []
    for number, evidence in each_evidence(index, lexicon):
        if number % 256 == 0:
            progress("naming features", number, len(index.space))
        if evidence is None:
            continue
        layer, feature = int(layers[number]), int(features[number])
        speech = _speech(promoted, number, lexicon, layer >= LATE * index.space.n_layers)
        named = name_of(evidence, lexicon, speech, frequency=float(frequencies[number]), background=background)
        details = {"precision": round(named.precision, 3), "recall": round(named.recall, 3)}
        found.append(Label(layer, feature, named.label, AUTHOR, named.method, round(named.score, 4), "", details))
    progress("naming features", len(index.space), len(index.space))
    return found


@dataclass(frozen=True)
class Named:
    """A label with its method, and how well it predicts where the feature fires."""

    label: str
    method: str
    precision: float
    recall: float
    right: int = 0
    """Tested places where it held and the feature fired."""

    @property
    def score(self) -> float:
        """The harmonic mean of precision and recall."""
        return harmonic(self.precision, self.recall)


def harmonic(a: float, b: float) -> float:
    """The harmonic mean of two shares; 0 when one is."""
    return 2 * a * b / (a + b) if a * b > 0 else 0.0


def name_of(evidence: Evidence, lexicon: Lexicon, speech: Speech, *, frequency: float, background: Background) -> Named:
    """The best name for a feature: a rule about tokens, else a topic, else that it is dense, else its peaks."""
    if evidence.suffices:
        rules = rules_for(evidence, lexicon, speech, background)
        judged = [(judge(rule, evidence.held), rule.cost) for rule in rules]
        passed = [(named, named.score - cost) for named, cost in judged if named.score >= BAR and named.right >= RIGHT]
        if passed:
            return max(passed, key=lambda pair: pair[1])[0]
        topic = _topic(evidence, background.topics)
        if topic is not None:
            return topic
    if frequency >= DENSE:
        return Named("fires everywhere", "dense", frequency, 1.0)
    return _unclear(evidence, lexicon, background)


def judge(rule: Rule, held: Places) -> Named:
    """How well a rule predicts the activations of some windows."""
    mask = rule.holds(held)
    said = int(np.count_nonzero(mask))
    right = int(np.count_nonzero(mask & held.active))
    recall = min(1.0, float(held.weight[mask].sum()))
    return Named(rule.label, rule.method, right / said if said else 0.0, recall, right)


def _topic(evidence: Evidence, shares: NDArray[np.float64]) -> Named | None:
    """The language or kind of text that nearly all windows are in, and few windows of other features."""
    windows = np.concatenate([evidence.shown.topics, evidence.held.topics])
    for bit, (name, common) in enumerate(zip(TOPICS, shares.tolist(), strict=True)):
        inside = float(((windows >> np.uint64(bit)) & np.uint64(1)).mean())
        if inside >= 0.8 and common <= COMMON and len(windows) >= 6:
            label = name if name == CODE else f"in {name}" if name in FUNCTION_WORDS else f"{name} script"
            return Named(label, "topic", inside / (inside + common), inside)
    return None


def _unclear(evidence: Evidence, lexicon: Lexicon, background: Background) -> Named:
    side = evidence.shown if evidence.shown.active.any() else evidence.held
    fires = Firing(side, lexicon)
    words = [word for word, _ in fires.heaviest(fires.word, 3)] or fires.word[:1].tolist()
    mask = np.isin(lexicon.word[evidence.held.token], words)
    text = ", ".join(
        fires.shown(word) if lexicon.words[word] else repr(lexicon.texts[_token_of(fires, word)])[1:-1]
        for word in words
    )
    named = judge(Rule(text, UNCLEAR, lambda _: mask), evidence.held)
    near = near_word(evidence.shown, lexicon, background) if evidence.suffices else 0
    text += f" near {quoted(lexicon.words[near])}" if near else ""
    return Named(f"{UNCLEAR}: {text}", UNCLEAR, named.precision, named.recall)


def _token_of(fires: Firing, word: int) -> int:
    return int(fires.token[fires.word == word][0])


def _speech(promoted: NDArray[np.int32] | None, number: int, lexicon: Lexicon, is_late: bool) -> Speech:
    if promoted is None or not is_late:
        return Speech(frozenset(), False)
    tokens = promoted[number]
    tokens = tokens[(tokens >= 0) & (tokens < len(lexicon))]
    return Speech(frozenset(lexicon.word[tokens].tolist()) - {0}, True)


def _promoted(index: FeatureIndex) -> NDArray[np.int32] | None:
    """The promoted tokens of every feature, -1 where a list is shorter; None where effects were not computed."""
    if not (index.folder / "effects.parquet").exists():
        return None
    lists = read_table(index.folder / "effects.parquet", EFFECTS)["promoted"].to_pylist()
    if len(lists) != len(index.space):
        return None
    width = max((len(tokens) for tokens in lists), default=0)
    return np.array([tokens + [-1] * (width - len(tokens)) for tokens in lists], np.int32).reshape(len(lists), width)


def background_of(index: FeatureIndex, lexicon: Lexicon) -> Background:
    """What windows are like, over the examples of an even choice of features."""
    topics, windows = np.zeros(len(TOPICS)), 0
    words = np.zeros(len(lexicon.words))
    for _, evidence in each_evidence(index, lexicon, every=8):
        if evidence is None:
            continue
        for side in (evidence.shown, evidence.held):
            np.add.at(words, lexicon.word[side.token], 1.0)
            windows += len(side.topics)
            for bit, times in Counter(side.topics.tolist()).items():
                if bit:
                    topics[int(bit).bit_length() - 1] += times
    return Background(topics / max(1, windows), words / max(1.0, words.sum()))


def label_graph(graph: Graph, index: FeatureIndex) -> Graph:
    """A copy of `graph` whose features carry the labels of an index; what the index cannot name keeps its own.

    Labels marked as unclear do not replace one that the trace gave.
    """
    table, known = graph.nodes, index.labels
    labels = {}
    for node in np.flatnonzero(table.is_kind("feature")).tolist():
        label = known.get((int(table.layer[node]), int(table.feature[node])))
        if label is not None and (label.method != UNCLEAR or not table.label[node]):
            labels[node] = label.label
    return graph.with_labels(labels)
