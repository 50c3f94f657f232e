"""Work for the model: put into the queue, followed, cancelled."""

from collections.abc import AsyncIterable
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool

from lucida.server.graphs import check_nodes, why_no_experiment
from lucida.server.jobs import Jobs
from lucida.server.messages import (
    DialRequest,
    InterventionRequest,
    Job,
    SteerRequest,
    TraceRequest,
    WatchRequest,
)
from lucida.server.problems import Conflict, Refused, one_line
from lucida.server.record import Record
from lucida.server.workspace import Workspace

LONGEST_TITLE = 80

router = APIRouter(prefix="/api/jobs")


def _jobs(request: Request) -> Jobs:
    return request.app.state.jobs


def _record(request: Request, job: str) -> Record:
    return request.app.state.jobs.record(job)


Queue = Annotated[Jobs, Depends(_jobs)]


@router.post("/trace")
async def start_trace(request: Request, jobs: Queue, asked: TraceRequest) -> Job:
    """Trace a prompt."""
    if asked.minus and not asked.target:
        raise Refused("a difference needs two tokens: give the one to explain, and the one to take from it")
    name, path = request.app.state.workspace.new_file()
    request_of = {**asked.model_dump(), "graph": name, "graph_path": str(path)}
    return jobs.add("trace", one_line(asked.prompt, LONGEST_TITLE), request_of)


@router.post("/intervene")
async def start_intervention(request: Request, jobs: Queue, asked: InterventionRequest) -> Job:
    """Make an experiment with a graph."""
    jobs.need_model()
    if not asked.changes and not asked.swaps:
        raise Refused("the experiment changes nothing; add a change")
    workspace: Workspace = request.app.state.workspace
    header = await run_in_threadpool(workspace.header, asked.graph)
    if jobs.model.status == "ready" and (line := why_no_experiment(header["metadata"], jobs.model, jobs.fingerprint)):
        raise Conflict(line)
    await run_in_threadpool(_check, workspace, asked)
    donors = {swap.donor: str(workspace.file(swap.donor)) for swap in asked.swaps}
    request_of = {
        **asked.model_dump(), "graph_path": str(workspace.file(asked.graph)), "donor_paths": donors,
        "model": request.app.state.settings.model_name,
    }  # fmt: skip
    names = ", ".join(change.name for change in [*asked.changes, *asked.swaps] if change.name)
    title = names or header["prompt"]["text"] or asked.graph
    return jobs.add("intervene", one_line(title, LONGEST_TITLE), request_of)


def _check(workspace: Workspace, asked: InterventionRequest) -> None:
    own = [node for change in asked.changes for node in change.nodes]
    own += [node for watched in asked.watch for node in watched.nodes]
    own += [node for swap in asked.swaps for node in swap.out]
    check_nodes(len(workspace.header(asked.graph)["text"]), own)
    for swap in asked.swaps:
        check_nodes(len(workspace.header(swap.donor)["text"]), swap.nodes)


@router.post("/steer")
async def start_steering(jobs: Queue, asked: SteerRequest) -> Job:
    """Write a text under steering."""
    return jobs.add("steer", one_line(asked.steered[-1].content, LONGEST_TITLE), asked.model_dump())


@router.post("/watch")
async def start_watch(jobs: Queue, asked: WatchRequest) -> Job:
    """Read a text with the features' index at hand."""
    return jobs.add("watch", one_line(asked.text, LONGEST_TITLE), asked.model_dump())


@router.get("")
async def list_jobs(jobs: Queue) -> list[Job]:
    """All jobs, newest first."""
    return jobs.jobs()


@router.get("/{job}")
async def get_job(jobs: Queue, job: str) -> Job:
    """A job as it stands, with its result."""
    return jobs.job(jobs.record(job))


@router.post("/{job}/cancel")
async def cancel_job(jobs: Queue, job: str) -> Job:
    """Stop a job, or take it out of the queue."""
    return jobs.cancel(job)


@router.put("/{job}/dial")
async def dial_job(jobs: Queue, job: str, asked: DialRequest) -> Job:
    """Give a reply that is being written other steers."""
    if jobs.record(job).kind != "steer":
        raise Refused("only a steering job has dials")
    return jobs.deliver(job, asked.model_dump())


@router.get("/{job}/events", response_class=EventSourceResponse)
async def follow_job(
    jobs: Queue,
    record: Annotated[Record, Depends(_record)],
    last_event_id: Annotated[str | None, Header()] = None,
) -> AsyncIterable[ServerSentEvent]:
    """Events `job` (a Job) and `data`: what was said before, then what is said until the job is over."""
    # A browser that lost the line says what it had; it must not get a word twice.
    after = int(last_event_id) if last_event_id and last_event_id.isascii() and last_event_id.isdigit() else 0
    async for event, number, content in jobs.events(record.id, after):
        yield ServerSentEvent(event=event, data=content, id=str(number))
