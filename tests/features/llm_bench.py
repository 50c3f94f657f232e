"""A label endpoint that runs in a thread and can be made to misbehave, and an index whose features have a meaning."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from lucida.features.header import IndexHeader, record_files
from lucida.features.tables import HISTOGRAM_BINS, SCHEMAS, write_table

WORDS = ("small", "tiny", "dog", "cat", "runs", "sleeps", "red", "green", "seven", "eight", "Paris", "London")
FILLERS = ("the", "of", "and", "a", "with", "under", "over", "to", "from", "by", "in", "on")
VOCABULARY = WORDS + FILLERS
LENGTH, PEAK = 9, 4


def planted_index(folder: Path, *, n_features: int = len(WORDS), examples: int = 24) -> Path:
    """One layer; feature f fires at the word WORDS[f] and nowhere else, the last feature never. No effects."""
    generator = np.random.default_rng(0)
    stats, rows = [], []
    for feature in range(n_features + 1):
        fires = feature < n_features
        stats.append({
            "layer": 0, "feature": feature, "count": examples if fires else 0, "mean": 3.0 if fires else 0.0,
            "maximum": 5.0 if fires else 0.0, "first": 0 if fires else -1, "last": 10 if fires else -1,
            "histogram": [0] * HISTOGRAM_BINS,
        })  # fmt: skip
        for i in range(examples if fires else 0):
            tokens = generator.integers(len(WORDS), len(VOCABULARY), LENGTH)
            tokens[PEAK] = feature
            value = 5.0 - i / 10
            is_top = i < examples // 2
            rows.append({
                "layer": 0, "feature": feature, "kind": "top" if is_top else "sample", "band": 2 if is_top else 1,
                "rank": i if is_top else i - examples // 2, "value": value, "peak": PEAK,
                "position": 100 * (feature * examples + i) + PEAK, "document": feature * examples + i,
                "tokens": tokens.tolist(), "activations": [value * (p == PEAK) for p in range(LENGTH)],
            })  # fmt: skip
    rows.sort(key=lambda row: (row["layer"], row["feature"], row["kind"], row["band"], row["rank"]))
    vocabulary = [{"token": i, "text": f" {word}"} for i, word in enumerate(VOCABULARY)]
    for name, table in (("stats", stats), ("examples", rows), ("vocabulary", vocabulary)):
        schema = SCHEMAS[name]
        write_table(folder / f"{name}.parquet", {c: [row.get(c) for row in table] for c in schema.names}, schema)
    IndexHeader(
        model="made-up", dictionary="planted", dictionary_digest="0" * 64, n_features=(n_features + 1,),
        corpus="made-up-text", corpus_fingerprint="1" * 64, tokenizer="2" * 64, context=LENGTH, k=examples // 2,
        samples=examples // 2, window=PEAK, sampled_places=0, n_places=1_000_000, n_documents=1000,
        files=record_files(folder, [f"{name}.parquet" for name in ("stats", "examples", "vocabulary")]),
    ).save(folder)  # fmt: skip
    return folder


def tokens_of(text: str) -> int:
    """Tokens as a usual tokenizer might count them: words of up to 6 letters, single other signs."""
    return len(re.findall(r" ?[A-Za-z]{1,6}|\d|[^\sA-Za-z\d]|\s{2,}|\n", text))


@dataclass
class Asked:
    """A request that came: which kind, about which words, and its headers."""

    kind: str
    words: tuple[str, ...]
    body: dict[str, Any]
    headers: dict[str, str]

    @property
    def text(self) -> str:
        return "\n".join(message["content"] for message in self.body["messages"])


def kind_of(text: str) -> str:
    if "Property:" not in text:
        return "explain"
    return "fuzzing" if "marked tokens" in text else "detection"


def excerpts_of(user: str) -> list[str]:
    return re.findall(r"(?m)^\d+\. (.*)$", user)


def honest(asked: Asked) -> str:
    """The answer of a model that sees what the features of `planted_index` mean, and judges without a mistake."""
    user = next(m["content"] for m in asked.body["messages"] if m["role"] == "user")
    if asked.kind == "explain":
        return json.dumps({"label": f"the word {asked.words[0]}"})
    return json.dumps([int(yes) for yes in right_answers(asked.kind, user)])


def right_answers(kind: str, user: str) -> list[bool]:
    found = re.search(r"Property: the word (\w+)", user)
    assert found
    sign = f"<<{found[1]}>>" if kind == "fuzzing" else found[1]
    return [sign in excerpt for excerpt in excerpts_of(user)]


@dataclass
class Answer:
    """What the server does with a request, if not simply to say a text."""

    status: int = 200
    text: str | None = None
    raw: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    wait: float = 0.0
    drip: float = 0.0


class FakeServer:
    """Counts and keeps every request; `behave` says what is answered."""

    def __init__(self) -> None:
        self.behave: Callable[[Asked], str | Answer] = honest
        self.asked: list[Asked] = []
        self.prompt_tokens = self.completion_tokens = 0
        self.counts_tokens = True
        self.most_at_once = self._now = 0
        self.lock = threading.Lock()
        self.over = threading.Event()
        self.url = ""

    def explained(self) -> list[str]:
        """The words that the features were about whose labels were asked for, in order."""
        return [asked.words[0] for asked in self.asked if asked.kind == "explain"]

    def take(self, body: dict[str, Any], headers: dict[str, str]) -> Answer:
        text = "\n".join(message["content"] for message in body["messages"])
        user = next(m["content"] for m in body["messages"] if m["role"] == "user")
        asked = Asked(kind_of(text), tuple(re.findall(r"<<(\w+)>>", user)) or ("",), body, headers)
        with self.lock:
            self.asked.append(asked)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            answer = self.behave(asked)
        finally:
            with self.lock:
                self._now -= 1
        if isinstance(answer, str):
            answer = Answer(text=answer)
        if answer.raw is None:
            said = answer.text or ""
            content = {"choices": [{"message": {"role": "assistant", "content": answer.text}}]}
            prompt, completion = tokens_of(text), tokens_of(said)
            if answer.status == 200:
                with self.lock:
                    self.prompt_tokens += prompt
                    self.completion_tokens += completion
            if self.counts_tokens:
                content["usage"] = {"prompt_tokens": prompt, "completion_tokens": completion}  # pyright: ignore
            if answer.status != 200:
                content = {"error": {"message": said}}
            answer.raw = json.dumps(content).encode()
        return answer


@contextmanager
def fake_server() -> Iterator[FakeServer]:
    """A server on a free port of this machine, until the block ends."""
    state = FakeServer()

    class Handler(BaseHTTPRequestHandler):
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path.split("?")[0] == "/v1/chat/completions", self.path
            answer = state.take(body, dict(self.headers))
            state.over.wait(answer.wait)
            raw = answer.raw or b""
            try:
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                for i in range(len(raw)) if answer.drip else ():
                    self.wfile.write(raw[i : i + 1])
                    self.wfile.flush()
                    if state.over.wait(answer.drip):
                        return
                if not answer.drip:
                    self.wfile.write(raw)
            except OSError:
                pass  # the client has gone

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.over.set()
        server.shutdown()
        server.server_close()
        thread.join()
