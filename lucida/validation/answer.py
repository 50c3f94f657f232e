"""What an ablation does to the answer: how the probabilities move, and how each target's logit does."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lucida.graph import Graph
from lucida.interventions import Outcome
from lucida.models.model import Model
from lucida.validation.subject import Subject

CHUNK_LOGITS = 1 << 23
"""Logits held at once."""


@dataclass(frozen=True)
class Effects:
    """Effects of ablations on the answer. `kl` is KL(model || ablated) in nats, over the whole vocabulary; `change`
    is what each target's demeaned logit (or difference of two) gains, in logits.
    """

    kl: Float[np.ndarray, " ablation"]
    change: Float[np.ndarray, "ablation target"]


@torch.no_grad()
def effects(subject: Subject, outcomes: Sequence[Outcome]) -> Effects:
    """The effects of ablations on the answer; logits in float64 from the residual, since most effects are small."""
    final = torch.stack([outcome.residual for outcome in outcomes])
    model, own = subject.view.model, subject.view.recording.residual_final[subject.at]
    vectors = target_vectors(model, subject.graph)
    change = _final_norm(model, final).double() @ vectors.T - _final_norm(model, own).double() @ vectors.T
    baseline = torch.log_softmax(model.logits(own[None]).double(), -1)
    parts = []
    for part in final.split(max(1, CHUNK_LOGITS // model.d_vocab)):
        other = torch.log_softmax(model.logits(part).double(), -1)
        parts.append((baseline.exp() * (baseline - other)).sum(-1).clamp_min(0))
    return Effects(torch.cat(parts).cpu().numpy(), change.cpu().numpy())


def target_vectors(model: Model, graph: Graph) -> Float[Tensor, "target d_model"]:
    """The direction of each logit node behind the final norm, demeaned as in a trace."""
    logits = np.flatnonzero(graph.nodes.is_kind("logit"))
    pairs = graph.metadata.get("differences") or [None] * len(logits)
    plus = [pair[0] if pair else int(graph.nodes.token[node]) for node, pair in zip(logits, pairs, strict=True)]
    rows = model.unembedding(torch.tensor(plus, device=model.device))[0]
    for row, pair in zip(rows, pairs, strict=True):
        if pair:
            row -= model.unembedding(torch.tensor([pair[1]], device=model.device))[0][0]
    return rows.double()


def _final_norm(model: Model, residual: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row d_model"]:
    """The final norm, live, in float32; its bias moves no effect."""
    return model.final_norm.push(residual, model.final_norm.scale(residual))
