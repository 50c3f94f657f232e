"""`lucida serve`: the page, on this machine, until Ctrl-C."""

import signal
import socket
import sys
import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lucida.cli.options import model_options
from lucida.errors import LucidaError

if TYPE_CHECKING:
    from lucida.server.app import Settings

PORT = 8765
MORE_PORTS = 20
"""How many ports after the usual one are tried when it is taken."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--port", type=click.IntRange(0, 65535), help="0: any that is free.  [default: 8765 or the next free]")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option("--allow-remote", is_flag=True, help="With --host: let other machines in, without encryption.")
@click.option("--no-browser", is_flag=True, help="Print the address; open no browser.")
@click.option("--no-model", is_flag=True, help="Load no model: graphs can be read, not made.")
@click.option(
    "--folder", type=click.Path(path_type=Path, file_okay=False), help="Where graphs and notes are kept.  [default: "
    "the folder page in the cache]",
)  # fmt: skip
@click.option("--index", type=click.Path(path_type=Path), help="A feature index.  [default: the features' own]")
@click.option("--static", type=click.Path(path_type=Path, file_okay=False, exists=True), hidden=True)
@model_options
def serve(files: tuple[Path, ...], no_browser: bool, **options: Any) -> None:
    """Open the page: trace a prompt, read its circuit, test it.

    FILES are graphs to open where they lie: files of ours, Neuronpedia JSON (.json) or circuit-tracer
    graphs (.pt). The address that is printed holds a token, without which nobody is let in. Ctrl-C
    ends the server; graphs and notes are kept.
    """
    host = options["host"]
    if host not in LOOPBACK and not options["allow_remote"]:
        raise LucidaError(
            f"--host {host} would let other machines in, unencrypted; add --allow-remote if that is meant, or reach "
            "this one through ssh -L"
        )
    listening = _listen(host, options["port"])
    port = listening.getsockname()[1]
    try:
        settings, opened = _settings(files, port, options)
        address = _address(host, port, settings.rules.token, opened)
        click.echo(f"Camera Lucida is at {address}")
        if host not in LOOPBACK:
            click.echo("warning: other machines can reach it, and what is sent is not encrypted", err=True)
        click.echo("Ctrl-C ends it.")
        sys.stdout.flush()
        _run(settings, listening, "" if no_browser else _address(host, port, settings.rules.once, opened))
    finally:
        listening.close()
    click.echo("stopped; graphs and notes are kept")


def _listen(host: str, port: int | None) -> socket.socket:
    """A socket at the port that was asked for, or at the usual one or the next that is free. Raises LucidaError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in range(PORT, PORT + MORE_PORTS) if port is None else [port]:
        listening = socket.socket(family, socket.SOCK_STREAM)
        if sys.platform != "win32":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, candidate))
            listening.listen(128)
            return listening
        except (OSError, UnicodeError) as error:
            listening.close()
            reason = getattr(error, "strerror", None) or str(error)
            is_taken = isinstance(error, OSError) and "in use" in reason
            if port is not None or not is_taken:
                tail = "; is lucida serve running already? try --port 0" if is_taken else ""
                raise LucidaError(f"cannot listen at {host} port {candidate}: {reason}{tail}") from error
    raise LucidaError(f"ports {PORT} to {PORT + MORE_PORTS - 1} are all in use; try --port 0")


def _settings(files: tuple[Path, ...], port: int, options: dict[str, Any]) -> "tuple[Settings, str]":
    """What the application needs, and the id of the first graph that was opened, or ""."""
    import secrets

    from lucida.server.app import Settings
    from lucida.server.messages import ModelState
    from lucida.server.process import ModelProcess
    from lucida.server.safety import Rules
    from lucida.server.setup import open_workspace
    from lucida.server.static import FOLDER
    from lucida.server.worker import ModelSettings

    if not options["no_model"]:
        _refuse_unknown(options["model"])
    workspace = open_workspace(options["folder"], options["model"], options["dictionaries"], options["index"])
    opened = [workspace.open_file(path) for path in files]
    names = ("model", "dictionaries", "index", "dtype", "device", "offline", "allow_unverified")
    asked = ModelSettings(**{name: options[name] for name in names}, folder=workspace.folder)
    worker = None if options["no_model"] else ModelProcess(asked)
    model = ModelState(
        name="" if worker is None else options["model"],
        dictionaries=workspace.dictionary_name,
        status="none" if worker is None else "loading",
    )
    token, once = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
    rules = Rules(token, _hosts(options["host"], port), port, once=once)
    static = options["static"] or FOLDER
    return Settings(workspace, rules, worker, model, static, options["model"]), opened[0] if opened else ""


def _refuse_unknown(model: str) -> None:
    """Say at once that nobody knows a model, not only on the page when its process has failed. Raises ModelError."""
    from lucida.models.registry import find_entry

    if "/" not in model and not Path(model).exists():
        find_entry(model)


def _hosts(host: str, port: int) -> tuple[str, ...]:
    names = ["127.0.0.1", "localhost", "[::1]"]
    if host not in LOOPBACK:
        names.append(f"[{host}]" if ":" in host else host)
        if host in ("0.0.0.0", "::"):
            # Listening everywhere: the machine is called by its name.
            names += [socket.gethostname(), socket.getfqdn()]
    # A browser leaves out the port of http.
    return tuple(dict.fromkeys(one for name in names for one in ([f"{name}:{port}"] + [name] * (port == 80))))


def _address(host: str, port: int, token: str, graph: str) -> str:
    name = socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/?token={token}" + (f"#/graph/{graph}" if graph else "")


def _run(settings: "Settings", listening: socket.socket, address: str) -> None:
    """Serve until Ctrl-C; open the browser at `address` once the server answers."""
    import uvicorn

    from lucida.server.app import create_app

    app = create_app(settings)

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if address and self.started and _has_screen():
                webbrowser.open(address)

        def handle_exit(self, sig: int, frame: Any) -> None:
            # Pages follow their jobs without end: without this the server would wait for them.
            app.state.jobs.end_following()
            super().handle_exit(sig, frame)

    # The guard names who we are answered for; nothing else is told.
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=3,
        proxy_headers=False,
    )  # fmt: skip
    _hang_up_in_order()
    # uvicorn raises the signal again once all is closed.
    with suppress(KeyboardInterrupt):
        Server(config).run(sockets=[listening])


def _hang_up_in_order() -> None:
    """Let a terminal that closes end the server as SIGTERM does, unless nohup has it stay."""
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is not None and signal.getsignal(hangup) is signal.SIG_DFL:
        signal.signal(hangup, lambda *_: signal.raise_signal(signal.SIGTERM))


def _has_screen() -> bool:
    """Whether a browser could show something: not over ssh to a machine without a display."""
    import os

    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
