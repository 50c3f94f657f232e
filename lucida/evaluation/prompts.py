"""A frozen set of prompts: chosen once from held-out text, stored with their tokens, the same for every dictionary.

The rules are those of "Circuit Tracing" (2025), appendix on graph evaluation: the model is right, but not certain;
the answer is a rare token and cannot be copied from the prompt.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from lucida.atomic import replacing
from lucida.errors import LucidaError, PromptError
from lucida.models.model import Model, PromptLike
from lucida.progress import Progress, silent

RULES: tuple[str, ...] = ("right", "rare", "new", "uncertain")
"""The rules in the order in which they are tried: a candidate is counted under the first that it breaks."""
SCHEMA = 1


@dataclass(frozen=True)
class EvaluationPrompt:
    """A prompt and what the model says next. `target` is its most probable token, `loss` minus the logarithm of that
    token's probability (nats), `density` the token's share of the corpus (None when nobody counted).
    """

    tokens: tuple[int, ...]
    target: int
    loss: float
    density: float | None = None


@dataclass(frozen=True)
class PromptRules:
    """What a position of held-out text must satisfy to become a prompt.

    The true next token is the model's most probable one ("right"), makes up less than `max_density` of the corpus
    ("rare"), is not among the prompt's tokens ("new"), and the model's loss on it is above `min_loss` ("uncertain").
    A prompt is `min_tokens` to `max_tokens` long and starts where its row of text starts.
    """

    max_density: float = 1e-4
    min_loss: float = 0.2
    min_tokens: int = 8
    max_tokens: int = 64


@dataclass(frozen=True)
class PromptSet:
    """Prompts of one model, how they were chosen, and how many positions each rule removed (`removed`)."""

    model: str
    d_vocab: int
    prompts: tuple[EvaluationPrompt, ...]
    rules: PromptRules | None = None
    seed: int = 0
    seen: int = 0
    removed: tuple[tuple[str, int], ...] = ()

    def __len__(self) -> int:
        return len(self.prompts)

    def save(self, path: str | Path) -> None:
        """Write the set as JSON. Raises SaveError when the file cannot be written."""
        with replacing(path) as temporary:
            temporary.write_text(json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1), "utf-8")

    @staticmethod
    def load(path: str | Path) -> "PromptSet":
        """Read a set. Raises PromptError when the file is not one."""
        try:
            read = json.loads(Path(path).read_text("utf-8"))
            if read.pop("schema") != SCHEMA:
                raise ValueError("another version of the format")
            prompts = tuple(
                EvaluationPrompt(tuple(int(t) for t in p["tokens"]), int(p["target"]), float(p["loss"]), p["density"])
                for p in read.pop("prompts")
            )
            rules = read.pop("rules")
            removed = tuple((str(rule), int(count)) for rule, count in read.pop("removed"))
            return PromptSet(prompts=prompts, rules=rules and PromptRules(**rules), removed=removed, **read)
        except OSError as error:
            raise PromptError(f"cannot read the prompts in {path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise PromptError(f"{path} is not a set of prompts ({error}); make one with choose_prompts()") from error

    def check(self, model: Model) -> None:
        """Raise PromptError unless this is a set for the vocabulary and context of `model`."""
        if self.d_vocab != model.d_vocab:
            raise PromptError(
                f"the prompts were chosen for {self.model} with {self.d_vocab} tokens, this model has {model.d_vocab}"
            )
        for prompt in self.prompts:
            model.tokenize(list(prompt.tokens))


def token_counts(rows: Int[Tensor, "row pos"], d_vocab: int) -> Int[Tensor, " d_vocab"]:
    """How often each token occurs in `rows`."""
    return torch.bincount(rows.flatten().cpu(), minlength=d_vocab)


@torch.no_grad()
def choose_prompts(
    model: Model,
    rows: Int[Tensor, "row pos"],
    *,
    count: int = 40,
    rules: PromptRules | None = None,
    counts: Int[Tensor, " d_vocab"] | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> PromptSet:
    """Choose `count` prompts from held-out `rows`, at most one from each row, in an order drawn from `seed`.

    `counts` says how often each token occurs in the corpus; without it the rows are counted, so give many of them:
    in n tokens nothing rarer than 1 / n can be told apart. Fewer prompts are returned when the rows hold no more.
    Raises PromptError when no position passes, saying which rule removed most.
    """
    rules = rules or PromptRules()
    if count < 1:
        raise PromptError(f"{count} prompts were asked for; give at least 1")
    counts = token_counts(rows, model.d_vocab) if counts is None else counts
    density = counts.double() / max(1, int(counts.sum()))
    generator = torch.Generator().manual_seed(seed)
    removed: dict[str, int] = dict.fromkeys(RULES, 0)
    chosen: list[EvaluationPrompt] = []
    seen = 0
    for row in torch.randperm(len(rows), generator=generator).tolist():
        progress("prompts", len(chosen), count)
        found = _candidates(model, rows[row, : rules.max_tokens + 1], density, rules, removed)
        seen += max(0, min(rows.shape[1], rules.max_tokens + 1) - rules.min_tokens)
        if found:
            chosen.append(found[int(torch.randint(len(found), (1,), generator=generator))])
        if len(chosen) == count:
            break
    if not chosen:
        raise PromptError(_nothing_passed(seen, removed, rules))
    progress("prompts", count, count)
    return PromptSet(model.name, model.d_vocab, tuple(chosen), rules, seed, seen, tuple(removed.items()))


def _candidates(
    model: Model, row: Tensor, density: Tensor, rules: PromptRules, removed: dict[str, int]
) -> list[EvaluationPrompt]:
    """The positions of one row that pass; the others are counted in `removed` under the first rule they break."""
    if len(row) <= rules.min_tokens:
        return []
    ids = row[:-1].to(model.device)
    hidden = model.hf(input_ids=ids[None], use_cache=False, logits_to_keep=len(ids) - rules.min_tokens + 1)
    log_p = hidden.logits[0].float().log_softmax(-1).cpu()
    found = []
    for offset, scores in enumerate(log_p):
        length = rules.min_tokens + offset
        context, target = row[:length], int(row[length])
        loss = -float(scores[target])
        passes = {
            "right": int(scores.argmax()) == target,
            "rare": float(density[target]) < rules.max_density,
            "new": not bool((context == target).any()),
            "uncertain": loss > rules.min_loss,
        }
        broken = next((rule for rule in RULES if not passes[rule]), None)
        if broken is not None:
            removed[broken] += 1
        else:
            found.append(EvaluationPrompt(tuple(context.tolist()), target, loss, float(density[target])))
    return found


def _nothing_passed(seen: int, removed: dict[str, int], rules: PromptRules) -> str:
    if not seen:
        return f"the rows are too short for prompts of {rules.min_tokens} tokens; give longer rows"
    worst = max(removed, key=lambda rule: removed[rule])
    told = ", ".join(f"{rule} {number:,}" for rule, number in removed.items())
    hint = {
        "right": "give more text, or text that this model knows",
        "rare": f"give more text, or raise max_density above {rules.max_density:g}",
        "new": "give more text",
        "uncertain": f"give more text, or lower min_loss below {rules.min_loss:g}",
    }[worst]
    return f"none of {seen:,} positions makes a prompt: the rule {worst!r} removed most ({told}); {hint}"


@torch.no_grad()
def given_prompts(model: Model, prompts: Sequence[PromptLike]) -> PromptSet:
    """A set of the given texts (or token ids, or chats), with what the model says after each; no rule applies.

    Raises PromptError for an empty list or a prompt that cannot be traced.
    """
    if not prompts:
        raise PromptError("the list of prompts is empty; give at least one")
    found = []
    for prompt in prompts:
        tokens = model.tokenize(prompt).tokens
        if len(tokens) < 2:
            raise PromptError(f"prompt {prompt!r} has one token, and the first is left out; give a longer one")
        ids = torch.tensor([tokens], device=model.device)
        log_p = model.hf(input_ids=ids, use_cache=False, logits_to_keep=1).logits[0, -1].float().log_softmax(-1)
        found.append(EvaluationPrompt(tokens, int(log_p.argmax()), -float(log_p.max())))
    return PromptSet(model.name, model.d_vocab, tuple(found), seen=len(found))


def read_prompts(model: Model, path: str | Path) -> PromptSet:
    """The prompts in a file: a stored set (.json), or one text on each line (.txt).

    Raises PromptError when it is neither, or a set of another model.
    """
    path = Path(path)
    if path.suffix == ".json":
        found = PromptSet.load(path)
        found.check(model)
        return found
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise LucidaError(f"cannot read the prompts in {path}: {reason}") from error
    return given_prompts(model, [line for line in lines if line.strip()])
