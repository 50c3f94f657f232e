"""Activations are what the model computes; all usable ones are served, the same to any number of processes."""

from typing import Any

import pytest
import torch
from synthetic import MadeUpRows, tiny_config
from torch import Tensor

from lucida.errors import TrainingError
from lucida.models.linear import FrozenModel
from lucida.models.recording import record
from lucida.training.activations import Activations, _sinks
from lucida.training.mesh import Mesh


@pytest.mark.parametrize("reads_at", ["resid_mid", "mlp_in"])
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox"])
def test_they_are_what_a_recording_holds(tiny_model: Any, family: str, reads_at: str) -> None:
    """What is read, and what the MLP adds to the stream after its post-norm; the first position is left out."""
    model, rows = tiny_model(family), MadeUpRows(17)
    part = Activations(model, rows, tiny_config(reads_at=reads_at)).compute(block=1, stream=2)
    tokens = rows.rows(1 * 16 + 2 * 4, 4)
    for index in range(4):
        view = FrozenModel(model, record(model, model.tokenize(tokens[index].tolist())))
        place = slice(index * 16, (index + 1) * 16)
        for layer in range(3):
            assert torch.allclose(part.reads[layer, place], view.site(layer, reads_at)[1:], atol=1e-4)
            written = view.push_output(layer, view.recording.mlp_out[layer], torch.arange(17))
            constant = view.output_constant(layer)
            written = written[1:] if constant is None else written[1:] + constant
            assert torch.allclose(part.writes[layer, place], written, atol=1e-4)
    assert part.usable.tolist() == list(range(64))


def served(activations: Activations, steps: range) -> Tensor:
    """What layer 0 read, step by step: [step, token, d_model]."""
    return torch.stack([activations.batch(step).reads[0] for step in steps])


def test_a_block_is_served_whole_as_often_as_it_is_reused(tiny_model: Any) -> None:
    config = tiny_config(reuse=2)
    activations = Activations(tiny_model("llama"), MadeUpRows(17), config)
    assert activations.steps_per_block == 8
    found = served(activations, range(8)).flatten(0, 1)
    block = torch.cat([activations.compute(0, stream).reads[0] for stream in range(4)])
    _, counts = torch.cat([found, block]).unique(dim=0, return_counts=True)
    assert (counts == 3).all()
    assert len(counts) == 256
    first_pass, second_pass = found.chunk(2)
    assert not torch.equal(first_pass, second_pass), "another order each time"


def test_a_batch_depends_on_the_step_alone(tiny_model: Any) -> None:
    config = tiny_config()
    in_order = served(Activations(tiny_model("llama"), MadeUpRows(17), config), range(6))
    jumping = Activations(tiny_model("llama"), MadeUpRows(17), config)
    for step in (5, 0, 4, 1):
        assert torch.equal(jumping.batch(step).reads[0], in_order[step])
    other = Activations(tiny_model("llama"), MadeUpRows(17), tiny_config(seed=1))
    assert not torch.equal(other.batch(0).reads[0], in_order[0])


@pytest.mark.parametrize("size", [2, 4])
def test_processes_share_the_batch_of_one(tiny_model: Any, size: int) -> None:
    config = tiny_config()

    def of(rank: int, size: int) -> Activations:
        mesh = Mesh(data_rank=rank, data_size=size)
        return Activations(tiny_model("llama"), MadeUpRows(17), config, mesh=mesh)

    for step in (0, 5):
        whole = of(0, 1).batch(step).reads[1].view(4, 16, 32)
        for rank in range(size):
            assert torch.equal(of(rank, size).batch(step).reads[1].view(4 // size, 16, 32), whole[rank::size])


def test_sinks_are_left_out(tiny_model: Any) -> None:
    reads = torch.ones(2, 9, 4)
    reads[1, 3] = 25.0
    assert _sinks(reads, 10.0).nonzero().flatten().tolist() == [3]
    assert not _sinks(reads, 30.0).any()
    # A stream with fewer usable tokens than a batch takes begins again with another order.
    config = tiny_config(sink_norm=1.02)
    activations = Activations(tiny_model("llama"), MadeUpRows(17), config)
    part = activations.compute(0, 0)
    assert 0 < len(part.usable) < 50
    assert activations.batch(3).reads[0].shape == (64, 32)
    with pytest.raises(TrainingError, match="raise sink_norm"):
        Activations(tiny_model("llama"), MadeUpRows(17), tiny_config(sink_norm=1e-3)).compute(0, 0)


def test_normalisation_is_over_the_usable_tokens(tiny_model: Any) -> None:
    config = tiny_config(normalise_tokens=500)
    activations = Activations(tiny_model("llama"), MadeUpRows(17), config)
    parts = [activations.compute(block, stream) for block in range(2) for stream in range(4)]
    reads = torch.cat([part.reads[:, part.usable] for part in parts], 1)
    found = activations.normalisation()
    assert torch.allclose(found.read_mean, reads.mean(1), atol=1e-5)
    assert torch.allclose(found.read_scale, reads.var(1, correction=0).mean(1).sqrt(), rtol=1e-4)


@pytest.mark.parametrize(
    ("knobs", "mesh", "words"),
    [
        ({"context": 65, "block_rows": 4}, {}, "context is 65, that of tiny-llama is 64"),
        ({"n_layers": 2, "span": 2}, {}, "3 layers of width 32, the configuration 2 of 32"),
        ({}, {"data_size": 3}, "4 streams do not divide among 3"),
    ],
)
def test_what_cannot_be_is_refused(tiny_model: Any, knobs: dict[str, Any], mesh: dict[str, int], words: str) -> None:
    with pytest.raises(TrainingError, match=words) as caught:
        Activations(tiny_model("llama"), MadeUpRows(17), tiny_config(**knobs), mesh=Mesh(**mesh))
    assert "\n" not in str(caught.value)


def test_features_that_do_not_divide_are_refused() -> None:
    with pytest.raises(TrainingError, match="48 features do not divide among 5"):
        Mesh(feature_size=5).own_features(48)


def test_processes_that_do_not_divide_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(TrainingError, match="3 processes are to share the features, of 8"):
        Mesh.start(feature_size=3)
