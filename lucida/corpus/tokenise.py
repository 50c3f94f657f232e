"""From documents to tokens: exact copies removed, shuffled by content, cut to a number of tokens.

Two passes over the source and no list of its texts in memory: the first notes a hash and a length for each
document, the second tokenises those that are wanted. Documents are stored in the order of their hashes, so
the order does not depend on how the files were arranged, and its beginning is a fair sample of the whole.
"""

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from lucida.corpus.sources import TextSource
from lucida.errors import DataError
from lucida.models.model import Model
from lucida.progress import Progress

_BATCH = 512
_BATCH_CHARACTERS = 1 << 21
LONGEST = 1 << 20
"""A tokenizer needs up to 150 bytes of memory for a character: longer documents go through it in pieces, cut at a line
end or space, and no more than some millions of characters at a time."""
_MANY = 4.5
"""Characters per token before any were seen: rather many, so that one round is mostly enough."""


@dataclass(frozen=True)
class Survey:
    """What the first pass saw: how many documents, the order of the distinct ones, and their characters."""

    n_documents: int
    order: NDArray[np.int64]
    characters: NDArray[np.int64]


def survey(source: TextSource, *, progress: Progress) -> Survey:
    """Read all documents once. Blank ones and exact copies get no place in the order.

    Raises DataError for a corpus without text.
    """
    hashes, lengths = array("Q"), array("q")
    for text in source.documents():
        blank = not text.strip()
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        hashes.append(int.from_bytes(digest, "little"))
        lengths.append(0 if blank else len(text))
        if len(hashes) % 1000 == 0:
            progress("reading documents", len(hashes), None)
    progress("reading documents", len(hashes), len(hashes))
    characters = np.array(lengths, dtype=np.int64)
    _, order = np.unique(np.array(hashes, dtype=np.uint64), return_index=True)  # sorted by hash
    order = order[characters[order] > 0]
    if not len(order):
        raise DataError(f"the corpus {source.name} is empty: it has {len(hashes)} documents and no text")
    return Survey(len(hashes), order.astype(np.int64), characters)


def tokenise(
    source: TextSource,
    model: Model,
    scratch: Path,
    *,
    separator: int | None,
    max_tokens: int | None,
    progress: Progress,
) -> Iterator[NDArray[np.uint32]]:
    """The tokens of each document, its separator last, in the order of the survey and `max_tokens` at most.

    The last document is cut to fit. `scratch` is a file to write to, the caller deletes it. Raises DataError
    for a corpus without text, and when it changes between the passes.
    """
    seen = survey(source, progress=progress)
    places = np.zeros((len(seen.order), 2), dtype=np.int64)  # start and length in the scratch file, by rank
    done, tokens = 0, 0
    with scratch.open("wb") as file:
        while done < len(places) and (max_tokens is None or tokens < max_tokens):
            until = _round_end(seen, done, tokens, max_tokens)
            wanted = _documents_of(source, seen, done, until)
            for rank, ids in _token_ids(wanted, model, separator):
                places[rank] = tokens, len(ids)
                tokens += len(ids)
                done += 1
                if max_tokens is None:
                    progress("tokenising", done, until)
                else:
                    progress("tokenising", min(tokens, max_tokens), max_tokens)
                _append(file, ids)
            if done != until:
                raise DataError(f"the corpus {source.name} changed while it was read; run this again")
    yield from _cut(np.memmap(scratch, dtype="<u4", mode="r"), places[:done], max_tokens)


def _round_end(seen: Survey, done: int, tokens: int, max_tokens: int | None) -> int:
    """Up to which rank to tokenise so that there are probably `max_tokens` tokens."""
    if max_tokens is None:
        return len(seen.order)
    characters = np.cumsum(seen.characters[seen.order])
    before = int(characters[done - 1]) if done else 0
    per_token = 1.05 * before / tokens if tokens else _MANY
    enough = int(np.searchsorted(characters, before + per_token * (max_tokens - tokens))) + 1
    return min(enough, len(seen.order))


def _documents_of(source: TextSource, seen: Survey, start: int, stop: int) -> Iterator[tuple[int, str]]:
    """The documents of some ranks with their ranks, in the order of the source."""
    rank_of = np.full(seen.n_documents, -1, dtype=np.int64)
    rank_of[seen.order[start:stop]] = np.arange(start, stop)
    for rank, text in zip(rank_of.tolist(), source.documents(), strict=False):
        if rank >= 0:
            yield rank, text


def _token_ids(
    documents: Iterable[tuple[int, str]], model: Model, separator: int | None
) -> Iterator[tuple[int, NDArray[np.uint32]]]:
    """Rank and tokens of each document."""
    end = np.array([] if separator is None else [separator], dtype=np.uint32)
    for rank, pieces in groupby(_tokenised(documents, model), key=itemgetter(0)):
        ids = np.concatenate([each for _, each in pieces])
        yield rank, np.concatenate([ids, end]) if len(ids) else ids


def _tokenised(documents: Iterable[tuple[int, str]], model: Model) -> Iterator[tuple[int, NDArray[np.uint32]]]:
    """Rank and tokens of each piece of each document."""
    pieces = ((rank, piece) for rank, text in documents for piece in pieces_of(text))
    while batch := _next_batch(pieces):
        texts = [text for _, text in batch]
        found = model.tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
        for (rank, _), ids in zip(batch, found["input_ids"], strict=True):
            yield rank, np.array(ids, dtype=np.uint32)


def _next_batch(pieces: Iterator[tuple[int, str]]) -> list[tuple[int, str]]:
    batch, characters = [], 0
    for piece in pieces:
        batch.append(piece)
        characters += len(piece[1])
        if len(batch) == _BATCH or characters >= _BATCH_CHARACTERS:
            break
    return batch


def pieces_of(text: str) -> Iterator[str]:
    """A text cut behind the last line end, or else space, of every LONGEST characters; most are one piece."""
    start = 0
    while len(text) - start > LONGEST:
        stop = start + LONGEST
        cut = text.rfind("\n", start, stop)
        cut = text.rfind(" ", start, stop) if cut < 0 else cut
        stop = cut + 1 if cut >= 0 else stop
        yield text[start:stop]
        start = stop
    yield text[start:]


def _append(file: BinaryIO, ids: NDArray[np.uint32]) -> None:
    file.write(ids.astype("<u4").tobytes())


def _cut(tokens: NDArray[Any], places: NDArray[np.int64], max_tokens: int | None) -> Iterator[NDArray[Any]]:
    """The documents of the scratch array by rank, up to `max_tokens`."""
    room = max_tokens
    for start, length in places.tolist():
        taken = length if room is None else min(length, room)
        if taken:
            yield tokens[start : start + taken]
        if room is not None:
            room -= taken
