"""Do a cross-layer and a per-layer dictionary of one model tell the same story? Three numbers and a warning.

Sparsity pays a cross-layer dictionary for rewriting A -> B -> C as A -> B and A -> C: one feature that writes to many
layers is cheaper than a chain of features (Lange et al. 2026). Its graph then shows shorter paths than the model has.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lucida.errors import DictionaryError
from lucida.evaluation.ablation import Write, feature_writes, graph_features
from lucida.evaluation.basis import DictionaryBasis
from lucida.evaluation.graphs import GraphMeasures, GraphOptions, PromptScores, TracedPrompt
from lucida.evaluation.prompts import EvaluationPrompt
from lucida.evaluation.running import run_copies
from lucida.graph import Graph
from lucida.models.linear import FrozenModel
from lucida.models.model import Model
from lucida.models.taps import MLPCall, contribution_site
from lucida.progress import Progress, silent
from lucida.replacement import Active, FeatureSources
from lucida.statistics import Interval, mean, ratio, spearman

FEATURES = 24
"""Features examined on each prompt by the skip test."""
BATCH = 16
"""Features examined at once."""
SHORT = 2
"""Edges of a path that passes one feature at the most."""


@dataclass(frozen=True)
class SkipTest:
    """How the model itself answers when the input of a cross-layer feature is taken away.

    Each feature's reading direction is removed from the residual stream at its layer, so that its pre-activation
    falls by its activation; attention is held. What the MLPs then no longer write, along what the feature is said to
    write and as a share of it: `own` at the feature's own layer (how well removing the direction removes the feature:
    what the next two are to be compared with), `followed` at later layers with everything live, `one_hop` at later
    layers when every MLP from the feature's layer on is held, so that each answers to the removed direction itself.

    At later layers only the part counts that is not along what the feature writes at its own layer: a later MLP that
    makes a written direction longer says nothing new, and one feature for both is what cross-layer features are for.
    `new` is the share of that part in all that is written to later layers (squared length). A feature that stands for
    what later MLPs read from the same input has `one_hop` near `own`. Where `followed` is near `own` and `one_hop` is
    small, later MLPs read what others wrote in between: a chain drawn as one hop.
    """

    features: int
    own: Interval | None
    new: Interval | None
    followed: Interval | None
    one_hop: Interval | None


@dataclass(frozen=True)
class Disagreement:
    """A cross-layer dictionary beside a per-layer one, on the same prompts and with the same node budget.

    `tokens`: do they blame the same tokens? Spearman over the positions of a prompt (sinks left out) of the influence
    of each token's embedding over all paths, averaged over prompts; it knows no layers and no features, so two right
    answers must agree. `path_gap`: average path length of the per-layer graph minus that of the cross-layer one.
    `short_cross`, `short_per_layer`: share of the tokens' influence on paths that pass one feature at the most.
    A gap alone may be honest (features that only amplify are folded into one); the skip test says whether it is.
    """

    cross_layer: str
    per_layer: str
    tokens: Interval | None
    path_gap: Interval | None
    short_cross: Interval | None
    short_per_layer: Interval | None


def compare_stories(
    cross: GraphMeasures,
    per_layer: GraphMeasures,
    names: tuple[str, str],
    *,
    sink_positions: int = 1,
    seed: int = 0,
) -> Disagreement:
    """What the graphs of two dictionaries of the same prompts say about each other.

    Raises DictionaryError when they are not of the same prompts.
    """
    pairs = list(zip(cross.prompts, per_layer.prompts, strict=False))
    lengths = [tuple(len(p.by_position) for p in measures.prompts) for measures in (cross, per_layer)]
    if lengths[0] != lengths[1]:
        raise DictionaryError(f"the graphs of {names[0]} and {names[1]} are not of the same prompts; measure both anew")
    agreement = [
        spearman(np.array(a.by_position[sink_positions:]), np.array(b.by_position[sink_positions:])) for a, b in pairs
    ]
    return Disagreement(
        *names,
        tokens=mean(np.array(agreement), seed=seed),
        path_gap=mean(np.array([b.path_length - a.path_length for a, b in pairs]), seed=seed),
        short_cross=mean(np.array([_short(a) for a, _ in pairs]), seed=seed),
        short_per_layer=mean(np.array([_short(b) for _, b in pairs]), seed=seed),
    )


def _short(scores: PromptScores) -> float:
    whole = sum(scores.path_mass)
    return sum(scores.path_mass[:SHORT]) / whole if whole else float("nan")


def measure_skips(
    model: Model,
    basis: DictionaryBasis,
    prompts: Sequence[EvaluationPrompt],
    *,
    options: GraphOptions | None = None,
    features: int = FEATURES,
    seed: int = 0,
    progress: Progress = silent,
) -> SkipTest:
    """The skip test (`SkipTest`) on features drawn from the expanded ones of each prompt's graph.

    Raises DictionaryError for a dictionary whose features write to their own layer only.
    """
    if basis.dictionary.span < 2:
        raise DictionaryError(
            f"{basis.name} is a per-layer dictionary: its features skip nothing; give a cross-layer one"
        )
    options = options or GraphOptions()
    generator = np.random.default_rng(seed)
    sums = []
    for index, prompt in enumerate(prompts):
        progress("skip test", index, len(prompts))
        traced = TracedPrompt.of(model, prompt, options)
        graph = traced.graph(basis)
        table = graph.nodes
        reaching = np.flatnonzero(table.is_kind("feature"))
        reaching = reaching[[len(basis.dictionary.writes_to(int(layer))) > 1 for layer in table.layer[reaching]]]
        chosen = np.sort(generator.choice(reaching, min(features, len(reaching)), replace=False))
        for part in np.array_split(chosen, max(1, -(-len(chosen) // BATCH))):
            sums.append(_skip_sums(traced.view, basis, graph, part, options.sink_positions))
    progress("skip test", len(prompts), len(prompts))
    own, own_whole, followed, one_hop, new, whole = np.concatenate(sums, 1)
    return SkipTest(
        features=len(own),
        own=ratio(own, own_whole, seed=seed),
        new=ratio(new, whole, seed=seed),
        followed=ratio(followed, new, seed=seed),
        one_hop=ratio(one_hop, new, seed=seed),
    )


@torch.no_grad()
def _skip_sums(
    view: FrozenModel, basis: DictionaryBasis, graph: Graph, features: np.ndarray, sink_positions: int
) -> Float[np.ndarray, "6 feature"]:
    """For each feature, in its own row of one batch: answer . claim and claim . claim at its own layer; then, over all
    later layers, live and held answer . new claim, new claim . new claim and claim . claim.
    """
    claims = feature_writes(view, basis, graph_features(graph, features))
    layers = torch.from_numpy(graph.nodes.layer[features].astype(np.int64))
    new = _new_claims(claims, layers)
    removed = _reading_directions(view, basis, graph, features, sink_positions)
    live = _answers(view, new, layers, removed, held=False)
    held = _answers(view, new, layers, removed, held=True)
    sums = np.zeros((6, len(features)))
    for layer, writes in claims.items():
        for (row, _, vector), (_, _, rest) in zip(writes, new[layer], strict=True):
            size, rest_size = (float(v.double().square().sum()) for v in (vector, rest))
            if layer == int(layers[row]):
                sums[:2, row] += live[layer][row], size
            else:
                sums[2:, row] += live[layer][row], held[layer][row], rest_size, size
    return sums


def _new_claims(claims: dict[int, list[Write]], layers: Int[Tensor, " feature"]) -> dict[int, list[Write]]:
    """The claims; those to later layers without their part along the feature's write to its own layer."""
    own = {row: vector for layer, writes in claims.items() for row, _, vector in writes if layer == int(layers[row])}

    def rest(layer: int, row: int, vector: Tensor) -> Tensor:
        if layer == int(layers[row]):
            return vector
        along = own[row] / own[row].norm().clamp_min(1e-20)
        left = vector - (vector @ along) * along
        # What rounding leaves of a parallel vector is no claim.
        return left if left.norm() > 1e-5 * vector.norm() else torch.zeros_like(left)

    return {layer: [(row, at, rest(layer, row, v)) for row, at, v in writes] for layer, writes in claims.items()}


