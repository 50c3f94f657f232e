"""`lucida features export` and `import`: features to and from the pages of other tools."""

import re
from pathlib import Path
from typing import Any

import click

from lucida.cli.options import output_options
from lucida.cli.screen import progress, show_json

FORMATS = ("circuit-tracer", "neuronpedia", "json")


class Layers(click.ParamType):
    """Layers with commas between them, or first and last: ``3,5`` or ``3-8``."""

    name = "LAYERS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the list of layers."""
        if isinstance(value, list):
            return value
        found: list[int] = []
        for part in value.split(","):
            ends = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part.strip())
            if not ends:
                self.fail(f"{value!r} is not a list of layers such as 3,5 or 3-8", param, ctx)
            found += range(int(ends[1]), int(ends[2] or ends[1]) + 1)
        return found


@click.command("export")
@click.argument("index", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "form",
    type=click.Choice(FORMATS),
    required=True,
    help="circuit-tracer: a feature pack; neuronpedia: its bulk export; json: one file a feature.",
)
@click.option("--layers", type=Layers(), help="Only these layers, such as 3,5 or 3-8.")
@click.option("--plain", is_flag=True, help="Leave out our own fields: smaller, but not all comes back by import.")
@click.option("--model-id", help="neuronpedia: the model's name there.  [default: the index's model]")
@click.option("--source-set", help="neuronpedia: the set's name there.  [default: the index's dictionary]")
@click.option("--creator-id", help="neuronpedia: the user to whom the rows belong.  [default: that of a fresh server]")
@output_options
def export(
    index: Path,
    out: Path,
    form: str,
    layers: list[int] | None,
    plain: bool,
    model_id: str | None,
    source_set: str | None,
    creator_id: str | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Write the features of INDEX (a folder) for another tool, into the new folder OUT."""
    from lucida.features.exchange import write_feature_json, write_neuronpedia, write_pack
    from lucida.features.index import FeatureIndex
    from lucida.progress import silent

    names = {"model_id": model_id, "source_set": source_set, "creator_id": creator_id}
    given: dict[str, Any] = {name: value for name, value in names.items() if value is not None}
    if given and form != "neuronpedia":
        raise click.UsageError("--model-id, --source-set and --creator-id belong to --to neuronpedia")
    opened = FeatureIndex.open(index)
    with progress(quiet=quiet) as report:
        common: dict[str, Any] = {"layers": layers, "own_fields": not plain, "progress": report or silent}
        if form == "neuronpedia":
            count = write_neuronpedia(opened, out, **common, **given)
        else:
            count = (write_pack if form == "circuit-tracer" else write_feature_json)(opened, out, **common)
    if as_json:
        show_json({"folder": out, "format": form, "features": count})
        return
    click.echo(f"wrote {count:,} features to {out}")
    if form == "circuit-tracer" and not quiet:
        click.echo("put this folder as `features` beside the transcoders: there circuit-tracer's page looks for it")


@click.command("import")
@click.argument("source", metavar="PATH", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@output_options
def import_(source: Path, out: Path, quiet: bool, as_json: bool) -> None:
    """Turn a feature pack or a bulk export of Neuronpedia in the folder PATH into an index, the new folder OUT."""
    from lucida.features.exchange import import_neuronpedia, import_pack, is_pack
    from lucida.progress import silent

    form = "circuit-tracer" if is_pack(source) else "neuronpedia"
    with progress(quiet=quiet) as report:
        count = (import_pack if form == "circuit-tracer" else import_neuronpedia)(
            source, out, progress=report or silent
        )
    if as_json:
        show_json({"folder": out, "format": form, "features": count})
    else:
        click.echo(f"wrote an index of {count:,} features to {out}")


def register(group: click.Group) -> None:
    """Add both commands to a group."""
    group.add_command(export)
    group.add_command(import_)
