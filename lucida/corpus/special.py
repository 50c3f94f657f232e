"""The tokens that begin a text and end it, where a model has them."""

from typing import Literal

from lucida.models.model import Model


def special_token(model: Model, kind: Literal["bos", "eos"]) -> int | None:
    """The BOS or end-of-text token of the tokenizer, else of the config; None when neither has one."""
    for holder in (model.tokenizer, model.hf.config):
        found = getattr(holder, f"{kind}_token_id", None)
        if isinstance(found, list | tuple):  # some configs list every token that may end a turn
            found = found[0] if found else None
        if found is not None:
            return int(found)
    return None


def prefix_of(model: Model) -> int | None:
    """The BOS token if the tokenizer itself begins every text with it, None otherwise."""
    bos = special_token(model, "bos")
    if model.tokenizer is None or bos is None:
        return None
    return bos if list(model.tokenizer("a")["input_ids"])[:1] == [bos] else None


def separator_of(model: Model) -> int | None:
    """The token put after each document: ``<|endoftext|>`` where the vocabulary has it, else end of text.

    Chat models name the end of a turn as theirs; what stood between documents in their training is the former.
    """
    if model.tokenizer is None:
        return special_token(model, "eos")
    known = model.tokenizer.get_vocab().get("<|endoftext|>")
    return special_token(model, "eos") if known is None else int(known)
