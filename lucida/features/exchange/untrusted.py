"""Read what strangers wrote: bounded sizes, checked types, and one FeatureError that names the file and the place."""

import gzip
import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from lucida.errors import FeatureError

MOST_BYTES_OF_A_RECORD = 64 << 20
"""A feature, or a line, that unfolds to more than this is refused."""
MOST_BYTES_OF_A_FILE = 256 << 20
"""A file that is held in memory whole (an index of offsets, a header) is not larger, folded or not."""
INT64_END = 2**63
FLOAT32_END = 2.0**128 - 2.0**103
"""From here on a number rounds to infinity in float32."""
_ANY_HEADER = 47
"""zlib's window bits that take gzip and zlib streams alike: both stand in packs."""


def read_bytes(path: Path, limit: int = MOST_BYTES_OF_A_FILE) -> bytes:
    """A whole file of at most `limit` bytes. Raises FeatureError when it is missing, unreadable or larger."""
    try:
        size = path.stat().st_size
        if size > limit:
            raise FeatureError(f"{path} has {size:,} bytes, more than {limit:,}: it is not read")
        return path.read_bytes()
    except OSError as error:
        raise FeatureError(f"cannot read {path}: {error.strerror}") from error


def inflate(data: bytes, where: str, limit: int = MOST_BYTES_OF_A_RECORD) -> bytes:
    """What a whole gzip or zlib stream unfolds to; never more than `limit` bytes are made."""
    unfolding = zlib.decompressobj(_ANY_HEADER)
    try:
        found = unfolding.decompress(data, limit)
    except zlib.error as error:
        raise FeatureError(f"{where} is damaged: it is no gzip or zlib stream ({error}); fetch it again") from error
    if unfolding.unconsumed_tail:
        raise FeatureError(f"{where} unfolds to more than {limit:,} bytes: it is not read")
    if not unfolding.eof:
        raise FeatureError(f"{where} is cut short: its compressed stream has no end; fetch it again")
    return found


def parse(data: bytes, where: str) -> Any:
    """The JSON document in some bytes; NaN and Infinity are refused."""

    def refuse(constant: str) -> NoReturn:
        raise FeatureError(f"{where} holds {constant}, which is not a number")

    try:
        return json.loads(data, parse_constant=refuse)
    except FeatureError:
        raise
    except (ValueError, RecursionError) as error:
        raise FeatureError(f"{where} is not JSON ({short(str(error))}): is it cut short?") from error


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects in a file of one JSON object a line (gzip or plain), each with its place for messages."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            number = 0
            while line := file.readline(MOST_BYTES_OF_A_RECORD + 1):
                number += 1
                where = f"line {number} of {path}"
                if len(line) > MOST_BYTES_OF_A_RECORD:
                    raise FeatureError(f"{where} has more than {MOST_BYTES_OF_A_RECORD:,} bytes: it is not read")
                if line.strip():
                    yield where, an_object(parse(line, where), where)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise FeatureError(f"{path} is damaged or cut short ({short(reason)}); fetch it again") from error


def an_object(value: Any, where: str) -> dict[str, Any]:
    """The value, which must be a JSON object."""
    if not isinstance(value, dict):
        raise FeatureError(f"{where} must be an object, found {short(value)}")
    return value


def a_list(value: Any, where: str, most: int) -> list[Any]:
    """The value, which must be a list of at most `most` items; null counts as an empty one."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise FeatureError(f"{where} must be a list, found {short(value)}")
    if len(value) > most:
        raise FeatureError(f"{where} has {len(value):,} items, more than {most:,}: it is not read")
    return value


def a_text(value: Any, where: str) -> str:
    """The value, which must be text; halves of surrogate pairs, which no file can hold, become "?"."""
    if not isinstance(value, str):
        raise FeatureError(f"{where} must be a text, found {short(value)}")
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")


def a_float32(value: Any, where: str) -> float:
    """The value, which must be a number, rounded to the nearest float32: a few digits give it back exactly."""
    return float(np.float32(a_number(value, where)))


def a_number(value: Any, where: str) -> float:
    """The value, which must be a number that float32 can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FeatureError(f"{where} must be a number, found {short(value)}")
    if not abs(value) < FLOAT32_END or math.isnan(value):
        raise FeatureError(f"{where} is no finite float32: {short(value)}")
    return float(value)


def a_whole_number(value: Any, where: str, low: int = 0, high: int = INT64_END) -> int:
    """The value, which must be a whole number from `low` to `high` - 1."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise FeatureError(f"{where} must be a whole number, found {short(value)}")
    if not low <= value < high:
        raise FeatureError(f"{where} must lie between {low} and {high - 1}, found {short(value)}")
    return value


def numbers(mapping: Mapping[str, Any], key: str, where: str, most: int) -> list[float]:
    """The list of numbers under a key, as float32 holds them; [] where there is none."""
    inside = f"{key!r} of {where}"
    return [a_float32(value, inside) for value in a_list(mapping.get(key), inside, most)]


def texts(mapping: Mapping[str, Any], key: str, where: str, most: int) -> list[str]:
    """The list of texts under a key; [] where there is none."""
    inside = f"{key!r} of {where}"
    return [a_text(value, inside) for value in a_list(mapping.get(key), inside, most)]


def one_of(value: Any, known: Sequence[str], where: str) -> str:
    """The value, which must be one of the known texts."""
    if value not in known:
        raise FeatureError(f"{where} must be one of {', '.join(known)}, found {short(value)}")
    return value


def same_length(where: str, **lists: Sequence[Any]) -> None:
    """Raise FeatureError unless all lists are equally long."""
    if len({len(each) for each in lists.values()}) > 1:
        sizes = ", ".join(f"{len(each)} {name}" for name, each in lists.items())
        raise FeatureError(f"{where} has lists that do not belong together: {sizes}")


def short(value: object) -> str:
    """A value of a stranger as a message may show it: one line, at most 60 characters."""
    try:
        text = value if isinstance(value, str) else repr(value)
    except ValueError:  # a whole number of more digits than Python writes
        text = "a number of very many digits"
    text = " ".join(text.encode("utf-8", "replace").decode().split())
    return text if len(text) <= 60 else text[:57] + "..."
