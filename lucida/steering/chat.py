"""A conversation under a live dial: what the user types, commands apart from messages, and the history."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from lucida.errors import InterventionError
from lucida.models.model import Model
from lucida.steering.generate import Stream, Token
from lucida.steering.reading import Features
from lucida.steering.sampling import Sampling
from lucida.steering.steer import Dial, Steer, Variant

COMMANDS = """\
/strength 4           turn all features to 4 times their maximum
/strength 12:345 -2   turn one of them
/feature 12:345 ...   steer by these features instead, or /feature +12:345 by one more
/variant clamp        add, clamp, scale or orthogonal
/off, /on             the model as it is, and steered again
/baseline             show, or no longer show, what the model as it is would answer
/seed 3               draw from another seed
/reset                forget the conversation
/dial                 what is steered now
/help                 these lines"""


@dataclass(eq=False)
class Conversation:
    """Messages, and the dial that steers the replies. The history holds the steered replies, as far as they went."""

    model: Model
    features: Features
    dial: Dial
    sampling: Sampling
    baseline: bool = False
    sink_positions: int = 1
    messages: list[dict[str, str]] = field(default_factory=list)

    def reply(self, message: str) -> Iterator[Token]:
        """The tokens of the reply to a message, as they come; the conversation goes on from what was written.

        Raises PromptError for a model without a chat template, InterventionError when the context is full.
        """
        asked = [*self.messages, {"role": "user", "content": message}]
        stream = Stream(
            self.model, None, asked, self.dial, sampling=self.sampling, baseline=self.baseline,
            features=self.features, sink_positions=self.sink_positions,
        )  # fmt: skip
        self.messages = asked
        try:
            yield from stream
        finally:
            stream.close()
            said = next(sample.text for sample in stream.generation().samples if sample.condition == "steered")
            self.messages = [*asked, {"role": "assistant", "content": said}]

    def command(self, line: str) -> str:
        """Do what a line such as ``/strength 4`` says, and return what to show.

        Raises InterventionError for a command that is not known or cannot be done.
        """
        name, *words = line.split()
        found = getattr(self, f"_do_{name[1:]}", None)
        if found is None:
            raise InterventionError(f"{name} is not a command; /help lists them")
        return found(words)

    def dial_says(self) -> str:
        """What is steered now, in one line."""
        if not self.dial.current:
            return "the dial is off" if self.dial.steers else "nothing is steered"
        return ", ".join(f"{s.place} {s.variant} {s.strength:g}" for s in self.dial.current)

    # --- commands ---------------------------------------------------------------------------------

    def _do_strength(self, words: Sequence[str]) -> str:
        if not words or len(words) > 2:
            raise InterventionError("/strength needs a number, such as /strength 4 or /strength 12:345 4")
        self.dial.turn(_number(words[-1]), read_place(words[0]) if len(words) == 2 else None)
        self.dial.on()
        return self.dial_says()

    def _do_feature(self, words: Sequence[str]) -> str:
        if not words:
            raise InterventionError("/feature needs one, such as /feature 12:345")
        kept = [] if not words[0].startswith("+") else list(self.dial.steers)
        like = self.dial.steers[0] if self.dial.steers else Steer(0, 0)
        for word in words:
            layer, feature = read_place(word.removeprefix("+"))
            # The maximum that was given is that of another feature.
            steer = replace(like, layer=layer, feature=feature, direction=None, maximum=None)
            self.features.check(steer)
            kept = [s for s in kept if (s.layer, s.feature) != (layer, feature)] + [steer]
        self.dial.set(kept)
        self.dial.on()
        return self.dial_says()

    def _do_variant(self, words: Sequence[str]) -> str:
        known = get_args(Variant)
        if len(words) != 1 or words[0] not in known:
            raise InterventionError(f"/variant needs one; use {', '.join(known)}")
        chosen: Any = words[0]
        self.dial.set([replace(steer, variant=chosen) for steer in self.dial.steers])
        return self.dial_says()

    def _do_off(self, _words: Sequence[str]) -> str:
        self.dial.off()
        return "the dial is off"

    def _do_on(self, _words: Sequence[str]) -> str:
        self.dial.on()
        return self.dial_says()

    def _do_baseline(self, _words: Sequence[str]) -> str:
        self.baseline = not self.baseline
        return f"the model as it is {'answers too' if self.baseline else 'is not shown any more'}"

    def _do_seed(self, words: Sequence[str]) -> str:
        if len(words) != 1 or not words[0].isdigit():
            raise InterventionError("/seed needs a whole number, such as /seed 3")
        self.sampling = replace(self.sampling, seed=int(words[0]))
        return f"seed {words[0]}"

    def _do_reset(self, _words: Sequence[str]) -> str:
        self.messages = []
        return "a new conversation"

    def _do_dial(self, _words: Sequence[str]) -> str:
        return self.dial_says()

    def _do_help(self, _words: Sequence[str]) -> str:
        return COMMANDS


def read_place(word: str) -> tuple[int, int]:
    """``12:345`` as (layer, feature). Raises InterventionError for anything else."""
    found = re.fullmatch(r"(\d+):(\d+)", word)
    if found is None:
        raise InterventionError(f"{word!r} is not LAYER:FEATURE, such as 12:345")
    return int(found[1]), int(found[2])


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError as error:
        raise InterventionError(f"{word!r} is not a number, such as 4 or -0.5") from error
