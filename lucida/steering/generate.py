"""Text written under steering: a baseline and any number of steered samples as rows of one batch."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from lucida.dictionaries import Dictionary
from lucida.errors import InterventionError
from lucida.features.index import FeatureIndex
from lucida.models.model import Model, PromptLike
from lucida.models.taps import fast_attention
from lucida.prompt import Prompt
from lucida.steering.hooks import Amount, Steering
from lucida.steering.reading import Features, Unit
from lucida.steering.sampling import Sampling, choose, generator_of
from lucida.steering.steer import Dial, Steer, Steers, refuse_contradictions
from lucida.steering.text import TextStream

BASELINE = "baseline"


@dataclass(frozen=True)
class Token:
    """One token as it is drawn. `text` is what it makes readable (perhaps nothing yet); with the last token of a row,
    whose `ended` says why it ends, also what was held back.
    """

    condition: str
    sample: int
    token: int
    text: str
    log_probability: float
    ended: str | None = None


@dataclass(frozen=True)
class Sample:
    """One finished text. `ended` is "end of text", "stop", "max_tokens" or, for a stream that was left, "left".

    `tokens` hold the end-of-text token, `text` does not. `log_probabilities` are those of the run that wrote it.
    """

    condition: str
    sample: int
    tokens: tuple[int, ...]
    text: str
    log_probabilities: tuple[float, ...]
    ended: str


@dataclass(frozen=True)
class Generation:
    """What was written under each condition, "baseline" among them, and what strength 1 meant (`units`)."""

    prompt: Prompt
    samples: tuple[Sample, ...]
    units: tuple[Unit, ...]

    @property
    def conditions(self) -> tuple[str, ...]:
        """The names of the conditions, the baseline first."""
        return tuple(dict.fromkeys(sample.condition for sample in self.samples))

    def of(self, condition: str) -> tuple[Sample, ...]:
        """The samples of one condition."""
        return tuple(sample for sample in self.samples if sample.condition == condition)

    @property
    def baseline(self) -> tuple[Sample, ...]:
        """The samples of the model as it is; empty when none were asked for."""
        return self.of(BASELINE)

    @property
    def steered(self) -> tuple[Sample, ...]:
        """All other samples."""
        return tuple(sample for sample in self.samples if sample.condition != BASELINE)


def generate(
    model: Model,
    dictionary: Dictionary | None,
    prompt: PromptLike,
    steers: Steers = (),
    *,
    max_tokens: int = 64,
    temperature: float | int = 0.0,
    top_k: int | None = None,
    top_p: float | int | None = None,
    seed: int = 0,
    samples: int = 1,
    baseline: bool = True,
    stop: Sequence[str] = (),
    on_token: Callable[[Token], None] | None = None,
    use_cache: bool = True,
    index: FeatureIndex | str | Path | None = None,
    sink_positions: int = 1,
) -> Generation:
    """What the model writes after `prompt` (text, chat or ids) under `steers`, and as it is, in one batch.

    `steers` are one list, a mapping of names to lists (a sweep: all in the same batch), or a `Dial`, which may be
    turned by `on_token` between tokens. `temperature` 0 takes the most probable token. Sample i draws with the seed
    ``seed + i`` in every condition, and the same whatever stands beside it in the batch. `stop` are texts before which
    a text ends. Units are from `index` (None: the one beside the dictionary), else measured on the prompt. The first
    `sink_positions` tokens, where features mean nothing, are steered only by position.

    Raises InterventionError or PromptError for a steer, a prompt or a number that cannot be meant.
    """
    stream = Stream(
        model, dictionary, prompt, steers, baseline=baseline, use_cache=use_cache, index=index,
        sink_positions=sink_positions,
        sampling=Sampling(max_tokens, temperature, top_k, top_p, seed, samples, tuple(stop)),
    )  # fmt: skip
    for token in stream:
        if on_token is not None:
            on_token(token)
    return stream.generation()


@dataclass(eq=False)
class _Row:
    condition: str
    sample: int
    generator: torch.Generator
    text: TextStream
    tokens: list[int] = field(default_factory=list)
    log_probabilities: list[float] = field(default_factory=list)
    ended: str | None = None


class Stream:
    """The tokens of `generate` one by one, of all rows in turn: ``for token in Stream(...)``.

    `generation()` gives what has been written so far. Hooks are taken out when the loop ends or is left (`close`),
    and sleep between tokens, so that the model may be used meanwhile.
    """

    def __init__(
        self,
        model: Model,
        dictionary: Dictionary | None,
        prompt: PromptLike,
        steers: Steers = (),
        *,
        sampling: Sampling,
        baseline: bool = True,
        use_cache: bool = True,
        index: FeatureIndex | str | Path | None = None,
        sink_positions: int = 1,
        features: Features | None = None,
    ) -> None:
        """`features` may be given instead of `dictionary` and `index`, to keep what was measured of them."""
        self.model, self.sampling, self.use_cache = model, sampling, use_cache
        self.prompt = model.tokenize(prompt)
        self.dial = steers if isinstance(steers, Dial) else None
        if self.dial is not None and not use_cache:
            raise InterventionError("a dial needs the cache, which keeps what earlier tokens were steered by")
        self.features = features or Features(model, dictionary, index)
        self.sink_positions = sink_positions
        self._named = steers
        self._units: dict[Steer, Unit] = {}
        self._conditions = self._read_conditions()
        room = model.context - len(self.prompt)
        if sampling.max_tokens > room:
            raise InterventionError(
                f"{len(self.prompt)} tokens of prompt and max_tokens {sampling.max_tokens} go past the context of "
                f"{model.context}; {f'ask for at most {room}' if room else 'give a shorter prompt'}"
            )
        first = [BASELINE] if baseline or BASELINE in self._conditions else []
        names = first + [name for name in self._conditions if name != BASELINE]
        if not names:
            raise InterventionError("there is nothing to generate: no steers and no baseline")
        self._rows = [self._row(name, sample) for name in names for sample in range(sampling.samples)]
        self._ends = end_tokens(model)
        self._iterator = self._run(names)

    def _row(self, condition: str, sample: int) -> _Row:
        text = TextStream(self.model.tokenizer, self.prompt.tokens, stop=self.sampling.stop)
        return _Row(condition, sample, generator_of(self.sampling.seed, sample), text)

    def __iter__(self) -> Iterator[Token]:
        return self._iterator

    def close(self) -> None:
        """Leave the stream: take the hooks out of the model."""
        self._iterator.close()

    def generation(self) -> Generation:
        """What has been written so far."""
        samples = tuple(
            Sample(r.condition, r.sample, tuple(r.tokens), r.text.text, tuple(r.log_probabilities), r.ended or "left")
            for r in self._rows
        )
        return Generation(self.prompt, samples, tuple(dict.fromkeys(self._units.values())))

    # --- conditions -------------------------------------------------------------------------------

    def _read_conditions(self) -> dict[str, tuple[Amount, ...]]:
        """The checked steers of every condition, with their units. Raises InterventionError."""
        named = self._named
        if isinstance(named, Dial):
            named = {"steered": named.current}
        elif not isinstance(named, Mapping):
            named = {"steered": tuple(named)} if named else {}
        if any(name == BASELINE and steers for name, steers in named.items()):
            raise InterventionError(f"a condition cannot be called {BASELINE!r}, which is the model as it is")
        found = {}
        for name, steers in named.items():
            for steer in steers:
                self.features.check(steer)
            kept = refuse_contradictions(steers, len(self.prompt))
            units = self.features.units(kept, self.prompt)
            self._units |= units
            found[name] = tuple((steer, units[steer]) for steer in kept)
        return found

    def _steering(self, conditions: Sequence[str]) -> Steering:
        rows = [self._conditions.get(name, ()) for name in conditions]
        return Steering(self.features, rows, len(self.prompt), sink_positions=self.sink_positions)

    # --- the loop ---------------------------------------------------------------------------------

    def _run(self, names: list[str]) -> Generator[Token, None, None]:
        """The prompt once for each condition, then all rows together; rows that end leave the batch."""
        alive = list(self._rows)
        cache = DynamicCache(config=self.model.hf.config) if self.use_cache else None
        origin = torch.tensor([names.index(row.condition) for row in alive], device=self.model.device)
        turned = None if self.dial is None else self.dial.current
        with ExitStack() as stack:
            stack.enter_context(fast_attention(self.model))
            steering = self._steering(names)
            stack.callback(lambda: steering.remove())
            steering.install()
            logits = self._forward(steering, [list(self.prompt.tokens)] * len(names), cache)
            logits = self._select(origin, steering, cache, logits)
            while alive:
                yield from self._draw(alive, logits)
                staying = [i for i, row in enumerate(alive) if row.ended is None]
                if len(staying) < len(alive):
                    alive = [alive[i] for i in staying]
                    self._select(torch.tensor(staying, device=self.model.device, dtype=torch.int64), steering, cache)
                if not alive:
                    return
                if self.dial is not None and self.dial.current != turned:
                    turned = self.dial.current
                    steering.remove()
                    self._conditions = self._read_conditions()
                    steering = self._steering([row.condition for row in alive])
                    steering.install()
                logits = self._forward(steering, [self._next_input(row) for row in alive], cache)

    def _next_input(self, row: _Row) -> list[int]:
        return row.tokens[-1:] if self.use_cache else [*self.prompt.tokens, *row.tokens]

    def _select(self, rows: Tensor, steering: Steering, cache: Any, logits: Tensor | None = None) -> Any:
        """Go on with these rows of the batch."""
        steering.keep(rows)
        if cache is not None and len(rows):
            cache.batch_select_indices(rows)
        return None if logits is None else logits[rows]

    @torch.no_grad()
    def _forward(
        self, steering: Steering, inputs: list[list[int]], cache: DynamicCache | None
    ) -> Float[Tensor, "row d_vocab"]:
        """The logits after the last token of each row, in float32."""
        first = 0 if cache is None else cache.get_seq_length()
        steering.begin(first, len(inputs[0]))
        try:
            ids = torch.tensor(inputs, device=self.model.device)
            out = self.model.hf(input_ids=ids, past_key_values=cache, use_cache=cache is not None, logits_to_keep=1)
        finally:
            steering.end()
        logits = out.logits[:, -1].float()
        if not torch.isfinite(logits).all():
            raise InterventionError("the steered model overflows: its logits are not finite; use a smaller strength")
        return logits

    def _draw(self, alive: list[_Row], logits: Float[Tensor, "row d_vocab"]) -> Iterator[Token]:
        tokens, log_probabilities = choose(logits, self.sampling, [row.generator for row in alive])
        for row, token, log_probability in zip(alive, tokens, log_probabilities, strict=True):
            row.tokens.append(token)
            row.log_probabilities.append(log_probability)
        # All rows have moved on before the first is shown: a caller may leave at any token.
        for row, token, log_probability in zip(alive, tokens, log_probabilities, strict=True):
            text = "" if token in self._ends else row.text.push(token)
            if token in self._ends:
                row.ended = "end of text"
            elif row.text.stopped:
                row.ended = "stop"
            elif len(row.tokens) >= self.sampling.max_tokens:
                row.ended = "max_tokens"
            if row.ended:
                text += row.text.finish()
            yield Token(row.condition, row.sample, token, text, log_probability, row.ended)


def end_tokens(model: Model) -> tuple[int, ...]:
    """The tokens that end a text, as the model's generation settings have them."""
    settings = getattr(model.hf, "generation_config", None)
    found = getattr(settings, "eos_token_id", None)
    found = getattr(model.hf.config, "eos_token_id", None) if found is None else found
    return () if found is None else (found,) if isinstance(found, int) else tuple(found)
