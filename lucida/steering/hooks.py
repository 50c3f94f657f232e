"""Steers at work on a running batch: hooks on the layers concerned, each row with its own strengths."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lucida.models.model import Model
from lucida.steering.reading import Features, Read, Unit, read_hook
from lucida.steering.steer import Steer, places

Amount = tuple[Steer, Unit]


@dataclass(eq=False)
class _Group:
    """Steers of one layer and one way of working; `columns` are theirs among all steers of the batch."""

    layer: int
    columns: Tensor
    writes: dict[int, Float[Tensor, "steer d_model"]]
    is_raw: bool = False
    """Directions of the residual stream, not features."""
    read: Read | None = None
    clamps: Tensor | None = None
    """1 for a clamp, 0 for a scale: both need the running activation."""
    coefficient: Tensor | None = None


class Steering:
    """Hooks that steer each row of a batch by its own list of steers; rows with an empty list are left as they are.

    Nothing happens but between `begin` and `end`, so that the model may be used otherwise while hooks are installed.
    Every layer that a feature writes to is changed once, by what was measured where it reads.
    """

    def __init__(
        self, features: Features, rows: Sequence[Sequence[Amount]], prompt_length: int, *, sink_positions: int = 1
    ) -> None:
        """Prepare hooks for rows of (steer, unit); nothing is installed before `install`."""
        self.features, self.model = features, features.model
        self.prompt_length, self.sink_positions = prompt_length, sink_positions
        self._steers = list({_identity(steer): steer for row in rows for steer, _ in row}.values())
        column = {_identity(steer): i for i, steer in enumerate(self._steers)}
        device = self.model.device
        self._amount = torch.zeros(len(rows), len(self._steers))
        self._on = torch.zeros(len(rows), len(self._steers), dtype=torch.bool)
        for i, row in enumerate(rows):
            for steer, unit in row:
                scale = 1.0 if steer.variant == "scale" else unit.maximum
                self._amount[i, column[_identity(steer)]] = steer.strength * scale
                self._on[i, column[_identity(steer)]] = True
        self._amount, self._on = self._amount.to(device), self._on.to(device)
        self._groups = self._group("add") + self._group("clamp", "scale")
        self._projected = self._group("orthogonal")
        self._mask: Bool[Tensor, "pos steer"] | None = None
        self._is_constant = self._is_running = False
        self._constants: dict[tuple[bool, int], Tensor | None] = {}
        self._arrival: dict[int, Tensor] = {}
        self._handles: list[Any] = []

    def _group(self, *variants: str) -> list[_Group]:
        """The steers of these variants, one group for each layer (directions apart: they write to the residual)."""
        groups = []
        chosen = [i for i, steer in enumerate(self._steers) if steer.variant in variants]
        for layer in sorted({self._steers[i].layer for i in chosen}):
            own = [i for i in chosen if self._steers[i].layer == layer and self._steers[i].feature is not None]
            raw = [i for i in chosen if self._steers[i].layer == layer and self._steers[i].feature is None]
            if own:
                groups.append(self._of_features(layer, own, needs_reading="scale" in variants))
            if raw:
                rows = torch.stack([self._steers[i].direction for i in raw]).float()  # pyright: ignore
                groups.append(_Group(layer, self._index(raw), {layer: rows.to(self.model.device)}, is_raw=True))
        return groups

    def _of_features(self, layer: int, columns: list[int], *, needs_reading: bool) -> _Group:
        features = self._index([self._steers[i].feature or 0 for i in columns])
        writes = {t: self.features.writes(layer, features, t).float() for t in self.features.targets(layer)}
        group = _Group(layer, self._index(columns), writes)
        if needs_reading:
            group.read = self.features.reader(layer, features)
            group.clamps = self._index([int(self._steers[i].variant == "clamp") for i in columns])
        return group

    def _index(self, numbers: Sequence[int]) -> Int[Tensor, " steer"]:
        return torch.tensor(numbers, device=self.model.device)

    # --- where and whom ---------------------------------------------------------------------------

    def begin(self, first: int, count: int) -> None:
        """Steer the next forward pass, which reads positions `first` to `first + count`."""
        is_constant = first >= self.prompt_length and count == 1
        if not (is_constant and self._is_constant and self._mask is not None):
            self._mask = self._mask_of(first, count)
            self._constants.clear()
        self._is_constant = is_constant
        self._is_running = True

    def end(self) -> None:
        """Leave the model alone until the next `begin`."""
        self._is_running = False

    def _mask_of(self, first: int, count: int) -> Bool[Tensor, "pos steer"]:
        mask = torch.zeros(count, len(self._steers), dtype=torch.bool)
        for i, steer in enumerate(self._steers):
            where = places(steer, self.prompt_length)
            # Features mean nothing at an attention sink; who names its position wants it all the same.
            spared = self.sink_positions if isinstance(steer.where, str) else 0
            for row in range(count):
                mask[row, i] = first + row in where and first + row >= spared
        return mask.to(self.model.device)

    def keep(self, rows: Int[Tensor, " row"]) -> None:
        """Go on with these rows of the batch, in this order; a row may come more than once."""
        self._amount, self._on = self._amount[rows], self._on[rows]
        self._constants.clear()

    # --- hooks ------------------------------------------------------------------------------------

    def install(self) -> None:
        """Put the hooks in."""
        model, features = self.model, self.features
        for group in self._groups:
            if group.read is not None:
                self._handles.append(read_hook(model, features.reads_at, group.layer, self._reader(group)))
        for target in sorted({t for group in self._groups for t in group.writes}):
            for at_residual in (False, True):
                groups = [g for g in self._groups if target in g.writes and self._at_residual(g) == at_residual]
                if groups:
                    parts = model.layers[target]
                    module = parts.mlp_post_norm if at_residual and parts.mlp_post_norm is not None else parts.mlp
                    self._handles.append(module.register_forward_hook(self._writer(target, groups)))
        for target in sorted({t for group in self._projected for t in group.writes}):
            groups = [group for group in self._projected if target in group.writes]
            parts = model.layers[target]
            if parts.mlp_post_norm is not None:
                self._handles.append(parts.mlp_post_norm.register_forward_pre_hook(self._arriving(target)))
            self._handles.append(parts.block.register_forward_hook(self._projector(target, groups)))

    def remove(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _at_residual(self, group: _Group) -> bool:
        return self.features.at_residual or group.is_raw

    def _active(self, group: _Group) -> Tensor | None:
        """Which of the group's steers act, [row, pos, steer], or None where none does."""
        assert self._mask is not None
        mask = self._mask[:, group.columns]
        return self._on[:, None, group.columns] & mask if mask.any() else None

    def _reader(self, group: _Group) -> Any:
        def receive(_layer: int, site: Tensor) -> None:
            group.coefficient = None
            active = self._active(group) if self._is_running else None
            if active is None:
                return
            assert group.read is not None
            assert group.clamps is not None
            running, amount = group.read(site), self._amount[:, None, group.columns]
            change = torch.where(group.clamps == 1, amount - running, (amount - 1) * running)
            group.coefficient = torch.where(active, change, 0.0)

        return receive

    def _writer(self, target: int, groups: list[_Group]) -> Any:
        plain = [group for group in groups if group.read is None]
        measured = [group for group in groups if group.read is not None]
        key = (self._at_residual(groups[0]), target)

        def hook(_module: nn.Module, _args: tuple, output: Any) -> Any:
            if not self._is_running:
                return output
            if key not in self._constants:
                self._constants[key] = self._added(plain, target)
            total = self._constants[key]
            for group in measured:
                if group.coefficient is not None:
                    written = group.coefficient @ group.writes[target]
                    total = written if total is None else total + written
            return output if total is None else _with(output, _first(output) + total.to(_first(output).dtype))

        return hook

    def _added(self, groups: list[_Group], target: int) -> Tensor | None:
        """What steers that need no measurement add, [row, pos, d_model]: the same for every token generated."""
        total = None
        for group in groups:
            active = self._active(group)
            if active is not None:
                amount = torch.where(active, self._amount[:, None, group.columns], 0.0)
                written = amount @ group.writes[target]
                total = written if total is None else total + written
        return total

    # --- orthogonal -------------------------------------------------------------------------------

    def _arriving(self, target: int) -> Any:
        """Note what a post-norm multiplies this pass's MLP output by."""
        norm = self.model.norm(self.model.layers[target].mlp_post_norm)
        assert norm is not None

        def hook(_module: nn.Module, args: tuple) -> None:
            if self._is_running:
                self._arrival[target] = norm.scale(args[0])

        return hook

    def _projector(self, target: int, groups: list[_Group]) -> Any:
        rows, through_norm = _arriving_rows(self.model, self.features, groups, target)
        columns = torch.cat([group.columns for group in groups])
        bases: dict[tuple[bool, ...], Tensor] = {}

        def hook(_module: nn.Module, _args: tuple, output: Any) -> Any:
            assert self._mask is not None
            if not self._is_running or not self._mask[:, columns].any():
                return output
            first = _first(output)
            scale = torch.ones(*first.shape[:2], len(columns), device=first.device)
            if target in self._arrival:
                scale = torch.where(through_norm, self._arrival[target][..., None], scale)
            active = self._on[:, None, columns] & self._mask[:, columns]
            amount = self._amount[:, None, columns] * scale
            return _with(output, replace_along(first, rows, amount, active, bases=bases))

        return hook


