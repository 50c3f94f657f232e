"""What the page and the server say to each other: every request and every answer, as types.

The page's TypeScript types are generated from these (scripts/openapi.py, then `npm run types`). Nodes are named by
their index in the saved graph, which never changes; tokens by id and text. Answers hold numbers as they were computed:
shares in [0, 1], logits in logits, activations in the dictionary's units.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

LONGEST_PROMPT = 100_000
"""Characters of a prompt; the model's context is checked besides."""
LONGEST_NAME = 200
"""Characters of a label or the name of a supernode."""
MOST_NODES = 5_000
"""Nodes that a request may name."""

Prompt = Annotated[str, Field(min_length=1, max_length=LONGEST_PROMPT)]
Name = Annotated[str, Field(max_length=LONGEST_NAME)]
GraphId = Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
NodeIndex = Annotated[int, Field(ge=0)]


class Message(BaseModel):
    """The base of all: unknown fields are refused, NaN and infinity too."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Problem(Message):
    """The answer to a request that could not be met: one line, ready to show."""

    error: str


# --- the model and its work -----------------------------------------------------------------------------


class ChatMessage(Message):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: Annotated[str, Field(max_length=LONGEST_PROMPT)]


class ModelState(Message):
    """The model that traces and intervenes. `status` "none": the server runs without one, graphs can only be read."""

    name: str
    dictionaries: str
    status: Literal["none", "loading", "ready", "failed"]
    message: str = ""
    n_layers: int = 0
    context: int = 0
    is_chat: bool = False
    has_index: bool = False
    widths: list[int] = []
    """Features of each layer."""


class Stage(Message):
    """A finished or running stage of a job, with the seconds it took so far."""

    name: str
    done: int
    total: int | None
    seconds: float


JobKind = Literal["trace", "intervene", "steer", "watch"]
JobStatus = Literal["queued", "running", "done", "failed", "cancelled"]


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


class AppState(Message):
    """What a page needs to begin."""

    version: str
    model: ModelState
    jobs: list[Job]
    example: str
    """A prompt to begin with."""


class Token(Message):
    """A token of the vocabulary as it reads."""

    id: int
    text: str


class TokenProbability(Token):
    """A token and how probable it is next."""

    probability: float


class TokensRequest(Message):
    """A prompt as it is being typed."""

    prompt: Annotated[str, Field(max_length=LONGEST_PROMPT)]
    chat: bool = False


class TokensAnswer(Message):
    """Its tokens and what the model says next. `top` is empty while the model is busy with a job."""

    tokens: list[Token]
    top: list[TokenProbability]
    is_busy: bool = False


# --- jobs -----------------------------------------------------------------------------------------------


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


class Change(Message):
    """One change of the nodes of a supernode (or of single nodes): ``scale`` their own activation by `value` (0: off,
    -1: inhibit once), ``set`` them to it, or ``inject`` `value` times their largest activation known.
    """

    nodes: Annotated[list[NodeIndex], Field(min_length=1, max_length=MOST_NODES)]
    kind: Literal["scale", "set", "inject"] = "scale"
    value: FiniteFloat = 0.0
    name: Name = ""
    """How the page calls them."""


class SwapRequest(Message):
    """Take `out` of this graph down to `suppress` of itself and put the features of nodes of another graph in, at
    `strength` times their activation there, at the position where `out` stands (its most common one).
    """

    out: Annotated[list[NodeIndex], Field(min_length=1, max_length=MOST_NODES)]
    donor: GraphId
    nodes: Annotated[list[NodeIndex], Field(min_length=1, max_length=MOST_NODES)]
    strength: FiniteFloat = 1.0
    suppress: FiniteFloat = 0.0
    name: Name = ""


class Watched(Message):
    """A supernode whose activation is measured before and after."""

    name: Name
    nodes: Annotated[list[NodeIndex], Field(min_length=1, max_length=MOST_NODES)]


class InterventionRequest(Message):
    """An experiment on the prompt of a graph."""

    graph: GraphId
    changes: list[Change] = []
    swaps: list[SwapRequest] = []
    mode: Literal["free", "constrained", "iterative", "frozen"] = "free"
    attention: Literal["live", "frozen"] | None = None
    watch: list[Watched] = []
    controls: Annotated[int, Field(ge=0, le=50)] = 10
    """How many draws of matched random features get the same change."""
    generate: Annotated[int, Field(ge=0, le=256)] = 20
    """Tokens of text to write before and after."""
    seed: int = 0


class TokenChange(Token):
    """A token's probability and logit before and after."""

    before: float
    after: float
    logit_change: float


class TargetEffect(Message):
    """What an experiment did to one target of the graph, in logits: predicted, measured, and by the controls.

    `predicted` is None where the graph cannot predict (none of the changed features is in it). `control_low` and
    `control_high` bound the middle 80 % of `control` over the draws; None without controls.
    """

    text: str
    predicted: float | None
    measured: float
    control: float | None
    control_low: float | None
    control_high: float | None


