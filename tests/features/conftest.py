"""A tiny model with a dictionary and text to index."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lucida.corpus.store import TokenStore, tokenizer_fingerprint, write_store
from lucida.dictionaries.random import random_dictionary

sys.path.insert(0, str(Path(__file__).parents[1] / "corpus"))


@pytest.fixture(scope="session")
def store_for(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., TokenStore]:
    """`store_for(model, n_tokens)`: documents of random lengths and tokens with many repetitions."""

    def make(model: Any, n_tokens: int, *, prefix: int | None = None, seed: int = 0) -> TokenStore:
        generator = np.random.default_rng(seed)
        documents, left = [], n_tokens
        while left > 0:
            length = min(left, int(generator.integers(1, 60)))
            documents.append(generator.zipf(1.3, length) % model.d_vocab)
            left -= length
        return write_store(
            tmp_path_factory.mktemp("store") / "s", documents, name="zipf", source={"kind": "test"},
            tokenizer=tokenizer_fingerprint(model), d_vocab=model.d_vocab, prefix=prefix, separator=None,
        )  # fmt: skip

    return make


@pytest.fixture(scope="session")
def tiny_features() -> Callable[..., Any]:
    """`tiny_features(model, ...)`: a random dictionary of its shape."""

    def make(model: Any, n_features: int = 40, **settings: Any) -> Any:
        return random_dictionary(model.n_layers, model.d_model, n_features, **{"l0": 4, **settings})

    return make
