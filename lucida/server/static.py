"""The files of the built page: a table made at start, so that no request ever names a file."""

import mimetypes
from dataclasses import dataclass
from pathlib import Path

from lucida.server.safety import plain_page

FOLDER = Path(__file__).resolve().parents[1] / "static" / "app"
KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
FOR_EVER = "private, max-age=31536000, immutable"
NOT_BUILT = (
    "The page is not built in this copy of Camera Lucida. In a checkout, run `make page` and start `lucida serve` again"
)


@dataclass(frozen=True)
class StaticFile:
    """What is answered for one address."""

    body: bytes
    kind: str
    cache: str


def read_static(folder: Path = FOLDER) -> dict[str, StaticFile]:
    """The files of the page by address; "/" is its start, a plain page that says how to build where there is none."""
    if not (folder / "index.html").is_file():
        page = plain_page("Not built yet", NOT_BUILT + ".")
        return {"/": StaticFile(page, "text/html; charset=utf-8", "no-store")}
    table = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            address = "/" + path.relative_to(folder).as_posix()
            table[address] = StaticFile(path.read_bytes(), _kind(path), _cache(address))
    table["/"] = table["/index.html"]
    return table


def _kind(path: Path) -> str:
    kind = KINDS.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind


def _cache(address: str) -> str:
    # Vite puts a hash of the content into the names of what lies in assets.
    return FOR_EVER if address.startswith("/assets/") else "no-cache"
