"""Where each architecture keeps the parts that the linear view needs: one row of a table per family.

A row names modules, never code paths. `check_model` (lucida/models/check.py) proves a row right on
the loaded weights before anything is traced with it.
"""

from dataclasses import dataclass

from lucida.errors import ModelError, suggest


@dataclass(frozen=True)
class Family:
    """One architecture family. Paths are dotted module names; "" means that the part is absent."""

    name: str
    architectures: tuple[str, ...]
    base: str = "model"
    layers: str = "layers"
    final_norm: str = "norm"
    attention: str = "self_attn"
    attention_norm: str = "input_layernorm"
    attention_post_norm: str = ""
    mlp: str = "mlp"
    mlp_norm: str = "post_attention_layernorm"
    mlp_post_norm: str = ""
    norm: str = "rms"
    """"rms", "rms_plus_one" (scales by 1 + weight) or "layer" (centres, scales, shifts)."""
    value: str = "v_proj"
    value_layout: str = "separate"
    """How the value rows lie in `value`: "separate", "last_third" (q, k, v stacked, also with fewer
    kv heads) or "interleaved" (q, k, v of head 0, then of head 1, ...)."""
    output: str = "o_proj"
    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"
    mlp_layout: str = "gated"
    """"gated", "gate_up" (gate and up rows stacked in `up`), "plain" (up, activation, down) or "mixture"
    (experts: replaced as a whole, no neurons)."""
    activation: str = "act_fn"
    parallel: bool = False
    """Attention and MLP read the same residual; their outputs are added together."""
    parallel_flag: str = ""
    """Config field that says whether this model is parallel, where the family has both."""


FAMILIES = (
    Family("llama", ("LlamaForCausalLM",)),
    Family("mistral", ("MistralForCausalLM",)),
    Family("qwen2", ("Qwen2ForCausalLM",)),
    Family("qwen3", ("Qwen3ForCausalLM",)),
    Family(
        "gemma2",
        ("Gemma2ForCausalLM",),
        norm="rms_plus_one",
        attention_post_norm="post_attention_layernorm",
        mlp_norm="pre_feedforward_layernorm",
        mlp_post_norm="post_feedforward_layernorm",
    ),
    Family(
        "gemma3",
        ("Gemma3ForCausalLM",),
        norm="rms_plus_one",
        attention_post_norm="post_attention_layernorm",
        mlp_norm="pre_feedforward_layernorm",
        mlp_post_norm="post_feedforward_layernorm",
    ),
    Family(
        "olmo2",
        ("Olmo2ForCausalLM",),
        attention_norm="",
        attention_post_norm="post_attention_layernorm",
        mlp_norm="",
        mlp_post_norm="post_feedforward_layernorm",
    ),
    Family(
        "phi3",
        ("Phi3ForCausalLM",),
        value="qkv_proj",
        value_layout="last_third",
        up="gate_up_proj",
        mlp_layout="gate_up",
        activation="activation_fn",
    ),
    Family(
        "phi",
        ("PhiForCausalLM",),
        final_norm="final_layernorm",
        mlp_norm="input_layernorm",
        norm="layer",
        output="dense",
        up="fc1",
        down="fc2",
        mlp_layout="plain",
        activation="activation_fn",
        parallel=True,
    ),
    Family(
        "gpt2",
        ("GPT2LMHeadModel",),
        base="transformer",
        layers="h",
        final_norm="ln_f",
        attention="attn",
        attention_norm="ln_1",
        mlp_norm="ln_2",
        norm="layer",
        value="c_attn",
        value_layout="last_third",
        output="c_proj",
        up="c_fc",
        down="c_proj",
        mlp_layout="plain",
        activation="act",
    ),
    Family(
        "gpt_neox",
        ("GPTNeoXForCausalLM",),
        base="gpt_neox",
        final_norm="final_layer_norm",
        attention="attention",
        norm="layer",
        value="query_key_value",
        value_layout="interleaved",
        output="dense",
        up="dense_h_to_4h",
        down="dense_4h_to_h",
        mlp_layout="plain",
        activation="act",
        parallel_flag="use_parallel_residual",
    ),
    Family("mixtral", ("MixtralForCausalLM",), mlp_layout="mixture"),
    Family("qwen3_moe", ("Qwen3MoeForCausalLM",), mlp_layout="mixture"),
)


def supported_architectures() -> list[str]:
    """Every architecture name that can be traced, as it stands in a model's config."""
    return [architecture for family in FAMILIES for architecture in family.architectures]


def family_of(architecture: str) -> Family:
    """The row of an architecture such as "LlamaForCausalLM".

    Raises ModelError, naming what is supported, for any other.
    """
    for family in FAMILIES:
        if architecture in family.architectures:
            return family
    known = supported_architectures()
    raise ModelError(
        f"architecture {architecture} is not supported{suggest(architecture, known)} (supported: {', '.join(known)})"
    )
