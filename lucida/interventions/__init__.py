"""Turn features up, down or off and see what the model says: the experiment that tests a graph."""

from lucida.interventions.changes import (
    Attention,
    Case,
    Change,
    Direction,
    Donated,
    Donor,
    Edits,
    Inhibit,
    Inject,
    Key,
    Mode,
    Place,
    Scale,
    Set,
    Stream,
    Swap,
    donor_of,
)
from lucida.interventions.controls import Control, matched_controls
from lucida.interventions.donors import donor_activations
from lucida.interventions.engine import intervene, sweep
from lucida.interventions.outcome import Outcome, TokenProbability, Watched
from lucida.interventions.plans import Edit, Move, Plan, refuse_other, resolve
from lucida.interventions.prediction import Comparison, Prediction, Tested, predict, predict_and_measure
from lucida.interventions.ranges import best_layers

__all__ = [
    "Attention",
    "Case",
    "Change",
    "Comparison",
    "Control",
    "Direction",
    "Donated",
    "Donor",
    "Edit",
    "Edits",
    "Inhibit",
    "Inject",
    "Key",
    "Mode",
    "Move",
    "Outcome",
    "Place",
    "Plan",
    "Prediction",
    "Scale",
    "Set",
    "Stream",
    "Swap",
    "Tested",
    "TokenProbability",
    "Watched",
    "best_layers",
    "donor_activations",
    "donor_of",
    "intervene",
    "matched_controls",
    "predict",
    "predict_and_measure",
    "refuse_other",
    "resolve",
    "sweep",
]
