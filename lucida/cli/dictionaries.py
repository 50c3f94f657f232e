"""`lucida dictionaries`: what a folder of sparse features holds, whether it is right, other formats."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lucida.cli.options import output_options
from lucida.cli.screen import show_json, show_table

if TYPE_CHECKING:
    from lucida.dictionaries import Dictionary

folder_argument = click.argument("folder", type=click.Path(path_type=Path))


@click.group()
def dictionaries() -> None:
    """Look into, check or convert a dictionary (a folder of transcoders)."""


@dictionaries.command()
@folder_argument
@output_options
def info(folder: Path, quiet: bool, as_json: bool) -> None:
    """Say what the dictionary in FOLDER holds."""
    from lucida.dictionaries import load_dictionary

    facts = _facts(load_dictionary(folder))
    if as_json:
        show_json(facts)
        return
    show_table("", ("", ""), [(name.replace("_", " "), value) for name, value in facts.items()])


def _facts(dictionary: "Dictionary") -> dict[str, Any]:
    sizes = sorted({dictionary.n_features(layer) for layer in dictionary.layers})
    return {
        "name": dictionary.name,
        "format": dictionary.source.format,
        "model": dictionary.model_name or "not said",
        "layers": f"{len(dictionary.layers)} of {dictionary.n_layers}",
        "d_model": dictionary.d_model,
        "features_per_layer": sizes[0] if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}",
        "features": sum(dictionary.n_features(layer) for layer in dictionary.layers),
        "span": dictionary.span,
        "activation": dictionary.activation,
        "reads_at": dictionary.reads_at,
        "writes_at": dictionary.writes_at,
        "skip": dictionary.has_skip,
        "fingerprint": dictionary.source.fingerprint,
    }


@dictionaries.command()
@folder_argument
@click.option("--full", is_flag=True, help="All features, not a sample: reads every file.")
@output_options
def check(folder: Path, full: bool, quiet: bool, as_json: bool) -> None:
    """Check that the dictionary in FOLDER keeps its contract."""
    from lucida.dictionaries import check_dictionary, load_dictionary

    report = check_dictionary(load_dictionary(folder), full=full)
    if as_json:
        show_json({"name": report.name, "passed": report.passed, "full": report.full})
        return
    if not quiet:
        for passed in report.passed:
            click.echo(f"ok  {passed}")
    extent = "" if full else " on a sample (--full checks every feature)"
    click.echo(f"{report.name}: all checks passed{extent}")


@dictionaries.command()
@folder_argument
@click.option("--format", type=click.Choice(["circuit-tracer", "saelens"]), required=True, help="The format to write.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to write.")
@output_options
def convert(folder: Path, format: str, out: Path, quiet: bool, as_json: bool) -> None:
    """Write the dictionary in FOLDER in another format, or refuse what that format cannot hold."""
    from lucida.dictionaries import load_dictionary, write_circuit_tracer, write_saelens

    write = write_circuit_tracer if format == "circuit-tracer" else write_saelens
    written = write(load_dictionary(folder), out)
    if as_json:
        show_json({"folder": written, "format": format})
    elif not quiet:
        click.echo(f"wrote {written}")
