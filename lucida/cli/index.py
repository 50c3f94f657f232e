"""`lucida index`: one pass over a corpus that says when every feature fires and what it means."""

import re
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import click

from lucida.cli.options import fetch_options, output_options
from lucida.cli.screen import progress, show_json, show_table

if TYPE_CHECKING:
    from lucida.corpus import TokenStore
    from lucida.features.header import IndexHeader
    from lucida.models.model import Model

DEFAULT_TOKENS = 1_000_000


class Shard(click.ParamType):
    """``i/n``: part i of n, numbered from 0."""

    name = "I/N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return (i, n)."""
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"(\d+)/(\d+)", value)
        if not found or int(found[1]) >= int(found[2]):
            self.fail(f"{value!r} is not I/N with I from 0 to N - 1, such as 0/8", param, ctx)
        return int(found[1]), int(found[2])


@click.command()
@click.option("--model", default="smollm2-135m", show_default=True, metavar="NAME|FOLDER|ID", help="The model.")
@click.option(
    "--dictionaries",
    metavar="NAME|FOLDER",
    help="The features: a shipped dictionary, a folder, or neurons.  [default: the model's shipped ones]",
)
@click.option(
    "--data",
    default="samples",
    show_default=True,
    metavar="CORPUS",
    help="samples (the model's own), sae-probes, a file or folder of text, JSONL, CSV or Parquet, or a hub data set.",
)
@click.option("--column", help="The column of records that holds the text.")
@click.option(
    "--tokens",
    type=click.IntRange(min=1),
    help=f"Read so many tokens of the corpus.  [default of samples: {DEFAULT_TOKENS:,}]",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the index.")
@click.option(
    "--context", type=click.IntRange(min=2), default=128, show_default=True, help="Tokens the model sees at once."
)
@click.option(
    "--examples", "k", type=click.IntRange(min=1), default=16, show_default=True, help="Strongest places kept."
)
@click.option(
    "--samples", type=click.IntRange(min=0), default=3, show_default=True, help="Random places kept per octave."
)
@click.option("--window", type=click.IntRange(min=0), default=16, show_default=True, help="Tokens shown on each side.")
@click.option(
    "--neurons-l0", type=float, default=600.0, show_default=True, help="Neurons: active per token, all layers."
)
@click.option("--shard", type=Shard(), help="Only this part of the corpus; join the parts with --merge.")
@click.option("--merge", is_flag=True, help="Join the parts in --out (made by --shard or on several machines).")
@click.option("--ray", "workers", type=click.IntRange(min=1), help="Run the parts on Ray with so many workers.")
@click.option("--ray-address", help="A running Ray cluster, such as auto.  [default: start one here]")
@click.option("--parts", type=click.IntRange(min=1), help="Parts of --ray and --merge.  [default: 4 for each worker]")
@click.option("--bare", is_flag=True, help="Leave out effects, automatic labels and the search table.")
@click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16"]), default="auto", show_default=True,
              help="The type the model runs in; auto takes the faster one.")  # fmt: skip
@click.option("--device", default="cpu", show_default=True, help="Where to run: cpu or cuda.")
@fetch_options
@output_options
def index(quiet: bool, as_json: bool, **options: Any) -> None:
    """Index a corpus: when each feature fires, where most, what it does, and a first name for it.

    The result does not depend on how the work is divided, and a stopped run goes on where it was: give the same
    command again. Then: lucida features search TEXT --index FOLDER, lucida features show LAYER INDEX.
    """
    from lucida.features.build.place import check_place

    began = perf_counter()
    _refuse_contradictions(options)
    folder = _part(options["out"], *options["shard"]) if options["shard"] else options["out"]
    check_place(folder)
    with progress(quiet=quiet) as report:
        model, dictionary = _microscope(options, report)
        store = _corpus(options, model, report)
        header = _build(options, model, dictionary, store, folder, report)
        if not options["bare"] and not options["shard"]:
            from lucida.features.finish import finish_index

            finish_index(model, dictionary, folder, progress=report)
    seconds = perf_counter() - began
    if as_json:
        numbers = {"features": len(header.space), "places": header.n_places, "documents": header.n_documents}
        show_json({"index": folder, **numbers, "seconds": seconds})
        return
    rows = [
        ("features", f"{len(header.space):,}"),
        ("tokens that count", f"{header.n_places:,}"),
        ("documents", f"{header.n_documents:,}"),
        ("seconds", f"{seconds:,.0f}"),
    ]
    show_table(f"{header.dictionary} over {header.corpus}", ("", ""), rows)
    click.echo(f"wrote {folder}")
    if not quiet:
        click.echo(_next(options, folder))


def _next(options: dict[str, Any], folder: Path) -> str:
    """What to do with what was written."""
    if options["shard"]:
        count = options["shard"][1]
        return f"next: the other parts of {count}, then the same command with --merge --parts {count} and no --shard"
    if options["bare"]:
        return f"next: lucida features show LAYER INDEX --index {folder}"
    return f"next: lucida features search TEXT --index {folder}"


