"""Tiny models whose MLPs are exactly a ReLU dictionary, and models with a planted circuit."""

from functools import cache
from typing import Any

import torch
import transformers
from tiny_models import FAMILIES

from lucida.dictionaries import Dictionary, random_dictionary
from lucida.models.model import Model
from lucida.models.taps import run

RELU = {"gpt2": {"activation_function": "relu"}, "gpt_neox": {"hidden_act": "relu"}}


@cache
def relu_model(family: str) -> Model:
    """A tiny random model whose MLP is down(relu(up x))."""
    config_class, arguments = FAMILIES[family]
    config = getattr(transformers, config_class)(**arguments, **RELU[family])
    torch.manual_seed(0)
    hf = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter += 0.15 * torch.randn_like(parameter)
    return Model(hf.requires_grad_(False), name=f"relu-{family}")


def perfect_dictionary(model: Model) -> Dictionary:
    """The MLPs of a ReLU model as a dictionary: encoder = up, decoder = down."""
    weights = [model._read_mlp_weights(layer) for layer in range(model.n_layers)]
    layers = dict(enumerate(weights))
    return Dictionary.from_tensors(
        encoders={layer: w.up.contiguous() for layer, w in layers.items()},
        encoder_biases={layer: w.up_bias for layer, w in layers.items()},  # type: ignore[misc]
        decoders={layer: w.down.T[:, None].contiguous() for layer, w in layers.items()},
        decoder_biases=torch.stack([w.down_bias for w in weights]),  # type: ignore[misc]
        activation="relu",
        reads_at="mlp_in",
        name="perfect",
    )


def random_rows(model: Model, count: int = 6, length: int = 14, seed: int = 0) -> torch.Tensor:
    """Rows of random tokens."""
    return torch.randint(3, model.d_vocab, (count, length), generator=torch.Generator().manual_seed(seed))


def fitting_dictionary(model: Model, rows: torch.Tensor, **settings: Any) -> Dictionary:
    """A random dictionary of which about 4 features a layer are active on these rows."""
    reads_at = settings.setdefault("reads_at", "mlp_in")
    samples = {}

    def visit(call: Any) -> None:
        if call.at == "mlp_out":
            samples[call.layer] = call.site(model, reads_at)[:, 1:].flatten(0, 1)

    run(model, rows, visit)
    settings = {"l0": 4.0, "seed": 3, "scale": 0.3, **settings}
    return random_dictionary(model.n_layers, model.d_model, 40, samples=samples, **settings)


def greedy_rows(model: Model, count: int, length: int, seed: int = 0, *, least: bool = False) -> torch.Tensor:
    """Rows of which every token after the fourth is the model's own most (or least) probable one."""
    rows = random_rows(model, count, 4, seed)
    with torch.no_grad():
        for _ in range(length - 4):
            logits = model.hf(input_ids=rows).logits[:, -1]
            following = (-logits if least else logits).argmax(-1)
            rows = torch.cat((rows, following[:, None]), 1)
    return rows


def planted_model(*, chained: bool) -> Model:
    """A GPT-2 of two layers in which token 1 writes A, MLP 0 writes B where it reads A, and MLP 1 writes C.

    MLP 1 reads B if `chained` (A -> B -> C), else A (A -> B and A -> C). Attention does nothing; a large constant part
    of the stream keeps the norms' denominators where they are.
    """
    config = transformers.GPT2Config(
        vocab_size=6, n_embd=16, n_layer=2, n_head=1, n_positions=8, n_inner=4, activation_function="relu",
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    hf = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            parameter.fill_(1.0 if "ln" in name and name.endswith("weight") else 0.0)
        ballast = torch.tensor([100.0, -100.0] * 5)
        hf.transformer.wte.weight[:, 6:] = ballast
        # Whatever is written is taken off another dimension, which nobody reads: the norms see the same mean.
        hf.transformer.wte.weight[1, [0, 3]] = torch.tensor([2.0, -2.0])
        unit = 100.0 * (10 / 16) ** 0.5  # the denominator of the norm: roughly the ballast's
        for layer, (reads, writes) in enumerate([(0, 1), (1 if chained else 0, 2)]):
            mlp = hf.transformer.h[layer].mlp
            mlp.c_fc.weight[reads, 0] = unit
            mlp.c_proj.weight[0, [writes, 3 + writes]] = torch.tensor([1.0, -1.0])
        hf.lm_head.weight = torch.nn.Parameter(torch.zeros(6, 16))
        hf.lm_head.weight[2, 2], hf.lm_head.weight[3, 1] = 5.0, 2.0
    return Model(hf.requires_grad_(False), name="planted")


def skipping_dictionary(model: Model) -> Dictionary:
    """A feature of layer 0 that reads A and is said to write B at layer 0 and C at layer 1; layer 1 has a dead one."""
    first = model._read_mlp_weights(0)
    encoder = first.up[:1].contiguous()
    decoders = torch.zeros(1, 2, model.d_model)
    decoders[0, 0, [1, 4]] = decoders[0, 1, [2, 5]] = torch.tensor([1.0, -1.0])
    return Dictionary.from_tensors(
        encoders={0: encoder, 1: torch.zeros_like(encoder)},
        encoder_biases={0: torch.zeros(1), 1: torch.zeros(1)},
        decoders={0: decoders, 1: torch.zeros(1, 1, model.d_model)},
        decoder_biases=torch.zeros(2, model.d_model),
        activation="relu",
        reads_at="mlp_in",
        name="skipping",
    )
