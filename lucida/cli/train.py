"""`lucida train`: a dictionary of sparse features for a model, from text or from the model's own samples."""

import json
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import click

from lucida.cli.options import fetch_options, output_options
from lucida.cli.screen import percent, progress, show_json, show_table

if TYPE_CHECKING:
    from lucida.corpus import TokenRows, TokenStore
    from lucida.models.model import Model
    from lucida.training import TrainingConfig
    from lucida.training.mesh import Mesh

DEFAULT_TOKENS = 5_000_000


class Span(click.ParamType):
    """``plt`` (1 layer), ``clt`` (all that follow) or a number of layers."""

    name = "plt|clt|N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a number of layers, None for all."""
        if value in (None, "clt"):
            return None
        if isinstance(value, int) or value == "plt":
            return 1 if value == "plt" else value
        if not value.isdigit() or int(value) < 1:
            self.fail(f"{value!r} is not plt, clt or a number of layers", param, ctx)
        return int(value)


class Knob(click.ParamType):
    """One field of the configuration, ``NAME=VALUE``."""

    name = "NAME=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return (name, value), the value read as the field's type."""
        if isinstance(value, tuple):
            return value
        from dataclasses import fields

        from lucida.training import TrainingConfig

        name, equals, text = value.partition("=")
        types = {field.name: field.type for field in fields(TrainingConfig)}
        if not equals or name not in types:
            self.fail(f"{value!r} is not NAME=VALUE; names are {', '.join(types)}", param, ctx)
        read: Callable[[str], Any] = {int: int, float: float}.get(types[name], str)  # pyright: ignore
        try:
            return name, read(text)
        except ValueError:
            self.fail(f"{text!r} is no value for {name}", param, ctx)


@click.command()
@click.option("--model", default="smollm2-135m", show_default=True, metavar="NAME|FOLDER|ID", help="The model.")
@click.option(
    "--data",
    default="samples",
    show_default=True,
    metavar="CORPUS",
    help="samples (the model's own), sae-probes, a file or folder of text, JSONL, CSV or Parquet, or a hub data set.",
)
@click.option("--column", help="The column of records that holds the text.")
@click.option("--corpus-tokens", type=click.IntRange(min=1), help="Read so many tokens of the corpus (samples: make).")
@click.option("--kind", "span", type=Span(), default="plt", show_default=True, help="Layers that a feature writes to.")
@click.option("--features", type=click.IntRange(min=1), default=2048, show_default=True, help="Features of each layer.")
@click.option("--l0", type=float, default=16.0, show_default=True, help="Active features per layer and token.")
@click.option("--tokens", type=click.IntRange(min=1), help=f"The budget in tokens [default: {DEFAULT_TOKENS:,}]")
@click.option("--minutes", type=float, help="The budget in minutes instead: speed is measured first.")
@click.option(
    "--set", "knobs", multiple=True, type=Knob(), help="Any field of TrainingConfig, such as learning_rate=1e-3."
)
@click.option("--start", metavar="NAME|FOLDER", help="Go on from the weights of this dictionary.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder of the run.")
@click.option("--name", help="What to call the dictionary [default: the folder's name]")
@click.option("--model-dtype", type=click.Choice(["auto", "float32", "bfloat16"]), default="auto", show_default=True,
              help="The type the model runs in; auto takes the faster one.")  # fmt: skip
@click.option("--device", default="cpu", show_default=True, help="Where to run: cpu or cuda.")
@click.option(
    "--feature-processes", type=click.IntRange(min=1), help="Under torchrun: processes that share the features."
)
@click.option("--tensorboard", is_flag=True, help="Also write scalars for TensorBoard.")
@click.option("--wandb", metavar="PROJECT", help="Also log to this Weights & Biases project.")
@fetch_options
@output_options
def train(quiet: bool, as_json: bool, **options: Any) -> None:
    """Train a dictionary of sparse features (a transcoder) for a model.

    Writes a checkpoint, metrics.jsonl and the dictionary into --out; the same command goes on where a stopped
    run was. `lucida evaluate` says how good the result is. With several GPUs: torchrun -m lucida train ...
    """
    from lucida.corpus import TokenRows
    from lucida.training import Mesh
    from lucida.training import train as run

    began = perf_counter()
    if options["tokens"] and options["minutes"]:
        raise click.UsageError("give the budget as --tokens or as --minutes, not both")
    mesh = Mesh.start(feature_size=options["feature_processes"], device=options["device"])
    with progress(quiet=quiet or not mesh.is_first) as report:
        model = _model(options, report)
        start = _dictionary(options["start"], model)
        config = _config(options, model)
        store = _corpus(options, model, config, report)
        rows = TokenRows(store, config.context, seed=config.seed)
        config = _within_minutes(options, model, rows, config)
        found = run(model, rows, config, options["out"], mesh=mesh, start=start, name=options["name"],
                    watch=_watch(options, config, mesh), progress=report)  # fmt: skip
        if not mesh.is_first:
            return
        folder = _write(found, store, config, options, model)
    last = json.loads((options["out"] / "metrics.jsonl").read_text("utf-8").splitlines()[-1])
    if as_json:
        show_json({"dictionary": folder, "metrics": last, "seconds": perf_counter() - began})
        return
    rows_shown = [
        ("NMSE, mean over layers", f"{last['nmse']:.3f}"),
        ("L0, all layers", f"{last['l0']:.1f}"),
        ("dead features", percent(last["dead"])),
        ("tokens", f"{last['tokens']:,}"),
    ]
    show_table("Last batch", ("", ""), rows_shown)
    click.echo(f"wrote {folder}")
    if not quiet:
        click.echo(f"next: lucida evaluate --model {options['model']} --dictionaries {folder}")


