"""Making dictionaries: transcoders of any span, trained on what a model does with text."""

from lucida.training.config import TrainingConfig
from lucida.training.loop import Metrics, train
from lucida.training.mesh import Mesh

__all__ = ["Mesh", "Metrics", "TrainingConfig", "train"]
