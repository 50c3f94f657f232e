"""Work in the queue, and the plainest of it: a trace."""

from typing import Annotated, Any, Literal

from pydantic import Field

from lucida.server.messages.base import GraphId, Message, Prompt

JobKind = Literal["trace", "intervene", "steer", "watch"]
JobStatus = Literal["queued", "running", "done", "failed", "cancelled"]


class Stage(Message):
    """A finished or running stage of a job, with the seconds it took so far."""

    name: str
    done: int
    total: int | None
    seconds: float


class Job(Message):
    """A piece of work in the queue. `result` depends on its kind: a TraceResult, InterventionResult, ..."""

    id: str
    kind: JobKind
    title: str
    status: JobStatus
    place: int = 0
    """How many jobs stand before it in the queue."""
    stages: list[Stage] = []
    error: str = ""
    seconds: float = 0.0
    result: Any = None


class TraceRequest(Message):
    """What to trace. `target` and `minus` are texts of one token; without them the top tokens are explained."""

    prompt: Prompt
    chat: bool = False
    target: str = ""
    minus: str = ""
    max_nodes: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Features that are expanded; None is the default of `lucida trace`."""


class TraceResult(Message):
    """The graph that a trace made."""

    graph: GraphId
