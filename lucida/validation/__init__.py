"""How far a graph can be believed: what it claims beside what ablations and perturbations of the model do."""

from lucida.validation.validate import validate
from lucida.validation.validation import Ablation, Pair, Validation
from lucida.validation.verdicts import Finding, findings

__all__ = ["Ablation", "Finding", "Pair", "Validation", "findings", "validate"]
