"""The application: routes, what guards them, and the model's process behind them."""

import errno
import logging
import secrets
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException

from lucida.errors import LucidaError
from lucida.server import messages
from lucida.server.jobs import Jobs
from lucida.server.messages import ModelState, Problem
from lucida.server.problems import one_line, status_of
from lucida.server.process import Worker
from lucida.server.record import Record
from lucida.server.routes import compare, features, graphs, jobs, session
from lucida.server.safety import Guard, Rules
from lucida.server.static import FOLDER, StaticFile, read_static
from lucida.server.workspace import Workspace

logger = logging.getLogger(__name__)

SAID_IN_EVENTS = (
    messages.TraceResult,
    messages.InterventionResult,
    messages.SteerResult,
    messages.SteerToken,
    messages.WatchResult,
)
"""What jobs and their events carry; no route names these types."""
FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Settings:
    """How the application is set up. `worker` None: without a model. `model` is what is known of it at first."""

    workspace: Workspace
    rules: Rules
    worker: Worker | None = None
    model: ModelState = field(default_factory=lambda: ModelState(name="", dictionaries="", status="none"))
    static: Path = FOLDER
    model_name: str = ""
    """How the model was asked for: a name, folder or file. Scripts say it again."""


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application. Without settings (to read its schema) it has no model and an empty folder."""
    settings = settings or _bare()
    jobs_of = Jobs(settings.worker, settings.model, finished=lambda record: _finished(settings.workspace, record))
    # No pages of documentation: they would take scripts from elsewhere.
    app = FastAPI(
        title="Camera Lucida", version="1", lifespan=_life, docs_url=None, redoc_url=None, openapi_url=None,
        generate_unique_id_function=_operation, separate_input_output_schemas=False,
        responses={422: {"model": Problem, "description": "What is wrong, in one line"}},
    )  # fmt: skip
    app.state.jobs, app.state.workspace, app.state.settings = jobs_of, settings.workspace, settings
    for module in (session, jobs, graphs, features, compare):
        app.include_router(module.router)
    _add_pages(app, read_static(settings.static))
    _add_handlers(app)
    app.add_middleware(Guard, rules=settings.rules)
    app.openapi = lambda: _schema(app)
    return app


def _bare() -> Settings:
    folder = Path(tempfile.gettempdir()) / "lucida-no-graphs"
    return Settings(Workspace(folder), Rules(secrets.token_urlsafe(32), ("127.0.0.1:8765",), 8765))


@asynccontextmanager
async def _life(app: FastAPI) -> AsyncIterator[None]:
    app.state.workspace.clear_scratch()
    app.state.jobs.open()
    try:
        yield
    finally:
        app.state.jobs.close()


def _finished(workspace: Workspace, record: Record) -> None:
    """A new graph enters the table before any page hears that it is there."""
    if record.kind == "trace":
        try:
            workspace.added(record.result["graph"])
        except LucidaError as error:
            logger.warning("%s", error)


def _operation(route: Any) -> str:
    return route.name


def _add_pages(app: FastAPI, table: dict[str, StaticFile]) -> None:
    @app.get("/{path:path}", include_in_schema=False)
    async def page(request: Request) -> Response:
        """A file of the built page, or a line that there is none of this name."""
        found = table.get(request.url.path)
        if found is None or request.url.path.startswith("/api/"):
            raise HTTPException(404, "there is nothing at this address")
        return Response(found.body, headers={"content-type": found.kind, "cache-control": found.cache})


# --- what went wrong, as a Problem --------------------------------------------------------------------


def _problem(status: int, line: str) -> JSONResponse:
    return JSONResponse(Problem(error=line).model_dump(), status)


def _add_handlers(app: FastAPI) -> None:
    @app.exception_handler(LucidaError)
    async def lucida_error(request: Request, error: LucidaError) -> JSONResponse:
        return _problem(status_of(error), one_line(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return _problem(422, _in_words(error))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        return _problem(error.status_code, one_line(error.detail))

    @app.exception_handler(MemoryError)
    async def memory(request: Request, error: MemoryError) -> JSONResponse:
        return _problem(507, "out of memory: prune the graph (lucida prune) or close other programs")

    @app.exception_handler(OSError)
    async def system(request: Request, error: OSError) -> JSONResponse:
        if error.errno in FULL:
            return _problem(507, "the disk is full: free some space and try again; nothing was changed")
        return _problem(500, f"the files of the page cannot be used: {error.strerror or type(error).__name__}")

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> JSONResponse:
        # The traceback goes to the log of the server; starlette raises the error on after this answer.
        return _problem(500, f"a bug of ours: {type(error).__name__} (the terminal of lucida serve shows where)")


def _in_words(error: RequestValidationError) -> str:
    """The first thing that is wrong with a request, without what was sent."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
    return one_line(f"{where}: {first['msg']}" if where else first["msg"])


def _schema(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with the types that only events and results carry."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
        said = models_json_schema(
            [(model, "serialization") for model in SAID_IN_EVENTS], ref_template="#/components/schemas/{model}"
        )[1]
        schema.setdefault("components", {}).setdefault("schemas", {}).update(said["$defs"])
        app.openapi_schema = schema
    return app.openapi_schema
