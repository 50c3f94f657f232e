"""What the tokens of a vocabulary look like: words, endings, kinds of character, languages. No model is needed.

Tokens are read as text: ``" Small"`` and ``"small"`` are the same word, a token that begins with a space begins a
word. Of languages a few dozen function words are known, enough to say "clearly French" of a passage and no more.
"""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lucida.features.index import FeatureIndex
from lucida.features.tables import VOCABULARY, read_table

FUNCTION_WORDS: Mapping[str, str] = {
    "English": "the of and to in is that it was for on are with as be at this have from or by not but what all were "
    "when we there can an your which their said if do will how he she his her they you had so up out them then my me",
    "French": "le la les un une des du et est dans pour que qui pas sur au aux ce cette avec plus sont ne se il elle "
    "nous vous mais ou où été être par leur ses son sa",
    "German": "der die das und ist nicht ein eine einen dem den des zu mit auf für von im sich auch es wir ich sie "
    "war werden wird sind bei oder aber nach wie über aus",
    "Spanish": "el la los las un una de y en que es por con para se del al como más su pero sus le ya este está "
    "entre cuando muy sin sobre también fue hay",
    "Italian": "il lo la gli le un una di e che è per con non del della dei nel alla sono come più ma anche questo "
    "si da al ha essere sua suo",
    "Portuguese": "o a os as um uma de e que é em para com não do da dos das no na por se mais como mas ao foi seu "
    "sua são também está",
    "Dutch": "de het een en van is dat niet op te zijn voor met die aan er ook als maar om bij naar uit wordt door "
    "worden deze",
}
SCRIPTS: Mapping[str, str] = {
    "CYRILLIC": "Cyrillic", "GREEK": "Greek", "HEBREW": "Hebrew", "ARABIC": "Arabic", "DEVANAGARI": "Devanagari",
    "HANGUL": "Korean", "HIRAGANA": "Japanese", "KATAKANA": "Japanese", "CJK": "Chinese or Japanese", "THAI": "Thai",
}  # fmt: skip
CODE = "code"
TOPICS = (*FUNCTION_WORDS, *dict.fromkeys(SCRIPTS.values()), CODE)
"""What a passage can be in. English comes first: it is what others must clearly beat."""
_CODE_MARKS = set("{}[]()<>=_;#\\|&*+")


@dataclass(frozen=True, eq=False)
class Lexicon:
    """One entry for each token id; a token that the vocabulary lacks has word 0 (the empty one) and no property."""

    texts: list[str]
    word: NDArray[np.int32]
    words: list[str]
    kinds: Mapping[str, NDArray[np.bool_]]
    """``word`` (letters only), ``starts`` (begins a word), ``capital``, ``upper``, ``number``, ``newline``,
    ``mark`` (punctuation), ``stop`` (ends a sentence)."""
    endings: Mapping[int, NDArray[np.int32]]
    beginnings: Mapping[int, NDArray[np.int32]]
    """By length, the number of a token's last (first) letters in `affixes`; 0 for none."""
    affixes: list[str]
    topics: NDArray[np.uint64]
    """Bit i is set for a token that speaks for TOPICS[i]."""

    @classmethod
    def of(cls, texts: list[str]) -> "Lexicon":
        """From the text of every token id."""
        plain = [text.strip().casefold() for text in texts]
        word, words = _numbered(plain)
        letters = [text if text.isalpha() else "" for text in plain]
        starts = np.array([not text[:1].isalpha() for text in texts])
        affixes: list[str] = [""]
        known = {"": 0}

        def numbers(parts: list[str]) -> NDArray[np.int32]:
            for part in parts:
                if part not in known:
                    known[part] = len(affixes)
                    affixes.append(part)
            return np.array([known[part] for part in parts], np.int32)

        endings = {n: numbers([w[-n:] if len(w) > n else "" for w in letters]) for n in (2, 3, 4)}
        first = [w if begins else "" for w, begins in zip(letters, starts, strict=True)]
        beginnings = {n: numbers([w[:n] if len(w) > n else "" for w in first]) for n in (1, 2, 3)}
        return cls(texts, word, words, _kinds(texts, starts), endings, beginnings, affixes, _topics(texts, plain))

    @classmethod
    def open(cls, index: FeatureIndex) -> "Lexicon":
        """That of an index's vocabulary."""
        table = read_table(index.folder / "vocabulary.parquet", VOCABULARY)
        tokens = table["token"].to_pylist()
        texts = [""] * (max(tokens, default=-1) + 1)
        for token, text in zip(tokens, table["text"].to_pylist(), strict=True):
            texts[token] = text or ""
        return cls.of(texts)

    def __len__(self) -> int:
        return len(self.texts)


def _numbered(parts: list[str]) -> tuple[NDArray[np.int32], list[str]]:
    known = {"": 0}
    numbers = [known.setdefault(part, len(known)) for part in parts]
    return np.array(numbers, np.int32), list(known)


def _kinds(texts: list[str], starts: NDArray[np.bool_]) -> dict[str, NDArray[np.bool_]]:
    bare = [text.strip() for text in texts]
    found = {
        "word": [text.isalpha() for text in bare],
        "capital": [len(text) > 1 and text.isalpha() and text[0].isupper() and text[1:].islower() for text in bare],
        "upper": [len(text) > 1 and text.isalpha() and text.isupper() for text in bare],
        "number": [text.isnumeric() for text in bare],
        "newline": ["\n" in text for text in texts],
        "mark": [bool(text) and all(unicodedata.category(c)[0] in "PS" for c in text) for text in bare],
        "stop": [text[-1:] in {".", "!", "?"} or "\n" in whole for text, whole in zip(bare, texts, strict=True)],
    }
    return {name: np.array(flags, dtype=np.bool_) for name, flags in found.items()} | {"starts": starts}


def _topics(texts: list[str], plain: list[str]) -> NDArray[np.uint64]:
    speaks = {language: set(words.split()) for language, words in FUNCTION_WORDS.items()}
    bits = np.zeros(len(texts), np.uint64)
    for token, (text, word) in enumerate(zip(texts, plain, strict=True)):
        # A function word counts as a whole word only: "de" inside "made" is no Dutch.
        names = {name for name, words in speaks.items() if word in words and text[:1].isspace()}
        if word and not word.isascii() and word[0].isalpha():
            script = unicodedata.name(word[0], "").split(" ")[0]
            names |= {SCRIPTS[script]} if script in SCRIPTS else set()
        if _CODE_MARKS & set(text):
            names.add(CODE)
        bits[token] = sum(1 << TOPICS.index(name) for name in names)
    return bits
