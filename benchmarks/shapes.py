"""Random models of known shapes, for machines that have no weights: what a trace costs does not depend on them."""

from pathlib import Path

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

SHAPES = ("stories15m", "smollm2-135m", "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b", "gemma-2-2b")


def write_random_model(shape: str, folder: Path, *, seed: int) -> None:
    """Write a model of that shape with random weights and no tokenizer."""
    torch.manual_seed(seed)
    _build(shape).save_pretrained(folder)


def _build(shape: str) -> PreTrainedModel:
    if shape == "stories15m":
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=32000, hidden_size=288, intermediate_size=768, num_hidden_layers=6,
                num_attention_heads=6, num_key_value_heads=6, head_dim=48, max_position_embeddings=256,
                tie_word_embeddings=True,
            )
        )  # fmt: skip
    if shape == "smollm2-135m":
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
                num_attention_heads=9, num_key_value_heads=3, head_dim=64, max_position_embeddings=8192,
                tie_word_embeddings=True,
            )
        )  # fmt: skip
    if shape == "gemma-2-2b":
        return Gemma2ForCausalLM(
            Gemma2Config(
                vocab_size=256000, hidden_size=2304, intermediate_size=9216, num_hidden_layers=26,
                num_attention_heads=8, num_key_value_heads=4, head_dim=256,
            )
        )  # fmt: skip
    big = shape == "qwen2.5-coder-1.5b"
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=151936, hidden_size=1536 if big else 896, intermediate_size=8960 if big else 4864,
            num_hidden_layers=28 if big else 24, num_attention_heads=12 if big else 14, num_key_value_heads=2,
            tie_word_embeddings=True,
        )
    )  # fmt: skip
