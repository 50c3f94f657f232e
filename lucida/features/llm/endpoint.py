"""A client of any OpenAI-compatible chat endpoint: llama.cpp, vLLM, Ollama or a hosted one.

Only the standard library is used. The API key is read from an environment variable when a request is made; it is
never stored, shown or sent anywhere but to the endpoint itself (redirects are not followed).
"""

import json
import math
import os
import random
import re
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from threading import Event
from typing import Any

from lucida.errors import FeatureError
from lucida.features.llm.address import chat_url, check_url, clean, opener, shown_url

KEY_VARIABLE = "LUCIDA_API_KEY"
"""Where the key is by default. Not another tool's variable: a key must not go to an endpoint it is not for."""
BYTES_PER_TOKEN = 3.5
"""The rule of thumb for tokens that nobody counted: UTF-8 bytes over this, and `TOKENS_PER_MESSAGE` more."""
TOKENS_PER_MESSAGE = 8
LARGEST_ANSWER = 4_000_000
LONGEST_PAUSE = 60.0
RETRIED = (408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529)
UNUSABLE = (301, 302, 303, 307, 308, 401, 402, 403, 404, 405)
"""Answers that no other request will better."""

Message = dict[str, str]


class EndpointDown(FeatureError):
    """The endpoint cannot be used now, whatever is asked."""


class RequestRefused(FeatureError):
    """The endpoint will not answer this one request (too long, for instance); another may go well."""


class RequestFailed(FeatureError):
    """The endpoint answers, but failed at this one request; another may go well, and this one later."""


class Stopped(Exception):
    """Somebody else asked to stop while a request waited for its next try."""


