"""Labels by a language model for many features: in parallel, within a budget, kept as they come, gone on with later."""

import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from threading import Event

from lucida.errors import FeatureError
from lucida.features.index import FeatureIndex
from lucida.features.labels import Label, write_labels
from lucida.features.llm.cost import FeatureName, need_of, plan_labels
from lucida.features.llm.crew import in_parallel
from lucida.features.llm.endpoint import Endpoint, EndpointDown, Stopped
from lucida.features.llm.excerpts import HELD_OUT, ContrastPool, Evidence, gather
from lucida.features.llm.one_feature import Outcome, Tally, label_one
from lucida.features.llm.scoring import PER_REQUEST, make_tests
from lucida.progress import Progress, silent

SAVE_EVERY = 20
"""Labels after which they are written."""
SAVE_SECONDS = 10.0
"""Seconds after which they are written, however few."""
QUICK = 1.0
"""Seconds of writing that need not be saved on."""
PATIENCE = 5
"""Features in a row without a usable answer after which there is no sense in asking on."""


@dataclass(frozen=True)
class LabelRun:
    """What a run did. `failed` names the features without a usable answer and why; another run asks them again.

    `left` is how many were not come to because the budget was spent.
    """

    labels: tuple[Label, ...]
    failed: dict[FeatureName, str]
    labelled_before: int
    silent: int
    left: int
    used: Tally


def llm_labels(
    index: FeatureIndex,
    endpoint: Endpoint,
    features: Iterable[FeatureName],
    *,
    score: bool = True,
    held_out: int = HELD_OUT,
    per_request: int = PER_REQUEST,
    again: bool = False,
    budget_tokens: int | None = None,
    save_every: int = SAVE_EVERY,
    seed: int = 0,
    progress: Progress = silent,
) -> LabelRun:
    """Ask `endpoint` for a label of each feature, test it on held-out examples, and keep it in the index.

    Labels appear in ``labels/llm.parquet`` in batches; features with a label by this model are skipped, unless `again`.
    So the same call goes on after a stop of any kind. No feature is begun that is expected to lead beyond
    `budget_tokens`.

    Raises FeatureError when the endpoint is dead, too slow or gives nothing usable, with what is done kept.
    """
    plan = plan_labels(index, features, endpoint.model, again=again)
    run, stop = _Run(index, save_every, budget_tokens), Event()

    def supply() -> Iterator[Evidence]:
        pool = ContrastPool.draw(index, seed=seed)
        for name in plan.todo:
            evidence = gather(index, *name, pool, held_out=held_out, seed=seed)
            if evidence.is_silent:
                run.silent += 1
            elif run.reserve(name, need_of(evidence, score=score, per_request=per_request).tokens):
                yield evidence
            else:
                return

    def work(evidence: Evidence) -> Outcome:
        tests = make_tests(evidence, per_request=per_request, seed=seed) if score else []
        return label_one(endpoint, evidence, tests, stop=stop)

    progress("labelling", 0, len(plan.todo))
    try:
        with closing(in_parallel(work, supply(), workers=endpoint.parallel, stop=stop)) as outcomes:
            for outcome in outcomes:
                run.take(outcome, stop)
                progress("labelling", run.done, len(plan.todo))
    finally:
        stop.set()
        run.save()
    if run.failed and not run.labels and run.problem is None:
        run.problem = FeatureError(f"no feature got a usable label ({next(iter(run.failed.values()))})")
    if run.problem is not None:
        kept = f"{len(run.labels):,} of {len(plan.todo):,} features were labelled and are kept"
        raise FeatureError(f"{run.problem}; {kept}, the same command goes on with the rest") from run.problem
    left = len(plan.todo) - run.done
    return LabelRun(tuple(run.labels), run.failed, plan.labelled, plan.silent + run.silent, left, run.used)


@dataclass
class _Run:
    """What a run has so far; only the calling thread touches it."""

    index: FeatureIndex
    save_every: int
    budget: int | None
    labels: list[Label] = field(default_factory=list)
    failed: dict[FeatureName, str] = field(default_factory=dict)
    reserved: dict[FeatureName, int] = field(default_factory=dict)
    used: Tally = field(default_factory=Tally)
    silent: int = 0
    problem: FeatureError | None = None
    _row: int = 0
    _saved: int = 0
    _saved_at: float = field(default_factory=time.monotonic)
    _saving_took: float = 0.0

    @property
    def done(self) -> int:
        """Features that need not be come to again in this run."""
        return len(self.labels) + len(self.failed) + self.silent

    def reserve(self, name: FeatureName, tokens: int) -> bool:
        """Whether the budget allows for a feature that is expected to take so many tokens; if so they are set aside."""
        spent = self.used.tokens + sum(self.reserved.values())
        if self.budget is not None and spent + tokens > self.budget:
            return False
        self.reserved[name] = tokens
        return True

    def take(self, outcome: Outcome, stop: Event) -> None:
        """Keep what came of one feature; set `stop` when there is no sense in asking on."""
        self.used.add(outcome.used)
        self.reserved.pop(outcome.name)
        if outcome.label is not None:
            self._keep(outcome.label)
        elif isinstance(outcome.error, EndpointDown):
            self.problem = self.problem or outcome.error
        elif not isinstance(outcome.error, Stopped):
            self.failed[outcome.name] = str(outcome.error)
            self._row += 1
            if self._row >= PATIENCE and self.problem is None:
                self.problem = FeatureError(f"{self._row} features in a row got no usable label ({outcome.error})")
        if self.problem is not None:
            stop.set()

    def _keep(self, label: Label) -> None:
        self.labels.append(label)
        self._row = 0
        waited = time.monotonic() - self._saved_at
        is_due = len(self.labels) - self._saved >= self.save_every or waited > SAVE_SECONDS
        # The file is written whole: a large one not so often that writing takes the time of asking.
        if is_due and (self._saving_took < QUICK or waited >= 9 * self._saving_took):
            self.save()

    def save(self) -> None:
        """Write the labels that are not yet written."""
        fresh = self.labels[self._saved :]
        if not fresh:
            return
        began = time.monotonic()
        write_labels(self.index.folder, "llm", fresh)
        self._saved, self._saved_at = len(self.labels), time.monotonic()
        self._saving_took = self._saved_at - began
