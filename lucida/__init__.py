"""Camera Lucida: see which features led a language model to its answer, and test it.

Names are imported when they are first used, so that ``import lucida`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lucida.dictionaries import Dictionary, check_dictionary, load_dictionary
    from lucida.errors import LucidaError
    from lucida.graph import Graph, Node, Scores
    from lucida.interventions import Case, Direction, Inhibit, Inject, Outcome, Scale, Set, Stream, Swap
    from lucida.microscope import Microscope
    from lucida.prompt import Prompt
    from lucida.steering import Dial, Steer

__version__ = "0.1.0"

__all__ = [
    "Case",
    "Dial",
    "Dictionary",
    "Direction",
    "Graph",
    "Inhibit",
    "Inject",
    "LucidaError",
    "Microscope",
    "Node",
    "Outcome",
    "Prompt",
    "Scale",
    "Scores",
    "Set",
    "Steer",
    "Stream",
    "Swap",
    "__version__",
    "check_dictionary",
    "load_dictionary",
]

_HOMES = {
    "Case": "lucida.interventions",
    "Dial": "lucida.steering",
    "Dictionary": "lucida.dictionaries",
    "Direction": "lucida.interventions",
    "Graph": "lucida.graph",
    "Inhibit": "lucida.interventions",
    "Inject": "lucida.interventions",
    "LucidaError": "lucida.errors",
    "Microscope": "lucida.microscope",
    "Node": "lucida.graph",
    "Outcome": "lucida.interventions",
    "Prompt": "lucida.prompt",
    "Scale": "lucida.interventions",
    "Scores": "lucida.graph",
    "Set": "lucida.interventions",
    "Steer": "lucida.steering",
    "Stream": "lucida.interventions",
    "Swap": "lucida.interventions",
    "check_dictionary": "lucida.dictionaries",
    "load_dictionary": "lucida.dictionaries",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lucida' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
