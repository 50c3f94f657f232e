"""Tiny random models of every family and tiny random dictionaries: most laws are tested on these."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings

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

BASE = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
SLIDING = {"sliding_window": 4}
GEMMA = BASE | SLIDING | {"head_dim": 8, "query_pre_attn_scalar": 8}
NEOX = {k: v for k, v in BASE.items() if k != "num_key_value_heads"}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", BASE | {"head_dim": 8}),
    "llama_biased": ("LlamaConfig", BASE | {"attention_bias": True, "mlp_bias": True}),
    "mistral": ("MistralConfig", BASE | SLIDING | {"head_dim": 8}),
    "qwen2": ("Qwen2Config", BASE),
    "qwen3": ("Qwen3Config", BASE | {"head_dim": 8}),
    "gemma2": ("Gemma2Config", GEMMA),
    "gemma3": ("Gemma3TextConfig", GEMMA),
    "olmo2": ("Olmo2Config", BASE),
    "phi3": ("Phi3Config", BASE | {"pad_token_id": 0}),
    "phi": ("PhiConfig", BASE),
    "gpt2": (
        "GPT2Config",
        {"vocab_size": 97, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64,
         "bos_token_id": 1, "eos_token_id": 2},
    ),
    "gpt_neox": ("GPTNeoXConfig", NEOX),
    "gpt_neox_sequential": ("GPTNeoXConfig", NEOX | {"use_parallel_residual": False}),
    "mixtral": ("MixtralConfig", BASE | {"num_local_experts": 4, "head_dim": 8}),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        BASE | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8},
    ),
}  # fmt: skip
DENSE_FAMILIES = [name for name in FAMILIES if name not in ("mixtral", "qwen3_moe")]

DICTIONARY_KINDS: dict[str, dict[str, Any]] = {
    "plt": {"span": 1, "reads_at": "mlp_in", "writes_at": "mlp_out"},
    "plt_topk": {"span": 1, "activation": "topk", "reads_at": "mlp_norm", "writes_at": "resid"},
    "plt_skip": {"span": 1, "skip": True, "reads_at": "mlp_in", "writes_at": "mlp_out"},
    "windowed": {"span": 2, "activation": "relu", "reads_at": "resid_mid", "writes_at": "mlp_out"},
    "clt": {"span": 3, "reads_at": "resid_mid", "writes_at": "resid"},
}
FAMILIES_AND_KINDS = [
    (f, k) for f in FAMILIES for k in (*DICTIONARY_KINDS, "neurons") if k != "neurons" or f in DENSE_FAMILIES
]
"""Every family with every kind of dictionary and, if it is dense, with its neurons."""


def build_hf(family: str, seed: int = 0) -> Any:
    """A tiny random Hugging Face model of a family, biases and norm weights random too."""
    import transformers

    config_class, arguments = FAMILIES[family]
    config = getattr(transformers, config_class)(**arguments)
    torch.manual_seed(seed)
    hf = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter += 0.15 * torch.randn_like(parameter)
    hf.config.architectures = [type(hf).__name__]
    return hf.requires_grad_(False)


def dictionary_of_kind(view: Any, kind: str) -> Any:
    """A random dictionary of a kind, about 4 of its 40 features active at a position of this view of a model."""
    from lucida.dictionaries import random_dictionary

    reads_at = view.reading_site(DICTIONARY_KINDS[kind]["reads_at"])
    samples = {layer: view.site(layer, reads_at)[1:] for layer in range(view.n_layers)}
    settings = {"l0": 4.0, "samples": samples, "seed": 3, "scale": 0.5, **DICTIONARY_KINDS[kind]}
    return random_dictionary(view.n_layers, view.model.d_model, 40, **settings)


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
