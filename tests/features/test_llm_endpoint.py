"""The endpoint's client: patient with what passes, quick with what does not, and silent about the key."""

import socket
import threading
import time
from collections.abc import Iterator
from itertools import count

import pytest
from llm_bench import Answer, Asked, FakeServer, fake_server, tokens_of

from lucida.errors import FeatureError
from lucida.features.llm import Endpoint
from lucida.features.llm.endpoint import EndpointDown, RequestFailed, RequestRefused, Stopped, rule_of_thumb

KEY = "sk-very-secret-key-12345"
TALK = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "What is small? It is tiny."}]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    monkeypatch.delenv("LUCIDA_API_KEY", raising=False)
    with fake_server() as running:
        running.behave = lambda asked: "tiny"
        yield running


def ask(server: FakeServer, **settings: object) -> str:
    settings = {"pause": 0.01, "timeout": 5.0} | settings
    return Endpoint(server.url, "judge", **settings).ask(TALK).text  # pyright: ignore


def test_a_good_answer_with_its_tokens(server: FakeServer) -> None:
    reply = Endpoint(server.url, "judge").ask(TALK)
    assert (reply.text, reply.is_counted) == ("tiny", True)
    assert (reply.prompt_tokens, reply.completion_tokens) == (server.prompt_tokens, server.completion_tokens)
    body = server.asked[0].body
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("judge", 0, 200)
    assert body["messages"] == TALK
    assert "Authorization" not in server.asked[0].headers


def test_tokens_are_guessed_where_nobody_counted(server: FakeServer) -> None:
    server.counts_tokens = False
    reply = Endpoint(server.url, "judge").ask(TALK)
    assert not reply.is_counted
    assert reply.prompt_tokens == rule_of_thumb(TALK) > 0


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/", "/v1/chat/completions"])
def test_every_form_of_the_address(server: FakeServer, path: str) -> None:
    assert Endpoint(server.url + path, "judge").ask(TALK).text == "tiny"
    assert Endpoint(server.url + path + "?version=secret", "judge").ask(TALK).text == "tiny"
    assert "secret" not in Endpoint(server.url + path + "?version=secret", "judge").address


