"""Rules that may say when a feature fires: proposed from some of its examples, tested on the others."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lucida.features.naming.evidence import Evidence, Places
from lucida.features.naming.lexicon import Lexicon

Mask = NDArray[np.bool_]

SHARE = 0.08
"""A word, ending or neighbour is proposed when it holds this share of the activation that is shown."""
VARIED = 3
"""A rule about many words (endings, what stands before) must have been seen with so many different ones."""


@dataclass(frozen=True, eq=False)
class Rule:
    """A label, the method that found it, and where it says the feature fires. `cost` is what it must win by."""

    label: str
    method: str
    holds: Callable[[Places], Mask]
    cost: float = 0.0


@dataclass(frozen=True, eq=False)
class Background:
    """What the windows of all features are like: the share of them in each of TOPICS, and of tokens in each word."""

    topics: NDArray[np.float64]
    words: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Speech:
    """The words a feature promotes (numbers of words), and whether its layer is late enough to speak."""

    promoted: frozenset[int]
    is_late: bool


def rules_for(evidence: Evidence, lexicon: Lexicon, speech: Speech, background: Background) -> Iterator[Rule]:
    """All rules that what is shown suggests, the plainest first."""
    shown = evidence.shown
    fires = Firing(shown, lexicon)
    yield from _words(fires, lexicon)
    yield from _in_context(fires, lexicon)
    yield from _affixes(fires, lexicon)
    yield from _neighbours(fires, lexicon, speech)
    yield from _classes(fires, lexicon)
    yield from _position(fires)
    yield from _near(shown, fires, lexicon, background)


class Firing:
    """The active places of some windows, the strongest first."""

    def __init__(self, places: Places, lexicon: Lexicon) -> None:
        at = np.flatnonzero(places.active)
        at = at[np.argsort(-places.weight[at], kind="stable")]
        self.weight = places.weight[at]
        self.token = places.token[at]
        self.word = lexicon.word[self.token]
        self.before = [row[at] for row in places.before]
        self.after = [row[at] for row in places.after]
        self.index = places.index[at]
        self.lexicon = lexicon

    def heaviest(self, values: NDArray, count: int) -> list[tuple[int, float]]:
        """The values with the most activation and their shares, descending; values below 0 are nothing."""
        distinct, inverse = np.unique(values, return_inverse=True)
        shares = np.bincount(inverse, self.weight, minlength=len(distinct))
        order = np.argsort(-shares, kind="stable")[: count + 1].tolist()
        return [(int(distinct[i]), float(shares[i])) for i in order if distinct[i] >= 0 and shares[i] >= SHARE][:count]

    def varied(self, mask: Mask) -> bool:
        """Whether several different words fire among these, and none holds most of the activation."""
        words, inverse = np.unique(self.word[mask], return_inverse=True)
        if len(words) < VARIED:
            return False
        shares = np.bincount(inverse, self.weight[mask])
        return bool(shares.max() <= 0.6 * shares.sum())

    def whole(self, at: int) -> str:
        """The word that the token of one place belongs to, as far as it is in sight."""
        lexicon = self.lexicon
        inner = lexicon.kinds["word"] & ~lexicon.kinds["starts"]
        token = int(self.token[at])
        text = lexicon.texts[token]
        for row in self.before:
            if row[at] < 0 or not inner[token] or not lexicon.kinds["word"][row[at]]:
                break
            token = int(row[at])
            text = lexicon.texts[token] + text
        for row in self.after if lexicon.kinds["word"][self.token[at]] else ():
            if row[at] < 0 or not inner[row[at]]:
                break
            text += lexicon.texts[row[at]]
        return text.strip().casefold()

    def shown(self, word: int) -> str:
        """A word as a label shows it: a piece stands with the word that it is mostly a piece of."""
        text = self.lexicon.words[word]
        whole = self.whole(int(np.flatnonzero(self.word == word)[0]))
        return text if whole == text or not text.isalpha() else f"{text} ({whole})"

    def share(self, mask: Mask) -> float:
        """The share of the activation at these places."""
        return float(self.weight[mask].sum())


def quoted(text: str) -> str:
    """A text in quotation marks, with what cannot be seen spelt out."""
    shown = text.replace("\n", "\\n").replace("\t", "\\t")
    return f'"{shown.strip() or shown}"'


def _words(fires: Firing, lexicon: Lexicon) -> Iterator[Rule]:
    found = [word for word, _ in fires.heaviest(fires.word, 5) if word > 0]
    for size in sorted({1, 2, 3, len(found)} & set(range(1, len(found) + 1))):
        chosen = found[:size]
        label = ", ".join(fires.shown(word) for word in chosen)
        if size == 1:
            label = _one_word(fires, chosen[0], lexicon)
        yield Rule(label, "words" if size > 1 else "word", _is_in(lexicon.word, chosen), cost=0.02 * (size - 1))
    newlines = lexicon.kinds["newline"]
    if fires.share(newlines[fires.token]) > 0.5:
        yield Rule("newlines", "newlines", lambda places: newlines[places.token])


def _one_word(fires: Firing, word: int, lexicon: Lexicon) -> str:
    text, token = lexicon.words[word], int(fires.token[fires.word == word][0])
    if lexicon.kinds["mark"][token]:
        return f"the mark {quoted(text)}"
    if lexicon.kinds["number"][token]:
        return f"the number {quoted(text)}"
    wholes = dict.fromkeys(fires.whole(at) for at in np.flatnonzero(fires.word == word)[:12].tolist())
    if text in wholes or not text.isalpha():
        return f"the word {quoted(text)}"
    return f"{quoted(text)} as in " + ", ".join(quoted(whole) for whole in list(wholes)[:2])


def _is_in(table: NDArray[np.int32], chosen: list[int]) -> Callable[[Places], Mask]:
    def holds(places: Places) -> Mask:
        values = table[places.token]
        mask = values == chosen[0]
        for value in chosen[1:]:
            mask |= values == value
        return mask

    return holds


def _in_context(fires: Firing, lexicon: Lexicon) -> Iterator[Rule]:
    """The heaviest word where certain words, a phrase or the beginning of a sentence stand before it."""
    found = fires.heaviest(fires.word, 1)
    if not found or found[0][0] == 0 or found[0][1] < 3 * SHARE:
        return
    word, mine = found[0][0], fires.word == found[0][0]
    own = quoted(lexicon.words[word])
    previous = np.where(mine & (fires.before[0] >= 0), lexicon.word[fires.before[0]], -1)
    earlier = [other for other, _ in fires.heaviest(previous, 3) if other > 0]
    for size in sorted({1, len(earlier)} & set(range(1, len(earlier) + 1))):
        label = f"{own} after " + ", ".join(quoted(lexicon.words[other]) for other in earlier[:size])
        before = _neighbour_in(0, earlier[:size], lexicon)
        yield Rule(label, "in context", _both(_is_in(lexicon.word, [word]), before), cost=0.03 + 0.01 * size)
    for tokens in _phrases(fires, 2, mine, lexicon):
        phrase = quoted("".join(lexicon.texts[token] for token in reversed(tokens)))
        holds = _both(_is_in(lexicon.word, [word]), _preceded_by(tokens))
        yield Rule(f"{own} after {phrase}", "in context", holds, cost=0.05)
    begins = _new_sentence(lexicon)
    if fires.share(mine & begins[fires.before[0]]) > 0.8 * fires.share(mine):
        starting: Callable[[Places], Mask] = lambda places: begins[places.before[0]]  # noqa: E731
        label = f"{own} at the beginning of a sentence"
        yield Rule(label, "in context", _both(_is_in(lexicon.word, [word]), starting), cost=0.04)


def _new_sentence(lexicon: Lexicon) -> Mask:
    """By the token before, whether a sentence begins; the last entry is that of -1, nothing before."""
    return np.append(lexicon.kinds["stop"] | lexicon.kinds["newline"], True)


def _both(one: Callable[[Places], Mask], other: Callable[[Places], Mask]) -> Callable[[Places], Mask]:
    return lambda places: one(places) & other(places)


def _phrases(fires: Firing, length: int, among: Mask, lexicon: Lexicon) -> Iterator[list[int]]:
    """The `length` tokens that most of the activation stands behind, the nearest first; none if there is no such."""
    size, rows = len(lexicon) + 1, fires.before[:length]
    key = np.where(among & (rows[-1] >= 0), 0, -1).astype(np.int64)
    for row in rows:
        key = np.where(key < 0, -1, key * size + row)
    for code, share in fires.heaviest(key, 1):
        if share >= 2 * SHARE:
            yield [int(row[key == code][0]) for row in rows]


def _preceded_by(tokens: list[int]) -> Callable[[Places], Mask]:
    def holds(places: Places) -> Mask:
        mask = places.before[0] == tokens[0]
        for row, token in zip(places.before[1:], tokens[1:], strict=False):
            mask &= row == token
        return mask

    return holds


def _affixes(fires: Firing, lexicon: Lexicon) -> Iterator[Rule]:
    for table, saying, lengths in ((lexicon.endings, "ending in", (3, 2, 4)), (lexicon.beginnings, "with", (2, 3, 1))):
        for length in lengths:
            values = table[length][fires.token]
            for affix, share in fires.heaviest(np.where(values > 0, values, -1), 1):
                if share >= 0.3 and fires.varied(values == affix):
                    what = "beginning with" if saying == "with" else saying
                    label = f'words {what} "{lexicon.affixes[affix]}"'
                    yield Rule(label, "affix", _is_in(table[length], [affix]), cost=0.04)


def _neighbours(fires: Firing, lexicon: Lexicon, speech: Speech) -> Iterator[Rule]:
    previous = np.where(fires.before[0] >= 0, lexicon.word[fires.before[0]], -1)
    found = [word for word, _ in fires.heaviest(previous, 3) if word > 0]
    for size in (1, 3):
        if len(found) >= size and fires.varied(np.isin(previous, found[:size])):
            label = "after " + ", ".join(quoted(lexicon.words[word]) for word in found[:size])
            yield Rule(label, "after", _neighbour_in(0, found[:size], lexicon), cost=0.02 * size)
    for length in (2, 3):
        yield from _after_phrase(fires, lexicon, length)
    following = np.where(fires.after[0] >= 0, lexicon.word[fires.after[0]], -1)
    found = [word for word, _ in fires.heaviest(following, 3) if word > 0]
    said = [word for word in found if word in speech.promoted] if speech.is_late else []
    for size in sorted({1, len(said)} & set(range(1, len(said) + 1))):
        label = "say " + ", ".join(quoted(lexicon.words[word]) for word in said[:size])
        yield Rule(label, "say", _neighbour_in(-1, said[:size], lexicon), cost=0.02 * (size - 1))
    if found and not said and fires.varied(following == found[0]):
        yield Rule(f"before {quoted(lexicon.words[found[0]])}", "before", _neighbour_in(-1, found[:1], lexicon), 0.03)


def _after_phrase(fires: Firing, lexicon: Lexicon, length: int) -> Iterator[Rule]:
    anywhere = np.ones(len(fires.token), dtype=np.bool_)
    for tokens in _phrases(fires, length, anywhere, lexicon):
        mask = np.all([row == token for row, token in zip(fires.before, tokens, strict=False)], axis=0)
        if fires.varied(mask):
            phrase = quoted("".join(lexicon.texts[token] for token in reversed(tokens)))
            yield Rule(f"after {phrase}", "after", _preceded_by(tokens), cost=0.03)


def _neighbour_in(which: int, words: list[int], lexicon: Lexicon) -> Callable[[Places], Mask]:
    """Whether the word before (`which` 0) or after (-1) is one of `words`."""

    def holds(places: Places) -> Mask:
        row = places.after[0] if which < 0 else places.before[which]
        values = lexicon.word[row]
        mask = values == words[0]
        for word in words[1:]:
            mask |= values == word
        return mask & (row >= 0)

    return holds


def _classes(fires: Firing, lexicon: Lexicon) -> Iterator[Rule]:
    kinds = lexicon.kinds
    new_sentence = _new_sentence(lexicon)
    tests: dict[str, Callable[[Places | Firing], Mask]] = {
        "numbers": lambda p: kinds["number"][p.token],
        "punctuation": lambda p: kinds["mark"][p.token],
        "the end of a sentence": lambda p: kinds["stop"][p.token],
        "the first word of a sentence": lambda p: new_sentence[p.before[0]] & kinds["word"][p.token],
        "names (capitalised inside a sentence)": lambda p: kinds["capital"][p.token] & ~new_sentence[p.before[0]],
        "capitalised words": lambda p: kinds["capital"][p.token],
        "words in capitals": lambda p: kinds["upper"][p.token],
        "later pieces of words": lambda p: kinds["word"][p.token] & ~kinds["starts"][p.token],
    }
    for label, holds in tests.items():
        if fires.share(holds(fires)) > 0.6:
            yield Rule(label, "kind of token", holds, cost=0.05)


def _near(shown: Places, fires: Firing, lexicon: Lexicon, background: Background) -> Iterator[Rule]:
    """The heaviest words where a word that is rare elsewhere stands earlier in the window."""
    near = near_word(shown, lexicon, background)
    found = [word for word, _ in fires.heaviest(fires.word, 3) if word > 0]
    for size in sorted({1, len(found)} & set(range(1, len(found) + 1))) if near else ():
        what = (
            ", ".join(fires.shown(word) for word in found[:size]) if size > 1 else _one_word(fires, found[0], lexicon)
        )
        holds = _both(_is_in(lexicon.word, found[:size]), lambda places: _after_word(places, near, lexicon))
        yield Rule(f"{what} near {quoted(lexicon.words[near])}", "near", holds, cost=0.05 + 0.02 * (size - 1))


def near_word(shown: Places, lexicon: Lexicon, background: Background) -> int:
    """The word that stands before the peak in at least half of the windows, and most surprisingly so; 0 if none does.

    A word as frequent as 1 in 200 tokens is no surprise.
    """
    window = (shown.before[0] < 0).cumsum() - 1
    count = len(shown.topics)
    order = np.lexsort((shown.weight, window))
    peak = np.zeros(count, np.int64)
    peak[window[order]] = order  # the last of each window stays: its heaviest
    earlier = np.flatnonzero(np.arange(len(window)) < peak[window])
    size = len(lexicon.words)
    pairs = np.unique(window[earlier].astype(np.int64) * size + lexicon.word[shown.token[earlier]])
    words, times = np.unique(pairs % size, return_counts=True)
    clear = (times >= max(3, 0.5 * count)) & (background.words[words] < 0.005) & (words > 0)
    if not clear.any():
        return 0
    words, times = words[clear], times[clear]
    return int(words[np.argmax(times / (background.words[words] + 1e-3))])


def _after_word(places: Places, word: int, lexicon: Lexicon) -> Mask:
    """Whether `word` stands earlier in the window of each place."""
    matches = lexicon.word[places.token] == word
    before = matches.cumsum() - matches
    return before > np.maximum.accumulate(np.where(places.before[0] < 0, before, 0))


def _position(fires: Firing) -> Iterator[Rule]:
    for last, label in ((0, "the first token"), (1, "the first 2 tokens"), (3, "the first 4 tokens")):
        if fires.share(fires.index <= last) > 0.6:
            yield Rule(label, "position", lambda p, last=last: p.index <= last, cost=0.02)
            return
