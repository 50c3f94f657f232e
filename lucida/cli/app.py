"""The command `lucida`: finds a command when it is called, and turns what went wrong into one line."""

import errno
import traceback
from importlib import import_module
from typing import Any

import click

from lucida import __version__
from lucida.errors import LucidaError

COMMANDS = {
    "trace": "lucida.cli.trace",
    "serve": "lucida.cli.serve",
    "prune": "lucida.cli.graphs",
    "score": "lucida.cli.graphs",
    "export": "lucida.cli.graphs",
    "intervene": "lucida.cli.intervene",
    "validate": "lucida.cli.validate",
    "steer": "lucida.cli.steer",
    "index": "lucida.cli.index",
    "watch": "lucida.cli.watch",
    "features": "lucida.cli.features",
    "train": "lucida.cli.train",
    "models": "lucida.cli.models",
    "dictionaries": "lucida.cli.dictionaries",
    "evaluate": "lucida.cli.evaluate",
}
"""Where each command is written, in the order in which one uses them."""


class Failure(click.ClickException):
    """A mistake that the user can mend: one line, exit code 2."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        """Write the line to standard error."""
        click.echo(f"error: {self.format_message()}", file=file, err=file is None)


def explain(error: Exception) -> str | None:
    """Return the one line that explains `error` to a user, or None when the error is a bug of ours."""
    # The errors of a full disk and of memory reach us under many types: numpy's, torch's, safetensors'.
    text = str(error)
    if isinstance(error, LucidaError):
        return " ".join(text.split())
    is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if is_full or "No space left on device" in text:
        return "cannot write the output: the disk is full; free some space and try again"
    out_of_memory = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text
    if isinstance(error, MemoryError) or out_of_memory:
        return "out of memory; try a shorter prompt, a smaller --max-nodes or --dtype bfloat16"
    return None


class CommandLine(click.Group):
    """A group whose commands are imported only when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All command names, in the order in which one uses them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command with this name, imported now."""
        if cmd_name not in COMMANDS:
            return None
        return getattr(import_module(COMMANDS[cmd_name]), cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what the user can mend becomes one line and exit code 2."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("stopped; nothing half-written", err=True)
            ctx.exit(130)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            line = explain(error)
            if line is None:
                raise
            if ctx.params["debug"]:
                traceback.print_exc()
            raise Failure(line) from error


@click.group(cls=CommandLine)
@click.version_option(__version__, prog_name="lucida")
@click.option("--debug", is_flag=True, help="Show the traceback of every error.")
def main(debug: bool) -> None:
    """See which features led a language model to its answer, and test it.

    A trace of a prompt makes a graph; a graph is pruned, scored, drawn and exported without the
    model; an intervention shows whether the graph is right.
    """