@pytest.mark.parametrize("url", ["", "localhost:8080", "ftp://host/v1", "http://", "http://host:99999", "http://a b"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(FeatureError, match="no address"):
        Endpoint(url, "judge")


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    for url in (f"http://me:{KEY}@host/v1", f"me:{KEY}@host"):
        with pytest.raises(FeatureError) as caught:
            Endpoint(url, "judge")
        assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "settings", [{"timeout": 0.0}, {"timeout": float("nan")}, {"tries": 0}, {"parallel": 0}, {"pause": -1.0}]
)
def test_numbers_that_cannot_be(settings: dict) -> None:
    with pytest.raises(FeatureError):
        Endpoint("http://localhost:1", "judge", **settings)


@pytest.mark.parametrize("status", [429, 500, 503, 408])
def test_what_passes_is_waited_for(server: FakeServer, status: int) -> None:
    numbers = count()
    server.behave = lambda asked: Answer(status) if next(numbers) < 2 else "tiny"
    assert ask(server) == "tiny"
    assert len(server.asked) == 3


def test_the_server_says_how_long_to_wait(server: FakeServer) -> None:
    numbers = count()
    server.behave = lambda asked: "tiny" if next(numbers) else Answer(429, headers={"Retry-After": "0.3"})
    began = time.monotonic()
    assert ask(server, pause=0.0) == "tiny"
    assert time.monotonic() - began >= 0.3


def test_500_for_ever_is_a_request_that_fails(server: FakeServer) -> None:
    server.behave = lambda asked: Answer(500, "out of\nmemory\x1b[31m")
    with pytest.raises(RequestFailed, match=r"3 tries: HTTP 500, out of memory \[31m$"):
        ask(server, tries=3)
    assert len(server.asked) == 3


@pytest.mark.parametrize("status", [429, 502, 503])
def test_429_for_ever_is_an_endpoint_that_is_down(server: FakeServer, status: int) -> None:
    server.behave = lambda asked: Answer(status)
    with pytest.raises(EndpointDown, match=f"2 tries .HTTP {status}"):
        ask(server, tries=2)


@pytest.mark.parametrize("status", [401, 403, 404, 307])
def test_what_will_not_pass_is_not_tried_again(server: FakeServer, status: int) -> None:
    server.behave = lambda asked: Answer(status, "no", headers={"Location": "http://127.0.0.1:9/v1/chat/completions"})
    with pytest.raises(EndpointDown, match=f"HTTP {status}"):
        ask(server)
    assert len(server.asked) == 1


def test_one_refused_request_says_nothing_of_others(server: FakeServer) -> None:
    server.behave = lambda asked: Answer(400, "the context is too long")
    with pytest.raises(RequestRefused, match="the context is too long"):
        ask(server)
    assert len(server.asked) == 1


def test_servers_that_want_other_words(server: FakeServer) -> None:
    """Newer hosted models refuse max_tokens and temperature, some chat templates a system role."""

    def picky(asked: Asked) -> str | Answer:
        if "max_tokens" in asked.body:
            return Answer(400, "Unsupported parameter: use 'max_completion_tokens' instead.")
        if "temperature" in asked.body:
            return Answer(400, "Unsupported value: 'temperature' does not support 0.")
        if asked.body["messages"][0]["role"] == "system":
            return Answer(400, "System role not supported")
        return "tiny"

    server.behave = picky
    endpoint = Endpoint(server.url, "judge", tries=1)
    assert endpoint.ask(TALK).text == "tiny"
    assert endpoint.ask(TALK).text == "tiny"
    assert len(server.asked) == 5, "what was learnt is kept"
    assert server.asked[-1].body["messages"] == [{"role": "user", "content": "\n\n".join(m["content"] for m in TALK)}]


def test_a_silent_server_is_given_up_in_time(server: FakeServer) -> None:
    server.behave = lambda asked: Answer(text="tiny", wait=30)
    began = time.monotonic()
    with pytest.raises(EndpointDown, match=r"2 tries .no answer within 0.2 s"):
        ask(server, timeout=0.2, tries=2)
    assert time.monotonic() - began < 5


def test_a_dripping_server_is_given_up_in_time(server: FakeServer) -> None:
    """The socket's timeout never strikes when a byte comes now and then."""
    server.behave = lambda asked: Answer(text="tiny", drip=0.05)
    began = time.monotonic()
    with pytest.raises(EndpointDown, match=r"no answer within 0.3 s"):
        ask(server, timeout=0.3, tries=1)
    assert time.monotonic() - began < 3


def test_nobody_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(EndpointDown, match=r"Connection refused"):
        Endpoint(f"http://127.0.0.1:{port}", "judge", tries=2, pause=0.01).ask(TALK)


@pytest.mark.parametrize(
    "raw", [b"", b"<html>", b"[]", b'{"choices": []}', b'{"choices": [{"message": null}]}', b"\xff\xfe", b"7"]
)
def test_what_is_no_chat_completion(server: FakeServer, raw: bytes) -> None:
    server.behave = lambda asked: Answer(raw=raw)
    with pytest.raises(EndpointDown, match="no chat completion"):
        ask(server, tries=2)


def test_an_endless_answer_is_cut(server: FakeServer) -> None:
    server.behave = lambda asked: Answer(raw=b" " * 5_000_000)
    with pytest.raises(RequestFailed, match="4 MB"):
        ask(server, tries=1)


def test_thoughts_are_left_out(server: FakeServer) -> None:
    server.behave = lambda asked: "<think>Is it large?\nNo.</think>\n\ntiny"
    assert ask(server) == "tiny"
    server.behave = lambda asked: "<think>Is it large? I"
    assert ask(server) == ""


def test_parts_and_no_content(server: FakeServer) -> None:
    server.behave = lambda asked: Answer(
        raw=b'{"choices": [{"message": {"content": [{"type": "text", "text": "a"}]}}]}'
    )
    assert ask(server) == "a"
    server.behave = lambda asked: Answer(raw=b'{"choices": [{"message": {"content": null}}], "usage": {"x": 1}}')
    assert ask(server) == ""


def test_the_key_goes_to_the_endpoint_and_nowhere_else(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("LUCIDA_API_KEY", f" {KEY}\n")
    endpoint = Endpoint(server.url, "judge", tries=2, pause=0.0)
    endpoint.ask(TALK)
    assert server.asked[0].headers["Authorization"] == f"Bearer {KEY}"
    assert KEY not in repr(endpoint)
    for status in (400, 401, 404, 429, 500):
        server.behave = lambda asked, status=status: Answer(status, f"Incorrect API key provided: {KEY}.")
        with pytest.raises(FeatureError, match="key") as caught:
            endpoint.ask(TALK)
        assert KEY not in str(caught.value)
        assert caught.value.__cause__ is None, "a traceback of causes could show it"
    assert all(KEY not in str(asked.body) for asked in server.asked)


def test_another_tools_key_is_not_taken(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    ask(server)
    assert "Authorization" not in server.asked[0].headers
    ask(server, key_variable="OPENAI_API_KEY")
    assert server.asked[1].headers["Authorization"] == f"Bearer {KEY}"


def test_a_key_that_is_none_is_not_repeated(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """http.client shows a header that it refuses, and the key in it."""
    monkeypatch.setenv("LUCIDA_API_KEY", f"{KEY}\nX-Other: 1")
    with pytest.raises(EndpointDown, match="LUCIDA_API_KEY") as caught:
        ask(server)
    assert KEY not in str(caught.value)
    assert not server.asked


def test_a_pause_can_be_left(server: FakeServer) -> None:
    server.behave = lambda asked: Answer(503, headers={"Retry-After": "50"})
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    began = time.monotonic()
    with pytest.raises(Stopped):
        Endpoint(server.url, "judge").ask(TALK, stop=stop)
    assert time.monotonic() - began < 3


def test_the_rule_of_thumb_is_on_the_dear_side() -> None:
    text = "Once upon a time there was a small dog, and the dog ran to the river with its friends. " * 5
    assert tokens_of(text) <= rule_of_thumb([{"role": "user", "content": text}]) <= 2 * tokens_of(text)
