"""Tiny models in which norms hardly react: a large constant part of the stream keeps their denominators where they are.

There a graph through the MLPs' own ReLU neurons is exact but for gates that open or shut.
"""

from functools import cache

import torch
import transformers

from lucida.dictionaries import Dictionary
from lucida.models.model import Model

BALLAST, SIZE, WIDTH = 8, 400.0, 32


@cache
def steady_model(seed: int = 0) -> Model:
    """A GPT-2 of four layers with ReLU; what it reads and writes leaves the ballast alone."""
    config = transformers.GPT2Config(
        vocab_size=61, n_embd=WIDTH, n_layer=4, n_head=4, n_positions=32, n_inner=24, activation_function="relu",
        bos_token_id=1, eos_token_id=2, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(seed)
    hf = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            parameter.copy_(0.25 * torch.randn_like(parameter))
            if "ln_" in name:
                # The denominator is nearly the ballast's, and the weight undoes it.
                parameter.fill_(SIZE * (BALLAST / WIDTH) ** 0.5 if name.endswith("weight") else 0.0)
            if "c_attn.weight" in name or "c_fc.weight" in name:
                parameter[:BALLAST] = 0
            if "c_proj" in name:
                parameter[..., :BALLAST] = 0
        hf.transformer.wpe.weight[:, :BALLAST] = 0
        hf.transformer.wte.weight[:, :BALLAST] = torch.tensor([SIZE, -SIZE] * (BALLAST // 2))
        hf.lm_head.weight.copy_(0.1 * torch.randn_like(hf.lm_head.weight))
        hf.lm_head.weight[:, :BALLAST] = 0
    return Model(hf.requires_grad_(False), name="steady")


def own_features(model: Model) -> Dictionary:
    """The MLPs of a ReLU model as a dictionary: encoder = up, decoder = down."""
    layers = {layer: model._read_mlp_weights(layer) for layer in range(model.n_layers)}
    return Dictionary.from_tensors(
        encoders={layer: w.up.contiguous() for layer, w in layers.items()},
        encoder_biases={layer: w.up_bias for layer, w in layers.items()},  # type: ignore[misc]
        decoders={layer: w.down.T[:, None].contiguous() for layer, w in layers.items()},
        decoder_biases=torch.stack([w.down_bias for w in layers.values()]),  # type: ignore[misc]
        activation="relu",
        reads_at="mlp_in",
        name="own",
    )
