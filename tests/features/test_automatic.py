"""Labels without a language model: planted features get their names, noise gets none, and numbers are as said."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lucida import Microscope
from lucida.dictionaries.random import random_dictionary
from lucida.features.header import IndexHeader, record_files
from lucida.features.index import FeatureIndex
from lucida.features.labels import Label, write_labels
from lucida.features.naming.automatic import BAR, UNCLEAR, automatic_labels, judge, label_graph
from lucida.features.naming.evidence import each_evidence
from lucida.features.naming.lexicon import Lexicon
from lucida.features.naming.rules import Rule
from lucida.features.tables import EFFECTS, HISTOGRAM_BINS, SCHEMAS, write_table

WORDS = """ the| of| a| dog| cat| house| tree| red| ran| saw| small| Small|small| tiny| little| capital| France
 Spain| Rome| Paris| 7| 12| 3| 5| 40| 99| running| singing| jumping| thing| unhappy| hap|py| slee| John| Mary|.|,
\\n| le| les| dans| est| une| chien| blue| green| river| stone| bread| paper| window| candle| garden| mirror| dragon"""
TEXTS = [text.replace("\\n", "\n") for text in WORDS.replace("\n", "|").split("|")]
ID = {text: i for i, text in enumerate(TEXTS)}
FRENCH = [ID[f" {word}"] for word in ("le", "les", "dans", "est", "une", "chien")]
DOCUMENTS, LENGTH, WINDOW = 300, 40, 16
PHRASES = [[" capital", " of", " France"], [" capital", " of", " Spain"], [" capital", " of", " Rome"], [" hap", "py"],
           [" slee", "py"], [" saw", " Paris"], [" red", " Paris"], [" ran", " Paris"]]  # fmt: skip
Fires = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def corpus(seed: int = 0) -> np.ndarray:
    """Documents [document, place] of random words with a few phrases; every fifth is French."""
    generator = np.random.default_rng(seed)
    plain = [i for i in range(len(TEXTS)) if i not in FRENCH and TEXTS[i] not in ("py", "small", " Paris", " dragon")]
    chances = 1 / (3 + np.arange(len(plain)))
    tokens = generator.choice(plain, (DOCUMENTS, LENGTH), p=chances / chances.sum())
    for document in range(DOCUMENTS):
        if document % 5 == 0:
            tokens[document] = generator.choice(FRENCH + plain[:12], LENGTH, p=[0.1] * 6 + [0.4 / 12] * 12)
            continue
        for start in range(2, LENGTH - 4, 9):
            phrase = [ID[text] for text in PHRASES[generator.integers(len(PHRASES))]]
            tokens[document, start : start + len(phrase)] = phrase
        if document % 12 == 1:
            tokens[document, 6] = ID[" dragon"]
    return tokens


def on(*texts: str) -> Fires:
    return lambda tokens, _: np.isin(tokens, [ID[text] for text in texts])


def following(fires: Fires, steps: int) -> Fires:
    def shifted(tokens: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        moved = np.roll(fires(tokens, generator), steps, axis=1)
        moved[:, slice(0, steps) if steps > 0 else slice(steps, None)] = False
        return moved

    return shifted


def noise(share: float) -> Fires:
    return lambda tokens, generator: generator.random(tokens.shape) < share


def first_token(tokens: np.ndarray, _: np.random.Generator) -> np.ndarray:
    return np.broadcast_to(np.arange(LENGTH) == 0, tokens.shape)


def in_french(tokens: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    french = np.arange(DOCUMENTS)[:, None] % 5 == 0
    return french & (generator.random(tokens.shape) < 0.15)


def capital_of(tokens: np.ndarray, _: np.random.Generator) -> np.ndarray:
    return (tokens == ID[" of"]) & (np.roll(tokens, 1, axis=1) == ID[" capital"])


def near_dragon(tokens: np.ndarray, _: np.random.Generator) -> np.ndarray:
    after = np.cumsum(tokens == ID[" dragon"], axis=1) > 0
    return after & (tokens == ID[" the"]) & (np.arange(LENGTH) < 6 + WINDOW)


PLANTED: dict[str, tuple[Fires, str]] = {
    'the word "small"': (on(" small", " Small"), "word"),
    "little, small, tiny": (on(" small", " tiny", " little"), "words"),
    'after "capital of"': (following(capital_of, 1), "after"),
    '"of" after "capital"': (capital_of, "in context"),
    'say "paris"': (following(on(" Paris"), -1), "say"),
    "numbers": (on(" 7", " 12", " 3", " 5", " 40", " 99"), "kind of token"),
    "newlines": (on("\n"), "newlines"),
    'words ending in "ing"': (on(" running", " singing", " jumping", " thing"), "affix"),
    "the first token": (first_token, "position"),
    "in French": (in_french, "topic"),
    '"happy", "py" as in "sleepy"': (on("py"), "word"),
    "fires everywhere": (noise(0.4), "dense"),
    'the word "the" near "dragon"': (near_dragon, "near"),
    'the mark ","': (on(","), "word"),
}
"""By the label that it must get: a feature, and the method of the label."""


def index_of(
    folder: Path, features: list[Fires], *, layers: int = 1, says: dict[int, list[str]] | None = None
) -> FeatureIndex:
    """An index of features of the last of `layers`, with up to 40 top examples and 3 samples an octave."""
    tokens = corpus()
    stats, examples = [], []
    for number, fires in enumerate(features):
        generator = np.random.default_rng(number)
        values = generator.lognormal(1, 0.4, tokens.shape) * fires(tokens, generator)
        stats.append(_stats(layers - 1, number, values))
        examples += _examples(layers - 1, number, values, tokens, generator)
    rows = {"stats": stats, "examples": examples}
    rows["vocabulary"] = [{"token": token, "text": text} for token, text in enumerate(TEXTS)]
    if says is not None:
        empty = {name: [] for name in EFFECTS.names}
        rows["effects"] = [
            empty | {"layer": layers - 1, "feature": n, "promoted": [ID[text] for text in says.get(n, [])]}
            for n in range(len(features))
        ]
    for name, entries in rows.items():
        columns = {column: [row.get(column, 0) for row in entries] for column in SCHEMAS[name].names}
        write_table(folder / f"{name}.parquet", columns, SCHEMAS[name])
    IndexHeader(
        model="planted", dictionary="planted", dictionary_digest="0", n_features=(*[0] * (layers - 1), len(features)),
        corpus="planted", corpus_fingerprint="1", tokenizer="2", context=LENGTH + 1, k=40, samples=3, window=WINDOW,
        sampled_places=0, n_places=tokens.size, n_documents=DOCUMENTS,
        files=record_files(folder, [f"{name}.parquet" for name in rows]),
    ).save(folder)  # fmt: skip
    return FeatureIndex.open(folder)


def _stats(layer: int, feature: int, values: np.ndarray) -> dict[str, Any]:
    active = values[values > 0]
    return {
        "layer": layer, "feature": feature, "count": len(active), "mean": float(active.mean()) if len(active) else 0.0,
        "maximum": float(values.max()), "first": -1, "last": -1, "histogram": [0] * HISTOGRAM_BINS,
    }  # fmt: skip


def _examples(layer: int, feature: int, values: np.ndarray, tokens: np.ndarray, generator: Any) -> list[dict[str, Any]]:
    best = values.argmax(1)
    strongest = [d for d in np.argsort(-values.max(1)).tolist() if values[d, best[d]] > 0][:40]
    chosen = [("top", rank, document, int(best[document])) for rank, document in enumerate(strongest)]
    active = np.argwhere(values > 0)
    bands: dict[int, int] = {}
    for document, place in generator.permutation(active).tolist() if len(active) else []:
        band = int(np.floor(np.log2(values[document, place])))
        if bands.setdefault(band, 0) < 3:
            chosen.append(("sample", bands[band], document, place))
            bands[band] += 1
    rows = []
    for kind, rank, document, place in chosen:
        start, stop = max(0, place - WINDOW), min(LENGTH, place + WINDOW + 1)
        value = float(values[document, place])
        rows.append({
            "layer": layer, "feature": feature, "kind": kind, "band": int(np.floor(np.log2(value))), "rank": rank,
            "value": value, "position": document * LENGTH + place, "document": document, "peak": place - start,
            "tokens": tokens[document, start:stop].tolist(), "activations": values[document, start:stop].tolist(),
        })  # fmt: skip
    return sorted(rows, key=lambda row: (row["kind"], row["band"], row["rank"]))


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> FeatureIndex:
    says = {list(PLANTED).index('say "paris"'): [" Paris", " Rome"]}
    silent = noise(0.0)
    features = [*(fires for fires, _ in PLANTED.values()), silent]
    return index_of(tmp_path_factory.mktemp("planted") / "index", features, layers=4, says=says)


def test_planted_features_get_their_names(planted: FeatureIndex) -> None:
    found = automatic_labels(planted)
    plain = {", ".join(sorted(label.label.split(", "))): label.method for label in found}  # in any order
    assert plain == {name: method for name, (_, method) in PLANTED.items()}
    assert [label.feature for label in found] == list(range(len(PLANTED)))  # the silent one has none
    assert all(label.score is not None and label.score >= BAR for label in found)
    assert all(label.layer == 3 and label.author == "automatic" for label in found)
    assert found == automatic_labels(planted)


def test_a_feature_says_a_word_only_where_it_promotes_it_and_late(tmp_path: Path) -> None:
    fires = PLANTED['say "paris"'][0]
    without = index_of(tmp_path / "without", [fires], layers=4, says={0: [" Rome"]})
    assert automatic_labels(without)[0].label == 'before "paris"'
    early = index_of(tmp_path / "early", [fires], layers=1, says={0: [" Paris"]})
    assert automatic_labels(early)[0].label == 'before "paris"'
    uncomputed = index_of(tmp_path / "uncomputed", [fires], layers=4)
    assert automatic_labels(uncomputed)[0].label == 'before "paris"'


def test_noise_gets_no_rule(tmp_path: Path) -> None:
    """Features that fire at random: at any density, also where three examples are all there is."""
    shares = [3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1]
    index = index_of(tmp_path / "index", [noise(share) for share in shares for _ in range(10)])
    found = automatic_labels(index)
    assert len(found) >= 55
    assert {label.method for label in found} == {UNCLEAR}
    assert all(label.label.startswith("unclear: ") for label in found)


def test_the_score_is_counted_on_the_held_examples(planted: FeatureIndex) -> None:
    lexicon = Lexicon.open(planted)
    evidence = dict(each_evidence(planted, lexicon))
    one = evidence[list(PLANTED).index("little, small, tiny")]
    assert one is not None
    rule = Rule("", "", lambda places: places.token == ID[" tiny"])
    named = judge(rule, one.held)
    mask = one.held.token == ID[" tiny"]
    assert named.precision == pytest.approx((mask & one.held.active).sum() / mask.sum()) == 1.0
    assert named.recall == pytest.approx(one.held.weight[mask].sum())
    assert 0.1 < named.recall < 0.6
    assert one.held.weight.sum() == pytest.approx(1.0)


def test_no_document_stands_on_both_sides_and_nothing_is_lost(planted: FeatureIndex) -> None:
    lexicon = Lexicon.open(planted)
    for number, evidence in each_evidence(planted, lexicon):
        examples = planted.examples(3, number)
        assert (evidence is None) == (not examples)
        if evidence is None:
            continue
        examples = list({example.position: example for example in examples}.values())
        total = sum(len(example.tokens) for example in examples)
        assert len(evidence.shown) + len(evidence.held) == total
        documents = len({example.document for example in examples})
        windows = {side: len(getattr(evidence, side).topics) for side in ("shown", "held")}
        assert sum(windows.values()) == len(examples)
        assert min(windows.values()) >= documents // 2
        assert min(evidence.shown.weight.sum(), evidence.held.weight.sum()) == pytest.approx(1.0)


def test_neighbours_do_not_cross_windows(planted: FeatureIndex) -> None:
    lexicon = Lexicon.open(planted)
    evidence = next(each for _, each in each_evidence(planted, lexicon) if each is not None)
    examples = planted.examples(3, 0)
    pairs = {(int(a), int(b)) for e in examples for a, b in zip(e.tokens[:-1], e.tokens[1:], strict=True)}
    for side in (evidence.shown, evidence.held):
        inside = side.before[0] >= 0
        assert {(int(a), int(b)) for a, b in zip(side.before[0][inside], side.token[inside], strict=True)} <= pairs
        assert (~inside).sum() == len(side.topics) == (side.after[0] < 0).sum()


def test_a_graph_shows_the_labels_of_an_index(tiny_model: Any, tmp_path: Path) -> None:
    features = random_dictionary(3, 32, 12, l0=6, seed=1)
    graph = Microscope(tiny_model("llama"), features).trace([3, 11, 8, 30])
    nodes = [node for node in graph.find(kind="feature") if node.layer == 0]
    first, second = nodes[0], next(node for node in nodes if node.feature != nodes[0].feature)
    graph = graph.with_labels({first.index: "of the trace", second.index: "kept"})
    index = index_of(tmp_path / "index", [noise(0.01)] * 12)
    label = Label(0, int(first.feature or 0), "smallness", "A", "by hand")
    write_labels(index.folder, "human", [label])
    write_labels(index.folder, "automatic", [Label(0, int(second.feature or 0), "unclear: x", "automatic", UNCLEAR)])
    shown = label_graph(graph, index)
    for node in shown.find(kind="feature"):
        if (node.layer, node.feature) == (0, first.feature):
            assert node.label == "smallness"
    assert shown.nodes.label[second.index] == "kept"
    assert not any(shown.nodes.label[i] for i in np.flatnonzero(~shown.nodes.is_kind("feature")))