def _reading_directions(
    view: FrozenModel, basis: DictionaryBasis, graph: Graph, features: np.ndarray, sink_positions: int
) -> Float[Tensor, "feature d_model"]:
    """The smallest change of the residual at each feature's MLP that lowers its pre-activation by its activation."""
    table, device = graph.nodes, view.recording.residual_final.device

    def column(name: str) -> Tensor:
        return torch.from_numpy(getattr(table, name)[features]).to(device)

    activation = column("activation")
    active = Active(column("layer").long(), column("position").long(), column("feature"), activation)
    vectors, _ = FeatureSources(view, basis.dictionary, sink_positions=sink_positions).read_vectors(active)
    return -activation[:, None] * vectors / vectors.square().sum(1, keepdim=True).clamp_min(1e-20)


def _answers(
    view: FrozenModel, claims: dict[int, list[Write]], layers: Int[Tensor, " feature"], removed: Tensor, *, held: bool
) -> dict[int, np.ndarray]:
    """By layer and feature: what the layer's MLP no longer writes, times what the feature claims to write there."""
    model = view.model
    positions = {row: position for writes in claims.values() for row, position, _ in writes}
    answers = {layer: np.zeros(len(layers)) for layer in claims}

    def visit(call: MLPCall) -> Tensor | None:
        if call.at != contribution_site(model):
            return None
        recorded, written = view.mlp_contribution(call.layer), call.written.float().clone()
        here = [row for row in range(len(layers)) if int(layers[row]) == call.layer]
        for row in here:
            at = positions[row]
            written[row, at] = _contribution(model, call, call.residual[row, at].float() + removed[row])
        for row, at, vector in claims.get(call.layer, ()):
            answers[call.layer][row] = float(((recorded[at] - written[row, at]).double() * vector.double()).sum())
        if held:
            written = recorded[None].repeat(len(layers), 1, 1)
        # From its layer on the stream lacks the direction.
        for row in here:
            written[row, positions[row]] += removed[row]
        return written

    run_copies(view, len(layers), visit)
    return answers


def _contribution(model: Model, call: MLPCall, residual: Float[Tensor, " d_model"]) -> Float[Tensor, " d_model"]:
    """What the MLP of a call adds to the residual where it stands at `residual`. Calls no hook."""
    layer = model.layers[call.layer]
    x = residual.to(model.dtype)[None, None]
    for module in (layer.mlp_norm, layer.mlp, layer.mlp_post_norm):
        if module is not None:
            x = module.forward(x)
            x = x[0] if isinstance(x, tuple) else x
    return x[0, 0].float()
