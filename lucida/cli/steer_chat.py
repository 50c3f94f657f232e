"""`lucida steer --chat`: a conversation on the terminal, with a dial that may be turned while the model writes."""

import sys
from typing import TYPE_CHECKING, Any

import click

from lucida.cli.screen import progress
from lucida.cli.steer import open_scope, read_steers, sampling_options
from lucida.errors import LucidaError

if TYPE_CHECKING:
    from lucida.steering.chat import Conversation


def chat(first: str | None, options: dict[str, Any]) -> None:
    """Read lines until there are no more: messages and commands. Ctrl-C ends a reply, Ctrl-D the session."""
    from lucida.steering import Dial, Features, Sampling
    from lucida.steering.chat import Conversation

    sampling = Sampling(**sampling_options(options))
    dial = Dial(read_steers(options))
    with progress(quiet=options["quiet"]) as report:
        scope = open_scope(options, report)
        features = Features(scope.model, scope.dictionary, options["index"])
        for steer in dial.steers:
            features.check(steer)
    talk = Conversation(scope.model, features, dial, sampling)
    if not options["quiet"]:
        click.echo(f"{talk.dial_says()}; /help lists what can be typed", err=True)
    line = first
    while True:
        if line is None:
            line = _next_line()
        if line is None:
            return
        if line.strip():
            _answer(talk, line.strip())
        line = None


def _answer(talk: "Conversation", line: str) -> None:
    """Do one line; what the user can mend is told, and the session goes on."""
    try:
        if line.startswith("/"):
            click.echo(talk.command(line), err=True)
        else:
            _reply(talk, line)
    except LucidaError as error:
        click.echo(f"error: {' '.join(str(error).split())}", err=True)


def _reply(talk: "Conversation", message: str) -> None:
    """Show the reply as it is written; the model's own after it, where it is asked for."""
    own = []
    stream = talk.reply(message)
    try:
        for token in stream:
            if token.condition == "baseline":
                own.append(token.text)
                continue
            click.echo(token.text, nl=False)
            typed = _typed()
            if typed is not None and typed.startswith("/"):
                click.echo(f"\n[{_done(talk, typed)}]", err=True)
        click.echo()
    except KeyboardInterrupt:
        click.echo("\n(stopped)", err=True)
    finally:
        stream.close()  # pyright: ignore
    if own:
        click.echo(f"[the model by itself] {''.join(own)}")


def _done(talk: "Conversation", line: str) -> str:
    try:
        return talk.command(line)
    except LucidaError as error:
        return " ".join(str(error).split())


def _next_line() -> str | None:
    """The next line that is typed or piped in; None at the end of the session."""
    try:
        if sys.stdin.isatty():
            return input("> ")
        line = sys.stdin.readline()
    except (EOFError, KeyboardInterrupt):
        click.echo(err=True)
        return None
    return line or None


def _typed() -> str | None:
    """A line typed while the model writes, or None; lines of a pipe wait for their turn."""
    if not sys.stdin.isatty():
        return None
    import select

    try:
        ready, _, _ = select.select([sys.stdin], [], [], 0)
    except (OSError, ValueError):
        return None
    return sys.stdin.readline().strip() if ready else None
