"""Words of a text, and the stem under which the forms of an English word meet."""

import re

WORD = re.compile(r"[^\W_]+(?:['’][^\W\d_]+)*")
VOWELS = frozenset("aeiouy")
SUFFIXES = ("ness", "est", "ing", "er", "ed", "ly")
KEPT = 3
"""Letters that must be left of a word when a suffix is taken off."""


def words_of(text: str) -> list[str]:
    """The words of a text in lower case; numbers are words, punctuation is not."""
    return WORD.findall(text.lower())


def stem(word: str) -> str:
    """The folded form of a lower-case word: small, smaller and smallness meet, so do run, runs and running.

    A few English endings are taken off, in the manner of Porter (1980) but fewer. Unlike words may meet too
    (flower, flow), so whoever ranks should prefer the very word. Words of other scripts are left as they are.
    """
    if not word.isascii():
        return word
    word = _singular(word.split("'")[0])
    for suffix in SUFFIXES:
        left = word[: -len(suffix)]
        if word.endswith(suffix) and len(left) >= KEPT and VOWELS & set(left):
            # running -> run, but smaller -> small and seeing -> see: those letters are doubled in words of their own.
            is_doubled = left[-1] == left[-2] and left[-1] not in "lszaeiouy" and suffix in ("est", "ing", "er", "ed")
            word = left[:-1] if is_doubled else left
    if word.endswith("e") and len(word) > KEPT:
        word = word[:-1]
    return word[:-1] + "i" if word.endswith("y") and len(word) > 2 else word


def _singular(word: str) -> str:
    if len(word) <= KEPT or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-2] if word.endswith(("sses", "ches", "shes", "xes", "zes")) else word[:-1]
