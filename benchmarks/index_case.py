"""One case of ours in a fresh process: `python benchmarks/index_case.py SPEC`; SPEC and the last line are JSON.

benchmarks/index.py starts this file. The tasks: `prepare` what another tool reads, `throughput` beside the forward
pass alone, the `memory` curve of a long run, and a whole `index` to set beside delphi.
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from meter import cpu_seconds, measure, new_peak
from numpy.typing import NDArray

from lucida.corpus import TokenStore, open_corpus
from lucida.corpus.store import write_store
from lucida.dictionaries import Dictionary
from lucida.dictionaries.formats.circuit_tracer import write_circuit_tracer
from lucida.features.build.events import EventReader, units_of
from lucida.features.build.one_pass import CONTEXT, build_index, limits_of
from lucida.features.build.persist import save_state
from lucida.features.build.state import IndexState
from lucida.features.build.tiles import TILE_ROWS, Tiles
from lucida.features.header import IndexHeader
from lucida.features.tables import STATS, read_table
from lucida.microscope import Microscope
from lucida.models.model import Model
from lucida.models.sinks import Sinks
from lucida.models.taps import MLPCall, run

PEER_ROWS = 32
"""Rows of a batch of delphi, its default: a corpus to compare on is cut so that rows fill batches of both."""


def main() -> None:
    """Run what the first argument describes."""
    spec = json.loads(sys.argv[1])
    torch.set_num_threads(spec["threads"])
    tasks = {"prepare": prepare, "throughput": throughput, "memory": memory, "index": index}
    print(json.dumps(tasks[spec["task"]](spec)), flush=True)


def prepare(spec: dict[str, Any]) -> dict[str, Any]:
    """Find model, dictionary and corpus; with `sizes`, also write what is compared on them into `scratch`."""
    model, dictionary = opened(spec)
    store = open_corpus(spec["data"], model, max_tokens=spec["tokens"], offline=spec["offline"])
    scratch, sizes = Path(spec["scratch"]), []
    for wanted in spec["sizes"]:
        rows = max(1, round(wanted / (PEER_ROWS * (CONTEXT - 1)))) * PEER_ROWS
        part = cut(store, rows * (CONTEXT - 1), scratch / f"corpus-{rows}")
        tiles = Tiles(part, CONTEXT)
        assert rows == len(tiles) * TILE_ROWS
        path = scratch / f"rows-{rows}.npy"
        np.save(path, np.concatenate([tiles.tile(number).tokens.numpy() for number in range(len(tiles))]))
        sizes.append({"store": str(part.folder), "rows": str(path), "tokens": part.n_tokens})
    if sizes:
        write_circuit_tracer(dictionary, scratch / "dictionary")
    return {
        "folder": str(Path(model.hf.config._name_or_path).resolve()),
        "store": str(store.folder), "tokens": store.n_tokens, "sizes": sizes, "dictionary": dictionary.name,
        "reads_at": dictionary.reads_at, "layers": dictionary.n_layers, "features": dictionary.n_features(0),
    }  # fmt: skip


def opened(spec: dict[str, Any]) -> tuple[Model, Dictionary]:
    """The model and its shipped dictionary."""
    scope = Microscope(spec["model"], dtype=spec["dtype"], offline=spec["offline"])
    if scope.dictionary is None:
        raise SystemExit(f"no dictionary is shipped for {spec['model']}; install one, or name another model")
    return scope.model, scope.dictionary


def cut(store: TokenStore, n_tokens: int, folder: Path) -> TokenStore:
    """The first tokens of a store as a store."""
    if store.n_tokens < n_tokens:
        raise SystemExit(f"the corpus has {store.n_tokens:,} tokens, {n_tokens:,} are wanted; give --tokens or --data")
    bounds = [*store.documents[store.documents < n_tokens].tolist(), n_tokens]
    documents = (store.tokens[a:b] for a, b in pairwise(bounds))
    header = store.header
    return write_store(
        folder, documents, name=header.name, source=header.source, tokenizer=header.tokenizer,
        d_vocab=header.d_vocab, prefix=header.prefix, separator=header.separator,
    )  # fmt: skip


# --- throughput ------------------------------------------------------------------------------------


def throughput(spec: dict[str, Any]) -> dict[str, Any]:
    """CPU seconds of the index and of forward and encoding alone, taking turns tile by tile in three stretches.

    The stretches are the first tiles (cold: everything is admitted as an example), tiles in the middle, and the last.
    Between them only the index runs. Alone is the same reader's model and encoders on the same tile.
    """
    model, dictionary = opened(spec)
    store = TokenStore.open(spec["store"])
    tiles = Tiles(store, CONTEXT)
    reader = EventReader(model, units_of(model, dictionary), tiles)
    n_tiles, width = min(len(tiles), spec["tiles"]), spec["stretch"]
    starts = {"cold": 0, "middle": (n_tiles - width) // 2, "last": n_tiles - width}
    header = an_index(reader, store)
    state = IndexState(len(reader.space), limits_of(header, store.n_tokens))
    for _ in range(3):
        alone(reader, n_tiles // 3)  # warm the model, not the index
    spent, parts = np.zeros(n_tiles), {name: np.zeros((width, 3)) for name in starts}
    for number in range(n_tiles):
        name = next((name for name, start in starts.items() if start <= number < start + width), None)
        before = name is not None and number % 2 == 0
        forward = alone(reader, number) if before else (0.0, 0.0)
        began = cpu_seconds()
        state.n_places += reader.read(number, state.add)
        spent[number] = cpu_seconds() - began
        if name is not None:
            forward = forward if before else alone(reader, number)
            parts[name][number - starts[name]] = (*forward, spent[number])
    began = cpu_seconds()
    with tempfile.TemporaryDirectory(prefix="lucida-benchmark-") as scratch:
        save_state(state, header, store, Path(scratch) / "index", model=model)
    per_tile = TILE_ROWS * (CONTEXT - 1)
    return {
        "stretches": {name: {"first": starts[name] * per_tile, "tokens": width * per_tile, "forward": part[:, 0].sum(),
                             "encode": part[:, 1].sum(), "index": part[:, 2].sum()} for name, part in parts.items()},
        "whole": {"tokens": n_tiles * per_tile, "index": spent.sum(), "save": cpu_seconds() - began},
        "active": float(state.count.sum() / state.n_places),
        "torch": str(torch.__version__),
    }  # fmt: skip


@torch.no_grad()
def alone(reader: EventReader, number: int) -> tuple[float, float]:
    """CPU seconds of the model and of all encoders on a tile, without looking at what is active."""
    tile, sites, began = reader.tiles.tile(number), [], cpu_seconds()

    def visit(call: MLPCall) -> None:
        if call.at == "mlp_out":
            sites.append(call.site(reader.model, reader.units.reads_at).flatten(0, 1))

    run(reader.model, tile.tokens, visit)
    between = cpu_seconds()
    for layer in reader.units.layers:
        reader.units.encode(layer, sites[layer])
    return between - began, cpu_seconds() - between


def an_index(reader: EventReader, store: TokenStore) -> IndexHeader:
    """The header of an index with all knobs at their defaults."""
    tiles = len(reader.tiles)
    return IndexHeader(
        model=reader.model.name or "", dictionary=reader.units.name, dictionary_digest="",
        n_features=reader.space.n_features, corpus=store.header.name, corpus_fingerprint=store.fingerprint,
        tokenizer=store.header.tokenizer, context=CONTEXT, k=16, samples=3, window=16, sampled_places=8192,
        n_places=0, n_documents=store.n_documents, settings={"tiles": tiles}, shard=(0, 1),
    )  # fmt: skip


# --- memory ----------------------------------------------------------------------------------------


def memory(spec: dict[str, Any]) -> dict[str, Any]:
    """Peak resident memory of each part of one run of `build_index`, up to the marks, and of its last save."""
    model, dictionary = opened(spec)
    store = TokenStore.open(spec["store"])
    marks = [*spec["marks"], store.n_tokens]
    curve: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="lucida-benchmark-") as scratch:
        loaded, began = new_peak(), cpu_seconds()

        def progress(_what: str, done: int, total: int | None) -> None:
            while marks and done >= min(marks[0], total or done + 1):
                curve.append({"tokens": marks.pop(0), "peak": new_peak(), "cpu": cpu_seconds() - began})

        build_index(model, dictionary, store, Path(scratch) / "index", progress=progress)
        saved = {"peak": new_peak(), "cpu": cpu_seconds() - began}
        disk = folder_size(Path(scratch))
    return {"loaded": loaded, "curve": curve, "saved": saved, "disk": disk, "tokens": store.n_tokens}


def folder_size(folder: Path) -> int:
    """Bytes of all files in it."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# --- beside delphi ---------------------------------------------------------------------------------


