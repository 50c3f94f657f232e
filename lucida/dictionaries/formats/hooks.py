"""What hook names mean: where a dictionary reads and writes, whatever library named the place."""

import re
from typing import NamedTuple

from lucida.errors import DictionaryError, suggest

# TransformerLens names relative to `blocks.{layer}.`, and Hugging Face module names relative to the layer.
READS: dict[str, str] = {
    "hook_resid_mid": "resid_mid",
    "hook_mlp_in": "resid_mid",
    "ln2.hook_normalized": "mlp_norm",
    "mlp.hook_in": "mlp_in",
    "mlp.input": "mlp_in",
    "pre_feedforward_layernorm.output": "mlp_in",
}
WRITES: dict[str, str] = {
    "mlp.hook_out": "mlp_out",
    "hook_mlp_out": "resid",
    "mlp.output": "mlp_out",
    "post_feedforward_layernorm.output": "resid",
}
READ_HOOK = {"resid_mid": "hook_resid_mid", "mlp_norm": "ln2.hook_normalized", "mlp_in": "mlp.hook_in"}
WRITE_HOOK = {"mlp_out": "mlp.hook_out", "resid": "hook_mlp_out"}
"""The TransformerLens names that we write."""

_LAYER = re.compile(r"^(?:.*\.)?(?:blocks|layers|h)\.(\d+)\.(.+)$")


class Hook(NamedTuple):
    """A place in a model: its name inside the layer, and the layer if the full name says it."""

    layer: int | None
    place: str


def parse_hook(name: str) -> Hook:
    """The layer and the place of a hook name such as `blocks.3.mlp.hook_in` or `mlp.hook_in`."""
    match = _LAYER.match(name)
    return Hook(int(match[1]), match[2]) if match else Hook(None, name)


def reads_at(hook: object, where: object) -> str:
    """Which of READS_AT the hook name means. Raises DictionaryError for a name we do not know."""
    return _site(hook, READS, "reads", where)


def writes_at(hook: object, where: object) -> str:
    """Which of WRITES_AT the hook name means. Raises DictionaryError for a name we do not know."""
    return _site(hook, WRITES, "writes", where)


def _site(hook: object, table: dict[str, str], verb: str, where: object) -> str:
    place = parse_hook(hook).place if isinstance(hook, str) else None
    if place not in table:
        hint = suggest(place or "", list(table)) or f"; known are {', '.join(table)}"
        raise DictionaryError(f"{where} {verb} at hook {str(hook)[:80]!r}, which is not supported{hint}")
    return table[place]
