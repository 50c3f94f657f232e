"""train() as a user calls it: what it tells on the way, and what it refuses or stops for, in one line."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from synthetic import MadeUpRows, tiny_config
from tiny_models import build_hf
from torch import Tensor

from lucida.dictionaries import check_dictionary
from lucida.errors import SaveError, TrainingError
from lucida.models.model import Model
from lucida.training import Metrics, loop, train
from lucida.training.checkpoint import saved_config
from lucida.training.memory import bytes_of_process, refuse_too_large
from lucida.training.mesh import Mesh

pytestmark = pytest.mark.usefixtures("quick_calibration")


@pytest.fixture
def a_second_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock on which every look takes a second, so that every step is reported."""
    ticks = iter(range(1, 100_000))
    monkeypatch.setattr(loop.time, "monotonic", lambda: float(next(ticks)))


@pytest.mark.usefixtures("a_second_each_step")
@pytest.mark.parametrize(
    "knobs", [{}, {"span": 1}, {"activation": "jumprelu"}, {"activation": "relu"}, {"products": "bfloat16"}]
)
def test_a_run_tells_how_it_stands(tiny_model: Any, tmp_path: Path, knobs: dict[str, Any]) -> None:
    config, seen, stages = tiny_config(**knobs), list[Metrics](), list[tuple[str, int, int | None]]()
    dictionary = train(
        tiny_model("llama"), MadeUpRows(17), config, tmp_path / "run", watch=seen.append,
        progress=lambda *stage: stages.append(stage),
    )  # fmt: skip
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [Metrics(**json.loads(line)) for line in lines] == seen
    assert [m.step for m in seen] == list(range(1, 21))
    assert [m.tokens for m in seen] == [64 * n for n in range(1, 21)]
    for m in seen:
        assert m.nmse == pytest.approx(sum(m.nmse_by_layer) / 3, abs=1e-5)
        assert m.l0 == pytest.approx(sum(m.l0_by_layer), abs=2e-3)
        assert 0 <= m.dead <= 1
    assert seen[-1].nmse < seen[0].nmse
    assert seen[-1].penalty > 0 or config.activation == "batchtopk"
    trained = [stage for stage in stages if stage[0].startswith("training")]
    assert re.fullmatch(r"training: NMSE \d\.\d{3}, L0 \d+, dead \d+\.\d%", trained[0][0])
    assert trained[-1][1:] == (20 * 64, 20 * 64)
    assert dictionary.name == "run"
    assert dictionary.model_name == "tiny-llama"
    assert dictionary.activation == ("relu" if config.activation == "relu" else "jumprelu")
    assert dictionary.span == config.span
    check_dictionary(dictionary)


def test_a_finished_run_is_given_back(tiny_model: Any, tmp_path: Path) -> None:
    first, again = (train(tiny_model("llama"), MadeUpRows(17), tiny_config(), tmp_path) for _ in range(2))
    assert first.source.fingerprint == again.source.fingerprint


def test_a_run_can_begin_with_a_dictionary(tiny_model: Any, tmp_path: Path) -> None:
    """It goes on from there: at a learning rate of 0 it ends where it began, and has a jumprelu's thresholds."""
    config = tiny_config(activation="jumprelu")
    first = train(tiny_model("llama"), MadeUpRows(17), config, tmp_path / "one")
    still = tiny_config(activation="jumprelu", learning_rate=0.0)
    second = train(tiny_model("llama"), MadeUpRows(17), still, tmp_path / "two", start=first)
    for layer in range(3):
        for name, tensor in first.weights[layer].named().items():
            assert torch.allclose(tensor, second.weights[layer].named()[name], rtol=1e-4, atol=1e-5), name


