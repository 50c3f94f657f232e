"""evaluate(): every measure of one or several dictionaries of a model, and of its own neurons, in one table."""

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from lucida.dictionaries import Dictionary
from lucida.errors import DictionaryError, LucidaError
from lucida.evaluation.basis import Basis, DictionaryBasis, NeuronBasis, neurons_of_l0
from lucida.evaluation.disagreement import Disagreement, SkipTest, compare_stories, measure_skips
from lucida.evaluation.faithfulness import Faithfulness, measure_faithfulness
from lucida.evaluation.graphs import NODES, GraphMeasures, GraphOptions, measure_graphs
from lucida.evaluation.prompts import EvaluationPrompt, PromptSet, choose_prompts
from lucida.evaluation.reconstruction import Reconstruction, ReconstructionTally
from lucida.evaluation.replacement_model import ReplacementModel, ReplacementTally, replaced_residual
from lucida.evaluation.report import BasisReport, EvaluationReport
from lucida.evaluation.running import Base, batches, run_base
from lucida.models.model import Model
from lucida.models.sinks import Sinks, find_sinks, sample_rows
from lucida.progress import Progress, silent
from lucida.statistics import Interval, mean

NEURONS_PER_LAYER = 16
"""Neurons per layer and token that stay when there is no dictionary to set their number by."""

Seen = Dictionary | Basis | str
"""A dictionary, a basis, or the word "neurons"."""


@torch.no_grad()
def evaluate(
    model: Model,
    dictionaries: Mapping[str, Seen],
    rows: Int[Tensor, "row pos"],
    prompts: PromptSet | int = 40,
    *,
    nodes: int | None = NODES,
    faithfulness: int = 4,
    data: str = "",
    seed: int = 0,
    progress: Progress = silent,
) -> EvaluationReport:
    """Measure every dictionary of `model` on held-out `rows` of tokens and on prompts (docs/evaluation.md).

    `dictionaries` maps the name of a column in the table to a Dictionary, to a basis made by hand, or to "neurons": the
    model's own, thresholded so that as many are active as features of the first dictionary. `prompts` is a frozen set
    or the number of prompts to choose from `rows`; 0 leaves the graphs out. `nodes` is the budget of every graph
    (None: all). On the first `faithfulness` prompts features are ablated, which is slow. `data` says where the
    rows come from.

    Raises DictionaryError for a dictionary of another model, LucidaError for rows that the model cannot read,
    PromptError when no prompt can be chosen.
    """
    if not dictionaries:
        raise DictionaryError("nothing to evaluate; give at least one dictionary, or neurons")
    sinks = find_sinks(model, rows)
    bases = make_bases(model, dictionaries, rows, sinks)
    chosen = _prompts(model, rows, prompts, seed, progress)
    text = _measure_text(model, bases, rows, sinks, seed, progress)
    options = GraphOptions(max_nodes=nodes)
    graphs = measure_graphs(model, bases, chosen, options=options, seed=seed, progress=progress) if chosen else {}
    reports = []
    for name, basis in bases.items():
        slow = _ablations(model, basis, chosen[:faithfulness], options, seed, progress)
        reports.append(_report(basis, *text.of(name), _answers(model, basis, chosen), graphs.get(name), slow))
    first = text.replacement[0]
    return EvaluationReport(
        model=model.name,
        data=data,
        tokens_given=rows.numel(),
        context=rows.shape[1],
        sinks=1 - text.reconstruction[0].tokens / rows.numel(),
        model_loss=None if first is None else first.model_loss.value,
        prompts=len(chosen),
        max_nodes=nodes,
        seed=seed,
        bases=tuple(reports),
        disagreements=_disagreements(bases, graphs, options, seed),
        provenance=_provenance(model, rows, chosen),
    )


def make_bases(
    model: Model, dictionaries: Mapping[str, Seen], rows: Int[Tensor, "row pos"], sinks: Sinks
) -> dict[str, Basis]:
    """What the model is seen through, by name. Neurons get the L0 of the first dictionary on a sample of `rows`.

    Raises DictionaryError for a dictionary of another shape.
    """
    found: dict[str, Basis] = {}
    for name, seen in dictionaries.items():
        if isinstance(seen, Dictionary):
            found[name] = DictionaryBasis(model, seen, name=name)
        elif not isinstance(seen, str):
            found[name] = seen
        elif seen != "neurons":
            raise DictionaryError(f"{name} is {seen!r}; give a loaded Dictionary or 'neurons'")
    if len(found) < len(dictionaries):
        base = _sample(model, list(found.values()), rows, sinks)
        l0 = _l0(found[next(iter(found))], base) if found else float(NEURONS_PER_LAYER * model.n_layers)
        reads = base.sites["mlp_in"]
        for name in dictionaries:
            found.setdefault(name, neurons_of_l0(model, lambda layer: reads[layer], l0, name=name))
    return {name: found[name] for name in dictionaries}


def _sample(model: Model, bases: Sequence[Basis], rows: Tensor, sinks: Sinks) -> Base:
    """A fixed sample of the first rows, on which the number of neurons is set."""
    wanted = {"mlp_in", *(basis.reads_at for basis in bases)}
    base = run_base(model, sample_rows(rows), sinks, reads_at=wanted, writes_at=set())
    if not base.counted.any():
        raise LucidaError("every token of the sample looks like an attention sink; give more text")
    return base


