"""One pass over a corpus: when every feature fires, and where most; in shards, and again from where it stopped.

The index of a corpus does not depend on how it was made: one process or many, killed and resumed or not, give the same
files to the bit (TRAINING 4; the peers' pitfalls are listed there).
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lucida.corpus import TokenStore
from lucida.dictionaries import Dictionary
from lucida.errors import FeatureError
from lucida.features.build.events import EventReader, Units, units_of
from lucida.features.build.persist import load_state, save_state
from lucida.features.build.place import check_place, differences, found_index, recover
from lucida.features.build.state import IndexState, Limits, draw_of_share
from lucida.features.build.tiles import Tiles
from lucida.features.header import IndexHeader
from lucida.models.model import Model
from lucida.progress import Progress, silent

CONTEXT = 128
TOP_EXAMPLES = 16
SAMPLES = 3
WINDOW = 16
SAMPLED_PLACES = 8192
CHECKPOINT_MINUTES = 5.0


def build_index(
    model: Model,
    units: Dictionary | Units,
    store: TokenStore,
    folder: str | Path,
    *,
    context: int = CONTEXT,
    k: int = TOP_EXAMPLES,
    samples: int = SAMPLES,
    window: int = WINDOW,
    sampled_places: int = SAMPLED_PLACES,
    shard: tuple[int, int] = (0, 1),
    checkpoint_minutes: float = CHECKPOINT_MINUTES,
    progress: Progress | None = None,
) -> IndexHeader:
    """Index a corpus (or shard i of n of it) into `folder`: statistics and examples of every feature.

    Kept are the `k` strongest places of distinct documents, `samples` uniformly drawn places for each octave of
    activation, `window` tokens around each, and the sets of features active at `sampled_places` places. A folder
    with an unfinished index of the same things is resumed, a finished one is left as it is.

    Raises FeatureError when `folder` holds something else, SaveError when it cannot be written or the disk is full,
    DictionaryError when the dictionary is not of this model's shape or its activations are not finite.
    """
    progress, folder = progress or silent, Path(folder)
    check_place(folder)
    recover(folder)
    digest = units.source.fingerprint if isinstance(units, Dictionary) else ""
    units = units_of(model, units)
    tiles = Tiles(store, min(context, model.context))
    numbers = tiles.shard(*shard)
    reader = EventReader(model, units, tiles)
    kept = {"k": k, "samples": samples, "window": window, "sampled_places": sampled_places}
    header = _header(model, units, digest, reader, shard, kept)
    limits = limits_of(header, store.n_tokens)
    found = found_index(folder, header)
    if found is not None and found.complete:
        return found
    state = IndexState(len(reader.space), limits) if found is None else load_state(folder, found, limits)
    saved = time.monotonic()
    for number in numbers[state.tiles_done :]:
        progress("indexing tokens", state.tiles_done * tiles.width * tiles.n_rows_at_once, _tokens(numbers, tiles))
        state.n_places += reader.read(number, state.add)
        state.tiles_done += 1
        if time.monotonic() - saved > 60 * checkpoint_minutes and state.tiles_done < len(numbers):
            save_state(state, header, store, folder)
            saved = time.monotonic()
    progress("indexing tokens", _tokens(numbers, tiles), _tokens(numbers, tiles))
    return save_state(state, header, store, folder, model=model)


def merge_indexes(
    folders: Sequence[str | Path],
    store: TokenStore,
    out: str | Path,
    *,
    model: Model | None = None,
    progress: Progress | None = None,
) -> IndexHeader:
    """Join the shards of an index, in any order; the result equals that of one process to the bit.

    Raises FeatureError when one is missing, there twice, unfinished, damaged, or of another index, or when `out` holds
    something else; SaveError when it cannot be written.
    """
    progress, out = progress or silent, Path(out)
    check_place(out)
    recover(out)
    headers = [IndexHeader.open(folder) for folder in folders]
    if not headers:
        raise FeatureError("no shard was given; name the folders that the shards were written to")
    _check_shards(folders, headers)
    if headers[0].corpus_fingerprint != store.fingerprint:
        raise FeatureError(
            f"the shards are of another text than {store.header.name}; give the corpus they were made of"
        )
    settings = headers[0].settings | {"tiles": sum(header.tiles[1] for header in headers)}
    merged = replace(headers[0], shard=(0, 1), settings=settings)
    found_index(out, merged)
    limits = limits_of(headers[0], store.n_tokens)
    state: IndexState | None = None
    for done, (folder, header) in enumerate(zip(folders, headers, strict=True)):
        progress("merging shards", done, len(headers))
        part = load_state(Path(folder), header, limits)
        if state is None:
            state = part
        else:
            state.merge(part)
            state.tiles_done += part.tiles_done
    assert state is not None
    progress("merging shards", len(headers), len(headers))
    return save_state(state, merged, store, out, model=model)


def limits_of(header: IndexHeader, n_tokens: int) -> Limits:
    """How much an index keeps. Raises FeatureError for impossible numbers."""
    for name in ("k", "samples", "window", "sampled_places"):
        if getattr(header, name) < (1 if name == "k" else 0):
            raise FeatureError(f"{name} is {getattr(header, name)}; it must be at least {1 if name == 'k' else 0}")
    return Limits(header.k, header.samples, header.window, draw_of_share(n_tokens, header.sampled_places))


def _header(
    model: Model, units: Units, digest: str, reader: EventReader, shard: tuple[int, int], kept: dict[str, int]
) -> IndexHeader:
    """What is to be indexed, before anything is."""
    tiles = reader.tiles
    store = tiles.store
    return IndexHeader(
        model=model.name or "",
        dictionary=units.name,
        dictionary_digest=digest,
        n_features=reader.space.n_features,
        corpus=store.header.name,
        corpus_fingerprint=store.fingerprint,
        tokenizer=store.header.tokenizer,
        context=tiles.context,
        n_places=0,
        n_documents=store.n_documents,
        settings={
            "rows_at_once": tiles.n_rows_at_once,
            "dtype": str(model.dtype),
            "tiles": len(tiles.shard(*shard)),
            **({"units": units.settings} if units.settings else {}),
        },
        shard=shard,
        **kept,  # pyright: ignore[reportArgumentType]
    )


def _tokens(numbers: range, tiles: Tiles) -> int:
    return len(numbers) * tiles.width * tiles.n_rows_at_once


def _check_shards(folders: Sequence[str | Path], headers: Sequence[IndexHeader]) -> None:
    first, count = headers[0], headers[0].shard[1]
    seen: dict[int, str | Path] = {}
    for folder, header in zip(folders, headers, strict=True):
        different = differences(first, header)
        if not different and header.shard[1] != count:
            different = f"parts: {count}, now {header.shard[1]}"
        if different:
            raise FeatureError(
                f"{folder} is a part of another index than {folders[0]} ({different}); merge parts of one index"
            )
        if not header.complete:
            done, wanted = header.tiles
            raise FeatureError(f"{folder} is unfinished ({done:,} of {wanted:,} tiles); run its shard again first")
        if header.shard[0] in seen:
            raise FeatureError(f"shard {header.shard[0]} is there twice: {seen[header.shard[0]]} and {folder}")
        seen[header.shard[0]] = folder
    missing = [index for index in range(count) if index not in seen]
    if missing:
        raise FeatureError(f"shards {', '.join(map(str, missing))} of {count} are missing; index them first")
