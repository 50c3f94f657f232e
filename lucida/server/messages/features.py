"""A feature: its card, its name, its row in a list."""

from lucida.server.messages.base import Message, Name


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
    is_preparing: bool = False
    """What a search needs is still being gathered: ask again in a moment."""
