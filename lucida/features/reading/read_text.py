"""Which features are active while a model reads a text, or many."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lucida.dictionaries import Dictionary
from lucida.dictionaries.encoding import SparseActivations
from lucida.errors import FeatureError, PromptError
from lucida.features.build.events import Units, units_of
from lucida.features.space import FeatureSpace
from lucida.models.model import Model, PromptLike
from lucida.models.taps import MLPCall, run
from lucida.progress import Progress, silent
from lucida.prompt import Prompt

TOKENS_AT_ONCE = 1024
"""Tokens of texts that run together: for a short one alone, reading the weights takes longer than all arithmetic."""


@dataclass(frozen=True, eq=False)
class Reading:
    """The active features of a text by layer, ordered by position, then feature.

    The first position is left out: what a model computes there says little about the token (massive activations).
    """

    prompt: Prompt
    layers: Mapping[int, SparseActivations]

    def strongest(self, space: FeatureSpace) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The numbers of the features that are active somewhere, ascending, and the largest activation of each."""
        numbers, values = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.float32)]
        for layer, active in sorted(self.layers.items()):
            features, which = np.unique(active.feature.cpu().numpy(), return_inverse=True)
            largest = np.zeros(len(features), dtype=np.float32)
            np.maximum.at(largest, which, active.activation.float().cpu().numpy())
            numbers.append(features + space.offsets[layer])
            values.append(largest)
        return np.concatenate(numbers), np.concatenate(values)


def sparse_units(model: Model, features: Dictionary | Units | None) -> Units:
    """What can be active or not: features of a dictionary, or units. Raises FeatureError for None: a model's own
    neurons are never off, only those below a threshold are, and that an index of neurons knows.
    """
    if features is None:
        raise FeatureError(
            "the model's own neurons are never off, so none stands out; give features (a dictionary), or an index of "
            "neurons (lucida index --dictionaries neurons), whose threshold says which count"
        )
    return units_of(model, features)


def read_text(model: Model, features: Dictionary | Units | None, text: PromptLike) -> Reading:
    """Run the model on one text and encode what the features of every layer read; see `read_texts`."""
    return read_texts(model, features, [text])[0]


@torch.no_grad()
def read_texts(
    model: Model,
    features: Dictionary | Units | None,
    texts: Sequence[PromptLike],
    *,
    progress: Progress = silent,
) -> list[Reading]:
    """Run the model on every text, each by itself, and encode what the features of every layer read; sizes of
    activations, as an index has them.

    Texts of like length run together, the shorter ones with tokens behind them that nothing before can see. Raises
    PromptError for a text that the model cannot read or with nothing after its first token, DictionaryError
    for a dictionary of another shape, FeatureError without any features (`sparse_units`).
    """
    units = sparse_units(model, features)
    prompts = [_prompt(model, text) for text in texts]
    found: dict[int, Reading] = {}
    for batch in _batches(prompts):
        progress("reading texts", len(found), len(prompts))
        found.update(zip(batch, _read(model, units, [prompts[i] for i in batch]), strict=True))
    progress("reading texts", len(prompts), len(prompts))
    return [found[i] for i in range(len(prompts))]


def _prompt(model: Model, text: PromptLike) -> Prompt:
    prompt = model.tokenize(text)
    if len(prompt) < 2:
        raise PromptError("the text is one token, and the first is never looked at; give a longer text")
    return prompt


def _batches(prompts: Sequence[Prompt]) -> Iterator[list[int]]:
    """The numbers of the prompts, the shortest first, in runs of at most TOKENS_AT_ONCE with what fills them up."""
    batch: list[int] = []
    for i in sorted(range(len(prompts)), key=lambda i: len(prompts[i])):
        if batch and (len(batch) + 1) * len(prompts[i]) > TOKENS_AT_ONCE:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _read(model: Model, units: Units, prompts: Sequence[Prompt]) -> Iterator[Reading]:
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    place = torch.arange(int(lengths.max()))
    counted = (place < lengths[:, None]) & (place > 0)
    rows = torch.zeros(counted.shape, dtype=torch.int64)
    for row, prompt in zip(rows, prompts, strict=True):
        row[: len(prompt)] = torch.tensor(prompt.tokens)
    active: dict[int, SparseActivations] = {}

    def visit(call: MLPCall) -> None:
        if call.at == "mlp_out" and call.layer in units.layers:
            x = call.site(model, units.reads_at)
            active[call.layer] = units.encode(call.layer, x[counted.to(x.device)])

    run(model, rows, visit)
    ends = (lengths - 1).cumsum(0)
    for row, prompt in enumerate(prompts):
        bounds = torch.stack([ends[row] - (lengths[row] - 1), ends[row]])
        yield Reading(prompt, {layer: _of_row(each, bounds, len(prompt)) for layer, each in active.items()})


def _of_row(active: SparseActivations, bounds: Tensor, n_positions: int) -> SparseActivations:
    """What is active at the counted places of one row, from `bounds` on in all of them; the first position is 1."""
    bounds = bounds.to(active.position.device)
    first, last = torch.searchsorted(active.position, bounds.to(active.position.dtype)).tolist()
    return SparseActivations(
        active.position[first:last] - bounds[0] + 1,
        active.feature[first:last],
        active.activation[first:last].abs(),
        n_positions,
        active.n_features,
    )
