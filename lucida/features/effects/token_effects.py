"""What every feature says and hears: the tokens whose logits it moves, and the tokens whose embeddings move it.

Over a whole vocabulary rare tokens win a plain ranking: rows that training hardly touched have odd norms. So tokens
are ranked by ``effect / sqrt(|row|^2 + median |row|^2) * n / (n + N / V)`` with n of the corpus' N tokens being this
one and V tokens in the vocabulary: per unit of the token's own row, but not for rows shorter than usual, and
discounted where the corpus hardly has the token. Effects are centred: on average over the corpus' tokens they are 0.

Chosen by a trial, in the upper third of the layers: how often is the token that follows a feature's three strongest
places (stories15m 37k tokens, SmolLM2 12k) among the ten it promotes, and for a shuffled other feature (chance)?

| ranking | stories15m | chance | SmolLM2-135M | chance |
|---|---|---|---|---|
| effect | .139 | .012 | .018 | .002 |
| effect / norm | .077 | .005 | .007 | .000 |
| effect, tokens seen 20 times | .141 | .012 | .020 | .002 |
| effect / norm, tokens seen 20 times | .115 | .007 | .007 | .000 |
| as above, discount n / (n + N / 4V) | .167 | .016 | .033 | .004 |
| **as above** | **.187** | **.021** | **.041** | **.008** |
| as above, discount n / (n + 4N / V) | .204 | .025 | .051 | .010 |

A stronger discount says more and more of what the corpus says anyway. By eye the chosen one reads best of all:
a feature of stories15m gives "yourself, itself, himself, herself", where effect / norm gives "Rome, Prom, angular".
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from lucida.dictionaries import Dictionary
from lucida.errors import FeatureError
from lucida.features.effects.directions import feature_space, frozen_norm, read, written
from lucida.models.model import Model
from lucida.progress import Progress, silent

BLOCK = 256
"""Features whose effects on the whole vocabulary are held at once (50 MB at 49,152 tokens)."""
COLUMNS = 256
"""Columns of a block of scores; only the blocks with the largest maxima are searched."""


@dataclass(frozen=True, eq=False)
class Strongest:
    """For each feature the tokens at one end of a ranking, and the effects, the strongest first."""

    tokens: Int[Tensor, "feature count"]
    effects: Float[Tensor, "feature count"]

    @classmethod
    def joined(cls, parts: "list[Strongest]") -> "Strongest":
        """All features of all parts."""
        return cls(torch.cat([part.tokens for part in parts]), torch.cat([part.effects for part in parts]))


@dataclass(frozen=True, eq=False)
class TokenEffects:
    """The tokens that each feature promotes and suppresses most: logits per unit of activation, centred."""

    promoted: Strongest
    suppressed: Strongest


@dataclass(frozen=True, eq=False)
class TokenRanking:
    """Rows of tokens, centred, and the weight by which each token's effects are ranked (see the module)."""

    rows: Float[Tensor, "d_vocab d_model"]
    weights: Float[Tensor, " d_vocab"]

    @classmethod
    def of(cls, rows: Float[Tensor, "d_vocab d_model"], counts: NDArray[np.integer] | None) -> "TokenRanking":
        """A ranking of the tokens with these rows; `counts` [d_vocab] says how often the corpus has each.

        Without counts all tokens are taken for equally frequent. Raises FeatureError for counts of another shape.
        """
        share, discount = torch.full((len(rows),), 1.0 / len(rows)), torch.ones(len(rows))
        if counts is not None:
            if counts.shape != (len(rows),):
                raise FeatureError(f"counts of {len(counts):,} tokens were given; the model has {len(rows):,} tokens")
            seen = torch.from_numpy(counts.astype(np.float32))
            total = float(seen.sum())
            if total > 0:
                share, discount = seen / total, seen / (seen + total / len(rows))
        centred = rows - share @ rows
        squares = centred.square().sum(1)
        typical = squares.median().clamp_min(1e-12)
        return cls(centred, discount / (squares + typical).sqrt())

    @cached_property
    def _scaled(self) -> Float[Tensor, "d_model d_vocab"]:
        return (self.rows * self.weights[:, None]).T.contiguous()

    def scores(self, directions: Float[Tensor, "feature d_model"]) -> Float[Tensor, "feature d_vocab"]:
        """What the tokens are ranked by."""
        return directions @ self._scaled

    def ends(self, directions: Float[Tensor, "feature d_model"], count: int) -> tuple[Strongest, Strongest]:
        """The `count` tokens at the upper and at the lower end for each direction."""
        scores = self.scores(directions)
        return self._end(directions, scores, count), self._end(directions, scores.neg_(), count)

    def top(self, directions: Float[Tensor, "feature d_model"], count: int) -> Strongest:
        """The `count` tokens at the upper end for each direction."""
        return self._end(directions, self.scores(directions), count)

    def _end(self, directions: Tensor, scores: Tensor, count: int) -> Strongest:
        tokens = largest(scores, count)
        effects = torch.einsum("fd,fkd->fk", directions, self.rows[tokens])
        return Strongest(tokens, effects)


