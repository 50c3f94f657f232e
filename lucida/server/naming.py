"""Labels as a reader takes them: which say something, and which say the same."""

import re

from lucida.features.reading.words import stem, words_of

SAYS_LITTLE = re.compile(
    r"unclear|fires everywhere|punctuation$|later pieces of words|the first (\d+ tokens|token)|newlines$|in \w+$"
)
"""Automatic labels that name only a place, or that nothing is known (`lucida.features.naming.rules`)."""
QUOTED = re.compile(r'the (word|mark|number) "(.*)"')
"""Automatic labels of one word, mark or number."""


def says_something(label: str) -> bool:
    """Whether a label names what a feature means, rather than only where it fires, or that nothing is known."""
    return bool(label.strip()) and not SAYS_LITTLE.match(label.strip())


def words_in(label: str) -> frozenset[str]:
    """The words of a label by stem: those of ``the word "small"`` are those of ``small``.

    What a feature says is another concept than what it reads: after ``say`` and ``not`` the words carry that in
    front. A label without letters and digits, such as a list of marks, is taken by what stands between its commas.
    """
    text = " ".join(label.split())
    quoted = QUOTED.fullmatch(text)
    text = quoted[2] if quoted else text
    side = next((word for word in ("say", "not") if text.startswith(f"{word} ")), "")
    found = {stem(word) for word in words_of(text.removeprefix(side))}
    return frozenset(f"{side} {word}".strip() for word in found or set(text.split(", ")))
