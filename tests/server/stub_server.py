"""A server in a process of its own, with a model's process that has no model: python stub_server.py FOLDER.

It prints its port, and the model's process writes its number to FOLDER/worker.
"""

import os
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import stub_model

from lucida.cli import serve
from lucida.server.app import Settings
from lucida.server.messages import ModelState
from lucida.server.process import ModelProcess
from lucida.server.safety import Rules
from lucida.server.worker import ModelSettings
from lucida.server.workspace import Workspace

TOKEN = "the-token-of-this-test"


def model(connection: Connection, settings: Any) -> None:
    """The model's process."""
    (settings.folder / "worker").write_text(str(os.getpid()))
    stub_model.main(connection, settings)


def main(folder: Path) -> None:
    """Serve until a signal comes."""
    listening = serve._listen("127.0.0.1", 0)
    port = listening.getsockname()[1]
    worker = ModelProcess(ModelSettings("stub", folder=folder), model)
    state = ModelState(name="stub", dictionaries="neurons", status="loading")
    print(port, flush=True)
    serve._run(Settings(Workspace(folder), Rules(TOKEN, (f"127.0.0.1:{port}",), port), worker, state), listening, "")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
