"""The queue of jobs: one at a time, told in stages, followed by any number of pages.

Everything here runs on the server's event loop; only `lucida.server.process` knows threads.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from lucida.server.messages import Job, JobKind, JobStatus, ModelState, TokensAnswer
from lucida.server.problems import Conflict, NotFound, TooMany, Unavailable, one_line
from lucida.server.process import Worker, how_it_ended
from lucida.server.record import Record

MOST_WAITING = 20
MOST_FINISHED = 50
MOST_IDLE_DEATHS = 3
"""A model that dies so often with nothing to do is not started again."""
SECONDS_TO_CANCEL = 10.0
SECONDS_FOR_TOKENS = 2.0


class Jobs:
    """The jobs of one server, and the state of its model.

    `finished` is called with each job that is done, before any page hears of it. A model that dies while it works is
    started again; one that dies while it loads is not.
    """

    def __init__(
        self, worker: Worker | None, model: ModelState, *, finished: Callable[[Record], None] = lambda record: None
    ) -> None:
        self.model = model
        self.fingerprint = ""
        self._worker = worker
        self._finished = finished
        self._records: dict[str, Record] = {}
        self._running: Record | None = None
        self._questions: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._news = asyncio.Event()
        self._is_closed = False
        self._idle_deaths = 0
        self._timer: asyncio.TimerHandle | None = None

    # --- life of the model's process --------------------------------------------------------------

    def open(self) -> None:
        """Start the model's process, if the server has one."""
        if self._worker is not None:
            self._load()

    def close(self) -> None:
        """End the process and whatever follows a job."""
        self.end_following()
        if self._timer is not None:
            self._timer.cancel()
        if self._worker is not None:
            self._worker.stop()

    def end_following(self) -> None:
        """Let go of every page that follows a job: the server stops."""
        self._is_closed = True
        self._ring()

    def _load(self) -> None:
        assert self._worker is not None
        self.model = self.model.model_copy(update={"status": "loading", "message": "starting"})
        self._worker.start(self._hear)

    # --- what a page asks -------------------------------------------------------------------------

    def add(self, kind: JobKind, title: str, request: dict[str, Any]) -> Job:
        """Put a job into the queue. Raises Unavailable without a model, TooMany when the queue is full."""
        self.need_model()
        if len(self._waiting()) >= MOST_WAITING:
            raise TooMany(f"{MOST_WAITING} jobs are waiting already; cancel one or wait until one is done")
        record = Record(secrets.token_hex(6), kind, title, request)
        self._records[record.id] = record
        self._forget()
        self._begin_next()
        return self.job(record)

    def need_model(self) -> None:
        """Raise Unavailable where there is no model, or it could not be loaded."""
        if self.model.status == "none":
            raise Unavailable("this server runs without a model, so graphs can only be read; start lucida serve again")
        if self.model.status == "failed":
            raise Unavailable(self.model.message)

    def record(self, name: str) -> Record:
        """The record of a job. Raises NotFound."""
        if name not in self._records:
            shown = one_line(name, 20)
            raise NotFound(f"there is no job {shown}: the server was started again since, or it is long over")
        return self._records[name]

    def job(self, record: Record) -> Job:
        """A job as it stands."""
        waiting = self._waiting()
        place = waiting.index(record) + (self._running is not None) if record in waiting else 0
        return record.job(place)

    def jobs(self) -> list[Job]:
        """All jobs, newest first. Of finished ones only a trace brings its result here; ask for the others singly."""
        found = [self.job(record) for record in reversed(self._records.values())]
        return [job if job.kind == "trace" else job.model_copy(update={"result": None}) for job in found]

    def cancel(self, name: str) -> Job:
        """Take a job out of the queue, or make the model stop it; one that is over stays as it is."""
        record = self.record(name)
        if record.status == "queued":
            self._end(record, "cancelled")
        elif record is self._running and not record.is_cancelled and self._worker is not None:
            record.is_cancelled = True
            self._worker.say({"do": "cancel", "id": name})
            self._timer = asyncio.get_running_loop().call_later(SECONDS_TO_CANCEL, self._lose_patience, record)
        return self.job(record)

    def deliver(self, name: str, message: dict[str, Any]) -> Job:
        """Send a message to a job. Raises Conflict for one that is over."""
        record = self.record(name)
        if record.is_over:
            raise Conflict("this job is over; start it again")
        if record is self._running and self._worker is not None:
            self._worker.say({"do": "inbox", "id": name, "message": message})
        else:
            record.inbox.append(message)
        return self.job(record)

    async def events(self, name: str, after: int = 0) -> AsyncIterator[tuple[str, int, Any]]:
        """("data" | "job", number of data events so far, content): all that was said after the first `after` data
        events, then what is said until the job is over.
        """
        record = self.record(name)
        sent, seen = after, -1
        while not self._is_closed:
            news, change = self._news, record.change
            first = record.n_data - len(record.data)
            for number, item in list(enumerate(record.data, first + 1)):
                if number > sent:
                    sent = number
                    yield "data", number, item
            if change != seen:
                seen = change
                yield "job", sent, self.job(record)
            if record.is_over and record.change == seen and record.n_data == sent:
                return
            if record.change == seen and record.n_data == sent:
                await news.wait()

    async def tokens(self, request: dict[str, Any]) -> TokensAnswer:
        """Tokens of a prompt and what comes next; without both while the model is busy.

        Raises Unavailable with the model's own line for a prompt that it cannot read.
        """
        if self.model.status != "ready" or self._running is not None or self._worker is None:
            return TokensAnswer(tokens=[], top=[], is_busy=self.model.status in ("ready", "loading"))
        # Whoever types on does not want to know what came after the shorter prompt.
        for earlier in self._questions:
            self._worker.say({"do": "cancel", "id": earlier})
        name = secrets.token_hex(6)
        answer = self._questions[name] = asyncio.get_running_loop().create_future()
        self._worker.say({"do": "task", "kind": "tokens", "id": name, "request": request})
        try:
            found = await asyncio.wait_for(answer, SECONDS_FOR_TOKENS)
        except TimeoutError:
            self._worker.say({"do": "cancel", "id": name})
            return TokensAnswer(tokens=[], top=[], is_busy=True)
        finally:
            self._questions.pop(name, None)
        if found["is"] == "cancelled":
            return TokensAnswer(tokens=[], top=[], is_busy=True)
        if found["is"] != "done":
            raise Conflict(found.get("error") or "the model stopped")
        return TokensAnswer(**found["result"])

    # --- what the model says ----------------------------------------------------------------------

    def _hear(self, message: dict[str, Any]) -> None:
        if self._is_closed:
            return
        match message["is"]:
            case "loading":
                self.model = self.model.model_copy(update={"message": message["message"]})
            case "ready":
                known = {k: v for k, v in message.items() if k in ModelState.model_fields}
                self.fingerprint = message.get("fingerprint", "")
                self.model = self.model.model_copy(update={**known, "status": "ready", "message": ""})
                self._begin_next()
            case "failed to load":
                self._give_up(message["error"])
            case "ended":
                self._ended(message["code"])
            case _ if message["id"] in self._questions:
                question = self._questions.pop(message["id"])
                if not question.done():
                    question.set_result(message)
            case _ if self._running is not None and message["id"] == self._running.id:
                self._hear_of(self._running, message)

    def _hear_of(self, record: Record, message: dict[str, Any]) -> None:
        match message["is"]:
            case "progress":
                record.note(message["stage"], message["done"], message["total"])
                self._changed(record)
            case "data":
                record.data.append(message["data"])
                record.n_data += 1
                self._ring()
            case "done" | "cancelled":
                record.result = message["result"]
                self._end(record, message["is"])
            case "failed":
                record.error = message["error"]
                self._end(record, "failed")

    def _give_up(self, line: str) -> None:
        """The model cannot be loaded: say so, and fail what waits for it."""
        self.model = self.model.model_copy(update={"status": "failed", "message": line})
        for record in [*self._waiting(), *([self._running] if self._running else [])]:
            record.error = line
            self._end(record, "failed")

    def _ended(self, code: int | None) -> None:
        """The process is gone: fail what it was at, and start it again unless it never got ready."""
        for question in self._questions.values():
            if not question.done():
                question.set_result({"is": "failed", "error": ""})
        if self.model.status == "failed":
            return
        was_ready = self.model.status == "ready"
        record, line = self._running, how_it_ended(code)
        self._idle_deaths = 0 if record is not None else self._idle_deaths + 1
        if not was_ready or self._idle_deaths > MOST_IDLE_DEATHS:
            self._give_up(f"the model could not be loaded: {line}")
            return
        if record is not None:
            record.error = "" if record.is_cancelled else line
            self._end(record, "cancelled" if record.is_cancelled else "failed", is_next=False)
        self._load()

    def _lose_patience(self, record: Record) -> None:
        if record is self._running and self._worker is not None:
            self._worker.kill()

    # --- the queue --------------------------------------------------------------------------------

    def _waiting(self) -> list[Record]:
        return [record for record in self._records.values() if record.status == "queued"]

    def _begin_next(self) -> None:
        waiting = self._waiting()
        if self._running is not None or not waiting or self.model.status != "ready" or self._worker is None:
            return
        record = self._running = waiting[0]
        record.status, record.began = "running", time.monotonic()
        self._worker.say({"do": "task", "id": record.id, "kind": record.kind, "request": record.request})
        for message in record.inbox:
            self._worker.say({"do": "inbox", "id": record.id, "message": message})
        for other in waiting:
            self._changed(other)

    def _end(self, record: Record, status: JobStatus, *, is_next: bool = True) -> None:
        record.status, record.ended = status, time.monotonic()
        record.began = record.began or record.ended
        if record is self._running:
            self._running = None
            if self._timer is not None:
                self._timer.cancel()
        if status == "done":
            self._finished(record)
        self._changed(record)
        for other in self._waiting():
            self._changed(other)
        if is_next:
            self._begin_next()

    def _changed(self, record: Record) -> None:
        record.change += 1
        self._ring()

    def _ring(self) -> None:
        """Wake everyone who follows a job."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _forget(self) -> None:
        over = [name for name, record in self._records.items() if record.is_over]
        for name in over[:-MOST_FINISHED]:
            del self._records[name]