@dataclass(frozen=True)
class Reply:
    """What the model said (less what it thought aloud) and the tokens this took, counted by the endpoint or guessed."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    is_counted: bool


@dataclass(frozen=True)
class Endpoint:
    """Where to ask which model, and how patiently.

    `url` is the server (``http://localhost:8080``), its ``/v1`` or the whole address of its chat completions.
    `timeout` is in seconds for one whole answer. A request is made up to `tries` times, with pauses that double from
    `pause` seconds (or are as long as the server asks for, up to a minute). `parallel` requests are in flight at
    most. `answer_tokens` limits an answer: models that think aloud need more.

    Raises FeatureError for an address or a number that cannot be.
    """

    url: str
    model: str
    key_variable: str = KEY_VARIABLE
    timeout: float = 120.0
    tries: int = 5
    pause: float = 1.0
    parallel: int = 4
    answer_tokens: int = 200
    _dialect: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_url(self.url)
        if not self.model.strip():
            raise FeatureError("a label endpoint needs the name of a model; its own list is at /v1/models")
        if not (self.timeout > 0 and self.pause >= 0 and math.isfinite(self.timeout + self.pause)):
            raise FeatureError("the timeout of an endpoint must be above 0 seconds and its pause not below")
        if min(self.tries, self.parallel, self.answer_tokens) < 1:
            raise FeatureError("tries, parallel and answer_tokens of an endpoint must be 1 or more")

    @property
    def address(self) -> str:
        """Where requests go, without anything that could be secret: safe to show."""
        return shown_url(self.url)

    def ask(self, messages: Sequence[Message], *, stop: Event | None = None) -> Reply:
        """The model's answer to a conversation.

        Raises RequestRefused or RequestFailed when this request got no answer and EndpointDown when none would, all
        after the tries that make sense; Stopped when `stop` is set meanwhile. Messages never hold the key.
        """
        stop = stop or Event()
        attempt, again = 0, _Again("")
        while attempt < self.tries:
            if stop.is_set():
                raise Stopped
            body = _body(self, messages)
            try:
                return _reply(self._post(body), messages)
            except _OtherWords:
                continue
            except _Again as error:
                attempt, again = attempt + 1, error
            if attempt < self.tries and stop.wait(self._pause(attempt, again)):
                raise Stopped
        problem = self._scrub(str(again))
        times = f"{self.tries} tries" if self.tries > 1 else "one try"
        if again.is_broken:
            raise RequestFailed(f"{self.address} failed after {times}: {problem}")
        raise EndpointDown(f"{self.address} gave no answer after {times} ({problem}); is it running and not too slow?")

    def _pause(self, attempt: int, again: "_Again") -> float:
        """Seconds before the next try; a little random, so that many do not come back at once."""
        seconds = self.pause * 2 ** (attempt - 1) if again.pause is None else again.pause
        return min(seconds, LONGEST_PAUSE) * (1 + 0.25 * random.random())

    def _post(self, body: dict[str, Any]) -> bytes:
        """One request; `_Again` where another try may help."""
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "lucida"}
        key = self._key()
        if key:
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(chat_url(self.url), json.dumps(body).encode(), headers, method="POST")
        deadline = time.monotonic() + self.timeout
        try:
            with opener(self.url).open(request, timeout=self.timeout) as response:
                return _read(response, deadline)
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(error, _detail(error), body) from None
        except (urllib.error.URLError, HTTPException, OSError) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                raise _Again(f"no answer within {self.timeout:g} s") from None
            text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
            if "CERTIFICATE_VERIFY_FAILED" in str(reason):
                raise EndpointDown(f"{self.address} shows a certificate that cannot be verified") from None
            raise _Again(f"no connection ({text})") from None

    def _refusal(self, error: urllib.error.HTTPError, detail: str, body: dict[str, Any]) -> Exception:
        """What an HTTP error means."""
        said = self._scrub(f"HTTP {error.code}" + (f", {detail}" if detail else ""))
        if error.code in RETRIED:
            return _Again(said, pause=_retry_after(error), is_broken=error.code == 500)
        if error.code == 400 and self._learn(detail, body):
            return _OtherWords()
        if error.code in (401, 403):
            return EndpointDown(f"{self.address} refuses the key ({said}); put the right one into {self.key_variable}")
        if error.code in UNUSABLE:
            hint = "is that its address, and the model's name right?"
            return EndpointDown(f"{self.address} cannot be used with the model {self.model} ({said}); {hint}")
        return RequestRefused(f"{self.address} refused a request: {said}")

    def _learn(self, detail: str, body: dict[str, Any]) -> bool:
        """Whether a refusal is of a field that some servers want otherwise; requests are different from now on."""
        has_system = body["messages"][0]["role"] == "system"
        wishes = (
            ("max_completion_tokens", "max_tokens" in body),
            ("temperature", "temperature" in body),
            ("system role", has_system),
        )
        for wish, is_news in wishes:
            if wish in detail.lower() and is_news:
                self._dialect.add(wish)
                return True
        return False

    def _key(self) -> str:
        key = os.environ.get(self.key_variable, "").strip()
        # http.client would name the whole header in its error.
        if not re.fullmatch(r"[\x21-\x7e]*", key):
            raise EndpointDown(f"the key in {self.key_variable} holds spaces or other signs that no key has")
        return key

    def _scrub(self, text: str) -> str:
        """`text` on one line, of a length to show, without the key: some servers repeat it."""
        key = os.environ.get(self.key_variable, "").strip()
        text = text.replace(key, "(key)") if key else text
        return clean(text)[:300]


class _Again(Exception):
    """A try that failed. `is_broken`: the server answers, and it is this request that it fails at."""

    def __init__(self, problem: str, *, pause: float | None = None, is_broken: bool = False):
        super().__init__(problem)
        self.pause, self.is_broken = pause, is_broken


class _OtherWords(Exception):
    """The server wants a field of the request otherwise, and it will be."""


def rule_of_thumb(messages: Sequence[Message]) -> int:
    """Tokens of a prompt by its length: for English it errs on the dear side."""
    size = sum(len(message["content"].encode()) for message in messages)
    return math.ceil(size / BYTES_PER_TOKEN) + TOKENS_PER_MESSAGE * len(messages)


def _without_thoughts(text: str) -> str:
    """The answer after what a model thought aloud; one that never stopped thinking gave none."""
    text = re.sub(r"(?s)<think(ing)?>.*?</think(ing)?>", "", text)
    return re.sub(r"(?s)<think(ing)?>.*", "", text).strip()


def _body(endpoint: Endpoint, messages: Sequence[Message]) -> dict[str, Any]:
    """The request, in the words that this server takes."""
    dialect, messages = endpoint._dialect, list(messages)
    if "system role" in dialect and messages[0]["role"] == "system":
        first, second = messages[0], messages[1]
        messages[:2] = [{"role": "user", "content": f"{first['content']}\n\n{second['content']}"}]
    limit = "max_completion_tokens" if "max_completion_tokens" in dialect else "max_tokens"
    body = {"model": endpoint.model, "messages": messages, limit: endpoint.answer_tokens}
    return body if "temperature" in dialect else body | {"temperature": 0}


def _read(response: HTTPResponse, deadline: float) -> bytes:
    """The whole body. The socket's timeout counts anew with each byte, so the clock is watched here too."""
    body = b""
    while part := response.read1(1 << 16):
        body += part
        if time.monotonic() > deadline:
            raise TimeoutError
        if len(body) > LARGEST_ANSWER:
            raise _Again("an answer of more than 4 MB", is_broken=True)
    return body


def _detail(error: urllib.error.HTTPError) -> str:
    """What the server says of an error."""
    try:
        found = json.loads(error.read(20_000))
        found = found.get("error", found)
        return str(found.get("message", "") if isinstance(found, dict) else found)
    except (ValueError, AttributeError, HTTPException, OSError):
        return ""


def _retry_after(error: urllib.error.HTTPError) -> float | None:
    try:
        seconds = float(error.headers.get("Retry-After", ""))
    except ValueError:
        return None
    return seconds if 0 <= seconds < math.inf else None


def _reply(body: bytes, messages: Sequence[Message]) -> Reply:
    """The answer in a response. A message without text is an empty answer, anything else is not this protocol."""
    try:
        found = json.loads(body)
        content = found["choices"][0]["message"].get("content") or ""
        text = content if isinstance(content, str) else "".join(str(part.get("text", "")) for part in content)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise _Again("an answer that is no chat completion") from None
    usage = found.get("usage")
    counts = [usage.get(name) if isinstance(usage, dict) else None for name in ("prompt_tokens", "completion_tokens")]
    prompt, completion = [count if type(count) is int and count >= 0 else None for count in counts]
    text = _without_thoughts(text)
    if prompt is None or completion is None:
        return Reply(text, rule_of_thumb(messages), math.ceil(len(text.encode()) / BYTES_PER_TOKEN), is_counted=False)
    return Reply(text, prompt, completion, is_counted=True)
