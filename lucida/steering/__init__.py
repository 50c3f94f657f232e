"""Steering: what a model writes while features are turned up, down or off, token by token."""

from lucida.steering.generate import BASELINE, Generation, Sample, Stream, Token, end_tokens, generate
from lucida.steering.outcome import TextStatistics, text_statistics
from lucida.steering.reading import Features, Unit
from lucida.steering.sampling import Sampling
from lucida.steering.steer import Dial, Steer, sweep

__all__ = [
    "BASELINE",
    "Dial",
    "Features",
    "Generation",
    "Sample",
    "Sampling",
    "Steer",
    "Stream",
    "TextStatistics",
    "Token",
    "Unit",
    "end_tokens",
    "generate",
    "sweep",
    "text_statistics",
]
