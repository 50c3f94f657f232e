"""What a page needs to begin, and tokens while a prompt is being typed."""

from fastapi import APIRouter, Request

from lucida import __version__
from lucida.server.messages import AppState, TokensAnswer, TokensRequest

EXAMPLE = 'The opposite of "small" is "'

router = APIRouter(prefix="/api")


@router.get("/state")
async def state(request: Request) -> AppState:
    """The model, the jobs, and a prompt to begin with."""
    jobs, workspace = request.app.state.jobs, request.app.state.workspace
    model = jobs.model.model_copy(update={"has_index": workspace.index is not None})
    return AppState(version=__version__, model=model, jobs=jobs.jobs(), example=EXAMPLE)


@router.post("/tokens")
async def tokens(request: Request, asked: TokensRequest) -> TokensAnswer:
    """The tokens of a prompt and what the model says next."""
    return await request.app.state.jobs.tokens(asked.model_dump())
