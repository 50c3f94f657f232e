"""A reply under steering and as the model is, token by token, with a dial that may be turned meanwhile."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lucida.errors import LucidaError
from lucida.models.taps import fast_attention
from lucida.prompt import Prompt
from lucida.server.line import Cancelled
from lucida.server.messages import ChatMessage, SteerRequest, SteerResult, SteerSetting, SteerToken
from lucida.steering import BASELINE, Dial, Features, Sampling, Steer, Stream, Token
from lucida.steering.steer import refuse_contradictions

if TYPE_CHECKING:
    from lucida.microscope import Microscope
    from lucida.server.line import Line


def run(scope: "Microscope", request: dict[str, Any], line: "Line") -> dict[str, Any]:
    """A SteerResult, as a dict; every token is sent as a SteerToken as it is drawn.

    The messages of the line's inbox, ``{"steers": [...]}``, turn the dial from the next token on; one that cannot be
    met is answered by the event ``{"problem": ...}``, and the dial stays. A cancelled reply ends where it is, "left".
    Raises LucidaError for steers or conversations that cannot be meant.
    """
    asked = SteerRequest.model_validate(request)
    features = Features(scope.model, scope.dictionary, scope.index)
    dial = Dial(_steers(asked.steers))
    streams = _streams(scope, asked, features, dial)
    total = asked.max_tokens * (2 if asked.baseline is not None else 1)
    # One setting for all streams: each alone would put the former back while another still writes.
    with fast_attention(scope.model):
        try:
            for count, token in enumerate(_in_turns(streams), 1):
                side = "baseline" if token.condition == BASELINE else "steered"
                line.send(
                    SteerToken(
                        side=side, text=token.text, log_probability=token.log_probability, ended=token.ended
                    ).model_dump()
                )
                for message in line.inbox():
                    _turn(dial, message, features, streams[0].prompt, line)
                line.progress("writing", count, total)
        except Cancelled:
            # What was written is kept.
            pass
        finally:
            for stream in streams:
                stream.close()
    return _result(streams).model_dump()


def _steers(settings: Sequence[SteerSetting]) -> list[Steer]:
    return [Steer(each.layer, each.feature, each.strength, each.variant) for each in settings]


def _streams(scope: "Microscope", asked: SteerRequest, features: Features, dial: Dial) -> list[Stream]:
    """One stream, in one batch where the conversations are the same; else one for each side."""
    prompt = _prompt(scope, asked.steered, asked.chat)
    other = None if asked.baseline is None else _prompt(scope, asked.baseline, asked.chat)
    is_one = other is not None and other.tokens == prompt.tokens
    found = [_stream(scope, asked, features, prompt, dial, baseline=is_one)]
    if other is not None and not is_one:
        found.append(_stream(scope, asked, features, other, (), baseline=True))
    return found


def _prompt(scope: "Microscope", messages: Sequence[ChatMessage], chat: bool) -> Prompt:
    if chat:
        return scope.model.tokenize([{"role": each.role, "content": each.content} for each in messages])
    return scope.model.tokenize("".join(each.content for each in messages))


def _stream(
    scope: "Microscope", asked: SteerRequest, features: Features, prompt: Prompt, steers: Any, *, baseline: bool
) -> Stream:
    # A conversation that has nearly filled the context gets a shorter reply; one that fills it is refused.
    room = max(1, scope.model.context - len(prompt))
    sampling = Sampling(max_tokens=min(asked.max_tokens, room), temperature=asked.temperature, seed=asked.seed)
    return Stream(
        scope.model, None, prompt, steers, sampling=sampling, baseline=baseline, features=features
    )  # fmt: skip


def _in_turns(streams: Sequence[Stream]) -> Iterator[Token]:
    """The tokens of all streams, one of each in turn until all have ended."""
    running = [iter(stream) for stream in streams]
    while running:
        for each in list(running):
            token = next(each, None)
            if token is None:
                running.remove(each)
            else:
                yield token


def _turn(dial: Dial, message: dict[str, Any], features: Features, prompt: Prompt, line: "Line") -> None:
    """Put the dial as a message says, if that can be meant."""
    try:
        steers = _steers([SteerSetting.model_validate(each) for each in message.get("steers", [])])
        for steer in steers:
            features.check(steer)
        features.units(refuse_contradictions(steers, len(prompt)), prompt)
    except LucidaError as error:
        line.send({"problem": str(error)})
        return
    dial.set(steers)


def _result(streams: Sequence[Stream]) -> SteerResult:
    samples = [sample for stream in streams for sample in stream.generation().samples]
    steered = next(sample for sample in samples if sample.condition != BASELINE)
    own = next((sample for sample in samples if sample.condition == BASELINE), None)
    return SteerResult(
        steered=steered.text,
        baseline=None if own is None else own.text,
        steered_ended=steered.ended,
        baseline_ended=None if own is None else own.ended,
    )
