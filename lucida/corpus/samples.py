"""A model's own samples: text of exactly the distribution it was trained to produce, from nothing but its weights.

Samples are made in blocks of `batch` rows. A block is a function of the model, the seed and its own
number, so blocks can be made in any order, by anybody, and an interrupted run keeps what it has.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from lucida.atomic import replacing
from lucida.corpus.special import prefix_of, special_token
from lucida.corpus.store import TokenStore, corpora_folder, tokenizer_fingerprint, write_store
from lucida.errors import DataError
from lucida.models.cache import locked
from lucida.models.model import Model
from lucida.models.taps import fast_attention
from lucida.progress import Progress, silent

_GROUP = 128  # tokens whose weights are summed together when one is drawn
_ROWS = 32  # rows drawn at a time: their weights stay in the cache of a CPU


def sample_tokens(
    model: Model,
    n_tokens: int,
    *,
    context: int = 256,
    batch: int = 256,
    temperature: float = 1.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> TokenStore:
    """At least `n_tokens` of a model's own samples as a token store: one document a sample of `context` tokens.

    The leading BOS of a sample is the store's prefix, so rows of the same context are the samples themselves.
    Finished blocks stay in the cache: a stopped run goes on, and asking for more tokens makes only the rest.
    They are shared by all dtypes of the same weights; on a CPU bfloat16 is much the fastest. Raises DataError
    for a context the model does not take, or a model with no token to begin with.
    """
    progress = progress or silent
    first, _ = _special_tokens(model)
    _check_context(model, context)
    if n_tokens < 1 or batch < 1 or temperature <= 0:
        raise DataError(
            f"{n_tokens} tokens in batches of {batch} at temperature {temperature} were asked for; all must be above 0"
        )
    settings = {"context": context, "batch": batch, "temperature": temperature, "seed": seed, "first": first}
    source = {"kind": "samples", "weights": weights_fingerprint(model), **settings}
    tokenizer = tokenizer_fingerprint(model)
    key = hashlib.sha256(json.dumps([source, tokenizer]).encode()).hexdigest()[:16]
    n_rows = -(-n_tokens // (context - 1))
    blocks = corpora_folder() / f"samples-{key}"
    folder = corpora_folder() / f"samples-{key}-{n_rows}"
    with locked(f"samples-{key}", progress):
        if folder.is_dir():
            return TokenStore.open(folder, model=model)
        for block in range(-(-n_rows // batch)):
            progress("sampling", min(n_tokens, block * batch * (context - 1)), n_tokens)
            path = _block_path(blocks, block)
            if not path.exists():
                rows = sample_block(model, block, context=context, batch=batch, temperature=temperature, seed=seed)
                with replacing(path) as temporary:
                    np.save(temporary, rows.numpy().astype("<u4"), allow_pickle=False)
        progress("sampling", n_tokens, n_tokens)
        documents = (row[1:] for row in _saved_rows(blocks, n_rows, (batch, context)))
        return write_store(
            folder,
            documents,
            name="samples",
            source=source,
            tokenizer=tokenizer,
            d_vocab=model.d_vocab,
            prefix=first,
            separator=None,
        )


def _block_path(blocks: Path, block: int) -> Path:
    return blocks / f"block-{block:06d}.npy"


def _saved_rows(blocks: Path, n_rows: int, shape: tuple[int, int]) -> Iterator[NDArray[Any]]:
    """The first `n_rows` sample rows on disk. Raises DataError for a damaged block."""
    for start in range(0, n_rows, shape[0]):
        path = _block_path(blocks, start // shape[0])
        try:
            rows = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path} is damaged; delete it and run this again") from error
        if rows.shape != shape:
            raise DataError(f"{path} holds {rows.shape}, not {shape}; delete it and run this again")
        yield from rows[: n_rows - start]


def weights_fingerprint(model: Model) -> str:
    """Which weights these are, whatever dtype they are held in: their file's sha256 or revision, else their own."""
    if known := model.source.get("sha256") or model.source.get("revision"):
        return f"{model.source.get('weights', '')} {known}"
    digest = hashlib.sha256()
    for name, weights in sorted(model.hf.named_parameters()):
        digest.update(name.encode())
        digest.update(weights.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


@torch.inference_mode()
def sample_block(
    model: Model, block: int, *, context: int = 256, batch: int = 256, temperature: float = 1.0, seed: int = 0
) -> Int[Tensor, "batch context"]:
    """Block number `block` of a model's samples: rows that begin with BOS, each token drawn from the model.

    After an end-of-text token the row goes on with a new sample (BOS again, where the tokenizer writes one). The
    same arguments give the same tokens, up to the rounding of the device and the number of threads.
    """
    first, end = _special_tokens(model)
    _check_context(model, context)
    # A model whose text never begins with BOS by itself goes on after the end of a turn as it likes.
    restarts = end is not None and end != first and (model.tokenizer is None or prefix_of(model) == first)
    uniform = _uniform(context - 1, batch, seed=seed, block=block).to(model.device)
    rows = torch.full((batch, context), first, device=model.device)
    cache = _buffered_cache(model, context)
    with fast_attention(model):
        for pos in range(context - 1):
            logits = model.hf(
                input_ids=rows[:, pos : pos + 1],
                position_ids=torch.full((1, 1), pos, device=model.device),
                past_key_values=cache,
                use_cache=True,
            ).logits[:, -1]
            drawn = draw_tokens(logits, uniform[pos], temperature=temperature)
            if restarts:
                drawn = torch.where(rows[:, pos] == end, first, drawn)
            rows[:, pos + 1] = drawn
    return rows.cpu()


def _uniform(n_draws: int, batch: int, *, seed: int, block: int) -> Float[Tensor, "draw batch"]:
    """The numbers that decide a block, one a token: drawn on the CPU, so that every device draws the same."""
    digest = hashlib.sha256(f"lucida samples {seed} {block}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.rand(n_draws, batch, generator=generator, dtype=torch.float64)


def draw_tokens(
    logits: Float[Tensor, "batch d_vocab"], uniform: Float[Tensor, " batch"], *, temperature: float = 1.0
) -> Int[Tensor, " batch"]:
    """One token a row from ``softmax(logits / temperature)``: the first whose cumulated probability exceeds `uniform`.

    One pass of exponentials and one random number a row: a group of tokens is found first, then the token in it.
    """
    return torch.cat(
        [_draw(*part, temperature) for part in zip(logits.split(_ROWS), uniform.split(_ROWS), strict=True)]
    )


def _draw(logits: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    weights = logits.float()
    if temperature != 1.0:
        weights = weights / temperature
    weights = (weights - weights.amax(-1, keepdim=True)).exp_()
    if short := -weights.shape[-1] % _GROUP:
        weights = torch.nn.functional.pad(weights, (0, short))
    grouped = weights.view(len(weights), -1, _GROUP)
    ends = grouped.sum(-1).double().cumsum(-1)
    # A hair below the total: a number that rounds up to it would find no token.
    point = (uniform * (1 - 1e-12))[:, None] * ends[:, -1:]
    group = torch.searchsorted(ends, point, right=True)
    start = torch.where(group > 0, ends.gather(1, (group - 1).clamp(min=0)), 0.0)
    inner = grouped.gather(1, group[..., None].expand(-1, -1, _GROUP))[:, 0].double().cumsum(-1)
    # The group's float32 sum and this one differ in the last digits: ask for the same share of both.
    share = ((point - start) / (ends.gather(1, group) - start)).clamp(max=1 - 1e-12)
    return (group * _GROUP + torch.searchsorted(inner, share * inner[:, -1:], right=True))[:, 0]


def _special_tokens(model: Model) -> tuple[int, int | None]:
    """The token samples begin with (BOS, else end of text), and the end-of-text token."""
    bos, eos = special_token(model, "bos"), special_token(model, "eos")
    first = bos if bos is not None else eos
    if first is None:
        raise DataError(
            f"{model.name or 'this model'} has neither a BOS nor an end-of-text token to begin a sample with"
        )
    return first, eos


def _check_context(model: Model, context: int) -> None:
    if not 2 <= context <= model.context:
        raise DataError(f"a context of {context} tokens was asked for; {model.name} takes 2 to {model.context}")


def _buffered_cache(model: Model, context: int) -> Any:
    """A key-value cache that writes into one buffer a layer: growing by `torch.cat` copies it all at every token."""
    from transformers.cache_utils import Cache, DynamicLayer

    class BufferedLayer(DynamicLayer):
        def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
                self.buffers = [
                    states.new_empty(*states.shape[:2], context, states.shape[3])
                    for states in (key_states, value_states)
                ]
                self.done = 0
            start, self.done = self.done, self.done + key_states.shape[2]
            for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
                buffer[:, :, start : self.done] = states
            self.keys, self.values = (buffer[:, :, : self.done] for buffer in self.buffers)
            return self.keys, self.values

    # Every layer keeps all positions; where a family has sliding windows the mask cuts them.
    return Cache(layers=[BufferedLayer() for _ in range(model.n_layers)])