def index(spec: dict[str, Any]) -> dict[str, Any]:
    """`build_index` of a whole store, measured; which places counted, and how often each feature fired, in `out`."""
    model, dictionary = opened(spec)
    store = TokenStore.open(spec["store"])
    with tempfile.TemporaryDirectory(prefix="lucida-benchmark-") as scratch:
        folder = Path(scratch) / "index"
        with watched_rule() as counted, measure() as cost:
            header = build_index(model, dictionary, store, folder)
        counts = read_table(folder / "stats.parquet", STATS)["count"].to_numpy()
        disk = folder_size(folder)
    tiles = Tiles(store, CONTEXT)
    inside = np.concatenate([tiles.tile(number).places >= 0 for number in range(len(tiles))])
    np.savez(spec["out"], counted=np.concatenate(counted) & inside, counts=counts)
    return {"cost": cost.as_dict(), "disk": disk, "events": int(counts.sum()), "places": header.n_places}


@contextmanager
def watched_rule() -> Iterator[list[NDArray[np.bool_]]]:
    """What the rule for attention sinks says of each tile, in order, while the block runs."""
    seen: list[NDArray[np.bool_]] = []
    rule = Sinks.counted

    def watching(self: Sinks, lengths: torch.Tensor) -> torch.Tensor:
        seen.append((counted := rule(self, lengths)).cpu().numpy())
        return counted

    with mock.patch.object(Sinks, "counted", watching):
        yield seen


if __name__ == "__main__":
    main()
