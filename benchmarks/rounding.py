"""Ways to round the weights of a dictionary, side by side: ``python benchmarks/rounding.py FOLDER``.

For each way: bits a weight with scales, and the relative error of a row (root of the mean square over all
rows). `whole row` and `groups` are the usual ones, codes of one width; `deflate` is what we ship.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from lucida.dictionaries import Dictionary, open_dictionary
from lucida.dictionaries.quantise import Rounded, dequantise, pack, quantise

Way = Callable[[Tensor], tuple[Tensor, float]]
SHRINKS = torch.linspace(1.0, 0.4, 25).tolist()


def largest(rows: Tensor, *, bits: int, group: int | None) -> tuple[Tensor, float]:
    """The largest weight of each group sets its step."""
    grouped, top = _grouped(rows, group), 2 ** (bits - 1) - 1
    step = _half(grouped.abs().amax(1, keepdim=True) / top)
    return (grouped / step).round().clamp(-top, top).mul(step).view_as(rows), bits + 16 / grouped.shape[1]


def least_squares(rows: Tensor, *, bits: int, group: int | None) -> tuple[Tensor, float]:
    """Of 25 steps up to that of `largest`, the one with the least squared error: large weights may be cut off."""
    grouped, top = _grouped(rows, group), 2 ** (bits - 1) - 1
    best = torch.zeros_like(grouped)
    error = torch.full((len(grouped), 1), torch.inf)
    for shrink in SHRINKS:
        step = _half(grouped.abs().amax(1, keepdim=True) / top * shrink)
        tried = (grouped / step).round().clamp(-top, top) * step
        squares = (tried - grouped).square().sum(1, keepdim=True)
        best = torch.where(squares < error, tried, best)
        error = torch.minimum(error, squares)
    return best.view_as(rows), bits + 16 / grouped.shape[1]


def deflate(rows: Tensor, *, bits: float) -> tuple[Tensor, float]:
    """Ours: steps in proportion to a row's root mean square, codes by Huffman's method."""
    codes, steps = quantise(rows, bits)
    return dequantise(Rounded(codes, steps)), (8 * len(pack(codes)) + 16 * len(rows)) / rows.numel()


def _grouped(rows: Tensor, group: int | None) -> Tensor:
    return rows.reshape(-1, group or rows.shape[1])


def _half(step: Tensor) -> Tensor:
    return step.half().float().clamp_min(1e-7)


def ways(d_model: int) -> Iterator[tuple[str, Way]]:
    """Every way with its name; group sizes that divide the rows."""
    for bits in (4, 5, 6, 8):
        for group in (None, 96, 64, 32):
            if group and d_model % group:
                continue
            where = f"groups of {group}" if group else "whole row"
            yield f"{bits} bits, {where}, largest", partial(largest, bits=bits, group=group)
            yield f"{bits} bits, {where}, least squares", partial(least_squares, bits=bits, group=group)
    for bits in (3, 3.5, 4, 4.5, 5, 6, 8):
        yield f"deflate, bits={bits}", partial(deflate, bits=bits)


def matrices(dictionary: Dictionary) -> Iterator[Tensor]:
    for weights in dictionary.weights.values():
        yield weights.encoder.float()
        yield from (decoder.float().contiguous() for decoder in weights.decoders)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dictionary", help="a folder or the name of a shipped dictionary, in floating point")
    dictionary = open_dictionary(parser.parse_args().dictionary)
    for name, way in ways(dictionary.d_model):
        squares, n_rows, n_bits, n_weights = 0.0, 0, 0.0, 0
        for rows in matrices(dictionary):
            found, rate = way(rows)
            norms = rows.square().sum(1)
            squares += float(((found - rows).square().sum(1) / norms)[norms > 0].sum())
            n_rows, n_bits, n_weights = n_rows + len(rows), n_bits + rate * rows.numel(), n_weights + rows.numel()
        print(f"{name:34} {n_bits / n_weights:6.2f} bits  {(squares / n_rows) ** 0.5:7.2%}")


if __name__ == "__main__":
    main()
