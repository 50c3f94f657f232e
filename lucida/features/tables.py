"""The files of a feature index, column by column: Parquet, so that any tool can read them.

| file | one row for each | sorted by |
|---|---|---|
| ``stats.parquet`` | feature, silent ones too | layer, feature |
| ``examples.parquet`` | example: a place where a feature is active | layer, feature, top first, band, rank |
| ``active.parquet`` | active feature of a sampled place | position, layer, feature |
| ``effects.parquet`` | feature | layer, feature |
| ``vocabulary.parquet`` | token of the model | token |
| ``labels/*.parquet`` | label: automatic, llm or human | layer, feature |

A *place* is the number of a token in the corpus (`TokenStore.tokens`). Activations are magnitudes: for dictionaries
they are the activations (which are positive), for neurons their absolute values.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lucida.atomic import replacing
from lucida.errors import FeatureError

HISTOGRAM_BINS = 96
"""Bins of the histogram of a feature's activations: each a quarter of an octave wide."""
BINS_PER_OCTAVE = 4
FIRST_OCTAVE = -12
"""Bin 0 begins at 2^-12; the first and the last bin also hold what lies beyond them."""

TOP, SAMPLE = "top", "sample"
"""Kinds of example: the strongest of distinct documents, and a uniform sample within each octave."""

_KEY = [pa.field("layer", pa.int16(), nullable=False), pa.field("feature", pa.int32(), nullable=False)]

STATS = pa.schema(
    [
        *_KEY,
        ("count", pa.int64()),  # places where it is active
        ("total", pa.int64()),  # sum of its activation there, in units of 2^-20: whole numbers add up in any order
        ("mean", pa.float64()),  # of its activation there; 0 where it never is
        ("maximum", pa.float32()),
        ("first", pa.int64()),  # first and last place where it is active, -1 where it never is
        ("last", pa.int64()),
        ("histogram", pa.list_(pa.int64(), HISTOGRAM_BINS)),
    ]
)

EXAMPLES = pa.schema(
    [
        *_KEY,
        ("kind", pa.string()),
        ("band", pa.int8()),  # floor(log2(value)), limited as the histogram is; the unit of sampling
        ("rank", pa.int16()),  # 0 is the strongest (top), or the first drawn of its band (sample)
        ("priority", pa.uint64()),  # the draw that decided a sample, 0 for top: shards can be merged by it
        ("value", pa.float32()),
        ("position", pa.int64()),  # the place
        ("document", pa.int64()),
        ("peak", pa.int16()),  # which of `tokens` it is
        ("tokens", pa.list_(pa.int32())),  # the text around it, within its document and its row of the model
        ("activations", pa.list_(pa.float32())),  # of this feature at each of `tokens`
    ]
)

ACTIVE = pa.schema([("position", pa.int64()), *_KEY, ("value", pa.float32())])

EFFECTS = pa.schema(
    [
        *_KEY,
        ("promoted", pa.list_(pa.int32())),  # tokens whose logits it raises most, the strongest first
        ("promoted_by", pa.list_(pa.float32())),  # centred over the vocabulary, per unit of activation
        ("suppressed", pa.list_(pa.int32())),
        ("suppressed_by", pa.list_(pa.float32())),
        ("excited_by_tokens", pa.list_(pa.int32())),  # token embeddings that drive it most
        ("excited_by_tokens_weight", pa.list_(pa.float32())),
        ("input_layers", pa.list_(pa.int16())),  # features that drive it most, by |TWERA| or virtual weight
        ("input_features", pa.list_(pa.int32())),
        ("input_weights", pa.list_(pa.float32())),  # virtual weight
        ("input_expected", pa.list_(pa.float32())),  # TWERA (METHODS 5.1)
        ("nearest_layers", pa.list_(pa.int16())),  # by cosine of decoders
        ("nearest_features", pa.list_(pa.int32())),
        ("nearest_cosine", pa.list_(pa.float32())),
    ]
)

VOCABULARY = pa.schema([pa.field("token", pa.int32(), nullable=False), ("text", pa.string())])

LABELS = pa.schema(
    [
        *_KEY,
        ("label", pa.string()),
        ("author", pa.string()),  # "automatic", a model's name, or a person's
        ("method", pa.string()),  # how it was found
        ("score", pa.float32()),  # of the method, null where there is none
        ("date", pa.string()),
        ("details", pa.string()),  # JSON; what the method wants to keep
    ]
)

SCHEMAS = {"stats": STATS, "examples": EXAMPLES, "active": ACTIVE, "effects": EFFECTS, "vocabulary": VOCABULARY}
ROW_GROUP = 2048
"""Rows that are read together: a card needs one feature's, so groups are small."""


def write_table(
    path: Path, columns: dict[str, Any] | pa.Table, schema: pa.Schema, *, row_group: int = ROW_GROUP
) -> None:
    """Write columns (or a table) as one Parquet file, whole or not at all. Raises SaveError when the disk is full."""
    table = pa.table(columns, schema=schema) if isinstance(columns, dict) else columns.cast(schema)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=row_group, write_statistics=True)


def write_batches(path: Path, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> None:
    """The same, for a table that is larger than memory should hold at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch, row_group_size=ROW_GROUP)


def read_table(path: Path, schema: pa.Schema) -> pa.Table:
    """A whole table. Raises FeatureError when it is missing, cut short or has other columns."""
    try:
        found = pq.read_table(path)
        missing = [name for name in schema.names if name not in found.schema.names]
        if missing:
            raise FeatureError(f"{path} lacks the columns {', '.join(missing)}: another version wrote it; index again")
        return found.select(schema.names).cast(schema)
    except FileNotFoundError as error:
        raise FeatureError(f"there is no {path}; is {path.parent} a feature index?") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise FeatureError(f"{path} is damaged ({str(error).splitlines()[0]}); index again") from error
