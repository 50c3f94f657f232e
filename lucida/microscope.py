"""A model and its dictionaries in one object: trace, intervene, read."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from lucida.attribution import trace
from lucida.dictionaries import Dictionary, check_fits, default_dictionary, find_dictionary, load_dictionary
from lucida.errors import FeatureError
from lucida.evaluation.basis import NeuronBasis
from lucida.features.effects.directions import feature_space
from lucida.features.index import FeatureIndex
from lucida.features.naming.automatic import label_graph
from lucida.features.reading.contrast import Contrast, PrecisionRecall, contrast, precision_recall, precision_recalls
from lucida.features.reading.watch import Watch, watch
from lucida.features.shipped import index_beside
from lucida.graph import Graph
from lucida.interventions import Attention, Case, Edits, Key, Mode, Outcome, TokenProbability, intervene, sweep
from lucida.models.load import load_model
from lucida.models.model import Model, PromptLike
from lucida.models.registry import entry_of_hub_id, find_entry, is_known
from lucida.progress import Progress, silent
from lucida.steering import Dial, Generation, Steer, generate
from lucida.targets import TargetLike
from lucida.validation import Validation, validate


class Microscope:
    """A model and the features it is seen through.

    Example::

        scope = Microscope("smollm2-135m")
        graph = scope.trace('The opposite of "small" is "')
        print(graph.scores())
    """

    def __init__(
        self,
        model: str | Path | Model = "smollm2-135m",
        dictionaries: str | Path | Dictionary | None = None,
        *,
        dtype: str = "float32",
        device: str = "cpu",
        offline: bool = False,
        allow_unverified: bool = False,
        progress: Progress | None = None,
    ) -> None:
        """Load a model (registry name, folder, ``.gguf`` file or hub id) and its features.

        `dictionaries` is the name of a shipped dictionary, a folder, a loaded Dictionary or "neurons" (the
        model's own MLP neurons, no training needed); None takes the dictionary that is shipped as the
        model's default if there is one, else neurons.

        Raises ModelError, FetchError or DictionaryError, one line each.
        """
        self.progress: Progress = progress or silent
        # A name that nobody knows is refused before a model is fetched for it.
        features = _features(model, dictionaries)
        if isinstance(model, Model):
            self.model = model
        else:
            self.model = load_model(
                model,
                dtype=dtype,
                device=device,
                offline=offline,
                allow_unverified=allow_unverified,
                progress=self.progress,
            )
        self.dictionary = self._open(features)

    def _open(self, features: Path | Dictionary | None) -> Dictionary | None:
        if features is None:
            return None
        found = features
        if not isinstance(found, Dictionary):
            found = load_dictionary(found, n_layers=self.model.n_layers)
        check_fits(found, self.model.n_layers, self.model.d_model, _known_name(self.model, found))
        return found if self.model.device.type == "cpu" else found.to(self.model.device)

    @cached_property
    def index(self) -> FeatureIndex | None:
        """The feature index that lies beside these features (shipped ones bring one), or None.

        `trace` takes the labels of its nodes from it. Raises FeatureError when it is damaged.
        """
        folder = None if self.dictionary is None else index_beside(self.dictionary.source.path)
        return None if folder is None else self.features(folder)

    def trace(
        self,
        prompt: PromptLike,
        targets: Sequence[TargetLike] | TargetLike | None = None,
        *,
        position: int = -1,
        max_targets: int = 10,
        target_mass: float = 0.95,
        max_nodes: int | Literal["default"] | None = "default",
        sink_positions: int = 1,
        dtype: str = "float32",
        progress: Progress | None = None,
    ) -> Graph:
        """The attribution graph of what the model says next.

        `prompt` is a text, chat messages or token ids. `targets` are tokens (text or id), a pair (A, B)
        for the difference of two logits, or a list of these; None takes the top tokens up to
        `target_mass` of the probability, at most `max_targets`. `position` is where the answer is read.
        `max_nodes` bounds the features that are expanded ("default": 4096, or 256 neurons; None: all).
        The MLPs of the first `sink_positions` positions are constants. `dtype` is the type of the
        products, "float32" or "bfloat16".

        Raises PromptError for a prompt or target that cannot be traced, DictionaryError when no
        feature is active.
        """
        graph = trace(
            self.model,
            self.dictionary,
            prompt,
            targets,
            position=position,
            max_targets=max_targets,
            target_mass=target_mass,
            max_nodes=max_nodes,
            sink_positions=sink_positions,
            dtype=dtype,
            progress=progress or self.progress,
        )
        return graph if self.index is None else label_graph(graph, self.index)

    def intervene(
        self,
        prompt: PromptLike,
        edits: Edits,
        *,
        mode: Mode = "free",
        layers: tuple[int, int] | None = None,
        attention: Attention | None = None,
        position: int = -1,
        watch: Sequence[Key] = (),
    ) -> Outcome:
        """Run `prompt` with features changed. See `lucida.interventions.intervene`."""
        settings = {"mode": mode, "layers": layers, "attention": attention, "position": position, "watch": watch}
        return intervene(self.model, self.dictionary, prompt, edits, **settings)

    def sweep(
        self,
        prompt: PromptLike,
        cases: Sequence[Case | Edits],
        *,
        position: int = -1,
        watch: Sequence[Key] = (),
    ) -> list[Outcome]:
        """Many interventions on one prompt in one batch. See `lucida.interventions.sweep`."""
        settings = {"position": position, "watch": watch, "progress": self.progress}
        return sweep(self.model, self.dictionary, prompt, cases, **settings)

    def validate(self, graphs: Graph | Sequence[Graph], *, ablations: int = 200, seed: int = 0) -> Validation:
        """How far graphs of this model can be believed. See `lucida.validation.validate`."""
        return validate(self.model, self.dictionary, graphs, ablations=ablations, seed=seed, progress=self.progress)

    def steer(
        self,
        prompt: PromptLike,
        steers: Sequence[Steer] | Mapping[str, Sequence[Steer]] | Dial = (),
        **settings: Any,
    ) -> Generation:
        """Write on from `prompt` with features turned up or down, and as the model is.

        `settings` are those of `lucida.steering.generate`: max_tokens, temperature, samples, seed, ...
        """
        return generate(self.model, self.dictionary, prompt, steers, **settings)

    # --- what features mean -----------------------------------------------------------------------

    def features(self, index: str | Path | FeatureIndex) -> FeatureIndex:
        """The feature index in a folder, which must be of this microscope's features.

        Raises FeatureError when it is damaged or of other features.
        """
        found = index if isinstance(index, FeatureIndex) else FeatureIndex.open(index)
        found.check(self.dictionary)
        if self.dictionary is None and found.space != feature_space(self.model, None):
            raise FeatureError(f"the index {found.folder} is of the neurons of {found.header.model}, not of this model")
        return found

    def _units(self, index: FeatureIndex | None) -> Dictionary | NeuronBasis | None:
        """What is active or not in a text: features, or the neurons above the threshold of an index of neurons."""
        settings = None if index is None else index.header.settings.get("units")
        if self.dictionary is not None or settings is None:
            return self.dictionary
        return NeuronBasis(self.model, settings["threshold"], scales=settings["scales"])

    def watch(
        self,
        text: PromptLike,
        index: str | Path | FeatureIndex | None = None,
        *,
        count: int = 4,
        densest: float = 0.05,
    ) -> Watch:
        """Which features are on at each token; `index` None is the one beside them: `lucida.features.reading.watch`.

        Neurons are on above the threshold of their index, which must be given.
        """
        opened = self.index if index is None else self.features(index)
        return watch(self.model, self._units(opened), text, opened, count=count, densest=densest)

    def contrast(
        self,
        with_texts: Sequence[str | Sequence[int]],
        without_texts: Sequence[str | Sequence[int]],
        index: str | Path | FeatureIndex | None = None,
        *,
        progress: Progress | None = None,
    ) -> Contrast:
        """Which features separate texts with a concept from texts without: `lucida.features.reading.contrast`.

        `index` is needed for neurons only: its threshold says when one is on.
        """
        units = self._units(None if index is None else self.features(index))
        return contrast(self.model, units, with_texts, without_texts, progress=progress or self.progress)

    def precision_recall(
        self,
        layer: int,
        feature: int,
        with_texts: Sequence[str | Sequence[int]],
        without_texts: Sequence[str | Sequence[int]],
        index: str | Path | FeatureIndex | None = None,
        *,
        threshold: float | int = 0.0,
    ) -> PrecisionRecall:
        """How well one feature tells other texts apart. See `lucida.features.reading.contrast.precision_recall`."""
        texts = (with_texts, without_texts)
        units = self._units(None if index is None else self.features(index))
        return precision_recall(self.model, units, layer, feature, *texts, threshold=threshold, progress=self.progress)

    def precision_recalls(
        self,
        places: Sequence[tuple[int, int, float | int]],
        with_texts: Sequence[str | Sequence[int]],
        without_texts: Sequence[str | Sequence[int]],
        index: str | Path | FeatureIndex | None = None,
    ) -> list[PrecisionRecall]:
        """The same of many (layer, feature, threshold), the texts read once for all."""
        units = self._units(None if index is None else self.features(index))
        return precision_recalls(self.model, units, places, with_texts, without_texts, progress=self.progress)

    def top_tokens(self, prompt: PromptLike, count: int = 10) -> list[TokenProbability]:
        """What the model says next, most probable first."""
        tokens = self.model.tokenize(prompt)
        with torch.no_grad():
            ids = torch.tensor([tokens.tokens], device=self.model.device)
            logits = self.model.hf(input_ids=ids, use_cache=False, logits_to_keep=1).logits[0, -1].double()
        top = torch.softmax(logits, -1).topk(min(count, self.model.d_vocab))
        return [
            TokenProbability(int(i), self.model.token_text(int(i)), float(p))
            for p, i in zip(top.values, top.indices, strict=True)
        ]


def _features(model: str | Path | Model, dictionaries: str | Path | Dictionary | None) -> Path | Dictionary | None:
    """What to see the model through: a folder or a loaded dictionary, None for neurons."""
    if isinstance(dictionaries, Dictionary):
        return dictionaries
    if dictionaries is not None:
        return None if dictionaries == "neurons" else find_dictionary(dictionaries)
    name = model.name if isinstance(model, Model) else model
    # A folder of weights may be called anything: only a name that was asked for says which model it is.
    entry = None if isinstance(name, Path) else find_entry(name) if is_known(name) else entry_of_hub_id(name)
    default = default_dictionary(entry.name) if entry else None
    return default.folder if default else None


def _known_name(model: Model, dictionary: Dictionary) -> str | None:
    """The name to hold a dictionary's against: the registry's or the hub's for a model that has one.

    A folder of weights may be called anything, so that only shapes are compared.
    """
    if not is_known(model.name):
        return None
    entry = find_entry(model.name)
    aliases = [entry.name, *(source.names[0] for source in entry.sources if source.kind == "hub")]
    wanted = (dictionary.model_name or "").rsplit("/", 1)[-1].casefold()
    return next((a for a in aliases if a.rsplit("/", 1)[-1].casefold() == wanted), aliases[-1])
