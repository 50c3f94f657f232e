"""From what a user calls a corpus to its tokens, once: the second time it is opened from the cache."""

import hashlib
import json
import re
import tempfile
from pathlib import Path

from lucida.corpus.samples import sample_tokens
from lucida.corpus.sources import TextSource, find_source
from lucida.corpus.special import prefix_of, separator_of
from lucida.corpus.store import HEADER, TokenStore, corpora_folder, tokenizer_fingerprint, write_store
from lucida.corpus.tokenise import tokenise
from lucida.errors import DataError, SaveError
from lucida.models.cache import clear_scratch, locked
from lucida.models.model import Model
from lucida.progress import Progress, silent


def open_corpus(
    spec: str,
    model: Model,
    *,
    column: str | None = None,
    max_tokens: int | None = None,
    context: int | None = None,
    seed: int = 0,
    offline: bool = False,
    progress: Progress | None = None,
) -> TokenStore:
    """The tokens of a corpus for a model: tokenised on first use, opened from the cache after that.

    `spec` is ``samples`` (the model's own, `context` tokens each, from `seed`; needs `max_tokens`), a known
    name (``sae-probes``), a file or folder (text, ``.jsonl``, ``.csv``, ``.parquet``, also ``.gz`` and ``.zst``),
    a data set of the hub ``org/name``, or the folder of a token store. `column` names the text of records
    (``text`` by default); `max_tokens` takes a fair sample of that many tokens.

    Raises DataError for a corpus that is missing, empty, not text, lacks the column or ends early, and
    FetchError when a package could not be fetched.
    """
    progress = progress or silent
    if max_tokens is not None and max_tokens < 1:
        raise DataError(f"{max_tokens} tokens were asked for; ask for at least 1")
    if spec == "samples":
        if max_tokens is None:
            raise DataError("a model can write any number of samples; say how many tokens with max_tokens")
        context = min(256, model.context) if context is None else context
        return sample_tokens(model, max_tokens, context=context, seed=seed, progress=progress)
    if (Path(spec) / HEADER).is_file():
        return TokenStore.open(spec, model=model)
    if model.tokenizer is None:
        raise DataError(f"{model.name or 'this model'} has no tokenizer to read text with; use its own samples")
    source = find_source(spec, column=column, offline=offline, progress=progress)
    return _open_text(source, spec, model, column=column, max_tokens=max_tokens, progress=progress)


def _open_text(
    source: TextSource, spec: str, model: Model, *, column: str | None, max_tokens: int | None, progress: Progress
) -> TokenStore:
    prefix, separator = prefix_of(model), separator_of(model)
    tokenizer = tokenizer_fingerprint(model)
    identity = [source.fingerprint, column, max_tokens, prefix, separator, tokenizer]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
    name = Path(spec).name or spec
    folder = corpora_folder() / f"{re.sub(r'[^A-Za-z0-9.]+', '-', name)[:40].strip('-.')}-{key}"
    with locked(f"corpus-{key}", progress):
        if folder.is_dir():
            return TokenStore.open(folder, model=model)
        provenance = {"kind": "text", "spec": spec, "fingerprint": source.fingerprint}
        provenance |= {"column": column, "max_tokens": max_tokens}
        try:
            corpora_folder().mkdir(parents=True, exist_ok=True)
            clear_scratch(folder)
            with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=corpora_folder()) as scratch:
                documents = tokenise(
                    source,
                    model,
                    Path(scratch) / "tokens",
                    separator=separator,
                    max_tokens=max_tokens,
                    progress=progress,
                )
                return write_store(
                    folder,
                    documents,
                    name=name,
                    source=provenance,
                    tokenizer=tokenizer,
                    d_vocab=model.d_vocab,
                    prefix=prefix,
                    separator=separator,
                )
        except OSError as error:
            raise SaveError(f"cannot write {corpora_folder()}: {error.strerror or error}; set LUCIDA_CACHE") from error
