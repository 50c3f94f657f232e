"""Write the API of `lucida serve` as an OpenAPI file, from which the page's types are made: scripts/openapi.py FILE.

With --check nothing is written: it fails when the file is behind.
"""

import json
import sys
from pathlib import Path

from lucida.server.app import create_app


def document() -> str:
    """The schema as text, as it stands in web/openapi.json."""
    return json.dumps(create_app().openapi(), indent=1, sort_keys=True) + "\n"


def main(arguments: list[str]) -> int:
    """Write the file, or compare it."""
    path = Path(arguments[-1])
    if "--check" not in arguments:
        path.write_text(document(), encoding="utf-8")
    elif path.read_text(encoding="utf-8") != document():
        print(f"error: {path} is behind the server; run scripts/openapi.py {path}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
