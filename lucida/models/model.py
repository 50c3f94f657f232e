"""A transformer whose parts have known names, and the text around it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lucida.errors import ModelError, PromptError, suggest
from lucida.models.families import Family, family_of
from lucida.models.norms import Norm, read_norm
from lucida.prompt import Prompt

Chat = Sequence[dict[str, str]]
PromptLike = str | Prompt | Sequence[int] | Chat


@dataclass(frozen=True)
class Layer:
    """The modules of one layer, by role. A norm that the family does not have is None."""

    block: nn.Module
    attention: nn.Module
    attention_norm: nn.Module | None
    attention_post_norm: nn.Module | None
    mlp: nn.Module
    mlp_norm: nn.Module | None
    mlp_post_norm: nn.Module | None


@dataclass(frozen=True)
class MLPWeights:
    """MLP weights: ``down(act(gate x) * (up x))``, or without a gate ``down(act(up x))``."""

    gate: Float[Tensor, "neuron d_model"] | None
    gate_bias: Float[Tensor, " neuron"] | None
    up: Float[Tensor, "neuron d_model"]
    up_bias: Float[Tensor, " neuron"] | None
    down: Float[Tensor, "d_model neuron"]
    down_bias: Float[Tensor, " d_model"] | None


@dataclass(frozen=True)
class AttentionWeights:
    """The value and output maps of one attention layer (the OV circuit), heads apart."""

    value: Float[Tensor, "kv_head d_head d_model"]
    value_bias: Float[Tensor, "kv_head d_head"] | None
    output: Float[Tensor, "d_model head d_head"]
    output_bias: Float[Tensor, " d_model"] | None


class Model:
    """A Hugging Face causal language model seen through its family's row of the table.

    `name` is how the user called it, `source` where its weights came from (provenance, JSON).
    """

    def __init__(self, hf: Any, tokenizer: Any = None, *, name: str = "", source: dict | None = None) -> None:
        architecture = (getattr(hf.config, "architectures", None) or [type(hf).__name__])[0]
        self.family: Family = family_of(architecture)
        self.hf, self.tokenizer, self.name, self.source = hf.eval(), tokenizer, name, source or {}
        config = hf.config
        self.n_layers = int(config.num_hidden_layers)
        self.d_model = int(config.hidden_size)
        self.n_heads = int(config.num_attention_heads)
        self.n_kv_heads = int(getattr(config, "num_key_value_heads", None) or self.n_heads)
        self.d_head = int(getattr(config, "head_dim", None) or self.d_model // self.n_heads)
        self.d_vocab = int(hf.get_output_embeddings().weight.shape[0])
        self.context = int(config.max_position_embeddings)
        self._mlp_weights: tuple[int, MLPWeights] | None = None
        self.softcap: float | None = getattr(config, "final_logit_softcapping", None)
        self.is_parallel = self.family.parallel or bool(
            self.family.parallel_flag and getattr(config, self.family.parallel_flag)
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.hf.get_input_embeddings().weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return self.hf.get_input_embeddings().weight.dtype

    @cached_property
    def base(self) -> nn.Module:
        """The model without its unembedding."""
        return self.hf.get_submodule(self.family.base)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The modules of every layer, by role."""
        row = self.family

        def part(block: nn.Module, name: str) -> nn.Module | None:
            return block.get_submodule(name) if name else None

        return tuple(
            Layer(
                block,
                block.get_submodule(row.attention),
                part(block, row.attention_norm),
                part(block, row.attention_post_norm),
                block.get_submodule(row.mlp),
                part(block, row.mlp_norm),
                part(block, row.mlp_post_norm),
            )
            for block in self.base.get_submodule(row.layers).children()
        )

    @property
    def final_norm_module(self) -> nn.Module:
        """The norm before the unembedding."""
        return self.base.get_submodule(self.family.final_norm)

    @cached_property
    def final_norm(self) -> Norm:
        """The norm before the unembedding, as a frozen-norm view."""
        return read_norm(self.final_norm_module, self.family.norm)

    def norm(self, module: nn.Module | None) -> Norm | None:
        """The frozen-norm view of one of this model's norm modules."""
        return None if module is None else read_norm(module, self.family.norm)

    def attention_weights(self, layer: int) -> AttentionWeights:
        """W_V and W_O of a layer in float32, whatever way the family packs them."""
        row, attention = self.family, self.layers[layer].attention
        value, value_bias = _rows(attention.get_submodule(row.value))
        wanted = self.n_kv_heads * self.d_head
        if row.value_layout == "last_third":
            value = value[-wanted:]
            value_bias = None if value_bias is None else value_bias[-wanted:]
        elif row.value_layout == "interleaved":
            value = value.reshape(self.n_heads, 3, self.d_head, -1)[:, 2]
            value_bias = None if value_bias is None else value_bias.reshape(self.n_heads, 3, self.d_head)[:, 2]
        output, output_bias = _rows(attention.get_submodule(row.output))
        return AttentionWeights(
            value.reshape(self.n_kv_heads, self.d_head, self.d_model),
            None if value_bias is None else value_bias.reshape(self.n_kv_heads, self.d_head),
            output.reshape(self.d_model, self.n_heads, self.d_head),
            output_bias,
        )

    def mlp_weights(self, layer: int) -> MLPWeights:
        """The MLP weights of a layer in float32. Raises ModelError for a mixture of experts.

        Those of the last layer asked for are kept: for a bfloat16 model they are copies, and a sweep asks often.
        """
        if self._mlp_weights is None or self._mlp_weights[0] != layer:
            self._mlp_weights = (layer, self._read_mlp_weights(layer))
        return self._mlp_weights[1]

    def _read_mlp_weights(self, layer: int) -> MLPWeights:
        row, mlp = self.family, self.layers[layer].mlp
        if row.mlp_layout == "mixture":
            raise ModelError(f"{row.name} has a mixture of experts: its neurons cannot be traced; give it a dictionary")
        up, up_bias = _rows(mlp.get_submodule(row.up))
        down, down_bias = _rows(mlp.get_submodule(row.down))
        gate = gate_bias = None
        if row.mlp_layout == "gated":
            gate, gate_bias = _rows(mlp.get_submodule(row.gate))
        elif row.mlp_layout == "gate_up":
            gate, up = up.chunk(2)
            if up_bias is not None:
                gate_bias, up_bias = up_bias.chunk(2)
        return MLPWeights(gate, gate_bias, up, up_bias, down, down_bias)

    def activation(self, layer: int) -> nn.Module:
        """The MLP's activation function."""
        return self.layers[layer].mlp.get_submodule(self.family.activation)

    def unembedding(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Unembedding rows minus the mean row, and the same for its bias: the logits' read vectors.

        `tokens` [target]; returns ([target, d_model], [target]) in float32.
        """
        head = self.hf.get_output_embeddings()
        rows = head.weight.detach()[tokens].float() - self._mean_unembedding
        if getattr(head, "bias", None) is None:
            return rows, torch.zeros(len(tokens), device=rows.device)
        return rows, head.bias.detach()[tokens].float() - head.bias.detach().float().mean()

    @cached_property
    def _mean_unembedding(self) -> Float[Tensor, " d_model"]:
        return self.hf.get_output_embeddings().weight.detach().float().mean(0)

    def logits(self, residual: Float[Tensor, "pos d_model"]) -> Float[Tensor, "pos d_vocab"]:
        """The model's logits (softcap included) from the residual before the final norm, in float32."""
        logits = self.hf.get_output_embeddings()(self.final_norm_module(residual.to(self.dtype))).float()
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits

    # --- text -------------------------------------------------------------------------------------

    def tokenize(self, prompt: PromptLike) -> Prompt:
        """Token ids of a text (with the tokenizer's own special tokens), a chat, or ids as they are.

        Raises PromptError for an empty prompt, one longer than the context, or ids out of range.
        """
        if isinstance(prompt, Prompt):
            ids, text = list(prompt.tokens), prompt.text
        elif isinstance(prompt, str):
            ids, text = self._encode_text(prompt), prompt
        else:
            ids, text = self._encode_sequence(prompt)
        if not ids:
            raise PromptError("the prompt is empty; give at least one token")
        if len(ids) > self.context:
            raise PromptError(f"the prompt has {len(ids)} tokens, the context of this model is {self.context}")
        bad = [i for i in ids if not 0 <= i < self.d_vocab]
        if bad:
            raise PromptError(f"token id {bad[0]} is not in the vocabulary of {self.d_vocab}")
        return Prompt(tuple(ids), tuple(self.token_text(i) for i in ids), text)

    def _encode_text(self, text: str) -> list[int]:
        if not text:
            raise PromptError("the prompt is empty; give at least one token")
        if self.tokenizer is None:
            raise PromptError("this model folder has no tokenizer; give token ids instead of text")
        return list(self.tokenizer(text, verbose=False)["input_ids"])

    def _encode_sequence(self, prompt: Sequence[Any]) -> tuple[list[int], str]:
        if not all(isinstance(m, dict) for m in prompt):
            if not all(isinstance(i, int) and not isinstance(i, bool) for i in prompt):
                raise PromptError("a prompt is a text, a list of token ids or a list of chat messages")
            return list(prompt), ""
        if not prompt:
            raise PromptError("the prompt is empty; give at least one token")
        if self.tokenizer is None or not getattr(self.tokenizer, "chat_template", None):
            raise PromptError("this model has no chat template; give the prompt as text")
        text = self.tokenizer.apply_chat_template(list(prompt), tokenize=False, add_generation_prompt=True)
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return list(ids), text

    def token_text(self, token: int) -> str:
        """How a token reads; an id as text when there is no tokenizer."""
        if self.tokenizer is None:
            return str(token)
        text = self.tokenizer.decode([token], clean_up_tokenization_spaces=False)
        if text and "\ufffd" not in text:
            return text if not self._drops_space(token) else " " + text.removeprefix(" ")
        return self.tokenizer.convert_ids_to_tokens(token) or str(token)

    def _drops_space(self, token: int) -> bool:
        # SentencePiece tokenizers mark a leading space by "\u2581" and drop it when decoding one token.
        return (self.tokenizer.convert_ids_to_tokens(token) or "").startswith("\u2581")

    def token_id(self, token: str | int) -> int:
        """The id of a target token given as text or id.

        Text must be exactly one token, with its leading space if it has one (" Paris" and "Paris" differ).
        Raises PromptError with what the text tokenises to and the nearest single tokens.
        """
        if isinstance(token, int):
            if not 0 <= token < self.d_vocab:
                raise PromptError(f"token id {token} is not in the vocabulary of {self.d_vocab}")
            return token
        if self.tokenizer is None:
            raise PromptError(f"target {token!r}: this model folder has no tokenizer; give a token id")
        ids = self.tokenizer(token, add_special_tokens=False, verbose=False)["input_ids"]
        if len(ids) == 1 and self.token_text(ids[0]) == token:
            return int(ids[0])
        special = self.tokenizer.convert_tokens_to_ids(token)
        if isinstance(special, int) and special != self.tokenizer.unk_token_id and token in self._vocabulary:
            return special
        match = [i for i in (self._vocabulary.get("\u2581" + token[1:] if token[:1] == " " else token),) if i]
        if match and self.token_text(match[0]) == token:
            return match[0]
        pieces = ", ".join(repr(self.token_text(i)) for i in ids[:8])
        near = suggest(token.strip(), [self.token_text(i).strip() for i in ids])
        raise PromptError(f"target {token!r} is not one token of this model: it reads as {pieces}{near}")

    @cached_property
    def _vocabulary(self) -> dict[str, int]:
        return self.tokenizer.get_vocab()


def linear(
    x: Float[Tensor, "*pos d_model"], weight: Float[Tensor, "out d_model"], bias: Float[Tensor, " out"] | None
) -> Float[Tensor, "*pos out"]:
    """``x @ weight.T + bias``."""
    return x @ weight.T if bias is None else x @ weight.T + bias


def _rows(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight [out, in] and bias [out] of a linear module in float32 (GPT-2 keeps them transposed)."""
    weight: Tensor = module.weight.detach()  # pyright: ignore
    if type(module).__name__ == "Conv1D":
        weight = weight.T
    bias = getattr(module, "bias", None)
    return weight.float(), None if bias is None else bias.detach().float()
