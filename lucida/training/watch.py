"""Where the numbers of a run can go besides its metrics.jsonl: TensorBoard, Weights & Biases."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lucida.errors import TrainingError
from lucida.training.loop import Metrics

Watch = Callable[[Metrics], None]


def tensorboard(folder: str | Path) -> Watch:
    """Write scalars for TensorBoard into a folder. Raises TrainingError when it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise TrainingError("TensorBoard is not installed: pip install 'camera-lucida[train]'") from error
    writer = SummaryWriter(str(folder))

    def watch(metrics: Metrics) -> None:
        for name, value in _scalars(metrics).items():
            writer.add_scalar(name, value, metrics.tokens)
        writer.flush()

    return watch


def wandb(project: str, config: dict[str, Any]) -> Watch:
    """Log to a Weights & Biases project. Raises TrainingError when it is not installed."""
    try:
        import wandb as service  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise TrainingError("wandb is not installed: pip install wandb") from error
    run = service.init(project=project, config=config)

    def watch(metrics: Metrics) -> None:
        run.log(_scalars(metrics), step=metrics.step)

    return watch


def all_of(watches: Sequence[Watch]) -> Watch:
    """One watcher that tells several."""

    def watch(metrics: Metrics) -> None:
        for each in watches:
            each(metrics)

    return watch


def _scalars(metrics: Metrics) -> dict[str, float]:
    """What is plotted: every number, those by layer as name/layer."""
    found: dict[str, float] = {}
    for name, value in asdict(metrics).items():
        if isinstance(value, list):
            found |= {f"{name}/{layer:02}": each for layer, each in enumerate(value)}
        else:
            found[name] = value
    return found
