"""What can go wrong for a user, said in one line: what was asked, what was found, what to try.

Library code raises these; only the command line turns them into one clean line and exit code 2.
"""


class LucidaError(ValueError):
    """Any mistake or missing thing that a user can mend. The message is one line, ready to show."""


class PromptError(LucidaError):
    """A prompt or a target that cannot be traced (empty, too long, unknown token)."""


class ModelError(LucidaError):
    """A model that is unknown, unsupported, damaged or not what it says."""


class DictionaryError(LucidaError):
    """A dictionary that is missing, damaged, or of another model or shape."""


class GraphError(LucidaError):
    """A graph file that is missing or damaged, or a node that is not in the graph."""


class FetchError(LucidaError):
    """Weights that could not be fetched: no source reached, or the bytes are not the expected ones."""


class InterventionError(LucidaError):
    """An intervention that cannot be made (no such feature, inactive, contradictory, not finite)."""


class TrainingError(LucidaError):
    """A training run that cannot start, resume or go on (settings, memory, checkpoint, loss not finite)."""


class DataError(LucidaError):
    """A corpus that is missing, empty, not text, or ends early."""


class FeatureError(LucidaError):
    """A feature that does not exist, or an index, label or feature pack that is missing, damaged or of another kind."""


class SaveError(LucidaError):
    """A file that could not be written (disk full, no permission); nothing half-written is left."""


def suggest(asked: str, known: list[str], limit: int = 3) -> str:
    """Return ``"; did you mean a, b?"`` for the known names closest to `asked`, or an empty string."""
    import difflib

    close = difflib.get_close_matches(asked, known, n=limit, cutoff=0.5)
    return f"; did you mean {', '.join(close)}?" if close else ""
