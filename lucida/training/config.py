"""Every knob of a training run in one place, and the one dial that sets them."""

import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from lucida.errors import TrainingError

Activation = Literal["batchtopk", "jumprelu", "relu"]

_WHOLE = (
    "n_layers",
    "d_model",
    "n_features",
    "span",
    "n_tokens",
    "batch_tokens",
    "block_rows",
    "reuse",
    "streams",
    "normalise_tokens",
)
_POSITIVE = ("sink_norm", "anneal_from", "aux_share", "penalty_scale", "bandwidth")
_NOT_NEGATIVE = (
    "learning_rate",
    "clip",
    "aux_weight",
    "aux_k",
    "penalty_weight",
    "preactivation_weight",
    "threshold_start",
    "checkpoint_minutes",
)
_SHARES = ("warmup", "decay", "beta1", "beta2", "anneal", "aux_share", "dead_after")


@dataclass(frozen=True)
class TrainingConfig:
    """What is trained, on how much, and how. Frozen, plain JSON, stored in every checkpoint.

    `TrainingConfig.plan` derives a good one from a model's shape and a number of tokens.
    Raises TrainingError for values that cannot work.
    """

    # What is trained.
    n_layers: int
    """Layers of the model."""
    d_model: int
    """Width of the residual stream."""
    n_features: int
    """Features that read at each layer."""
    span: int = 1
    """Layers that a feature writes to: 1 is a per-layer transcoder, `n_layers` a cross-layer one."""
    activation: Activation = "batchtopk"
    """`batchtopk` is exported as JumpReLU; `jumprelu` learns its thresholds; `relu` is sparse by penalty only."""
    k: float = 16.0
    """Active features per layer and token on average: exact for batchtopk, the target of a quadratic penalty."""
    reads_at: str = "resid_mid"
    """Where features read: `resid_mid` (the residual stream before the MLP's norm), `mlp_norm` or `mlp_in`."""

    # On what.
    n_tokens: int = 10_000_000
    """Activations to train on; the learning rate and the annealing follow this number."""
    batch_tokens: int = 4096
    """Activations per step, over all processes."""
    context: int = 128
    """Tokens per row of text given to the model; the first position of each row is left out."""
    block_rows: int = 512
    """Rows whose activations are held and shuffled at once."""
    reuse: int = 1
    """How often each activation is trained on before the next block (the model's forward is paid once)."""
    streams: int = 8
    """Independent shuffles that make up a batch; processes share them, so results do not depend on their number."""
    sink_norm: float = 10.0
    """A token whose residual is longer than this many times the median is an attention sink, and left out."""
    normalise_tokens: int = 200_000
    """Activations that the means and scales are estimated on."""

    # How.
    learning_rate: float = 5e-4
    warmup: float = 0.02
    """Share of the run over which the learning rate rises."""
    decay: float = 0.2
    """Share of the run, at its end, over which the learning rate falls to 0."""
    beta1: float = 0.9
    beta2: float = 0.999
    clip: float = 1.0
    """Largest norm of the gradient of all parameters together; 0 never clips."""
    anneal_from: float = 8.0
    """batchtopk starts at this many times `k`."""
    anneal: float = 0.15
    """Share of the run over which it comes down to `k`, linearly."""
    aux_weight: float = 1 / 32
    """Weight of the loss that lets dead features reconstruct what the others leave (AuxK)."""
    aux_k: int = 0
    """Dead features per token that take part in it; 0 is half of d_model, at most 512."""
    aux_share: float = 0.125
    """Share of a batch's tokens that this loss looks at: it needs far fewer than the others."""
    dead_after: float = 0.02
    """A feature that has not fired for this share of the run (at most 10 million tokens) is dead."""
    penalty: Literal["tanh", "quadratic"] = "tanh"
    """Sparsity of jumprelu and relu: the sum of tanh(c a |W_dec|), or (L0 / L0* - 1)^2 (jumprelu only)."""
    penalty_weight: float = 2.0
    """Its weight, reached by a linear ramp over the whole run."""
    penalty_scale: float = 4.0
    """c of the tanh penalty."""
    preactivation_weight: float = 3e-6
    """Weight of the loss that pulls dead jumprelu features up."""
    bandwidth: float = 1.0
    """Width of the window in which a jumprelu threshold has a gradient, in normalised units."""
    threshold_start: float = 0.03
    """jumprelu thresholds at the start, in normalised units."""
    products: Literal["float32", "bfloat16"] = "float32"
    """The type of large matrix products; masters, sums and losses are float32."""
    seed: int = 0
    checkpoint_minutes: float = 5.0
    """At most this much work is lost when the process is killed."""

    def __post_init__(self) -> None:
        self._refuse_wrong_names()
        self._refuse_wrong_numbers()
        if self.span > self.n_layers:
            raise TrainingError(f"span is {self.span}, the model has {self.n_layers} layers")
        if self.context < 2:
            raise TrainingError(f"context is {self.context}; it must be at least 2, the first position is left out")
        if not 0 < self.k <= self.n_features:
            raise TrainingError(
                f"k is {self.k}; it must lie above 0 and up to the {self.n_features} features of a layer"
            )
        for name in ("batch_tokens", "block_rows"):
            if getattr(self, name) % self.streams:
                raise TrainingError(
                    f"{name} is {getattr(self, name)}; it must be a multiple of streams ({self.streams})"
                )
        if self.activation == "relu" and self.penalty != "tanh":
            raise TrainingError("the quadratic penalty needs thresholds; use activation jumprelu, or penalty tanh")
        if self.batch_tokens > self.block_tokens:
            raise TrainingError(
                f"a batch of {self.batch_tokens} does not fit a block of {self.block_tokens} activations; "
                "raise block_rows"
            )

    def _refuse_wrong_names(self) -> None:
        known = {
            "activation": get_args(Activation),
            "penalty": ("tanh", "quadratic"),
            "products": ("float32", "bfloat16"),
        }
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise TrainingError(f"{name} is {getattr(self, name)!r}; known are {', '.join(values)}")

    def _refuse_wrong_numbers(self) -> None:
        """Every number has a range; ``not low <= value`` also catches NaN."""
        for name in _WHOLE:
            if getattr(self, name) < 1:
                raise TrainingError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in _POSITIVE:
            if not 0 < getattr(self, name) < math.inf:
                raise TrainingError(f"{name} is {getattr(self, name)}; it must be above 0")
        for name in _NOT_NEGATIVE:
            if not 0 <= getattr(self, name) < math.inf:
                raise TrainingError(f"{name} is {getattr(self, name)}; it must not be negative")
        for name in _SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise TrainingError(f"{name} is {getattr(self, name)}; it must lie between 0 and 1")

    @property
    def block_tokens(self) -> int:
        """Activations in a block."""
        return self.block_rows * (self.context - 1)

    @property
    def n_steps(self) -> int:
        """Steps of the optimiser in the whole run."""
        return max(1, math.ceil(self.n_tokens / self.batch_tokens))

    @property
    def n_parameters(self) -> int:
        """Numbers to train: encoders, decoders, biases and thresholds."""
        targets = sum(min(self.span, self.n_layers - layer) for layer in range(self.n_layers))
        per_layer = self.n_features * (self.d_model + 2) + self.d_model
        return self.n_layers * per_layer + targets * self.n_features * self.d_model

    @property
    def bytes_of_weights(self) -> int:
        """Memory of weights, gradients and Adam's two moments in float32."""
        return 16 * self.n_parameters

    @property
    def bytes_of_activations(self) -> int:
        """Memory of the block in bfloat16 and of one batch in float32, with one layer's pre-activations."""
        block = 2 * 2 * self.block_tokens * self.n_layers * self.d_model
        batch = 3 * 4 * self.batch_tokens * self.n_layers * self.d_model + 8 * self.batch_tokens * self.n_features
        return block + batch

    def to_json(self) -> str:
        """The configuration as one JSON object."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "TrainingConfig":
        """The configuration in a JSON object. Raises TrainingError for unknown or missing names."""
        try:
            values = json.loads(text)
            return cls(**values)
        except (ValueError, TypeError) as error:
            raise TrainingError(f"this is not a training configuration: {error}") from error

    def differences(self, other: "TrainingConfig") -> list[str]:
        """What differs, as ``name: mine, theirs``. When checkpoints are written changes no result."""
        return [
            f"{f.name}: {getattr(self, f.name)}, {getattr(other, f.name)}"
            for f in fields(self)
            if f.name != "checkpoint_minutes" and getattr(self, f.name) != getattr(other, f.name)
        ]

    @classmethod
    def plan(cls, *, n_layers: int, d_model: int, n_features: int, n_tokens: int, **knobs: Any) -> "TrainingConfig":
        """A configuration for a model's shape and a budget of tokens; `knobs` overrule what is derived.

        Short runs take smaller batches and a larger learning rate: docs/training.md has the measurements.
        """
        derived: dict[str, Any] = {
            "batch_tokens": 4096 if n_tokens >= 10_000_000 else 2048 if n_tokens >= 200_000 else 512,
            "learning_rate": min(2e-3, 2e-3 * math.sqrt(4096 / n_features)),
        }
        unknown = set(knobs) - {f.name for f in fields(cls)}
        if unknown:
            raise TrainingError(f"no training knob {', '.join(sorted(unknown))}")
        derived |= knobs
        if "block_rows" not in knobs:
            context = derived.get("context", 128)
            streams = derived.get("streams", 8)
            rows = max(64, math.ceil(8 * derived["batch_tokens"] / (context - 1)))
            derived["block_rows"] = math.ceil(rows / streams) * streams
        return cls(n_layers=n_layers, d_model=d_model, n_features=n_features, n_tokens=n_tokens, **derived)
