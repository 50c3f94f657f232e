"""What all tests share: settings, and fixtures of tiny models, dictionaries and corpora."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from tiny_models import build_hf

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.pop("COLUMNS", None)  # parallel test processes set it, and tables would be cut to it
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# The same examples every time: a suite that fails by chance is not run. HYPOTHESIS_PROFILE=default searches anew.
settings.register_profile("suite", derandomize=True, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))

# Tiny models: a second thread only waits, and two test processes share two cores. tests/test_real.py takes all.
torch.set_num_threads(1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """All tests of a file run in one process: what they share is made once."""
    from xdist.scheduler import LoadFileScheduling

    return LoadFileScheduling(config, log)


SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture
def quick_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished training run calibrates its thresholds on few tokens: the thousands of a real one take a minute."""
    monkeypatch.setattr("lucida.training.loop.CALIBRATION_TOKENS", 200)


@pytest.fixture(scope="session")
def tiny_model() -> Callable[[str], Any]:
    """`tiny_model(family)` -> Model, one for each family and session."""
    from lucida.models.model import Model

    built: dict[str, Any] = {}

    def get(family: str) -> Any:
        if family not in built:
            built[family] = Model(build_hf(family), name=f"tiny-{family}")
        return built[family]

    return get


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    """Graphs that circuit-tracer computed, beside the project."""
    folder = SHARED / "golden"
    if not folder.is_dir():
        pytest.skip("no ../shared/golden beside the project")
    return folder


@pytest.fixture(scope="session")
def store_for(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """`store_for(model, n_tokens)`: documents of random lengths and tokens with many repetitions."""

    from lucida.corpus.store import tokenizer_fingerprint, write_store

    def make(model: Any, n_tokens: int, *, prefix: int | None = None, seed: int = 0) -> Any:
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
    from lucida.dictionaries.random import random_dictionary

    def make(model: Any, n_features: int = 40, **settings: Any) -> Any:
        return random_dictionary(model.n_layers, model.d_model, n_features, **{"l0": 4, **settings})

    return make
