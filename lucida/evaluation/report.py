"""Everything an evaluation found, as one object that is saved, read back and shown as a table."""

import dataclasses
import json
import math
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lucida.atomic import replacing
from lucida.errors import LucidaError
from lucida.evaluation.disagreement import Disagreement, SkipTest
from lucida.evaluation.faithfulness import Faithfulness
from lucida.evaluation.graphs import GraphMeasures
from lucida.evaluation.reconstruction import Reconstruction
from lucida.evaluation.replacement_model import ReplacementModel
from lucida.statistics import Interval

SCHEMA = 1


@dataclass(frozen=True)
class BasisReport:
    """One column of the table. `kind` is "features" or "neurons"; `span` the layers that a feature writes to.

    `answers` is the share of the prompts whose next token the replacement model gives as the model does (None
    without prompts). `faithfulness` and `skips` are of dictionaries, the latter of cross-layer ones.
    """

    name: str
    kind: str
    span: int
    features: int
    activation: str
    fingerprint: str | None
    reconstruction: Reconstruction
    replacement_model: ReplacementModel | None
    answers: Interval | None
    graphs: GraphMeasures | None
    faithfulness: Faithfulness | None
    skips: SkipTest | None

    def measures(self) -> dict[str, str]:
        """Every measure by its name in the table, ready to show; "-" for what was not measured."""
        run, graphs, pairs, skips = self.replacement_model, self.graphs, self.faithfulness, self.skips
        return {
            "NMSE, mean of layers": _number(self.reconstruction.nmse),
            "L0, active per token": f"{self.reconstruction.l0:.1f}",
            "dead features": "-" if self.kind == "neurons" else f"{self.reconstruction.dead:.1%}",
            "top-1 agreement, text": _spread(run and run.agreement),
            "top-1 agreement, prompts": _spread(self.answers),
            "KL from the model, nats": _spread(run and run.kl),
            "cross-entropy, nats": _spread(run and run.loss),
            "replacement score": _spread(graphs and graphs.replacement),
            "completeness, strict": _spread(graphs and graphs.completeness),
            "unexpanded": _spread(graphs and graphs.unexpanded),
            "average path length": _spread(graphs and graphs.path_length),
            "faithfulness, all pairs": _spread(pairs and pairs.everything.spearman),
            "faithfulness, knock-on": _spread(pairs and pairs.knock_on.spearman),
            "skip test, own layer": _spread(skips and skips.own),
            "skip test, new later": _spread(skips and skips.new),
            "skip test, all live": _spread(skips and skips.followed),
            "skip test, one hop": _spread(skips and skips.one_hop),
            "seconds per graph": "-" if graphs is None else f"{graphs.seconds:.1f}",
        }


@dataclass(frozen=True)
class EvaluationReport:
    """What `evaluate` found: a column for each basis, disagreements of pairs of dictionaries, and where it comes from.

    `tokens_given` tokens were read, of which the first positions of rows and attention sinks do not count;
    `model_loss` is the model's own cross-entropy on those that do. `prompts` names the set of prompts.
    """

    model: str
    data: str
    tokens_given: int
    context: int
    sinks: float
    model_loss: float | None
    prompts: int
    max_nodes: int | None
    seed: int
    bases: tuple[BasisReport, ...]
    disagreements: tuple[Disagreement, ...]
    provenance: dict[str, str]

    def __getitem__(self, name: str) -> BasisReport:
        """The measures of a basis. Raises LucidaError, naming the rows there are, for another name."""
        for basis in self.bases:
            if basis.name == name:
                return basis
        raise LucidaError(f"no {name!r} in this evaluation; it has {', '.join(b.name for b in self.bases)}")

    def table(self) -> list[tuple[str, ...]]:
        """Rows of text: the names of the bases, then every measure that some basis has."""
        columns = [basis.measures() for basis in self.bases]
        rows = [(name, *(column[name] for column in columns)) for name in columns[0]]
        kept = [row for row in rows if any(cell != "-" for cell in row[1:])]
        return [("", *(basis.name for basis in self.bases)), *kept]

    def __str__(self) -> str:
        rows = self.table()
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)

    def to_json(self) -> str:
        """The whole report as JSON; numbers that do not exist are null."""
        document = {"schema": SCHEMA, **dataclasses.asdict(self)}
        return json.dumps(_plain(document), indent=1, allow_nan=False)

    @staticmethod
    def from_json(text: str) -> "EvaluationReport":
        """The report in a text that `to_json` wrote. Raises LucidaError when it is another one."""
        try:
            document = json.loads(text)
            if document.pop("schema") != SCHEMA:
                raise ValueError("another version of the format")
            return _build(EvaluationReport, document)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LucidaError(f"this is not an evaluation that `lucida evaluate` wrote: {error}") from error

    def save(self, path: str | Path) -> None:
        """Write the report as JSON. Raises SaveError when the file cannot be written."""
        with replacing(path) as temporary:
            temporary.write_text(self.to_json(), "utf-8")

    @staticmethod
    def load(path: str | Path) -> "EvaluationReport":
        """Read a report. Raises LucidaError when the file is not one."""
        try:
            return EvaluationReport.from_json(Path(path).read_text("utf-8"))
        except OSError as error:
            raise LucidaError(f"cannot read {path}: {error.strerror}") from error


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.3g}"


def _spread(interval: Interval | None) -> str:
    """A mean and half the width of its interval."""
    if interval is None:
        return "-"
    if interval.low is None or interval.high is None:
        return _number(interval.value)
    return f"{_number(interval.value)} ±{_number((interval.high - interval.low) / 2)}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _build(kind: Any, value: Any) -> Any:
    """A value of the annotated type from what JSON holds: dataclasses, tuples, options, numbers and texts."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _build(next(p for p in parts if p is not type(None)), value)
    if origin is tuple:
        return tuple(_build(parts[0], item) for item in value)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        wanted = typing.get_type_hints(kind)
        if set(value) != set(wanted):
            raise ValueError(f"{kind.__name__} has other fields: {', '.join(sorted(set(value) ^ set(wanted)))}")
        return kind(**{name: _build(wanted[name], value[name]) for name in wanted})
    if kind is float:
        return float("nan") if value is None else float(value)
    if kind in (int, str) and not isinstance(value, kind):
        raise ValueError(f"expected {kind.__name__}, found {value!r:.40}")
    return value
