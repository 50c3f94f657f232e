"""Tokens as text while they come: whole characters only, and nothing behind a stop string."""

from collections.abc import Sequence
from typing import Any

CONTEXT = 8
"""Tokens of the prompt that are decoded along, so that the first new one gets its leading space or its missing byte."""


class TextStream:
    """The text of one row, in pieces: ``push(token)`` gives what has become readable, ``finish()`` the rest.

    A character of several tokens comes when it is whole. Text that may be the beginning of a stop string is held
    back; once one is complete, `stopped` is true and the text ends before it. Without a tokenizer tokens read as
    their ids with spaces between them. The pieces together are `text`.
    """

    def __init__(self, tokenizer: Any, prompt: Sequence[int], *, stop: Sequence[str] = ()) -> None:
        """`prompt` are the tokens in front, which are not part of the text."""
        self.tokenizer, self.stop = tokenizer, tuple(stop)
        self.text, self.stopped = "", False
        self._ids = list(prompt[-CONTEXT:])
        self._start, self._read = 0, len(self._ids)
        self._held, self._count = "", 0

    def push(self, token: int) -> str:
        """What this token makes readable, perhaps nothing yet."""
        self._ids.append(token)
        return self._emit(self._decoded(is_last=False), is_last=False)

    def finish(self) -> str:
        """What was held back; bytes that never became a character are U+FFFD."""
        return "" if self.stopped else self._emit(self._decoded(is_last=True), is_last=True)

    def _decoded(self, *, is_last: bool) -> str:
        if self.tokenizer is None:
            new = self._ids[self._read :]
            text = "".join(f" {i}" if self._count + n else str(i) for n, i in enumerate(new))
            self._count, self._read = self._count + len(new), len(self._ids)
            return text
        before = self._decode(self._ids[self._start : self._read])
        after = self._decode(self._ids[self._start :])
        # A prompt that ends within a character leaves its replacement mark in `before` alone.
        common = len(before) if after.startswith(before) else len(before.rstrip("\ufffd"))
        if (after.endswith("\ufffd") and not is_last) or len(after) <= common:
            return ""
        self._start, self._read = self._read, len(self._ids)
        return after[common:]

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, clean_up_tokenization_spaces=False, skip_special_tokens=False)

    def _emit(self, new: str, *, is_last: bool) -> str:
        pending = self._held + new
        ends = [at for at in (pending.find(word) for word in self.stop) if at >= 0]
        if ends:
            self.stopped, pending, self._held = True, pending[: min(ends)], ""
        else:
            kept = 0 if is_last else max((_begun(pending, word) for word in self.stop), default=0)
            pending, self._held = pending[: len(pending) - kept], pending[len(pending) - kept :]
        self.text += pending
        return pending


def _begun(text: str, word: str) -> int:
    """How many characters at the end of `text` are the beginning of `word`."""
    return next((n for n in range(min(len(text), len(word) - 1), 0, -1) if text.endswith(word[:n])), 0)
