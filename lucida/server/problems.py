"""What a request is refused with: one line, and the HTTP status that fits it."""

from lucida.errors import LucidaError


class Refused(LucidaError):
    """A request that cannot be met. `status` is the HTTP status of the answer."""

    status = 422


class NotFound(Refused):
    """Something that is not here, or not any more."""

    status = 404


class Conflict(Refused):
    """Something that has changed in the meantime, or is in no state for this."""

    status = 409


class TooMany(Refused):
    """The queue is full."""

    status = 429


class Unavailable(Refused):
    """There is no model, or it could not be loaded."""

    status = 503


def status_of(error: LucidaError) -> int:
    """The HTTP status for an error that a user can mend."""
    return error.status if isinstance(error, Refused) else 422


def one_line(text: object, most: int = 400) -> str:
    """A text on one line, cut to `most` characters, with nothing in it that UTF-8 cannot write."""
    line = " ".join(printable(str(text)).split())
    return line if len(line) <= most else line[: most - 1] + "…"


def printable(text: str) -> str:
    """The text with halves of surrogate pairs, which a file may hold and JSON on the wire may not, as `?`."""
    return text.encode("utf-8", "replace").decode("utf-8")
