"""Tiny random models of every family and tiny random dictionaries of every kind: most laws are tested on these."""

from functools import cache
from typing import Any

import torch

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


WORDS = [f"w{i}" for i in range(95)]


@cache
def word_model() -> Any:
    """A tiny model with a tokenizer of words and a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from lucida.models.model import Model

    vocabulary = {word: i for i, word in enumerate([*WORDS, "user:", "assistant:"])}
    tokenizer = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    wrapped.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }} {% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    return Model(build_hf("llama"), wrapped, name="tiny-words")