class NodeEffect(Message):
    """Predicted and measured change of one feature, as a share of its activation before (-1: put out)."""

    node: NodeIndex
    predicted: float
    measured: float
    is_direct: bool


class SupernodeEffect(Message):
    """A watched supernode after the change, as a share of what it was: 1 is unchanged."""

    name: str
    predicted: float | None
    measured: float | None


class Agreement(Message):
    """How predictions agree with measurements over the features of the graph; None: not defined."""

    count: int
    slope: float | None
    spearman: float | None
    sign_agreement: float | None


class InterventionResult(Message):
    """What an experiment did. `python` is a script that does the same with the library."""

    tokens: list[TokenChange]
    targets: list[TargetEffect]
    nodes: list[NodeEffect]
    supernodes: list[SupernodeEffect]
    agreement: Agreement
    kl: float
    n_changed: int
    """Single features that were changed."""
    n_unpredicted: int
    """Changed features that the graph does not hold."""
    text_before: str
    text_after: str
    notes: list[str]
    """What a reader should know: controls that could not be drawn, attention live, ..."""
    python: str


class Experiment(Message):
    """An experiment of the history of a graph."""

    id: str
    made: str
    request: InterventionRequest
    result: InterventionResult


class SteerSetting(Message):
    """One feature on the dial. Units are multiples of the feature's maximum, but for "scale"."""

    layer: Annotated[int, Field(ge=0)]
    feature: Annotated[int, Field(ge=0)]
    strength: FiniteFloat
    variant: Literal["add", "clamp", "scale", "orthogonal"] = "add"
    label: Name = ""


class SteerRequest(Message):
    """A reply, or a continuation, under steering and as the model is, side by side.

    `steered` and `baseline` are the two conversations so far (they differ once replies differ); for a plain prompt
    each holds one user message and `chat` is False.
    """

    steered: Annotated[list[ChatMessage], Field(min_length=1, max_length=200)]
    baseline: list[ChatMessage] | None = None
    chat: bool = True
    steers: Annotated[list[SteerSetting], Field(max_length=50)] = []
    max_tokens: Annotated[int, Field(ge=1, le=2048)] = 64
    temperature: Annotated[FiniteFloat, Field(ge=0, le=5)] = 0.0
    seed: int = 0


class DialRequest(Message):
    """Other steers for a reply that is being written."""

    steers: Annotated[list[SteerSetting], Field(max_length=50)]


class SteerToken(Message):
    """An event of a steer job: a piece of one of the two texts."""

    side: Literal["steered", "baseline"]
    text: str
    log_probability: float
    ended: str | None = None


class SteerResult(Message):
    """Both texts, and why each ended."""

    steered: str
    baseline: str | None
    steered_ended: str
    baseline_ended: str | None


class WatchRequest(Message):
    """A text to read with the features' index at hand."""

    text: Prompt
    count: Annotated[int, Field(ge=1, le=20)] = 4
    densest: Annotated[float, Field(gt=0, le=1)] = 0.05


class WatchedFeature(Message):
    """A feature that is on at a token; `strength` is its activation by the largest of the corpus."""

    layer: int
    feature: int
    activation: float
    strength: float
    label: str


class WatchedToken(Message):
    """A token of a text and the strongest features there; `n_dense` of the `n_active` were left out as too common."""

    position: int
    text: str
    features: list[WatchedFeature]
    n_active: int
    n_dense: int


class WatchedGroup(Message):
    """Shown features of the same label."""

    name: str
    features: list[tuple[int, int]]
    positions: list[int]
    strength: float


class WatchResult(Message):
    """The scan of a text."""

    tokens: list[WatchedToken]
    groups: list[WatchedGroup]


# --- graphs ---------------------------------------------------------------------------------------------


class GraphSummary(Message):
    """A saved graph in the list of recent ones."""

    id: GraphId
    title: str
    """Its prompt, or its token ids."""
    answer: str
    """What it explains: ``large - small``, or the top tokens."""
    model: str
    dictionary: str
    n_nodes: int
    made: str
    """When, in ISO 8601; "" where the file does not say."""


class Scores(Message):
    """How much of the answer a graph explains; see `lucida.graph.scores.Scores`."""

    replacement: float
    completeness: float
    error_share: float
    unexpanded: float
    average_path_length: float
    mediated: float | None
    pruned: float | None


class Answer(Message):
    """A target of a graph. `probability` is None for a difference."""

    node: NodeIndex
    text: str
    probability: float | None
    logit: float


class GraphDetail(GraphSummary):
    """A graph with everything but its nodes and edges."""

    tokens: list[Token]
    answers: list[Answer]
    top: list[TokenProbability]
    """What the model said."""
    n_layers: int
    n_edges: int
    counts: dict[str, int]
    """Nodes of each kind."""
    scores: Scores
    measure: Literal["influence", "attribution"]
    attention: Literal["frozen"] = "frozen"
    can_intervene: bool
    why_not: str
    """Why no experiment can be made with it here; "" if one can."""
    warnings: list[str]
    summary: str
    """The graph in one or two plain sentences."""


