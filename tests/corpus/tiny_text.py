"""A tokenizer of single characters for the tiny models, and stores of made-up tokens."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tiny_models import build_hf

from lucida.corpus.store import TokenStore, write_store
from lucida.models.model import Model

BOS, EOS = 1, 2
CHARACTERS = ("\n", *(chr(code) for code in range(32, 123)))


def character_tokenizer(*, adds_bos: bool = True) -> Any:
    """One token a character: 0 is unknown, 1 BOS, 2 end of text, the rest plain ASCII up to "z"."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<unk>": 0, "<s>": BOS, "</s>": EOS} | {each: i + 3 for i, each in enumerate(CHARACTERS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def reading_model(family: str = "llama", *, adds_bos: bool = True) -> Model:
    """A tiny random model that reads characters."""
    return Model(build_hf(family), character_tokenizer(adds_bos=adds_bos), name=f"tiny-{family}")


def made_up_store(
    folder: Path, lengths: Sequence[int], *, prefix: int | None = None, d_vocab: int = 1 << 20
) -> TokenStore:
    """Documents of the given lengths in which every token id occurs once: 0, 1, 2, ..."""
    starts = np.cumsum([0, *lengths])
    documents = [np.arange(start, start + length) for start, length in zip(starts, lengths, strict=False)]
    return write_store(
        folder,
        documents,
        name="made-up",
        source={"kind": "test"},
        tokenizer="none",
        d_vocab=d_vocab,
        prefix=prefix,
        separator=None,
    )
