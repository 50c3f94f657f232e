"""A llama2.c checkpoint (TinyStories) made into a Hugging Face Llama folder with a fast tokenizer.

The checkpoint is seven little-endian int32 (dim, hidden, layers, heads, kv heads, vocab, seq; a negative
vocab means an output matrix of its own) and float32 tensors; its tokenizer follows in the same file:
the longest token's length, then per token a float32 score, an int32 length and the bytes.
llama2.c rotates neighbouring pairs of a head where Hugging Face rotates halves, so the rows of wq and wk
are reordered; the attention scores are the same.
"""

import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32

from lucida.errors import ModelError
from lucida.models.gguf import DType, converting
from lucida.progress import Progress, silent

if TYPE_CHECKING:
    from tokenizers import Tokenizer

UNKNOWN, BOS, EOS, FIRST_BYTE, FIRST_TEXT = 0, 1, 2, 3, 259
_SPACE = "▁"  # how Llama tokenizers spell a space


@dataclass(frozen=True)
class Checkpoint:
    """A llama2.c model as stored: sizes and named float32 arrays, rotary pairs still interleaved."""

    dim: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    seq: int
    tensors: dict[str, np.ndarray]
    size: int


@dataclass(frozen=True)
class Vocabulary:
    """Tokens as bytes, with the scores that decide which pair merges first."""

    tokens: tuple[bytes, ...]
    scores: tuple[float, ...]


