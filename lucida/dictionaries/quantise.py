"""Weights as small integers: every row in whole steps of its own, common integers written in fewer bits.

A row w becomes round(w / s) with s = t rms(w). Its relative error is then t / sqrt(12), the same in every
row however heavy its tails, and for weights that look Gaussian the integers carry log2(sqrt(2 pi e) / t)
bits each: `bits` chooses t. Integers of one bit width cost about 0.6 bits a weight more for the same
error, because the largest weight of a row then sets the step of all (docs/dictionary-format.md has the
table). The integers are coded by Huffman's method in a raw deflate stream, which zlib reads everywhere.
"""

import math
import zlib
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int8
from torch import Tensor

LARGEST_CODE = 127
_GAUSSIAN = math.sqrt(2 * math.pi * math.e)
_STEPS_PER_DOUBLING = 4
_SMALLEST_STEP = 2.0**-100
_RAW_DEFLATE = -15
_MEMORY = 9


class Rounded(NamedTuple):
    """Rows as integers and steps: row = code * step."""

    codes: Int8[Tensor, "row column"]
    steps: Float[Tensor, " row"]


def quantise(rows: Float[Tensor, "row column"], bits: int | float) -> Rounded:
    """Rows in whole steps, at about `bits` (from 3) bits a weight; no weight moves by more than half a step.

    Steps lie on a grid of four per doubling, in bfloat16, so that code * step is exact in float32. A row
    that is whole in a step near the one it would get keeps that step: rounding again changes nothing.
    """
    rows = rows.float()
    ratio = _GAUSSIAN / 2**bits
    place = _place(rows.square().mean(1).sqrt() * ratio).round()
    # One far outlier in a row makes its step larger; codes stay within eight bits.
    place = torch.maximum(place, _place(rows.abs().amax(1) / LARGEST_CODE).ceil())
    codes, steps = _round_to(rows, place)
    settled = _is_exact(codes, steps, rows)
    # Rounding changes a row's root mean square by up to ratio / 2, and with it the place of its step.
    reach = 1 if bits >= 4 else 2
    for away in (sign * distance for distance in range(1, reach + 1) for sign in (1, -1)):
        other = _round_to(rows, place + away)
        keep = ~settled & _is_exact(*other, rows)
        codes[keep], steps[keep] = other.codes[keep], other.steps[keep]
        settled |= keep
    return Rounded(codes, steps)


def _place(steps: Float[Tensor, " row"]) -> Float[Tensor, " row"]:
    return steps.clamp_min(_SMALLEST_STEP).double().log2() * _STEPS_PER_DOUBLING


def _round_to(rows: Float[Tensor, "row column"], place: Float[Tensor, " row"]) -> Rounded:
    steps = torch.exp2(place / _STEPS_PER_DOUBLING).bfloat16().float()
    codes = (rows / steps[:, None]).round().clamp(-LARGEST_CODE, LARGEST_CODE)
    return Rounded(codes.to(torch.int8), steps)


def _is_exact(codes: Tensor, steps: Tensor, rows: Tensor) -> Bool[Tensor, " row"]:
    return (dequantise(Rounded(codes, steps)) == rows).all(1)


def dequantise(rounded: Rounded) -> Float[Tensor, "row column"]:
    """The weights that integers and steps stand for, in float32."""
    return rounded.codes * rounded.steps[:, None].float()


def pack(codes: Int8[Tensor, "row column"]) -> bytes:
    """Integers as a raw deflate stream of bytes (two's complement, row by row)."""
    raw = codes.contiguous().numpy().tobytes()
    return min((_deflate(raw, strategy) for strategy in (zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE)), key=len)


def _deflate(raw: bytes, strategy: int) -> bytes:
    # There is nothing to find in rounded weights but how often each integer occurs: no search for repeats.
    packer = zlib.compressobj(9, zlib.DEFLATED, _RAW_DEFLATE, _MEMORY, strategy)
    return packer.compress(raw) + packer.flush()


def unpack(packed: bytes | memoryview, most_rows: int, columns: int) -> Int8[Tensor, "row column"]:
    """The integers of a stream of at most `most_rows` rows.

    Raises ValueError when the stream is damaged, longer than that, or ends inside a row.
    """
    unpacker = zlib.decompressobj(_RAW_DEFLATE)
    try:
        raw = unpacker.decompress(packed, most_rows * columns + 1)
    except zlib.error as error:
        raise ValueError(f"not a deflate stream ({error})") from error
    if not unpacker.eof or unpacker.unused_data:
        raise ValueError("the stream does not end where it should")
    if len(raw) > most_rows * columns or len(raw) % columns:
        raise ValueError(f"the stream holds {len(raw)} integers, expected up to {most_rows} rows of {columns}")
    return torch.from_numpy(np.frombuffer(bytearray(raw), np.int8).reshape(-1, columns))
