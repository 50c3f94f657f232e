"""Features: what is known of each, the names that a reader gives them, and lists of them."""

import threading
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from lucida.errors import FeatureError, SaveError
from lucida.server import index_reading
from lucida.server.index_reading import AUTHOR, ReadersIndex, making
from lucida.server.messages import FeatureCard, FeatureList, LabelRequest, Problem
from lucida.server.problems import one_line

router = APIRouter()
NOT_THERE: dict[int | str, dict[str, Any]] = {404: {"model": Problem}}
_LOCK = threading.Lock()


def index_of(request: Request) -> ReadersIndex | None:
    """The index of the features that the page shows, with the reader's labels; None where there is none."""
    state = request.app.state
    index = state.workspace.index
    if index is None:
        return None
    with _LOCK:
        kept = getattr(state, "readers_index", None)
        if kept is None or kept[0] is not index:
            kept = (index, index_reading.readers_index(index, state.workspace.folder))
            state.readers_index = kept
    return kept[1]


@router.get("/api/features", operation_id="features")
def features(
    request: Request,
    query: Annotated[str, Query(max_length=500)] = "",
    layer: Annotated[int | None, Query(ge=0)] = None,
    start: Annotated[int, Query(ge=0)] = 0,
    count: Annotated[int, Query(ge=1, le=200)] = 50,
    sort: Literal["frequency", "index"] = "frequency",
) -> FeatureList:
    """A page of features: those that go with a query, the best first, or all (of a layer) by frequency or number."""
    index = index_of(request)
    if index is None:
        return FeatureList(rows=[], total=0, missing=_no_index(request))
    if query.strip():
        return index_reading.search(index, query, layer=layer, start=start, count=count)
    try:
        return index_reading.browse(index, layer=layer, sort=sort, start=start, count=count)
    except FeatureError as error:
        return FeatureList(rows=[], total=0, missing=str(error))


@router.get("/api/features/{layer}/{feature}", operation_id="feature", response_model=FeatureCard, responses=NOT_THERE)
def feature(request: Request, layer: int, feature: int, dictionary: str = "") -> Any:
    """Everything that is known of a feature. `dictionary` names the one that the graph was traced with."""
    index = index_of(request)
    if index is None:
        return index_reading.empty_card(layer, feature, _no_index(request))
    ours = index.header.dictionary
    if dictionary and dictionary not in (ours, request.app.state.workspace.dictionary_name):
        missing = f"This graph's features are of {one_line(dictionary, 100)}; the index here is of {ours}."
        return index_reading.empty_card(layer, feature, missing)
    try:
        return index_reading.read_card(index, layer, feature)
    except FeatureError as error:
        return _problem(404, error)


@router.put(
    "/api/features/{layer}/{feature}/label",
    operation_id="label",
    response_model=FeatureCard,
    responses=NOT_THERE | {409: {"model": Problem}},
)
def label(request: Request, layer: int, feature: int, body: LabelRequest) -> Any:
    """Give a feature a name of one's own, or with an empty one take it away."""
    index = index_of(request)
    if index is None:
        return _problem(409, FeatureError(f"There is no index to keep a name in. {_no_index(request)}"))
    try:
        index.set_label(layer, feature, body.label, author=AUTHOR)
        return index_reading.read_card(index, layer, feature)
    except FeatureError as error:
        return _problem(404, error)
    except SaveError as error:
        return _problem(409, error)


def _no_index(request: Request) -> str:
    name = request.app.state.workspace.dictionary_name
    what = "the model's own neurons" if name == "neurons" else name or "these features"
    return (
        f"No feature index of {what} is here, so examples, frequencies and names from a corpus are not known. "
        f"{making(_model(request), name)}"
    )


def _model(request: Request) -> str:
    """The model of the server, where it says so."""
    jobs = getattr(request.app.state, "jobs", None)
    return getattr(getattr(jobs, "model", None), "name", "")


def _problem(status: int, error: Exception) -> JSONResponse:
    return JSONResponse(Problem(error=one_line(error)).model_dump(), status)