def _model(options: dict[str, Any], report: Any) -> "Model":
    from lucida.models.load import load_model
    from lucida.training.budget import faster_products

    dtype = options["model_dtype"]
    return load_model(
        options["model"],
        dtype=faster_products(options["device"]) if dtype == "auto" else dtype,
        device=options["device"],
        offline=options["offline"],
        allow_unverified=options["allow_unverified"],
        progress=report,
    )


def _dictionary(name: str | None, model: "Model") -> Any:
    from lucida.dictionaries import open_dictionary

    return None if name is None else open_dictionary(name, n_layers=model.n_layers)


def _config(options: dict[str, Any], model: "Model") -> "TrainingConfig":
    from lucida.training import TrainingConfig
    from lucida.training.budget import faster_products

    knobs = dict(options["knobs"])
    knobs.setdefault("context", min(128, model.context))
    knobs.setdefault("products", faster_products(options["device"]))
    return TrainingConfig.plan(
        n_layers=model.n_layers,
        d_model=model.d_model,
        n_features=options["features"],
        n_tokens=options["tokens"] or DEFAULT_TOKENS,
        span=model.n_layers if options["span"] is None else options["span"],
        k=options["l0"],
        **knobs,
    )


def _corpus(options: dict[str, Any], model: "Model", config: "TrainingConfig", report: Any) -> "TokenStore":
    from lucida.corpus import open_corpus

    wanted = options["corpus_tokens"]
    if wanted is None and options["data"] == "samples":
        wanted = min(4_000_000, config.n_tokens)
    return open_corpus(
        options["data"], model, column=options["column"], max_tokens=wanted, offline=options["offline"], progress=report
    )


def _within_minutes(
    options: dict[str, Any], model: "Model", rows: "TokenRows", config: "TrainingConfig"
) -> "TrainingConfig":
    """The configuration for a budget in minutes; a run that is resumed keeps the one it began with."""
    from dataclasses import replace

    from lucida.training.budget import tokens_in
    from lucida.training.checkpoint import saved_config

    if options["minutes"] is None:
        return config
    saved = saved_config(options["out"] / "checkpoint")
    n_tokens = saved.n_tokens if saved else tokens_in(model, rows, config, options["minutes"])
    return replace(config, n_tokens=n_tokens)


def _watch(options: dict[str, Any], config: "TrainingConfig", mesh: "Mesh") -> Any:
    from dataclasses import asdict

    from lucida.training.watch import all_of, tensorboard, wandb

    watches = []
    if options["tensorboard"] and mesh.is_first:
        watches.append(tensorboard(options["out"] / "tensorboard"))
    if options["wandb"] and mesh.is_first:
        watches.append(wandb(options["wandb"], asdict(config)))
    return all_of(watches) if watches else None


def _write(found: Any, store: "TokenStore", config: "TrainingConfig", options: dict[str, Any], model: "Model") -> Path:
    """The dictionary in circuit-tracer's format, and the card that says how it was made."""
    from dataclasses import asdict

    from lucida.atomic import replacing
    from lucida.dictionaries import write_circuit_tracer

    folder = write_circuit_tracer(found, options["out"] / "dictionary")
    card = {
        "model": {"name": model.name, **model.source},
        "data": store.header.source | {"tokens": store.n_tokens, "fingerprint": store.fingerprint},
        "recipe": asdict(config),
        "start": options["start"],
    }
    with replacing(options["out"] / "card.json") as path:
        path.write_text(json.dumps(card, indent=1, default=str) + "\n", "utf-8")
    return folder