def _l0(basis: Basis, base: Base) -> float:
    """Active units per token on a sample; at least one, so that there are neurons to compare with."""
    reads = base.sites[basis.reads_at]
    active = sum(len(basis.encode(layer, reads[layer])) for layer in basis.layers)
    return max(1.0, active / int(base.counted.sum()))


def _prompts(
    model: Model, rows: Tensor, prompts: PromptSet | int, seed: int, progress: Progress
) -> tuple[EvaluationPrompt, ...]:
    if isinstance(prompts, PromptSet):
        prompts.check(model)
        return prompts.prompts
    return choose_prompts(model, rows, count=prompts, seed=seed, progress=progress).prompts if prompts else ()


@dataclass(frozen=True)
class _Text:
    """What held-out text says of every basis."""

    names: tuple[str, ...]
    reconstruction: list[Reconstruction]
    replacement: list[ReplacementModel | None]

    def of(self, name: str) -> tuple[Reconstruction, ReplacementModel | None]:
        """The measures of one basis."""
        index = self.names.index(name)
        return self.reconstruction[index], self.replacement[index]


def _measure_text(
    model: Model, bases: Mapping[str, Basis], rows: Tensor, sinks: Sinks, seed: int, progress: Progress
) -> _Text:
    """Reconstruction and replacement model of all bases, with one run of the model itself."""
    reconstruction = [ReconstructionTally(model, basis) for basis in bases.values()]
    replacement = ReplacementTally(model, list(bases.values()))
    sites = {basis.reads_at for basis in bases.values()}, {basis.writes_at for basis in bases.values()}
    done = 0
    for batch in batches(model, rows):
        progress("held-out text", done, rows.numel())
        base = run_base(model, batch, sinks, reads_at=sites[0], writes_at=sites[1])
        for tally in (*reconstruction, replacement):
            tally.update(base)
        done += batch.numel()
    progress("held-out text", done, rows.numel())
    return _Text(tuple(bases), [t.result() for t in reconstruction], replacement.results(seed=seed))


def _answers(model: Model, basis: Basis, prompts: Sequence[EvaluationPrompt]) -> Interval | None:
    """Share of the prompts after which the replacement model says what the model says."""
    right = []
    for prompt in prompts:
        rows = torch.tensor([prompt.tokens], device=model.device)
        kept = torch.zeros_like(rows, dtype=torch.bool)
        kept[:, 0] = True
        final = replaced_residual(model, basis, rows, kept)
        right.append(float(int(model.logits(final[0, -1:]).argmax()) == prompt.target))
    return mean(np.array(right))


def _ablations(
    model: Model,
    basis: Basis,
    prompts: Sequence[EvaluationPrompt],
    options: GraphOptions,
    seed: int,
    progress: Progress,
) -> tuple[Faithfulness | None, SkipTest | None]:
    """What takes an ablation for every feature: faithfulness, and the skip test of a cross-layer dictionary."""
    if not isinstance(basis, DictionaryBasis) or not prompts:
        return None, None
    pairs = measure_faithfulness(model, basis, prompts, options=options, seed=seed, progress=progress)
    if basis.dictionary.span < 2:
        return pairs, None
    return pairs, measure_skips(model, basis, prompts, options=options, seed=seed, progress=progress)


def _report(
    basis: Basis,
    reconstruction: Reconstruction,
    replacement: ReplacementModel | None,
    answers: Interval | None,
    graphs: GraphMeasures | None,
    ablations: tuple[Faithfulness | None, SkipTest | None],
) -> BasisReport:
    dictionary = basis.dictionary if isinstance(basis, DictionaryBasis) else None
    threshold = f"above {basis.threshold:.4g}" if isinstance(basis, NeuronBasis) else ""
    return BasisReport(
        name=basis.name,
        kind=basis.kind,
        span=1 if dictionary is None else dictionary.span,
        features=sum(basis.n_features(layer) for layer in basis.layers),
        activation=threshold if dictionary is None else dictionary.activation,
        fingerprint=None if dictionary is None else dictionary.source.fingerprint,
        reconstruction=reconstruction,
        replacement_model=replacement,
        answers=answers,
        graphs=graphs,
        faithfulness=ablations[0],
        skips=ablations[1],
    )


def _disagreements(
    bases: Mapping[str, Basis], graphs: Mapping[str, GraphMeasures], options: GraphOptions, seed: int
) -> tuple[Disagreement, ...]:
    """Every cross-layer dictionary beside every per-layer one."""
    spans = {name: b.dictionary.span for name, b in bases.items() if isinstance(b, DictionaryBasis) and name in graphs}
    return tuple(
        compare_stories(graphs[a], graphs[b], (a, b), sink_positions=options.sink_positions, seed=seed)
        for a, b in itertools.product(spans, spans)
        if spans[a] > 1 and spans[b] == 1
    )


def _provenance(model: Model, rows: Tensor, prompts: Sequence[EvaluationPrompt]) -> dict[str, str]:
    """What made the numbers: versions, the weights' source, and fingerprints of the very tokens."""
    import transformers

    from lucida import __version__

    tokens = repr([prompt.tokens for prompt in prompts]).encode()
    return {
        "source": json.dumps(model.source, sort_keys=True),
        "text": hashlib.sha256(rows.cpu().contiguous().numpy().tobytes()).hexdigest(),
        "prompts": hashlib.sha256(tokens).hexdigest(),
        "generator": f"camera-lucida {__version__}",
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