def replace_along(
    x: Float[Tensor, "row pos d_model"],
    directions: Float[Tensor, "steer d_model"],
    amount: Float[Tensor, "row pos steer"],
    active: Bool[Tensor, "row pos steer"],
    *,
    bases: dict[tuple[bool, ...], Tensor] | None = None,
) -> Float[Tensor, "row pos d_model"]:
    """`x` with its part in the span of the active directions replaced by ``amount @ directions``, at every token.

    `bases` keeps, from call to call, an orthonormal basis for each set of these directions.
    """
    bases = {} if bases is None else bases
    changed = x.float().clone()
    for pattern in active.flatten(0, 1).unique(dim=0):
        if not pattern.any():
            continue
        at = (active == pattern).all(-1)
        chosen = directions[pattern]
        key = tuple(pattern.tolist())
        if key not in bases:
            # Directions that (nearly) repeat others add nothing to the span.
            _, size, rows = torch.linalg.svd(chosen, full_matrices=False)
            bases[key] = rows[size > 1e-6 * size[0]]
        basis = bases[key]
        changed[at] += amount[at][:, pattern] @ chosen - changed[at] @ basis.T @ basis
    return changed.to(x.dtype)


def _arriving_rows(
    model: Model, features: Features, groups: list[_Group], target: int
) -> tuple[Float[Tensor, "steer d_model"], Bool[Tensor, " steer"]]:
    """The directions as they arrive in the residual, up to a post-norm's denominator, and which go through that."""
    norm = model.norm(model.layers[target].mlp_post_norm)
    rows, through = [], []
    for group in groups:
        own, passes = group.writes[target], norm is not None and not features.at_residual and not group.is_raw
        rows.append(norm.push(own, torch.ones(len(own), device=own.device)) if norm is not None and passes else own)
        through += [passes] * len(own)
    return torch.cat(rows), torch.tensor(through, device=rows[0].device)


def _identity(steer: Steer) -> tuple:
    """Steers that differ in strength alone share their hooks and directions."""
    what = id(steer.direction) if steer.feature is None else steer.feature
    return steer.layer, what, steer.variant, steer.where


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def _with(output: Any, value: Tensor) -> Any:
    return (value, *output[1:]) if isinstance(output, tuple) else value
