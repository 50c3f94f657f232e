"""`lucida dictionaries`: which are shipped, what one holds, whether it is right, other formats."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lucida.cli.options import as_json, output_options
from lucida.cli.screen import percent, show_json, show_table, size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lucida.dictionaries import Dictionary
    from lucida.dictionaries.formats.manifest import Manifest

dictionary_argument = click.argument("dictionary", metavar="NAME|FOLDER")


@click.group()
def dictionaries() -> None:
    """List the shipped dictionaries; look into, check or convert one (a folder of transcoders)."""


@dictionaries.command("list")
@as_json
def list_(as_json: bool) -> None:
    """List the dictionaries that are here by name: installed packages, and those of a source checkout."""
    from dataclasses import asdict

    from lucida.dictionaries import shipped_dictionaries

    found = shipped_dictionaries()
    if as_json:
        show_json([asdict(shipped) for shipped in found])
    elif found:
        rows = [(s.name, s.model, s.kind, "yes" if s.is_default else "no", s.folder) for s in found]
        show_table("", ("name", "model", "kind", "default", "folder"), rows)
    else:
        click.echo("none is shipped here; give a folder, or see a model through its own neurons")


@dictionaries.command()
@dictionary_argument
@output_options
def info(dictionary: str, quiet: bool, as_json: bool) -> None:
    """Say what a dictionary holds, and what its maker says about it."""
    from lucida.dictionaries import open_dictionary

    opened = open_dictionary(dictionary)
    facts, manifest = _facts(opened), _manifest(opened)
    if as_json:
        show_json({**facts, "card": manifest.card if manifest else None})
        return
    show_table("", ("", ""), [(name.replace("_", " "), value) for name, value in facts.items()])
    if manifest and manifest.card:
        show_table("Card", ("", ""), list(_flat(manifest.card)))


def _manifest(dictionary: "Dictionary") -> "Manifest | None":
    from lucida.dictionaries.formats.manifest import read_manifest

    source = dictionary.source
    return read_manifest(Path(source.path)) if source.format == "lucida" and source.path else None


def _flat(card: Any, path: str = "") -> "Iterator[tuple[str, str]]":
    """The entries of a card, one a line, inner ones with the names that lead to them."""
    if not isinstance(card, dict):
        text = ", ".join(str(item) for item in card) if isinstance(card, list) else str(card)
        yield path.replace("_", " "), text
        return
    for name, value in card.items():
        yield from _flat(value, f"{path} {name}".strip())


def _facts(dictionary: "Dictionary") -> dict[str, Any]:
    sizes = sorted({dictionary.n_features(layer) for layer in dictionary.layers})
    facts = {
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
    if manifest := _manifest(dictionary):
        facts |= {
            "bits": manifest.bits,
            "bytes": manifest.size,
            "bits_per_weight": round(8 * manifest.size / manifest.n_weights, 3),
            "licence": manifest.licence,
        }
    return facts


@dictionaries.command()
@dictionary_argument
@click.option("--full", is_flag=True, help="All features, not a sample: reads every file.")
@output_options
def check(dictionary: str, full: bool, quiet: bool, as_json: bool) -> None:
    """Check that a dictionary keeps its contract."""
    from lucida.dictionaries import check_dictionary, open_dictionary

    report = check_dictionary(open_dictionary(dictionary), full=full)
    if as_json:
        show_json({"name": report.name, "passed": report.passed, "full": report.full})
        return
    if not quiet:
        for passed in report.passed:
            click.echo(f"ok  {passed}")
    extent = "" if full else " on a sample (--full checks every feature)"
    click.echo(f"{report.name}: all checks passed{extent}")


@dictionaries.command()
@dictionary_argument
@click.option(
    "--format",
    type=click.Choice(["lucida", "circuit-tracer", "saelens"]),
    required=True,
    help="The format to write; lucida is our own, compact one.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to write.")
@click.option(
    "--bits",
    type=float,
    help="Bits a weight of the lucida format: 3 to 8 rounds each row in whole steps, 16 and 32 are floats.  "
    "[default: 8]",
)
@output_options
def convert(dictionary: str, format: str, out: Path, bits: float | None, quiet: bool, as_json: bool) -> None:
    """Write a dictionary in another format, or refuse what that format cannot hold."""
    from lucida.dictionaries import open_dictionary, write_circuit_tracer, write_saelens

    if bits is not None and format != "lucida":
        raise click.UsageError("--bits belongs to --format lucida")
    opened = open_dictionary(dictionary)
    facts: dict[str, Any] = {}
    if format == "lucida":
        facts = _write_compact(opened, out, 8.0 if bits is None else bits)
    else:
        (write_circuit_tracer if format == "circuit-tracer" else write_saelens)(opened, out)
    if as_json:
        show_json({"folder": out, "format": format, **facts})
    elif not quiet:
        click.echo(f"wrote {out}")
        if facts:
            error = f"relative error of the weights {percent(facts['relative_error'])}"
            click.echo(f"{size(facts['bytes'])}, {facts['bits_per_weight']:.2f} bits a weight; {error}")


def _write_compact(dictionary: "Dictionary", out: Path, bits: float) -> dict[str, Any]:
    from lucida.dictionaries import load_dictionary, relative_error, write_compact
    from lucida.dictionaries.formats.manifest import read_manifest

    old = _manifest(dictionary)
    exact = int(bits) if bits == int(bits) else bits
    about = {"card": old.card, "licence": old.licence} if old else {}
    manifest = read_manifest(write_compact(dictionary, out, bits=exact, **about))
    return {
        "bits": exact,
        "bytes": manifest.size,
        "bits_per_weight": 8 * manifest.size / manifest.n_weights,
        "relative_error": relative_error(load_dictionary(out), dictionary),
    }
