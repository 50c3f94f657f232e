"""Features taken out one at a time, many in one batch: what other features and the answer become."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lucida.dictionaries import Dictionary
from lucida.evaluation.basis import DictionaryBasis
from lucida.graph import Graph
from lucida.interventions import Attention, Case, Outcome, Place, Scale, sweep
from lucida.models.linear import FrozenModel
from lucida.progress import Progress, silent
from lucida.replacement import Active

Write = tuple[int, int, Tensor]


def graph_features(graph: Graph, nodes: Int[np.ndarray, " node"]) -> Active:
    """Feature nodes of a graph as a table of active features, in the order given."""
    table = graph.nodes
    layer, position = (torch.from_numpy(column[nodes].astype(np.int64)) for column in (table.layer, table.position))
    feature, activation = torch.from_numpy(table.feature[nodes]), torch.from_numpy(table.activation[nodes])
    return Active(layer, position, feature, activation)


def no_features() -> Active:
    """An empty table of features."""
    nothing = torch.zeros(0, dtype=torch.long)
    return Active(nothing, nothing, nothing, torch.zeros(0))


def ablate_features(
    view: FrozenModel,
    dictionary: Dictionary | None,
    sources: Active,
    watched: Active | None = None,
    *,
    reach: int,
    at: int = -1,
    attention: Attention = "frozen",
    rows: int | None = None,
    progress: Progress = silent,
) -> list[Outcome]:
    """Ablate each source alone and see what becomes of the `watched`, and of the answer at position `at`.

    MLPs up to layer i + `reach` are held at their recording but for what the source (of layer i) writes to them; above
    they run live, and so do norms. `attention` keeps the recorded patterns or computes them anew. A sweep
    (`lucida.interventions`): one forward pass of the prompt for each source, `rows` at once, with the same result.
    """
    last = view.n_layers - 1
    cases = [
        Case({place: Scale(0.0)}, "constrained", (place[0], min(place[0] + reach, last)), attention)
        for place in _places(sources)
    ]
    return sweep(
        view.model, dictionary, list(view.recording.prompt.tokens), cases,
        position=at, watch=_places(watched or no_features()), view=view, rows=rows, progress=progress,
    )  # fmt: skip


def watched_activations(outcomes: Sequence[Outcome], watched: int) -> Float[np.ndarray, "source watched"]:
    """The activations of all `watched` features after each ablation."""
    found = [outcome.watched.after for outcome in outcomes]
    return np.stack(found) if found else np.zeros((0, watched))


def _places(features: Active) -> list[Place]:
    columns = (features.layer, features.position, features.feature)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def feature_writes(view: FrozenModel, basis: DictionaryBasis | None, features: Active) -> dict[int, list[Write]]:
    """What each feature writes to the residual, by layer: (number of the feature, position, vector)."""
    device = view.recording.residual_final.device
    found: dict[int, list[Write]] = {}
    for layer in features.layer.unique().tolist():
        here = torch.nonzero(features.layer == layer).squeeze(1)
        positions, activations = features.position[here].to(device), features.activation[here].to(device)
        targets: Sequence[int] = [layer] if basis is None else basis.dictionary.writes_to(layer)
        for target in targets:
            if basis is None:
                rows = view.model.mlp_weights(layer).down.T[features.feature[here].to(device)]
            else:
                rows = basis.dictionary.decoder_rows(layer, features.feature[here], target).to(device)
            rows = rows * activations[:, None]
            if basis is None or basis.dictionary.writes_at == "mlp_out":
                rows = view.push_output(target, rows, positions)
            found.setdefault(target, []).extend(zip(here.tolist(), positions.tolist(), rows, strict=True))
    return found
