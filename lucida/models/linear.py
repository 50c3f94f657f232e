"""The frozen linear view of a model on one prompt: attention patterns and norm denominators fixed.

With both fixed, every path between MLPs is linear (Circuit Tracing 2025, "Local replacement model";
docs/method.md). Everything that can be folded into weights is: norm weights, centring and denominators
go into W_O, W_V and the patterns, so that crossing an attention block is three matrix products.
"""

from dataclasses import dataclass
from functools import cache, lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lucida.models.model import Model
from lucida.models.norms import Norm
from lucida.models.recording import Recording


@dataclass(frozen=True)
class FrozenAttention:
    """One attention block, frozen. `constant` is what its biases add to the residual (None: nothing)."""

    output: Float[Tensor, "d_model head_dims"]
    value: Float[Tensor, "kv_dims d_model"]
    mixing: Float[Tensor, "kv_head key group_query"]
    """mixing[h, k, (g, q)]: how much of what head (h, g) writes at position q was read at position k,
    norm denominators included."""
    constant: Float[Tensor, "pos d_model"] | None


class FrozenModel:
    """What one recorded forward pass looks like to a gradient: linear maps, by layer."""

    def __init__(self, model: Model, recording: Recording, *, dtype: torch.dtype = torch.float32) -> None:
        self.model, self.recording, self.dtype = model, recording, dtype
        self.n_layers, self.n_positions = model.n_layers, len(recording.prompt)
        self._mlp_norms = [model.norm(layer.mlp_norm) for layer in model.layers]
        self._post_norms = [model.norm(layer.mlp_post_norm) for layer in model.layers]
        self.attention = lru_cache(maxsize=None)(self._attention)

    # --- attention --------------------------------------------------------------------------------

    def _attention(self, layer: int) -> FrozenAttention:
        """The frozen attention block of `layer`, built once."""
        model, recording = self.model, self.recording
        weights, modules = model.attention_weights(layer), model.layers[layer]
        before, after = model.norm(modules.attention_norm), model.norm(modules.attention_post_norm)
        value, output = weights.value.flatten(0, 1), weights.output.flatten(1)
        mixing = recording.patterns[layer]
        if before is not None:
            value = before.fold_into(value)
            mixing = mixing * before.scale(recording.residual_pre[layer])
        if after is not None:
            output = output * after.weight[:, None]
            mixing = mixing * after.scale(recording.attention_out[layer])[:, None]
        heads, positions, _ = mixing.shape
        grouped = mixing.reshape(model.n_kv_heads, heads // model.n_kv_heads * positions, positions)
        return FrozenAttention(
            output.to(self.dtype),
            value.to(self.dtype),
            grouped.transpose(1, 2).contiguous().to(self.dtype),
            self._attention_constant(layer, before, after),
        )

    def _attention_constant(self, layer: int, before: Norm | None, after: Norm | None) -> Tensor | None:
        weights, recording = self.model.attention_weights(layer), self.recording
        value = weights.value_bias
        if before is not None and before.bias is not None:
            shifted = weights.value @ before.bias
            value = shifted if value is None else value + shifted
        constant = torch.zeros_like(recording.residual_pre[layer])
        if value is not None:
            group = self.model.n_heads // self.model.n_kv_heads
            # A row of a pattern sums to one, up to rounding; the sum keeps that rounding.
            per_head = recording.patterns[layer].sum(-1).T[:, :, None] * value.repeat_interleave(group, 0)
            constant += per_head.flatten(1) @ weights.output.flatten(1).T
        if weights.output_bias is not None:
            constant += weights.output_bias
        if after is not None:
            constant = after.push(constant, after.scale(recording.attention_out[layer]))
            constant = constant if after.bias is None else constant + after.bias
        return constant if constant.any() else None

    def cross_attention_(self, layer: int, gradient: Float[Tensor, "target pos d_model"]) -> None:
        """Add to `gradient` (contiguous, at the block's output) what reaches the block's input.

        ``g += norm^T V^T A^T O^T g``. Positions may be a prefix of the prompt: nothing flows upwards in time.
        """
        frozen, model = self.attention(layer), self.model
        targets, positions, _ = gradient.shape
        group, total = model.n_heads // model.n_kv_heads, self.n_positions
        flat = gradient.view(targets * positions, -1)
        heads = multiply(flat, frozen.output).view(targets, positions, model.n_kv_heads, group, model.d_head)
        heads = heads.permute(2, 3, 1, 0, 4).reshape(model.n_kv_heads, group * positions, -1)
        mixing = frozen.mixing
        if positions < total:
            mixing = mixing.view(model.n_kv_heads, total, group, total)[:, :positions, :, :positions]
            mixing = mixing.reshape(model.n_kv_heads, positions, group * positions)
        read = torch.bmm(mixing, heads).view(model.n_kv_heads, positions, targets, model.d_head)
        read = read.permute(2, 1, 0, 3).reshape(targets * positions, -1)
        add_product_(flat, read, frozen.value)

    def attention_contribution(self, layer: int) -> Float[Tensor, "pos d_model"]:
        """What attention really added to the residual on this prompt (through the post-norm, if there is one)."""
        out = self.recording.attention_out[layer]
        norm = self.model.norm(self.model.layers[layer].attention_post_norm)
        if norm is None:
            return out
        added = norm.push(out, norm.scale(out))
        return added if norm.bias is None else added + norm.bias

    # --- the MLP's sites --------------------------------------------------------------------------

    @cache  # noqa: B019
    def _mlp_scale(self, layer: int) -> Float[Tensor, " pos"]:
        norm = self._mlp_norms[layer]
        x = self.recording.residual_mid[layer]
        return torch.ones(len(x), device=x.device) if norm is None else norm.scale(x)

    @cache  # noqa: B019
    def _post_scale(self, layer: int) -> Float[Tensor, " pos"]:
        norm = self._post_norms[layer]
        x = self.recording.mlp_out[layer]
        return torch.ones(len(x), device=x.device) if norm is None else norm.scale(x)

    def reading_site(self, reads_at: str) -> str:
        """`reads_at`, as this family has it: TransformerLens' ``ln2.hook_normalized`` comes before the
        weight of an RMS norm, but after the weight and bias of a layer norm.
        """
        return "mlp_in" if reads_at == "mlp_norm" and self.model.family.norm == "layer" else reads_at

    def site(self, layer: int, reads_at: str) -> Float[Tensor, "pos d_model"]:
        """What a dictionary reads at `reads_at`: "resid_mid", "mlp_norm" (normalised, without the
        norm's weight) or "mlp_in" (what the MLP reads).
        """
        norm = self._mlp_norms[layer]
        if reads_at == "mlp_in":
            return self.recording.mlp_in[layer]
        x = self.recording.residual_mid[layer]
        if reads_at == "resid_mid" or norm is None:
            return x
        return x * self._mlp_scale(layer).unsqueeze(-1)

    def pull_site(
        self, layer: int, reads_at: str, vectors: Float[Tensor, "k d_model"], positions: Int[Tensor, " k"]
    ) -> Float[Tensor, "k d_model"]:
        """Read vectors at a site, as read vectors of the residual before the MLP norm."""
        norm = self._mlp_norms[layer]
        if reads_at == "resid_mid" or norm is None:
            return vectors
        return norm.pull(vectors, self._mlp_scale(layer)[positions], weighted=reads_at == "mlp_in")

    def site_constant(self, layer: int, reads_at: str) -> Float[Tensor, " d_model"] | None:
        """The part of a site that does not come from the residual: the norm's bias."""
        norm = self._mlp_norms[layer]
        return norm.bias if norm is not None and reads_at == "mlp_in" else None

    def push_output(
        self, layer: int, vectors: Float[Tensor, "k d_model"], positions: Int[Tensor, " k"]
    ) -> Float[Tensor, "k d_model"]:
        """MLP-output vectors as they arrive in the residual (through the post-norm, if there is one)."""
        norm = self._post_norms[layer]
        return vectors if norm is None else norm.push(vectors, self._post_scale(layer)[positions])

    def pull_output(
        self, layer: int, gradient: Float[Tensor, "target pos d_model"]
    ) -> Float[Tensor, "target pos d_model"]:
        """The gradient at the MLP's own output, from the gradient at the residual."""
        norm = self._post_norms[layer]
        if norm is None:
            return gradient
        return norm.pull(gradient, self._post_scale(layer)[: gradient.shape[1]].expand(gradient.shape[:2]))

    def output_constant(self, layer: int) -> Float[Tensor, " d_model"] | None:
        """What the post-norm's bias adds to the residual."""
        norm = self._post_norms[layer]
        return None if norm is None else norm.bias

    def mlp_contribution(self, layer: int) -> Float[Tensor, "pos d_model"]:
        """What the MLP really added to the residual on this prompt."""
        out = self.recording.mlp_out[layer]
        everywhere = torch.arange(len(out), device=out.device)
        added, constant = self.push_output(layer, out, everywhere), self.output_constant(layer)
        return added if constant is None else added + constant

    # --- the ends ---------------------------------------------------------------------------------

    def pull_logits(
        self, vectors: Float[Tensor, "target d_model"], positions: Int[Tensor, " target"]
    ) -> tuple[Float[Tensor, "target d_model"], Float[Tensor, " target"]]:
        """Unembedding directions as read vectors of the final residual, and their constant parts."""
        norm = self.model.final_norm
        scale = norm.scale(self.recording.residual_final)
        constant = torch.zeros(len(vectors), device=vectors.device)
        return norm.pull(vectors, scale[positions]), constant if norm.bias is None else vectors @ norm.bias

    @property
    def embeddings(self) -> Float[Tensor, "pos d_model"]:
        """What enters layer 0: token embeddings, with learned positions where the model has them."""
        return self.recording.residual_pre[0]


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` in the type of `b` (float32 or bfloat16 operands)."""
    return a.to(b.dtype) @ b


def add_product_(total: Tensor, a: Tensor, b: Tensor) -> None:
    """``total += a @ b`` with a float32 total."""
    if b.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        total += a.to(b.dtype) @ b
