"""An index of made-up features, for tests of what reads one: its numbers follow from the seed and mean nothing."""

from pathlib import Path

import numpy as np

from lucida.features.header import IndexHeader, record_files
from lucida.features.tables import HISTOGRAM_BINS, SCHEMAS, write_table

WORDS = (
    "small",
    "tiny",
    "large",
    "the",
    "of",
    "opposite",
    "capital",
    "France",
    "Paris",
    "is",
    "a",
    "\n",
    "dog",
    "runs",
)
CONTEXT, TOP, SAMPLES, WINDOW = 16, 4, 2, 3


def made_up_index(folder: Path, *, n_features: tuple[int, ...] = (6, 5), n_places: int = 400, seed: int = 0) -> Path:
    """Write an index without effects and labels; the last feature of each layer is silent."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(0, len(WORDS), n_places)
    stats, examples, active = [], [], []
    for layer, count in enumerate(n_features):
        for feature in range(count):
            places = np.sort(generator.choice(n_places, 1 + 7 * feature, replace=False)) if feature < count - 1 else []
            values = generator.lognormal(1.0, 0.5, len(places)).astype(np.float32)
            stats.append(_stats(layer, feature, places, values))
            examples += _examples(layer, feature, places, values, tokens)
            active += [
                {"position": int(p), "layer": layer, "feature": feature, "value": float(v)}
                for p, v in zip(places, values, strict=True)
                if p % 10 == 0
            ]
    active.sort(key=lambda row: (row["position"], row["layer"], row["feature"]))
    vocabulary = [{"token": i, "text": f" {word}" if word.strip() else word} for i, word in enumerate(WORDS)]
    for name, rows in (("stats", stats), ("examples", examples), ("active", active), ("vocabulary", vocabulary)):
        schema = SCHEMAS[name]
        write_table(folder / f"{name}.parquet", {c: [row[c] for row in rows] for c in schema.names}, schema)
    IndexHeader(
        model="made-up", dictionary="made-up-features", dictionary_digest="0" * 64, n_features=n_features,
        corpus="made-up-text", corpus_fingerprint="1" * 64, tokenizer="2" * 64, context=CONTEXT, k=TOP, samples=SAMPLES,
        window=WINDOW, sampled_places=n_places // 10, n_places=n_places, n_documents=n_places // 20, date="2026-01-01",
        files=record_files(folder, [f"{name}.parquet" for name in ("stats", "examples", "active", "vocabulary")]),
    ).save(folder)  # fmt: skip
    return folder


def _stats(layer: int, feature: int, places: np.ndarray, values: np.ndarray) -> dict:
    bins = np.clip(np.floor(np.log2(values) * 4).astype(int) + 48, 0, HISTOGRAM_BINS - 1) if len(values) else []
    return {
        "layer": layer, "feature": feature, "count": len(places),
        "total": int(np.rint(np.asarray(values, dtype=np.float64) * 2**20).sum()),
        "mean": float(np.mean(values, dtype=np.float64)) if len(values) else 0.0,
        "maximum": float(values.max()) if len(values) else 0.0,
        "first": int(places[0]) if len(values) else -1, "last": int(places[-1]) if len(values) else -1,
        "histogram": np.bincount(np.asarray(bins, dtype=int), minlength=HISTOGRAM_BINS).tolist(),
    }  # fmt: skip


def _examples(layer: int, feature: int, places: np.ndarray, values: np.ndarray, tokens: np.ndarray) -> list[dict]:
    at = dict(zip(map(int, places), map(float, values), strict=True))
    chosen: list[tuple[str, int, int]] = []
    bands: dict[int, int] = {}
    for place in sorted(at, key=lambda p: p * 7919 % 101):
        band = int(np.floor(np.log2(at[place])))
        if bands.setdefault(band, 0) < SAMPLES:
            chosen.append(("sample", bands[band], place))
            bands[band] += 1
    documents: set[int] = set()
    for place in sorted(at, key=lambda p: (-at[p], p)):
        if place // 20 not in documents and len(documents) < TOP:
            chosen.append(("top", len(documents), place))
            documents.add(place // 20)
    rows = []
    for kind, rank, place in chosen:
        start, stop = max(place - WINDOW, place // 20 * 20), min(place + WINDOW + 1, place // 20 * 20 + 20, len(tokens))
        rows.append({
            "layer": layer, "feature": feature, "kind": kind, "band": int(np.floor(np.log2(at[place]))), "rank": rank,
            "priority": place * 7919 % 101 if kind == "sample" else 0,
            "value": at[place], "position": place, "document": place // 20, "peak": place - start,
            "tokens": tokens[start:stop].tolist(), "activations": [at.get(p, 0.0) for p in range(start, stop)],
        })  # fmt: skip
    return sorted(rows, key=lambda row: (row["kind"] == "sample", row["band"] * (row["kind"] == "sample"), row["rank"]))
