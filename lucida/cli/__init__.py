"""The command line: each command is a thin call of a public function, with its names and defaults."""

from lucida.cli.app import main

__all__ = ["main"]
