"""What labels will cost, told before the first request: requests, tokens and, at given prices, money."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from lucida.errors import FeatureError
from lucida.features.index import FeatureIndex
from lucida.features.labels import read_labels
from lucida.features.llm.endpoint import rule_of_thumb
from lucida.features.llm.excerpts import HELD_OUT, ContrastPool, Evidence, gather
from lucida.features.llm.explain import explain_prompt
from lucida.features.llm.scoring import PER_REQUEST, judge_prompt, make_tests

MEASURED = 200
"""Features whose prompts are written out to estimate those of all."""
LABEL_TOKENS = 20
"""Tokens of an answer with a label."""
TOKENS_PER_ANSWER = 3
"""Tokens of one entry of a judge's list."""
TYPICAL_LABEL = "the word small, in comparisons"

FeatureName = tuple[int, int]
"""Layer and number within it."""


class Need(NamedTuple):
    """What one feature takes when every answer is usable at once."""

    requests: int
    prompt_tokens: int
    completion_tokens: int

    @property
    def tokens(self) -> int:
        """Of prompts and answers."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Plan:
    """Which of the wanted features are to be asked about: not those with a label by this model, nor silent ones.

    `other_models` is how many labels by other models will be replaced.
    """

    todo: tuple[FeatureName, ...]
    labelled: int
    silent: int
    other_models: int


@dataclass(frozen=True)
class Estimate:
    """What is expected of labels for features. Answers that cannot be used are asked for twice: they come on top.

    Prompts of `measured_on` of the features were written out, and their tokens found by `rule_of_thumb`:
    UTF-8 bytes / 3.5. A model that thinks aloud takes more completion tokens, up to the endpoint's limit.
    """

    plan: Plan
    requests: int
    prompt_tokens: int
    completion_tokens: int
    measured_on: int

    def cost(self, *, price_in: float, price_out: float) -> float:
        """The cost at these prices per million prompt and completion tokens, in their currency."""
        return cost(self.prompt_tokens, self.completion_tokens, price_in=price_in, price_out=price_out)


def cost(prompt_tokens: int, completion_tokens: int, *, price_in: float, price_out: float) -> float:
    """What tokens cost at prices per million."""
    if min(price_in, price_out) < 0:
        raise FeatureError("prices per million tokens cannot be below 0")
    return (prompt_tokens * price_in + completion_tokens * price_out) / 1e6


def plan_labels(index: FeatureIndex, features: Iterable[FeatureName], model: str, *, again: bool = False) -> Plan:
    """Divide features into those to ask `model` about and the rest; with `again` also those it labelled before.

    Raises FeatureError for a feature that does not exist.
    """
    wanted = list(dict.fromkeys((int(layer), int(feature)) for layer, feature in features))
    speaks = _speaks(index)
    authors = {(label.layer, label.feature): label.author for label in read_labels(index.folder, "llm")}
    silent = {name for name in wanted if not speaks[index.space.number(*name)]}
    done = set() if again else {name for name in wanted if authors.get(name) == model} - silent
    todo = tuple(name for name in wanted if name not in silent and name not in done)
    others = sum(authors.get(name, model) != model for name in todo)
    return Plan(todo, len(done), len(silent), others)


def estimate(
    index: FeatureIndex,
    features: Iterable[FeatureName],
    *,
    model: str,
    score: bool = True,
    held_out: int = HELD_OUT,
    per_request: int = PER_REQUEST,
    again: bool = False,
    seed: int = 0,
) -> Estimate:
    """Requests and tokens that `llm_labels` with the same arguments is expected to take; nothing is sent."""
    plan = plan_labels(index, features, model, again=again)
    step = max(1, len(plan.todo) / MEASURED)
    chosen = [plan.todo[int(i * step)] for i in range(min(MEASURED, len(plan.todo)))]
    pool = ContrastPool.draw(index, seed=seed)
    needs = [
        need_of(gather(index, *name, pool, held_out=held_out, seed=seed), score=score, per_request=per_request)
        for name in chosen
    ]
    scale = len(plan.todo) / max(1, len(chosen))
    totals = [round(scale * total) for total in np.sum(needs, axis=0)] if needs else [0, 0, 0]
    return Estimate(plan, *totals, measured_on=len(chosen))


def need_of(evidence: Evidence, *, score: bool = True, per_request: int = PER_REQUEST) -> Need:
    """What one feature takes, by its real prompts (with a typical label in those of the judge)."""
    if evidence.is_silent:
        return Need(0, 0, 0)
    prompts: list[Sequence[dict[str, str]]] = [explain_prompt(evidence)]
    answers = LABEL_TOKENS
    for test in make_tests(evidence, per_request=per_request) if score else []:
        prompts += [judge_prompt(test.name, TYPICAL_LABEL, questions) for questions in test.requests]
        answers += TOKENS_PER_ANSWER * test.count
    return Need(len(prompts), sum(map(rule_of_thumb, prompts)), answers)


def _speaks(index: FeatureIndex) -> Bool[np.ndarray, " feature"]:
    """Which features fire at all, by number; all of them where the index does not know (imported ones)."""
    fires = index.frequencies > 0
    return fires if fires.any() else np.ones_like(fires)
