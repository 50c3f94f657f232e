"""A corpus tokenised once: one flat array of tokens on disk, and where each document begins.

A folder with four files (docs/training-data.md): ``header.json``, ``tokens.bin`` (little-endian uint16 or
uint32), ``documents.bin`` (int64: the starts, then the end) and ``pieces.bin`` (uint64 pairs: start and
hash of each piece; held-out text is chosen by that hash). A token's number in the array is its address.
"""

import hashlib
import json
from array import array
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from lucida.atomic import replacing
from lucida.errors import DataError
from lucida.models.cache import FileRecord, cache_root, sha256_of
from lucida.models.model import Model

FORMAT = 1
HEADER = "header.json"
PIECE = 1024
"""A document longer than this many tokens is divided into pieces of it, so that a book can be split too."""


@dataclass(frozen=True)
class CorpusHeader:
    """What a token store holds and what it was made from; ``header.json`` in its folder.

    `source` is provenance: what was asked, and the sha256 or fingerprint of what was read. `tokenizer` is
    the fingerprint of the one that made the ids, `prefix` the token that rows begin with (not in the array),
    `separator` the one that ends each document (in the array); None where there is none.
    """

    name: str
    source: dict[str, Any]
    tokenizer: str
    d_vocab: int
    prefix: int | None
    separator: int | None
    n_tokens: int
    n_documents: int
    date: str
    files: dict[str, FileRecord]

    @property
    def fingerprint(self) -> str:
        """The sha256 of everything that decides which rows a run sees."""
        parts = [self.tokenizer, self.prefix, self.separator]
        parts += [self.files[name].sha256 for name in sorted(self.files)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class TokenStore:
    """An open token store; the tokens stay on disk until they are read.

    `tokens` is the flat array (uint16 or uint32, separators included), `documents` the int64 starts and
    the end, `pieces` [piece, 2] the start and hash of each piece. Make one with `write_store` or
    `open_corpus`, open one with `TokenStore.open`.
    """

    folder: Path
    header: CorpusHeader
    tokens: NDArray[Any]
    documents: NDArray[np.int64]
    pieces: NDArray[np.uint64]

    @classmethod
    def open(cls, folder: str | Path, *, model: Model | None = None) -> "TokenStore":
        """Open the store in `folder`, checked whole, and with `model` that its tokenizer made the ids.

        Raises DataError for a folder that is no store, a damaged one, or another tokenizer's.
        """
        folder = Path(folder)
        header = _read_header(folder)
        _check_files(folder, header)
        tokens = np.memmap(folder / "tokens.bin", dtype=_token_type(header.d_vocab), mode="r")
        documents = np.fromfile(folder / "documents.bin", dtype="<i8").astype(np.int64)
        pieces = np.fromfile(folder / "pieces.bin", dtype="<u8").astype(np.uint64).reshape(-1, 2)
        store = cls(folder, header, tokens, documents, pieces)
        _check_arrays(store)
        if model is not None:
            check_tokenizer(store, model)
        return store

    @property
    def n_tokens(self) -> int:
        """Tokens in the array, separators included."""
        return len(self.tokens)

    @property
    def n_documents(self) -> int:
        """Documents in the array."""
        return len(self.documents) - 1

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of everything that decides which rows a run sees."""
        return self.header.fingerprint

    def document_of(self, index: int) -> int:
        """The number of the document that holds token number `index`. Raises DataError when there is none."""
        if not 0 <= index < self.n_tokens:
            raise DataError(f"token {index} was asked for; {self.header.name} has tokens 0 to {self.n_tokens - 1}")
        return int(np.searchsorted(self.documents, index, side="right")) - 1

    def window(self, index: int, *, before: int, after: int) -> Int[Tensor, " pos"]:
        """Token number `index` with up to `before` and `after` neighbours, all of the same document."""
        document = self.document_of(index)
        start = max(index - before, int(self.documents[document]))
        stop = min(index + after + 1, int(self.documents[document + 1]))
        return torch.from_numpy(np.asarray(self.tokens[start:stop]).astype(np.int64))


def write_store(
    folder: Path,
    documents: Iterable[NDArray[Any]],
    *,
    name: str,
    source: dict[str, Any],
    tokenizer: str,
    d_vocab: int,
    prefix: int | None,
    separator: int | None,
) -> TokenStore:
    """Write documents (arrays of token ids, their separators included) as a store, and open it.

    `tokenizer` is the `tokenizer_fingerprint` of the model whose ids these are. The folder appears whole or not
    at all. Raises DataError when there is no token, SaveError when the
    disk is full.
    """
    with replacing(folder, folder=True) as temporary:
        n_tokens, n_documents = _write_arrays(temporary, documents, _token_type(d_vocab))
        if not n_tokens:
            raise DataError(f"the corpus {name} is empty: it has no text")
        header = CorpusHeader(
            name=name,
            source=source,
            tokenizer=tokenizer,
            d_vocab=d_vocab,
            prefix=prefix,
            separator=separator,
            n_tokens=n_tokens,
            n_documents=n_documents,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            files={path.name: FileRecord(path.stat().st_size, sha256_of(path)) for path in temporary.iterdir()},
        )
        (temporary / HEADER).write_text(json.dumps({"format": FORMAT, **asdict(header)}, indent=2) + "\n", "utf-8")
    return TokenStore.open(folder)


def _write_arrays(folder: Path, documents: Iterable[NDArray[Any]], kind: str) -> tuple[int, int]:
    """Write the three arrays, one document at a time; return how many tokens and documents there are."""
    starts, pieces, end = array("q", [0]), array("Q"), 0
    with (folder / "tokens.bin").open("wb") as file:
        for document in (each for each in documents if len(each)):
            ids = np.ascontiguousarray(document, dtype=kind)
            file.write(ids.tobytes())
            for first in range(0, len(ids), PIECE):
                pieces.extend((end + first, _hash(ids[first : first + PIECE])))
            starts.append(end := end + len(ids))
    (folder / "documents.bin").write_bytes(np.array(starts, dtype="<i8").tobytes())
    (folder / "pieces.bin").write_bytes(np.array(pieces, dtype="<u8").tobytes())
    return end, len(starts) - 1


def corpora_folder() -> Path:
    """Where token stores are kept: ``corpora`` in the cache."""
    return cache_root() / "corpora"


def tokenizer_fingerprint(model: Model) -> str:
    """The sha256 of what turns a text into this model's ids; of the vocabulary's size when it has no tokenizer."""
    tokenizer = model.tokenizer
    parts: list[Any] = [model.d_vocab]
    if tokenizer is not None and getattr(tokenizer, "backend_tokenizer", None) is not None:
        rules = json.loads(tokenizer.backend_tokenizer.to_str())
        # These two are set by the last call, not by the model.
        parts.append({key: rules[key] for key in rules if key not in ("truncation", "padding")})
    elif tokenizer is not None:
        parts += [type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def check_tokenizer(store: TokenStore, model: Model) -> None:
    """Raise DataError when the ids of a store are not those of this model's tokenizer."""
    if store.header.tokenizer != tokenizer_fingerprint(model):
        raise DataError(
            f"the corpus {store.header.name} in {store.folder} was made with another tokenizer than that of "
            f"{model.name or 'this model'}; tokenise the text again"
        )


def _token_type(d_vocab: int) -> str:
    return "<u2" if d_vocab <= 1 << 16 else "<u4"


def _hash(tokens: NDArray[Any]) -> int:
    """A number below 2^64 that depends on the ids alone, whatever type holds them."""
    return int.from_bytes(hashlib.blake2b(tokens.astype("<u4").tobytes(), digest_size=8).digest(), "little")


def _read_header(folder: Path) -> CorpusHeader:
    path = folder / HEADER
    try:
        fields = json.loads(path.read_text("utf-8"))
        found = fields.pop("format")
        if found != FORMAT:
            raise DataError(f"{path} has format {found!r}, this version reads {FORMAT}; tokenise the text again")
        files = {name: FileRecord(**entry) for name, entry in fields.pop("files").items()}
        return CorpusHeader(**fields, files=files)
    except OSError as error:
        raise DataError(f"{folder} is not a tokenised corpus: it has no readable {HEADER}") from error
    except DataError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is damaged; delete {folder} and tokenise the text again") from error


def _check_files(folder: Path, header: CorpusHeader) -> None:
    """Every file is there with the recorded bytes, and they are a whole number of entries, at least one."""
    again = f"delete {folder} and tokenise the text again"
    entry = {"tokens.bin": int(_token_type(header.d_vocab)[-1]), "documents.bin": 8, "pieces.bin": 16}
    if set(header.files) != set(entry):
        raise DataError(f"{folder / HEADER} lists other files than a tokenised corpus has; {again}")
    for name, expected in header.files.items():
        path = folder / name
        found = path.stat().st_size if path.is_file() else 0
        if found != expected.size:
            raise DataError(f"{path} has {found:,} of {expected.size:,} bytes; {again}")
        if sha256_of(path) != expected.sha256:
            raise DataError(f"{path} is damaged: its sha256 is not the recorded one; {again}")
        if not found or found % entry[name]:
            raise DataError(f"{path} is damaged: {found:,} bytes are no whole number of entries; {again}")


def _check_arrays(store: TokenStore) -> None:
    """A header that agrees with its files can still be wrong: every start and every id must be possible."""
    header, starts, pieces = store.header, store.documents, store.pieces[:, 0].astype(np.int64)
    ends = (0, store.n_tokens)
    sound = (
        (store.n_tokens, store.n_documents) == (header.n_tokens, header.n_documents)
        and (int(starts[0]), int(starts[-1])) == ends
        and bool((np.diff(starts) > 0).all())
        and int(pieces[0]) == 0
        and bool((np.diff(pieces) > 0).all())
        and int(pieces[-1]) < store.n_tokens
        and bool(np.isin(starts[:-1], pieces).all())
        and int(store.tokens.max()) < header.d_vocab
    )
    if not sound:
        raise DataError(f"{store.folder} is damaged: its counts, starts or ids do not fit; tokenise the text again")
