"""Write docs/cli.md from the commands themselves: ``python scripts/cli_reference.py docs/cli.md``."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click

HEAD = """\
# The command line

Made by `make docs` from the commands themselves; a test fails when this page is behind.

Every command is a thin copy of a Python function with the same names and defaults. Results go to
standard output, progress and errors to standard error. `--json` prints one JSON document. A mistake
that you can mend is one line and exit code 2; Ctrl-C ends with 130 and leaves no half-written file.
"""


def reference() -> str:
    """The whole page: the help text of every command."""
    from lucida.cli import main

    # Click fits help to the terminal; the page must not depend on whose terminal that is.
    os.environ["COLUMNS"] = "100"
    parts = [HEAD]
    for names, command in commands(main, ("lucida",)):
        context = click.Context(command, info_name=" ".join(names), max_content_width=100, terminal_width=100)
        text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
        parts.append(f"## {' '.join(names)}\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


def commands(command: click.Command, names: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command and group below `command`, itself first, with its full name."""
    yield names, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from commands(below, (*names, name))


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(reference(), "utf-8")