def read_checkpoint(data: bytes) -> Checkpoint:
    """Return the model at the start of `data`; ModelError when it is cut short or its sizes are absurd."""
    if len(data) < 28:
        raise ModelError(f"a llama2.c file of {len(data)} bytes has no header; fetch it again")
    dim, hidden, layers, heads, kv_heads, signed_vocab, seq = sizes = struct.unpack("<7i", data[:28])
    vocab = abs(signed_vocab)
    if min(dim, hidden, layers, heads, kv_heads, vocab, seq) < 1 or dim % heads or heads % kv_heads:
        raise ModelError(f"a llama2.c file cannot have the sizes {sizes}; fetch it again")
    d_kv, half = dim // heads * kv_heads, dim // heads // 2
    shapes = {
        "embedding": (vocab, dim),
        "attention_norm": (layers, dim),
        "wq": (layers, dim, dim),
        "wk": (layers, d_kv, dim),
        "wv": (layers, d_kv, dim),
        "wo": (layers, dim, dim),
        "mlp_norm": (layers, dim),
        "w1": (layers, hidden, dim),
        "w2": (layers, dim, hidden),
        "w3": (layers, hidden, dim),
        "final_norm": (dim,),
        "rotary_cos": (seq, half),
        "rotary_sin": (seq, half),
    }
    if signed_vocab < 0:
        shapes["output"] = (vocab, dim)
    tensors, at = {}, 28
    for name, shape in shapes.items():
        end = at + 4 * int(np.prod(shape, dtype=np.int64))
        if end > len(data):
            raise ModelError(f"a llama2.c file of {len(data):,} bytes ends inside {name}; fetch it again")
        tensors[name] = np.frombuffer(data, "<f4", count=(end - at) // 4, offset=at).reshape(shape)
        at = end
    return Checkpoint(dim, hidden, layers, heads, kv_heads, vocab, seq, tensors, at)


def read_vocabulary(data: bytes, count: int) -> Vocabulary:
    """Return the `count` tokens of a llama2.c tokenizer; ModelError when it is cut short."""
    tokens, scores, at = [], [], 4
    try:
        for _ in range(count):
            score, length = struct.unpack_from("<fi", data, at)
            at += 8 + length
            if length < 0 or at > len(data):
                raise struct.error
            tokens.append(data[at - length : at])
            scores.append(score)
    except struct.error as error:
        raise ModelError(f"a llama2.c tokenizer ends after {len(tokens)} of {count} tokens; fetch it again") from error
    return Vocabulary(tuple(tokens), tuple(scores))


def split_halves(
    weight: Float32[np.ndarray, "layer rows d_model"], heads: int
) -> Float32[np.ndarray, "layer rows d_model"]:
    """Return wq or wk with each head's rows reordered from rotary pairs to rotary halves."""
    layers, rows, d_model = weight.shape
    pairs = weight.reshape(layers, heads, rows // heads // 2, 2, d_model)
    return np.ascontiguousarray(pairs.swapaxes(2, 3).reshape(layers, rows, d_model))


def convert_llama2c(
    path: str | Path, folder: str | Path, *, dtype: DType = "float32", progress: Progress = silent
) -> bool:
    """Write a llama2.c checkpoint with its tokenizer behind it as a Hugging Face Llama folder.

    Returns True: text begins with BOS, as in llama2.c. Raises ModelError when the file is damaged.
    """
    progress("converting", 0, None)
    path, folder = Path(path), Path(folder)
    data = path.read_bytes()
    checkpoint = read_checkpoint(data)
    vocabulary = read_vocabulary(data[checkpoint.size :], checkpoint.vocab)
    if not all(np.isfinite(tensor).all() for tensor in checkpoint.tensors.values()):
        raise ModelError(f"{path.name} holds weights that are not finite; fetch it again")
    with converting(progress):
        _save_model(checkpoint, folder, dtype)
    _save_tokenizer(build_tokenizer(vocabulary), folder, checkpoint.seq)
    return True


def _state_dict(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    tensors = checkpoint.tensors
    state = {"model.embed_tokens.weight": tensors["embedding"], "model.norm.weight": tensors["final_norm"]}
    state["lm_head.weight"] = tensors.get("output", tensors["embedding"])
    per_layer = {
        "input_layernorm": tensors["attention_norm"],
        "self_attn.q_proj": split_halves(tensors["wq"], checkpoint.heads),
        "self_attn.k_proj": split_halves(tensors["wk"], checkpoint.kv_heads),
        "self_attn.v_proj": tensors["wv"],
        "self_attn.o_proj": tensors["wo"],
        "post_attention_layernorm": tensors["mlp_norm"],
        "mlp.gate_proj": tensors["w1"],
        "mlp.down_proj": tensors["w2"],
        "mlp.up_proj": tensors["w3"],
    }
    for name, stacked in per_layer.items():
        for layer, weight in enumerate(stacked):
            state[f"model.layers.{layer}.{name}.weight"] = weight
    return state


def _save_model(checkpoint: Checkpoint, folder: Path, dtype: DType) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=checkpoint.vocab,
        hidden_size=checkpoint.dim,
        intermediate_size=checkpoint.hidden,
        num_hidden_layers=checkpoint.layers,
        num_attention_heads=checkpoint.heads,
        num_key_value_heads=checkpoint.kv_heads,
        max_position_embeddings=checkpoint.seq,
        rms_norm_eps=1e-5,
        bos_token_id=BOS,
        eos_token_id=EOS,
        tie_word_embeddings="output" not in checkpoint.tensors,
    )
    model = LlamaForCausalLM(config)
    state = {name: torch.from_numpy(weight.copy()) for name, weight in _state_dict(checkpoint).items()}
    model.load_state_dict(state)
    model.to(getattr(torch, dtype)).save_pretrained(folder)


def spellings(vocabulary: Vocabulary) -> list[str]:
    """Return each token as Llama tokenizers spell it: ``<0x0A>`` for a byte, ``▁`` for a space."""
    spelled = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    spelled += [token.decode("utf-8").replace(" ", _SPACE) for token in vocabulary.tokens[FIRST_TEXT:]]
    if repeated := [token for token, count in Counter(spelled).items() if count > 1]:
        raise ModelError(f"a llama2.c tokenizer lists {repeated[0]!r} twice; fetch it again")
    return spelled


def build_tokenizer(vocabulary: Vocabulary) -> "Tokenizer":
    """Return a fast tokenizer that merges as llama2.c does: always the pair with the best score.

    A scored vocabulary becomes ranked merges: every split of a token into two tokens, best score first.
    The two agree but for runs of one repeated piece, where llama2.c takes the leftmost of equal pairs.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

    spelled = spellings(vocabulary)
    ids = {token: index for index, token in enumerate(spelled)}
    model = models.BPE(
        vocab=ids, merges=_merges(spelled, vocabulary.scores, ids), unk_token="<unk>", byte_fallback=True
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", BOS)]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in spelled[:FIRST_BYTE]])
    return tokenizer


def _merges(spelled: list[str], scores: tuple[float, ...], ids: dict[str, int]) -> list[tuple[str, str]]:
    ranked = sorted(range(FIRST_TEXT, len(spelled)), key=lambda token: (-scores[token], token))
    return [
        (token[:cut], token[cut:])
        for token in (spelled[index] for index in ranked)
        for cut in range(1, len(token))
        if token[:cut] in ids and token[cut:] in ids
    ]


def _save_tokenizer(tokenizer: "Tokenizer", folder: Path, longest: int) -> None:
    from transformers import PreTrainedTokenizerFast

    fast: Any = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=longest,
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(folder)