class PrunedScores(Message):
    """A pruning of a graph: what stays, and its scores with all that is hidden counted as error."""

    nodes: int
    edges: int
    scores: Scores


class FoundNode(Message):
    """A node of the whole graph, also one that the view leaves out. `threshold` is the share of influence at which it
    comes into view; `why` says in words why it is hidden at the asked one, "" if it is not.
    """

    node: NodeIndex
    kind: str
    layer: int | None
    position: int | None
    feature: int | None
    text: str
    label: str
    influence: float
    threshold: float
    why: str


class PathStep(Message):
    """A node of a path, and the weight of the edge that leads on to the next."""

    node: NodeIndex
    weight: float | None


class StrongPath(Message):
    """One of the strongest paths from the prompt to the answer."""

    steps: list[PathStep]
    share: float


class Supernode(Message):
    """Nodes that stand for one concept."""

    id: Annotated[str, Field(max_length=40)]
    name: Name
    nodes: Annotated[list[NodeIndex], Field(min_length=1, max_length=MOST_NODES)]


class Notes(Message):
    """What a reader added to a graph. A save must carry the revision that it was read at, else it is refused (409)."""

    revision: int = 0
    pinned: Annotated[list[NodeIndex], Field(max_length=MOST_NODES)] = []
    supernodes: Annotated[list[Supernode], Field(max_length=500)] = []
    labels: dict[str, Name] = {}
    """Own names of single nodes, by node index."""
    positions: dict[str, tuple[FiniteFloat, FiniteFloat]] = {}
    """Where boxes of the circuit were dragged to, by supernode id or node index."""
    experiments: Annotated[list[Experiment], Field(max_length=200)] = []


class GroupSuggestion(Message):
    """A supernode that the server proposes from nodes with the same label, near each other."""

    name: str
    nodes: list[NodeIndex]
    influence: float


# --- features -------------------------------------------------------------------------------------------


class Span(Message):
    """A piece of an example. `share` is its activation by the feature's maximum."""

    text: str
    share: float
    is_peak: bool


class FeatureExample(Message):
    """A text where a feature fires: in `band` (None: among its strongest)."""

    value: float
    band: int | None
    spans: list[Span]


class WeightedToken(Message):
    """A token and the weight that ties it to a feature."""

    text: str
    weight: float


class WeightedFeature(Message):
    """A feature and the weight (or cosine) that ties it to another."""

    layer: int
    feature: int
    weight: float
    label: str


class HistogramBar(Message):
    """How often the activation lay in [low, high)."""

    low: float
    high: float
    count: int


class FeatureLabel(Message):
    """A name, who gave it and how; `score` in [0, 1] where it was tested."""

    text: str
    author: str
    method: str
    score: float | None


class FeatureCard(Message):
    """What is known of one feature. Without an index only `layer`, `feature` and `missing` say something."""

    layer: int
    feature: int
    label: FeatureLabel | None
    frequency: float | None
    mean: float | None
    maximum: float | None
    count: int | None
    n_places: int | None
    corpus: str
    histogram: list[HistogramBar]
    bands: list[str]
    """How the bands of the examples are called, by their number as text, strongest first: "4|8 to 16"."""
    top: list[FeatureExample]
    samples: list[FeatureExample]
    promoted: list[WeightedToken]
    suppressed: list[WeightedToken]
    excited_by_tokens: list[WeightedToken]
    driven_by: list[WeightedFeature]
    nearest: list[WeightedFeature]
    missing: str
    """Why something is not there, and what would bring it; "" if all is."""


class LabelRequest(Message):
    """A name given by a person; empty takes the person's name away."""

    label: Name


class FeatureRow(Message):
    """A feature in a list."""

    layer: int
    feature: int
    label: str
    frequency: float | None
    maximum: float | None
    score: float | None
    """How well it matches what was searched."""
    words: list[str]


class FeatureList(Message):
    """A page of features, and how many there are in all (None: not counted, in a search)."""

    rows: list[FeatureRow]
    total: int | None
    missing: str


# --- comparing ------------------------------------------------------------------------------------------


class ComparedFeature(Message):
    """A feature in two graphs; influences of 0 where it does not occur. `nodes_a` and `nodes_b` are its nodes."""

    layer: int
    feature: int
    position: int | None
    label: str
    influence_a: float
    influence_b: float
    nodes_a: list[NodeIndex]
    nodes_b: list[NodeIndex]


class ComparedEdge(Message):
    """An edge that both graphs could have, and its weight in either."""

    source: str
    target: str
    weight_a: float
    weight_b: float


class ComparedGraphs(Message):
    """Two graphs aligned by feature, and by position where the prompts line up (`by_position`)."""

    a: GraphSummary
    b: GraphSummary
    tokens_a: list[Token]
    tokens_b: list[Token]
    by_position: bool
    only_a: list[ComparedFeature]
    only_b: list[ComparedFeature]
    shared: list[ComparedFeature]
    edges: list[ComparedEdge]
    feature_jaccard: float
    influence_jaccard: float
    edge_jaccard: float
    n_only_a: int
    n_only_b: int
    n_shared: int
