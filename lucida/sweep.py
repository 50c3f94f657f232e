"""The sweep: the exact edges into many targets at once, in one pass from the top layer to the bottom.

With attention, norms and thresholds frozen every edge is a linear form (docs/method.md, "The sweep").
g[target, pos, :] is the gradient of each target with respect to the residual stream; walking down
the layers, contract it with what each layer wrote, then carry it across the layer. No autograd, no
hooks, one forward pass. Its slow literal twin is lucida/attribution_reference.py.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lucida.progress import Progress, silent
from lucida.replacement import Active, Replacement

CHUNK_BYTES = 32 << 20
"""Bound on the gradient of one row chunk with the temporaries of crossing a layer: small enough for the
allocator to reuse its memory from layer to layer, large enough for full speed."""
LEAST_ROWS = 64
"""Rows of a chunk when its size is left to us, however long the prompt: every chunk reads everything that was written
on the prompt once, and with few rows that reading is all it does."""
CHUNK_ROWS = 96
"""A chunk goes on to the next position only while it has fewer rows than this: full speed, little padding."""


@dataclass(frozen=True)
class Targets:
    """What edges lead into. Target t reads the residual before the MLP norm of `layer` (for logits:
    the final residual, layer = n_layers) at `position`: value = vector . residual + constant.
    """

    layer: Int[Tensor, " target"]
    position: Int[Tensor, " target"]
    vector: Float[Tensor, "target d_model"]
    constant: Float[Tensor, " target"]

    def __len__(self) -> int:
        return len(self.layer)


def feature_targets(replacement: Replacement, which: Int[Tensor, " target"]) -> Targets:
    """The active features with the given indices as targets: their pre-activations."""
    active: Active = replacement.active.take(which)
    vectors, constants = replacement.sources.read_vectors(active)
    return Targets(active.layer, active.position, vectors, constants)


@dataclass(frozen=True)
class Layout:
    """Which columns of a row hold which sources: active features (in the order of the active table),
    errors [layer, pos], embeddings [pos], bias.
    """

    n_active: int
    n_layers: int
    n_positions: int

    @staticmethod
    def of(replacement: Replacement) -> "Layout":
        """The layout of rows swept on `replacement`."""
        return Layout(len(replacement.active), replacement.view.n_layers, replacement.view.n_positions)

    @property
    def errors(self) -> slice:
        """Error columns, layer-major."""
        return slice(self.n_active, self.n_active + self.n_layers * self.n_positions)

    @property
    def embeddings(self) -> slice:
        """Embedding columns."""
        return slice(self.errors.stop, self.errors.stop + self.n_positions)

    @property
    def bias(self) -> int:
        """The bias column."""
        return self.embeddings.stop

    @property
    def width(self) -> int:
        """Columns in a row."""
        return self.bias + 1


@torch.no_grad()
def sweep(
    replacement: Replacement,
    targets: Targets,
    *,
    out: Float[Tensor, "target source"] | None = None,
    chunk_bytes: int | None = None,
    progress: Progress = silent,
) -> Float[Tensor, "target source"]:
    """Every edge into `targets`, one row each; columns as in `Layout`. A row adds up to its target's value.

    Rows are chunked by position, so that a target costs nothing at positions after its own, and
    ordered by descending layer inside a chunk, so that low targets cost nothing above them. The
    result does not depend on the chunks. `out`, if given, receives the rows (any float type).
    """
    layout = Layout.of(replacement)
    device = replacement.constant.device
    if out is None:
        out = torch.zeros(len(targets), layout.width, device=device)
    chunks = row_chunks(replacement, targets, chunk_bytes)
    # One buffer for all chunks, sources first: what a layer wrote at a position is a block of it.
    buffer = torch.empty(max((len(chunk) for chunk in chunks), default=0) * layout.width, device=device)
    done = 0
    progress("edges", done, len(targets))
    for chunk in chunks:
        columns = buffer[: len(chunk) * layout.width].view(layout.width, len(chunk)).zero_()
        _sweep_chunk(replacement, layout, _take(targets, chunk), columns)
        out[chunk.to(out.device)] = columns.T.to(out.device, out.dtype)
        done += len(chunk)
        progress("edges", done, len(targets))
    return out


def row_chunks(replacement: Replacement, targets: Targets, chunk_bytes: int | None) -> list[Tensor]:
    """Indices of `targets` in chunks: neighbouring positions, descending layers, gradients of at most `chunk_bytes`
    (None: CHUNK_BYTES, or more for LEAST_ROWS rows of a long prompt).
    """
    least = LEAST_ROWS if chunk_bytes is None else 1
    chunk_bytes = CHUNK_BYTES if chunk_bytes is None else chunk_bytes
    model = replacement.view.model
    cell = 4 * (2 * model.d_model + 2 * model.n_heads * model.d_head + replacement.sources.bypass_width)
    order = torch.argsort(targets.position, stable=True)
    chunks: list[list[int]] = [[]]
    positions = targets.position.tolist()
    for index in order.tolist():
        here = chunks[-1]
        new_position = bool(here) and positions[index] != positions[here[-1]]
        full = len(here) >= least and (len(here) + 1) * (positions[index] + 1) * cell > chunk_bytes
        if here and (full or (new_position and len(here) >= CHUNK_ROWS)):
            chunks.append([])
        chunks[-1].append(index)
    result = []
    for chunk in filter(None, chunks):
        rows = torch.tensor(chunk, device=targets.layer.device)
        result.append(rows[torch.argsort(targets.layer[rows], descending=True, stable=True)])
    return result


def _take(targets: Targets, rows: Tensor) -> Targets:
    return Targets(targets.layer[rows], targets.position[rows], targets.vector[rows], targets.constant[rows])


def _sweep_chunk(replacement: Replacement, layout: Layout, targets: Targets, columns: Tensor) -> None:
    """Fill `columns` [source, target] for targets in descending layer order."""
    view, parallel = replacement.view, replacement.view.model.is_parallel
    positions = int(targets.position.max()) + 1
    gradient = torch.zeros(len(targets), positions, view.model.d_model, device=columns.device)
    columns[layout.bias] = targets.constant
    # joined[l]: how many targets read at layer l or above; a prefix, as layers descend.
    descending = -targets.layer
    joined = [int(torch.searchsorted(descending, -layer, right=True)) for layer in range(view.n_layers + 1)]
    _join_(gradient, targets, 0, joined[view.n_layers])
    for layer in reversed(range(view.n_layers)):
        above, here = joined[layer + 1], joined[layer]
        if above:
            g = gradient[:above]
            _read_edges(replacement, layout, layer, g, columns[:, :above])
            if parallel:
                # Attention and MLP both see the gradient at the block's output.
                added = torch.zeros_like(g)
                replacement.sources.bypass_(layer, g, added)
                _read_attention_constant(replacement, layout, layer, g, columns[:, :above])
                view.cross_attention_(layer, g)
                g += added
            else:
                replacement.sources.bypass_(layer, g, g)
        _join_(gradient, targets, above, here)
        if here and not parallel:
            _read_attention_constant(replacement, layout, layer, gradient[:here], columns[:, :here])
            view.cross_attention_(layer, gradient[:here])
    embeddings = view.embeddings[:positions]
    columns[layout.embeddings][:positions] = torch.einsum("tpd,pd->pt", gradient, embeddings)


def _join_(gradient: Tensor, targets: Targets, start: int, stop: int) -> None:
    if stop > start:
        which = torch.arange(start, stop, device=gradient.device)
        gradient[which, targets.position[start:stop]] += targets.vector[start:stop]


def _read_edges(replacement: Replacement, layout: Layout, layer: int, gradient: Tensor, columns: Tensor) -> None:
    """Contract the gradient at a layer's MLP output with everything written there."""
    written, positions = replacement.writes(layer), gradient.shape[1]
    # One batched product over positions: [pos, source, d] x [pos, d, target].
    read = torch.bmm(written.vectors[:positions], gradient.to(written.vectors.dtype).permute(1, 2, 0)).float()
    first_error = layout.errors.start + layer * layout.n_positions
    columns[first_error : first_error + positions] = read[:, 0]
    columns[layout.bias] += read[:, 1].sum(0)
    for position, sources in enumerate(written.features[:positions]):
        columns[sources] += read[position, 2 : 2 + sources.stop - sources.start]


def _read_attention_constant(
    replacement: Replacement, layout: Layout, layer: int, gradient: Tensor, columns: Tensor
) -> None:
    constant = replacement.view.attention(layer).constant
    if constant is not None:
        columns[layout.bias] += torch.einsum("tpd,pd->t", gradient, constant[: gradient.shape[1]])
