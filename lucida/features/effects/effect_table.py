"""``effects.parquet``: what every feature does and what drives it, from the weights, written to an index."""

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lucida.atomic import replacing
from lucida.dictionaries import Dictionary
from lucida.errors import FeatureError
from lucida.features.effects.directions import feature_space
from lucida.features.effects.inputs import ActivePlaces, Inputs, feature_inputs
from lucida.features.effects.nearest import Nearest, nearest_features
from lucida.features.effects.token_effects import Strongest, TokenEffects, exciting_tokens, token_effects
from lucida.features.header import IndexHeader, record_files
from lucida.features.space import FeatureSpace
from lucida.features.tables import EFFECTS, ROW_GROUP
from lucida.models.model import Model
from lucida.progress import Progress, silent

FILE = "effects.parquet"


def compute_effects(
    model: Model,
    dictionary: Dictionary | None,
    folder: str | Path,
    *,
    count: int = 10,
    counts: NDArray[np.integer] | None = None,
    progress: Progress = silent,
) -> Path:
    """Write ``effects.parquet`` into an index, and its record into ``index.json``; returns its path.

    For every feature: `count` tokens that it promotes, suppresses and is excited by, the features of lower layers
    that drive it, and the nearest features. `counts` [d_vocab] says how often the corpus has each token; without it
    the tokens of the index's own examples are counted. Neurons (`dictionary` None) have no one read vector: what
    excites them stays empty. Raises FeatureError when the index is of another dictionary.
    """
    folder = Path(folder)
    header, space = IndexHeader.open(folder), feature_space(model, dictionary)
    _refuse_other(folder, header, dictionary, space)
    if counts is None:
        counts = example_counts(folder, model.d_vocab)
    said = token_effects(model, dictionary, count, counts=counts, progress=progress)
    nearest = nearest_features(model, dictionary, count, progress=progress)
    heard, inputs = None, iter(())
    if dictionary is not None:
        heard = exciting_tokens(model, dictionary, count, counts=counts, progress=progress)
        places = ActivePlaces.open(folder, space) if (folder / "active.parquet").exists() else None
        sampled = header.sampled_places or None
        inputs = feature_inputs(model, dictionary, places, count, n_places=sampled, progress=progress)
    path = folder / FILE
    with replacing(path) as temporary, pq.ParquetWriter(temporary, EFFECTS, compression="zstd") as writer:
        for first in range(0, len(space), ROW_GROUP):
            block = np.arange(first, min(first + ROW_GROUP, len(space)))
            own = list(islice(inputs, len(block))) or [_NO_INPUTS] * len(block)
            columns = _token_columns(said, heard, block) | _feature_columns(own, nearest, block, space)
            writer.write_table(pa.table(columns, schema=EFFECTS), row_group_size=ROW_GROUP)
    files = header.files | record_files(folder, [FILE])
    replace(header, files=files).save(folder)
    return path


def example_counts(folder: str | Path, d_vocab: int) -> NDArray[np.int64]:
    """How often each token stands in the text of an index's examples, each place counted once, [d_vocab]."""
    tokens, places = [], []
    with pq.ParquetFile(Path(folder) / "examples.parquet") as file:
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, columns=["position", "peak", "tokens"])
            held = rows["tokens"].combine_chunks()
            lengths = np.diff(held.offsets.to_numpy())
            first = rows["position"].to_numpy() - rows["peak"].to_numpy()
            inside = np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths, lengths)
            found, where = np.unique(np.repeat(first, lengths) + inside, return_index=True)
            places.append(found)
            tokens.append(held.flatten().to_numpy(zero_copy_only=False)[where])
    if not places:
        return np.zeros(d_vocab, np.int64)
    _, where = np.unique(np.concatenate(places), return_index=True)
    return np.bincount(np.concatenate(tokens)[where], minlength=d_vocab).astype(np.int64)


_NO_INPUTS = Inputs(np.zeros(0, np.int64), *(np.zeros(0, np.float32) for _ in range(3)))


def _refuse_other(folder: Path, header: IndexHeader, dictionary: Dictionary | None, space: FeatureSpace) -> None:
    same = dictionary is None or dictionary.source.fingerprint == header.dictionary_digest
    if header.space != space or not same:
        name = "the model's neurons" if dictionary is None else dictionary.name
        raise FeatureError(
            f"{folder} is the index of {header.dictionary}, not of {name}; index again or give its own dictionary"
        )


def _token_columns(said: TokenEffects, heard: Strongest | None, block: NDArray[np.int64]) -> dict[str, pa.Array]:
    columns: dict[str, pa.Array] = {}
    ends = (("promoted", "promoted_by", said.promoted), ("suppressed", "suppressed_by", said.suppressed))
    for tokens, effects, end in (*ends, ("excited_by_tokens", "excited_by_tokens_weight", heard)):
        columns[tokens] = _lists(None if end is None else end.tokens.numpy()[block], block, pa.int32())
        columns[effects] = _lists(None if end is None else end.effects.numpy()[block], block, pa.float32())
    return columns


def _feature_columns(
    inputs: list[Inputs], nearest: Nearest, block: NDArray[np.int64], space: FeatureSpace
) -> dict[str, Any]:
    own = space.layer_and_feature(block)
    sources = [space.layer_and_feature(each.numbers) for each in inputs]
    near = space.layer_and_feature(nearest.numbers.numpy()[block].ravel())
    shape = (len(block), -1)
    return {
        "layer": own[0].astype(np.int16),
        "feature": own[1].astype(np.int32),
        "input_layers": pa.array([layers.astype(np.int16) for layers, _ in sources], pa.list_(pa.int16())),
        "input_features": pa.array([found.astype(np.int32) for _, found in sources], pa.list_(pa.int32())),
        "input_weights": pa.array([each.weights for each in inputs], pa.list_(pa.float32())),
        "input_expected": pa.array([each.expected for each in inputs], pa.list_(pa.float32())),
        "nearest_layers": _lists(near[0].reshape(shape), block, pa.int16()),
        "nearest_features": _lists(near[1].reshape(shape), block, pa.int32()),
        "nearest_cosine": _lists(nearest.cosines.numpy()[block], block, pa.float32()),
    }


def _lists(values: NDArray | None, block: NDArray[np.int64], kind: pa.DataType) -> pa.Array:
    """A column of equally long lists, one for each row of `values`; empty lists where there are none."""
    width = 0 if values is None else values.shape[1]
    offsets = pa.array(np.arange(len(block) + 1, dtype=np.int32) * width)
    flat = pa.array([] if values is None else values.ravel(), kind, from_pandas=False) if width else pa.array([], kind)
    return pa.ListArray.from_arrays(offsets, flat.cast(kind))