def test_a_metrics_file_that_was_cut_short_goes_on_readable(tiny_model: Any, tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 3}\n{"step": 99}\n{"step": 4')
    train(tiny_model("llama"), MadeUpRows(17), tiny_config(), tmp_path)
    steps = [json.loads(line)["step"] for line in file.read_text().splitlines()]
    assert 99 not in steps
    assert steps[-1] == 20
    assert steps == sorted(set(steps))


def test_metrics_on_a_full_disk_stop_the_run_in_one_line(tiny_model: Any, tmp_path: Path, monkeypatch: Any) -> None:
    opening = Path.open

    def full(path: Path, *arguments: Any, **named: Any) -> Any:
        if path.name == "metrics.jsonl":
            raise OSError(28, "No space left on device")
        return opening(path, *arguments, **named)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(SaveError, match=r"metrics.jsonl: No space left on device; free some space") as caught:
        train(tiny_model("llama"), MadeUpRows(17), tiny_config(), tmp_path)
    assert "\n" not in str(caught.value)


# --- what is not a number -------------------------------------------------------------------------


class PoisonedRows(MadeUpRows):
    """From row 100 on every row holds token 96."""

    def rows(self, start: int, count: int) -> Tensor:
        rows = super().rows(start, count).clamp_max(95)
        rows[torch.arange(start, start + count) >= 100, 5] = 96
        return rows


def poisoned_model() -> Model:
    hf = build_hf("llama")
    hf.get_input_embeddings().weight.data[96] = float("nan")
    return Model(hf, name="poisoned")


def test_a_loss_that_is_not_a_number_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    """Block 6 of 16 rows is the first with a poisoned row: its 4 steps begin after step 24."""
    config = tiny_config(checkpoint_minutes=0.0, n_tokens=40 * 64)
    with pytest.raises(TrainingError) as caught:
        train(poisoned_model(), PoisonedRows(17), config, tmp_path)
    found = re.fullmatch(
        r"the loss of layers \[0, 1, 2\] is not finite at step (\d+); the last good checkpoint is (.*); "
        r"try a lower learning rate or float32",
        str(caught.value),
    )
    assert found is not None, str(caught.value)
    assert 25 <= int(found[1]) <= 28
    assert Path(found[2]) == tmp_path / "checkpoint"
    assert saved_config(tmp_path / "checkpoint") == config
    assert json.loads((tmp_path / "checkpoint" / "state.json").read_text())["step"] == int(found[1]) - 1
    metrics = tmp_path / "metrics.jsonl"  # a line a second: a quick machine has stopped before the first
    assert not metrics.exists() or "NaN" not in metrics.read_text()


def test_a_model_that_gives_no_numbers_is_told_at_once(tmp_path: Path) -> None:
    hf = build_hf("llama")
    hf.get_input_embeddings().weight.data[:] = float("nan")
    with pytest.raises(TrainingError, match=r"layers \[0, 1, 2\] is not finite at step 1; there is no checkpoint yet"):
        train(Model(hf, name="broken"), MadeUpRows(17), tiny_config(), tmp_path)


def test_a_gradient_that_is_not_finite_stops_the_run(tiny_model: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """With NaN in the weights nothing is selected, and the loss of nothing is finite: so it must be noticed before."""
    monkeypatch.setattr(loop, "clip_gradients", lambda *_: torch.tensor(float("inf")))
    with pytest.raises(TrainingError, match="the gradient is not finite at step 1"):
        train(tiny_model("llama"), MadeUpRows(17), tiny_config(), tmp_path)


# --- memory ---------------------------------------------------------------------------------------


def test_more_features_than_memory_are_refused_before_anything_is_made(tiny_model: Any, tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as caught:
        train(tiny_model("llama"), MadeUpRows(17), tiny_config(n_features=10**9), tmp_path / "run")
    assert re.fullmatch(
        r"1000000000 features on each of 3 layers, span 3, need 4\d{3}\.\d GiB in each process \(29\d{4} million "
        r"weights at 16 bytes, blocks of 256 activations\); \d+\.\d GiB are free; take fewer features, a smaller span, "
        r"smaller blocks or more processes",
        str(caught.value),
    )
    assert not (tmp_path / "run").exists()


def test_processes_share_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each holds its part of the features and of the data; on a CPU they also share what there is.

    Processes that share features hold the same activations, so there are twice as many of them.
    """
    config = tiny_config(n_features=4800)
    whole = bytes_of_process(config, Mesh())
    assert whole > 16 * config.n_parameters
    split = bytes_of_process(config, Mesh(feature_size=2, data_size=2))
    assert split == whole // 2
    enough = whole + config.bytes_of_activations
    monkeypatch.setattr("lucida.training.memory.available_bytes", lambda _: enough)
    refuse_too_large(config, Mesh(), torch.device("cpu"))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    refuse_too_large(config, Mesh(feature_size=2), torch.device("cpu"))
    with pytest.raises(TrainingError, match="more processes"):
        refuse_too_large(config, Mesh(data_size=2), torch.device("cpu"))
    monkeypatch.setattr("lucida.training.memory.available_bytes", lambda _: None)
    refuse_too_large(config, Mesh(data_size=2), torch.device("cpu"))
