"""One feature from its evidence to a tested label: every request that this takes."""

from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Event
from typing import Any

from lucida.errors import FeatureError
from lucida.features.labels import Label
from lucida.features.llm.cost import FeatureName
from lucida.features.llm.endpoint import Endpoint, Message, Reply, RequestRefused, Stopped
from lucida.features.llm.excerpts import Evidence, expected_overlap
from lucida.features.llm.explain import PROMPTS, NoLabel, explain_prompt, parse_label
from lucida.features.llm.scoring import (
    METHOD,
    UNSCORED,
    Question,
    Test,
    balanced_accuracy,
    judge_prompt,
    parse_answers,
)

_SHORTER = 'That was not in the form asked for. Answer with one line only: {"label": "..."}'
_LISTED = "That was not in the form asked for. Answer only with the JSON list of 1 and 0, {} numbers."


@dataclass
class Tally:
    """Requests and tokens used so far. `guessed` requests had no token counts of the endpoint."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    guessed: int = 0

    @property
    def tokens(self) -> int:
        """Of prompts and answers."""
        return self.prompt_tokens + self.completion_tokens

    def add(self, other: "Tally") -> None:
        """Count another's in."""
        self.requests += other.requests
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens
        self.guessed += other.guessed

    def add_reply(self, reply: Reply) -> None:
        """Count one request in."""
        self.add(Tally(1, reply.prompt_tokens, reply.completion_tokens, int(not reply.is_counted)))


@dataclass(frozen=True)
class Score:
    """The result of one test: balanced accuracy or None, how many texts were judged, how many got no answer."""

    name: str
    accuracy: float | None
    count: int
    unanswered: int


@dataclass(frozen=True)
class Outcome:
    """What came of one feature: a label, or the error that stood in its way."""

    name: FeatureName
    label: Label | None
    error: Exception | None
    used: Tally


def label_one(endpoint: Endpoint, evidence: Evidence, tests: list[Test], *, stop: Event) -> Outcome:
    """Ask for a label and judge it by `tests`. Errors of the endpoint and of the answers come in the outcome."""
    used = Tally()
    name = (evidence.layer, evidence.feature)
    try:
        text = ask_label(endpoint, evidence, used, stop=stop)
        scores = [ask_score(endpoint, test, text, used, stop=stop) for test in tests]
    except (FeatureError, NoLabel, Stopped) as error:
        return Outcome(name, None, error, used)
    return Outcome(name, _label(endpoint, evidence, text, scores, used), None, used)


def ask_label(endpoint: Endpoint, evidence: Evidence, used: Tally, *, stop: Event | None = None) -> str:
    """The label that the model gives; it is asked a second time when its answer holds none. Raises NoLabel."""
    messages = explain_prompt(evidence)
    reply = _ask(endpoint, messages, used, stop)
    try:
        return parse_label(reply.text)
    except NoLabel:
        return parse_label(_ask(endpoint, _insist(messages, reply, _SHORTER), used, stop).text)


def ask_score(endpoint: Endpoint, test: Test, label: str, used: Tally, *, stop: Event | None = None) -> Score:
    """How well the model, as a judge, does a test by the label alone. Raises EndpointDown."""
    questions: list[Question] = []
    answers: list[bool | None] = []
    for request in test.requests:
        questions += request
        answers += _judge(endpoint, test.name, label, request, used, stop) or [None] * len(request)
    return Score(test.name, balanced_accuracy(questions, answers), len(questions), answers.count(None))


def _judge(
    endpoint: Endpoint, test: str, label: str, questions: tuple[Question, ...], used: Tally, stop: Event | None
) -> list[bool] | None:
    messages = judge_prompt(test, label, questions)
    try:
        reply = _ask(endpoint, messages, used, stop)
        answers = parse_answers(reply.text, len(questions))
        if answers is None:
            again = _insist(messages, reply, _LISTED.format(len(questions)))
            answers = parse_answers(_ask(endpoint, again, used, stop).text, len(questions))
        return answers
    except RequestRefused:
        return None


def _ask(endpoint: Endpoint, messages: list[Message], used: Tally, stop: Event | None) -> Reply:
    reply = endpoint.ask(messages, stop=stop)
    used.add_reply(reply)
    return reply


def _insist(messages: list[Message], reply: Reply, wish: str) -> list[Message]:
    # An empty turn of the assistant is refused by some servers.
    said = {"role": "assistant", "content": reply.text[:1000] or "..."}
    return [*messages, said, {"role": "user", "content": wish}]


def _label(endpoint: Endpoint, evidence: Evidence, text: str, scores: list[Score], used: Tally) -> Label:
    details: dict[str, Any] = {
        "prompts": PROMPTS,
        "shown": len(evidence.strongest) + len(evidence.others),
        "held_out": len(evidence.held_out),
        "contrast": len(evidence.contrast),
        "contrast_may_fire": round(expected_overlap(evidence), 4),
        "requests": used.requests,
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
    }
    for score in scores:
        details[score.name] = score.accuracy
        details[f"{score.name}_count"] = score.count
        details[f"{score.name}_unanswered"] = score.unanswered
    known = [score.accuracy for score in scores if score.accuracy is not None]
    return Label(
        evidence.layer, evidence.feature, text, author=endpoint.model, method=METHOD if known else UNSCORED,
        score=sum(known) / len(known) if known else None,
        date=datetime.now(UTC).date().isoformat(), details=details,
    )  # fmt: skip