def largest(scores: Float[Tensor, "row column"], count: int) -> Int[Tensor, "row kept"]:
    """The columns of the `count` largest scores of each row, descending; exact.

    Each of them lies in one of the `count` blocks of columns with the largest maxima: one pass over memory finds
    these, and only they are sorted.
    """
    rows, width = scores.shape
    count, whole = min(count, width), width // COLUMNS
    if whole <= count:
        return scores.topk(count, dim=1).indices
    body = scores[:, : whole * COLUMNS].unflatten(1, (whole, COLUMNS))
    blocks = body.amax(2).topk(count, dim=1).indices
    inside = body.gather(1, blocks[:, :, None].expand(-1, -1, COLUMNS)).flatten(1)
    tail = torch.arange(whole * COLUMNS, width).expand(rows, -1)
    columns = (blocks[:, :, None] * COLUMNS + torch.arange(COLUMNS)).flatten(1)
    best = torch.cat([inside, scores[:, whole * COLUMNS :]], 1).topk(count, dim=1).indices
    return torch.cat([columns, tail], 1).gather(1, best)


@torch.no_grad()
def token_effects(
    model: Model,
    dictionary: Dictionary | None,
    count: int = 10,
    *,
    counts: NDArray[np.integer] | None = None,
    progress: Progress = silent,
) -> TokenEffects:
    """For every feature, in the order of `FeatureSpace`, the tokens it promotes and suppresses most.

    A unit of the feature adds d = sum over its target layers of its decoders (through a post-norm's weight) to the
    last residual; its effect on token t is <d, w * W_U[t]>, with w the final norm's weight and its denominator left
    out. `counts` [d_vocab] is how often the corpus has each token. `dictionary` None: the model's neurons.
    """
    space = feature_space(model, dictionary)
    head = model.hf.get_output_embeddings().weight.detach().float().cpu()
    norm = frozen_norm(model, model.final_norm_module)
    ranking = TokenRanking.of(head if norm is None else norm.fold_into(head), counts)
    up, down = [], []
    for layer in (layer for layer, size in enumerate(space.n_features) if size):
        done = space.offsets[layer]
        for directions in written(model, dictionary, layer).split(BLOCK):
            progress("promoted tokens", done, len(space))
            promoted, suppressed = ranking.ends(directions, count)
            up.append(promoted)
            down.append(suppressed)
            done += len(directions)
    progress("promoted tokens", len(space), len(space))
    return TokenEffects(Strongest.joined(up), Strongest.joined(down))


@torch.no_grad()
def exciting_tokens(
    model: Model,
    dictionary: Dictionary,
    count: int = 10,
    *,
    counts: NDArray[np.integer] | None = None,
    progress: Progress = silent,
) -> Strongest:
    """For every feature the tokens whose embeddings drive it most: <embedding, encoder through the norm's weight>.

    Ranked as promoted tokens are; a token's own row is its embedding. Attention and lower layers are left out, so
    this says most of the first layers.
    """
    space = feature_space(model, dictionary)
    ranking = TokenRanking.of(model.hf.get_input_embeddings().weight.detach().float().cpu(), counts)
    found = []
    for layer in dictionary.layers:
        done = space.offsets[layer]
        for directions in read(model, dictionary, layer).split(BLOCK):
            progress("exciting tokens", done, len(space))
            found.append(ranking.top(directions, count))
            done += len(directions)
    progress("exciting tokens", len(space), len(space))
    return Strongest.joined(found)
