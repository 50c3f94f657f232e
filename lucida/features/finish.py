"""What an index still lacks after its pass over the text: effects, automatic labels and the table for searching."""

from pathlib import Path

from lucida.dictionaries import Dictionary
from lucida.features.effects.effect_table import compute_effects
from lucida.features.index import FeatureIndex
from lucida.features.labels import write_labels
from lucida.features.naming.automatic import automatic_labels
from lucida.features.reading.search_table import build_search
from lucida.models.model import Model
from lucida.progress import Progress, silent


def finish_index(
    model: Model, dictionary: Dictionary | None, folder: str | Path, *, progress: Progress | None = None
) -> None:
    """Add effects, labels without any language model and the search table to an index (`dictionary` None: neurons).

    What is there already of each is made again. Labels of people and of language models stay.
    """
    progress = progress or silent
    compute_effects(model, dictionary, folder, progress=progress)
    write_labels(folder, "automatic", automatic_labels(FeatureIndex.open(folder), progress=progress))
    build_search(folder, progress=progress)
