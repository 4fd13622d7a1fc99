"""What the subcommands have in common: their shape, their exit codes, and how a mistake of the user's is told."""

from __future__ import annotations

import argparse
import importlib.util
from typing import NoReturn, Protocol

from pooling._secrets import hide

FINE = 0
FAILED = 1
BAD_ARGUMENTS = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class Mistake(Exception):
    """The arguments cannot be carried out as they are; the message is one line."""


class Command(Protocol):
    """A module of this package that is a subcommand."""

    @property
    def NAME(self) -> str: ...  # noqa: N802  # a constant of the module

    @property
    def HELP(self) -> str: ...  # noqa: N802  # same

    def configure(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, arguments: argparse.Namespace) -> int: ...


class Parser(argparse.ArgumentParser):
    """argparse prints its whole usage before an error; here the error is one line, and names where to read on."""

    def error(self, message: str) -> NoReturn:
        # It may repeat an argument that was one too many: a URL with a password in it.
        self.exit(BAD_ARGUMENTS, f"{self.prog}: {hide(message)} (see {self.prog} --help)\n")


def require_rich() -> None:
    """Raise Mistake where the library that draws tables and progress lines is not installed."""
    if importlib.util.find_spec("rich") is None:
        raise Mistake('this command needs rich: pip install "pooling[cli]"')
