"""A batch of copies of one prompt while it runs, each with its own edits: what is written where."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lucida.interventions.changes import Place
from lucida.interventions.plans import Move, Plan
from lucida.interventions.probe import Probe
from lucida.models.taps import MLPCall, contribution_site


class Batch:
    """Rows of a batch by number. `touched` says in which rows something has been written so far; all others still are
    the recorded prompt, whatever rounding says.
    """

    def __init__(self, probe: Probe, plans: Sequence[Plan], places: Sequence[Place], before: np.ndarray) -> None:
        self.probe, self.plans, self.n_rows = probe, plans, len(plans)
        view, device = probe.view, probe.device
        self.first, self.last = (
            torch.tensor([plan.layers[end] for plan in plans], dtype=torch.int64, device=device) for end in (0, 1)
        )
        modes = [plan.mode for plan in plans]
        self.is_iterative = torch.tensor([mode == "iterative" for mode in modes], device=device)
        is_free = torch.tensor([mode == "free" for mode in modes], device=device)
        self.held_to = torch.where(is_free, -1, self.last)
        self.is_frozen = modes[0] == "frozen"
        self.touched = torch.zeros(self.n_rows, dtype=torch.bool, device=device)
        self._held_at = contribution_site(view.model)
        has_post_norm = self._held_at == "resid"
        self._live_at = "resid" if has_post_norm and probe.at_residual else "mlp_out"
        self._pending: dict[int, Tensor] = {}
        self._edits = _by_layer(plans, device)
        self._moves = _moves_by_layer(plans)
        self._places, self._before = places, before
        self._after = np.repeat(before[None], self.n_rows, 0)
        self._reads = probe.linear_reads(places) if self.is_frozen and places else None

    @property
    def moved_layers(self) -> list[int]:
        """The layers whose stream is moved in some row."""
        return sorted(self._moves)

    def visit(self, call: MLPCall) -> Tensor | None:
        """At one MLP: read what is watched, find what edits change, and give what is written instead."""
        if call.at == "mlp_out":
            self._read(call)
            self._change(call)
        held, live = self._held(call.layer), call.layer in self._pending
        at_held, at_live = call.at == self._held_at and bool(held.any()), call.at == self._live_at and live
        if not at_held and not at_live:
            return None
        pending = self._pending.get(call.layer)
        value = call.written.float().clone()
        if pending is not None and at_live:
            value[~held] += pending[~held]
        if at_held:
            value[held] = self.probe.view.mlp_contribution(call.layer)
            if pending is not None:
                value[held] += self._in_residual(call.layer, pending[held])
        if call.at == self._held_at:
            self._pending.pop(call.layer, None)
        return value

    def move(self, layer: int, x: Float[Tensor, "row pos d_model"]) -> Float[Tensor, "row pos d_model"]:
        """The stream that enters `layer`, with the moves of every row."""
        moved = x.clone()
        for row, move in self._moves[layer]:
            here = moved[row, move.position].float()
            change = move.strength * move.vector
            if move.project_out:
                change = -move.strength * (here @ move.vector) / (move.vector @ move.vector) * move.vector
            moved[row, move.position] = (here + change).to(x.dtype)
            self.touched[row] |= bool(change.any())
        return moved

    def watched(self) -> Float[np.ndarray, "row place"]:
        """The watched activations after the run."""
        return np.where(self.touched.cpu().numpy()[:, None], self._after, self._before[None])

    # --- reading ----------------------------------------------------------------------------------

    def _read(self, call: MLPCall) -> None:
        """The watched features of this layer, in every row that has been touched."""
        here = [index for index, place in enumerate(self._places) if place[0] == call.layer]
        rows = torch.nonzero(self.touched).flatten()
        if not here or not len(rows):
            return
        device, probe = self.probe.device, self.probe
        positions = torch.tensor([self._places[index][1] for index in here], device=device)
        if self._reads is not None:
            # Thresholds are frozen: what is active moves with its pre-activation, what is not stays out.
            moved = call.residual[rows].float() - probe.view.recording.residual_mid[call.layer]
            change = (moved[:, positions] * self._reads[here]).sum(-1).double().cpu().numpy()
            before = self._before[here]
            found = np.where(before != 0, before + change, 0.0)
        else:
            features = torch.tensor([self._places[index][2] for index in here], device=device)
            x = call.site(probe.view.model, probe.reads_at)[rows]
            found = probe.activations_at(call.layer, x, positions, features).double().cpu().numpy()
        self._after[np.ix_(rows.cpu().numpy(), np.array(here))] = found

    # --- what edits change ------------------------------------------------------------------------

    def _change(self, call: MLPCall) -> None:
        """Note what the edits of this layer, and in iterative rows everything they moved, write from here on."""
        layer = call.layer
        inside = self.is_iterative & (self.first <= layer) & (layer <= self.last)
        anew = inside & (self.probe.width(layer) > 0) if self.probe.dictionary is not None else inside & False
        if layer in self._edits:
            row, position, feature, before, after = self._edits[layer]
            change = after - before
            # A feature that runs is moved from where it is now to where it is wanted.
            running = ((self.held_to[row] < 0) | (inside & ~anew)[row]) & self.touched[row]
            if running.any():
                now = self._running(call, row[running], position[running], feature[running])
                change[running] = after[running] - now
            keep = ~anew[row]
            self._write(layer, row[keep], position[keep], feature[keep], change[keep])
        if anew.any():
            self._recompute(call, torch.nonzero(anew).flatten())

    def _running(self, call: MLPCall, row: Tensor, position: Tensor, feature: Tensor) -> Tensor:
        x = call.site(self.probe.view.model, self.probe.reads_at)[row, position]
        return self.probe.activations(call.layer, x, feature)

    def _recompute(self, call: MLPCall, rows: Tensor) -> None:
        """Encode the changed stream of `rows` and write how all features, and a skip connection, differ."""
        probe, layer = self.probe, call.layer
        x = call.site(probe.view.model, probe.reads_at)[rows]
        changed = self.touched[rows]
        delta = torch.zeros(len(rows), x.shape[1], probe.width(layer), device=x.device)
        if changed.any():
            now = probe.all_activations(layer, x[changed].flatten(0, 1)).view(int(changed.sum()), x.shape[1], -1)
            delta[changed] = now - probe.recorded_layer(layer)
        self._clamp(layer, rows, delta)
        used = torch.nonzero((delta != 0).flatten(0, 1).any(0)).flatten()
        compact = delta[:, :, used]
        is_moved = compact.flatten(1).any(1)
        for target in probe.targets(layer):
            wanted = is_moved & (target <= self.last[rows])
            if len(used) and wanted.any():
                self._pend(target, rows[wanted], compact[wanted] @ probe.directions(layer, target, used))
        skip = None if probe.dictionary is None else probe.dictionary.skip(layer)
        if skip is not None and changed.any():
            moved = x[changed] - probe.view.site(layer, probe.reads_at)
            self._pend(layer, rows[changed], moved @ skip.to(x.device).T)

    def _clamp(self, layer: int, rows: Tensor, delta: Tensor) -> None:
        """Put the edited features of `rows` at their wanted change."""
        if layer not in self._edits:
            return
        row, position, feature, before, after = self._edits[layer]
        number = torch.full((self.n_rows,), -1, device=row.device)
        number[rows] = torch.arange(len(rows), device=row.device)
        here = number[row] >= 0
        delta[number[row[here]], position[here], feature[here]] = (after - before)[here]

    # --- what is written --------------------------------------------------------------------------

    def _write(self, layer: int, row: Tensor, position: Tensor, feature: Tensor, change: Tensor) -> None:
        """Note the writes of single features at every layer of their row's range, each once."""
        n_positions = self.probe.view.n_positions
        for target in self.probe.targets(layer):
            here = (self.first[row] <= target) & (target <= self.last[row]) & (change != 0)
            if not here.any():
                continue
            vectors = self.probe.directions(layer, target, feature[here]) * change[here, None]
            total = self._total(target)
            total.view(self.n_rows * n_positions, -1).index_add_(0, row[here] * n_positions + position[here], vectors)
            self.touched[row[here]] = True

    def _pend(self, target: int, rows: Tensor, vectors: Tensor) -> None:
        self._total(target).index_add_(0, rows, vectors)
        self.touched[rows] = True

    def _total(self, target: int) -> Tensor:
        if target not in self._pending:
            view = self.probe.view
            shape = self.n_rows, view.n_positions, view.model.d_model
            self._pending[target] = torch.zeros(shape, device=self.probe.device)
        return self._pending[target]

    def _held(self, layer: int) -> Bool[Tensor, " row"]:
        """The rows whose MLP is held at this layer. Neurons that are computed anew are the MLP itself."""
        held = self.held_to >= layer
        return held & ~(self.is_iterative & (self.first <= layer)) if self.probe.dictionary is None else held

    def _in_residual(self, layer: int, vectors: Float[Tensor, "row pos d_model"]) -> Float[Tensor, "row pos d_model"]:
        """What the residual gets of vectors written to the MLP's output (or to the residual itself)."""
        if self.probe.at_residual:
            return vectors
        positions = torch.arange(vectors.shape[1], device=vectors.device).repeat(len(vectors))
        return self.probe.view.push_output(layer, vectors.flatten(0, 1), positions).view_as(vectors)


Columns = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def _by_layer(plans: Sequence[Plan], device: torch.device) -> dict[int, Columns]:
    """The edits of all rows by layer, as columns: row, position, feature, before, after."""
    entries: dict[int, list[tuple[int, int, int, float, float]]] = {}
    for row, plan in enumerate(plans):
        for edit in plan.edits:
            entries.setdefault(edit.layer, []).append((row, edit.position, edit.feature, edit.before, edit.after))
    columns = {}
    for layer, here in entries.items():
        numbers = [torch.tensor(column, device=device) for column in list(zip(*here, strict=True))[:3]]
        values = [torch.tensor(column, dtype=torch.float64) for column in list(zip(*here, strict=True))[3:]]
        columns[layer] = (*numbers, *(value.to(device, torch.float32) for value in values))
    return columns


def _moves_by_layer(plans: Sequence[Plan]) -> dict[int, list[tuple[int, Move]]]:
    found: dict[int, list[tuple[int, Move]]] = {}
    for row, plan in enumerate(plans):
        for move in plan.moves:
            found.setdefault(move.layer, []).append((row, move))
    return found