def _refuse_contradictions(options: dict[str, Any]) -> None:
    chosen = [name for name in ("shard", "merge", "workers") if options[name]]
    if len(chosen) > 1:
        names = {"shard": "--shard", "merge": "--merge", "workers": "--ray"}
        raise click.UsageError(f"{' and '.join(names[name] for name in chosen)} exclude each other; give one")
    if options["merge"] and not options["parts"]:
        raise click.UsageError("--merge needs --parts N, the number of parts")
    if options["parts"] and not (options["merge"] or options["workers"]):
        raise click.UsageError("--parts goes with --merge or --ray; one part is made with --shard I/N")
    if options["ray_address"] and not options["workers"]:
        raise click.UsageError("--ray-address goes with --ray N, the number of workers")
    if options["dictionaries"] == "neurons" and options["workers"]:
        raise click.UsageError("--ray indexes dictionaries; index neurons with --shard or in one process")


def _microscope(options: dict[str, Any], report: Any) -> tuple["Model", Any]:
    from lucida.microscope import Microscope
    from lucida.training.budget import faster_products

    dtype = faster_products(options["device"]) if options["dtype"] == "auto" else options["dtype"]
    options["dtype"] = dtype
    scope = Microscope(
        options["model"],
        options["dictionaries"],
        dtype=dtype,
        device=options["device"],
        offline=options["offline"],
        allow_unverified=options["allow_unverified"],
        progress=report,
    )
    return scope.model, scope.dictionary


def _corpus(options: dict[str, Any], model: "Model", report: Any) -> "TokenStore":
    from lucida.corpus import open_corpus

    wanted = options["tokens"] or (DEFAULT_TOKENS if options["data"] == "samples" else None)
    return open_corpus(
        options["data"], model, column=options["column"], max_tokens=wanted, offline=options["offline"], progress=report
    )


def _build(
    options: dict[str, Any], model: "Model", dictionary: Any, store: "TokenStore", folder: Path, report: Any
) -> "IndexHeader":
    from lucida.features.build.one_pass import build_index, merge_indexes

    settings = {name: options[name] for name in ("context", "k", "samples", "window")}
    if options["merge"]:
        return merge_indexes(_parts(options, dictionary), store, folder, model=model, progress=report)
    if options["workers"]:
        return _with_ray(options, model, dictionary, store, folder, settings, report)
    units = dictionary if dictionary is not None else _neurons(options, model, store)
    return build_index(model, units, store, folder, shard=options["shard"] or (0, 1), progress=report, **settings)


def _with_ray(
    options: dict[str, Any],
    model: "Model",
    dictionary: Any,
    store: "TokenStore",
    folder: Path,
    settings: dict[str, Any],
    report: Any,
) -> "IndexHeader":
    from lucida.errors import FeatureError
    from lucida.features.build.jobs import IndexJob, merge_shards
    from lucida.features.build.ray_engine import index_with_ray

    if dictionary is None:
        raise FeatureError(
            f"no dictionary is shipped for {options['model']}, and --ray does not index neurons; give --dictionaries"
        )
    job = IndexJob(
        options["model"], options["dictionaries"] or dictionary.name, str(store.folder), f"{folder}.parts",
        options["parts"] or 4 * options["workers"], options["dtype"], options["device"], 1, settings,
    )  # fmt: skip
    index_with_ray(job, workers=options["workers"], address=options["ray_address"], progress=report)
    return merge_shards(job, folder, model=model, progress=report)


def _parts(options: dict[str, Any], dictionary: Any) -> list[Path]:
    """The folders to merge. Raises FeatureError when one is not there, or the first is of another dictionary."""
    from lucida.errors import FeatureError
    from lucida.features.header import HEADER, IndexHeader
    from lucida.features.index import FeatureIndex

    count = options["parts"]
    parts = [_part(options["out"], index, count) for index in range(count)]
    if missing := [index for index, part in enumerate(parts) if not (part / HEADER).is_file()]:
        shown = ", ".join(f"{index}/{count}" for index in missing[:8]) + (" ..." if len(missing) > 8 else "")
        raise FeatureError(
            f"{parts[0].parent} lacks {len(missing)} of {count} parts; index them first: --shard {shown}"
        )
    FeatureIndex(parts[0], IndexHeader.open(parts[0])).check(dictionary)
    return parts


def _part(out: Path, index: int, count: int) -> Path:
    return Path(f"{out}.parts") / f"shard-{index:05d}-of-{count:05d}"


def _neurons(options: dict[str, Any], model: "Model", store: "TokenStore") -> Any:
    """The neurons that are active as often as asked, by a threshold set on the first rows of the corpus."""
    from lucida.evaluation.basis import neurons_of_l0
    from lucida.features.build.tiles import Tiles
    from lucida.models.taps import MLPCall, run

    reads: dict[int, Any] = {}

    def visit(call: MLPCall) -> None:
        reads.setdefault(call.layer, call.mlp_in[:, 1:].float().flatten(0, 1))

    run(model, Tiles(store, min(options["context"], model.context)).tile(0).tokens, visit)
    return neurons_of_l0(model, reads.__getitem__, options["neurons_l0"])
