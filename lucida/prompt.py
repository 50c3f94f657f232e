"""A prompt as the model sees it: token ids, and how each reads."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Prompt:
    """Token ids of one prompt, with the text of each token.

    Without a tokenizer `strings` holds the ids as text and `text` is empty.
    """

    tokens: tuple[int, ...]
    strings: tuple[str, ...]
    text: str = ""

    def __len__(self) -> int:
        return len(self.tokens)
