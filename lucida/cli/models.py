"""`lucida models`: which models are known, what each can do, and the copies on this machine."""

from typing import TYPE_CHECKING, Any

import click

from lucida.cli.options import as_json, fetch_options, output_options
from lucida.cli.screen import progress, show_json, show_table, size

if TYPE_CHECKING:
    from lucida.dictionaries import ShippedDictionary
    from lucida.models.cache import CachedModel
    from lucida.models.registry import ModelEntry, Source


@click.group(invoke_without_command=True)
@click.pass_context
def models(ctx: click.Context) -> None:
    """List the known models; fetch or remove one."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_)


@models.command("list")
@as_json
def list_(as_json: bool = False) -> None:
    """List the known models, and whether each is on this machine.

    A model that is not listed is given as a folder, a .gguf file or a hub id.
    """
    from lucida.models.registry import REGISTRY

    here, shipped = _copies(), _shipped()
    if as_json:
        show_json([_document(entry, here.get(name, []), shipped.get(name, [])) for name, entry in REGISTRY.items()])
        return
    rows = [_row(entry, here.pop(name, [])) for name, entry in REGISTRY.items()]
    columns = ("name", "family", "size", "licence", "here", "source", "what it is")
    show_table("", columns, rows, right=(2,), wrap=(1, 3, 5))
    if shipped:
        ours = [(model, ", ".join(_dictionary(one) for one in found)) for model, found in shipped.items()]
        show_table("Dictionaries shipped here", ("model", "dictionaries"), ours)
    if here:
        others = [(name, copy.dtype, size(copy.size), copy.source) for name in here for copy in here[name]]
        show_table("Also in the cache", ("name", "dtype", "size", "source"), others, right=(2,))


@models.command()
@click.argument("name")
@as_json
def info(name: str, as_json: bool) -> None:
    """Say where the model NAME comes from and what it was measured to do."""
    from lucida.models.registry import find_entry

    entry = find_entry(name)
    copies, shipped = _copies().get(entry.name, []), _shipped().get(entry.name, [])
    if as_json:
        show_json(_document(entry, copies, shipped))
        return
    facts = [
        ("name", entry.name),
        ("what it is", entry.description),
        ("family", entry.family),
        ("size", f"{entry.parameters:,} weights; layers x width x neurons: {entry.shape}"),
        ("licence", entry.licence),
        ("here", "\n".join(f"{copy.dtype or 'hub'}: {copy.folder}" for copy in copies) or "no"),
        ("sources, in order", "\n".join(_source(source) for source in entry.sources)),
        ("dictionaries", "\n".join(_dictionary(one) for one in shipped) or "none shipped here; its neurons"),
        ("what it can do", "\n".join(entry.abilities) or "not measured"),
    ]
    show_table("", ("", ""), facts)


def _copies() -> "dict[str, list[CachedModel]]":
    from lucida.models.cache import cached_models

    here: dict[str, list[CachedModel]] = {}
    for copy in cached_models():
        here.setdefault(copy.name, []).append(copy)
    return here


def _shipped() -> "dict[str, list[ShippedDictionary]]":
    from lucida.dictionaries import shipped_dictionaries

    found: dict[str, list[ShippedDictionary]] = {}
    for shipped in shipped_dictionaries():
        found.setdefault(shipped.model.casefold(), []).append(shipped)
    return found


def _dictionary(shipped: "ShippedDictionary") -> str:
    return f"{shipped.name} ({shipped.kind}{', the default' if shipped.is_default else ''})"


def _source(source: "Source") -> str:
    unverified = "; uploaded by nobody known: needs --allow-unverified" if source.unverified else ""
    return f"{source.description} ({source.format}, {size(source.size)}{unverified})"


def _row(entry: "ModelEntry", copies: "list[CachedModel]") -> tuple[str, ...]:
    return (
        entry.name,
        entry.family,
        f"{entry.parameters / 1e6:,.0f} M",
        entry.licence,
        "yes" if copies else "no",
        ", ".join(source.kind + ("?" if source.unverified else "") for source in entry.sources),
        entry.description,
    )


def _document(entry: "ModelEntry", copies: "list[CachedModel]", shipped: "list[ShippedDictionary]") -> dict[str, Any]:
    from dataclasses import asdict

    here, dictionaries = [asdict(copy) for copy in copies], [asdict(one) for one in shipped]
    return {**asdict(entry), "dictionaries": dictionaries, "here": here}


@models.command()
@click.argument("name")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="The type that converted weights are kept in.",
)
@fetch_options
@output_options
def fetch(name: str, dtype: Any, offline: bool, allow_unverified: bool, quiet: bool, as_json: bool) -> None:
    """Fetch the model NAME (also a hub id or a .gguf file), check it and keep it."""
    from lucida.models.fetch import locate

    with progress(quiet=quiet) as report:
        found = locate(name, dtype=dtype, offline=offline, allow_unverified=allow_unverified, progress=report)
    if as_json:
        show_json({"folder": found.folder, "source": found.source, "sha256": found.sha256})
        return
    click.echo(f"{name} is in {found.folder} (from {found.source})")


@models.command()
@click.argument("name")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), help="Only this copy.  [default: all]")
@output_options
def remove(name: str, dtype: str | None, quiet: bool, as_json: bool) -> None:
    """Delete our copies of the model NAME; those in the Hugging Face cache stay."""
    from lucida.models.cache import remove_cached

    freed = remove_cached(name, dtype=dtype)
    if as_json:
        show_json({"removed": name, "bytes": freed})
    elif not quiet:
        click.echo(f"removed {name}: {size(freed)}")
