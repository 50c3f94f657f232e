"""Held-out text to evaluate on: rows of a corpus that no training run saw."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from lucida.errors import LucidaError
from lucida.models.model import Model
from lucida.progress import Progress, silent

SAMPLES_SEED = 1_618_033
"""The seed of samples that are made to evaluate on: no training run uses it, so all of them are held out."""
COUNTED = 20_000_000
"""Token frequencies come from this many tokens of a corpus at the most."""


@dataclass(frozen=True, eq=False)
class HeldOutText:
    """Rows of tokens, how often each token occurs in the whole corpus, and where they come from."""

    rows: Int[Tensor, "row pos"]
    counts: Int[Tensor, " d_vocab"]
    name: str


def held_out_text(
    model: Model,
    data: str | Path = "samples",
    *,
    tokens: int = 20_000,
    context: int = 128,
    column: str | None = None,
    corpus_tokens: int | None = None,
    offline: bool = False,
    progress: Progress = silent,
) -> HeldOutText:
    """About `tokens` tokens in rows of `context` from the held-out part of a corpus (`lucida.corpus`).

    "samples" are new samples of the model itself, made for this and kept in the cache; of any other corpus it is the
    part that training leaves out, chosen document by document. `column` and `corpus_tokens` are those that the
    training run opened it with (a data set of the hub needs the latter). A context longer than the model's is cut to
    it; fewer tokens come back when there are no more. Raises DataError for a corpus that cannot be read, LucidaError
    for numbers that make no row.
    """
    from lucida.corpus import TokenRows, open_corpus

    context = min(context, model.context)
    if tokens < context or context < 2:
        raise LucidaError(f"{tokens} tokens in rows of {context} make no row; give more tokens or a shorter context")
    made = str(data) == "samples"
    store = open_corpus(
        str(data),
        model,
        column=column,
        max_tokens=tokens if made else corpus_tokens,
        seed=SAMPLES_SEED,
        offline=offline,
        progress=progress,
    )
    source = TokenRows(store, context, split="all" if made else "held-out")
    rows = source.rows(0, min(tokens // context, source.per_epoch))
    counts = np.bincount(np.asarray(store.tokens[:COUNTED]), minlength=model.d_vocab)
    name = "new samples of the model" if made else f"held-out part of {store.header.name}"
    return HeldOutText(rows, torch.from_numpy(counts), name)
