"""The script that draws a graph in a browser, as it was built from web/ (`make page`, or part of a wheel)."""

from pathlib import Path

from lucida.errors import GraphError

STATIC = Path(__file__).resolve().parents[1] / "static"


def widget_script() -> str:
    """The script for notebooks and exported files. Raises GraphError when the page was not built."""
    return _built("widget.js")


def widget_licences() -> str:
    """The licences of what the script contains; they go where it goes."""
    return _built("widget-licences.txt")


def _built(name: str) -> str:
    try:
        return (STATIC / name).read_text("utf-8")
    except OSError as error:
        raise GraphError("the page is not built in this checkout; build it once with `make page`") from error
