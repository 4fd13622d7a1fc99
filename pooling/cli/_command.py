"""What the subcommands have in common: their shape, their exit codes, and how a mistake of the user's is told."""

from __future__ import annotations

import argparse
import difflib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, Protocol

from pooling import create_pool
from pooling._secrets import found, hide
from pooling.factory import Factory

FINE = 0
FAILED = 1
BAD_ARGUMENTS = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
MOST = 10_000  # threads, and connections: what a machine bears, so that a slip of the finger does not take it down
YEAR = 366 * 86_400.0  # seconds; what a thread can wait for is not much longer


class Mistake(Exception):
    """The arguments cannot be carried out as they are; the message is one line."""


class Command(Protocol):
    """A module or package in here that is a subcommand."""

    @property
    def NAME(self) -> str: ...  # noqa: N802  # a constant of the module

    @property
    def HELP(self) -> str: ...  # noqa: N802  # same

    def configure(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, arguments: argparse.Namespace) -> int: ...


class Parser(argparse.ArgumentParser):
    """argparse prints its whole usage before an error; here the error is one line, and names where to read on."""

    def parse_known_args(  # type: ignore[override]  # its overloads tell the type of the namespace
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Nothing may be left over: argparse would have the parser above tell of it, which knows none of the options,
        after a value of the unknown one was taken for the URL."""
        known, left = super().parse_known_args(args, namespace)
        unknown = next((word.partition("=")[0] for word in left if word.startswith("-")), None)
        if unknown is not None:
            options = [option for action in self._actions for option in action.option_strings]
            self.error(f"there is no option {unknown}{similar(unknown, options)}")
        if left:
            self.error(f"unrecognized arguments: {' '.join(left)}")
        return known, left

    def error(self, message: str) -> NoReturn:
        # It may repeat an argument that was one too many: a URL with a password in it.
        self.exit(BAD_ARGUMENTS, f"{self.prog}: {hide(message)} (see {self.prog} --help)\n")


def check_count(name: str, value: int) -> None:
    """Raise Mistake for a number of threads or connections that cannot be."""
    if not 1 <= value <= MOST:
        limit = "at least 1" if value < 1 else f"at most {MOST:,}"
        raise Mistake(f"--{name.replace('_', '-')} must be {limit}, not {value:,}")


def check_time(name: str, seconds: float, *, unit: int = 1, positive: bool = False) -> None:
    """Raise Mistake for a time that cannot be. ``unit``: 1000 where the option is in milliseconds."""
    if not 0 <= seconds <= YEAR or (positive and seconds == 0):  # nan as well
        least = "greater than 0" if positive else "0 or more"
        raise Mistake(f"--{name} must be a finite time, {least} and a year at most, not {seconds * unit:g}")


def one_line(error: Exception, url: str | None) -> str:
    """What an error says. A driver may repeat what it was given: the password is taken out."""
    return hide(" ".join(str(error).split()) or type(error).__name__, found(url))


@contextmanager
def refusing(url: str) -> Iterator[None]:
    """Have it be a Mistake where no pool can be made of the URL, be it for want of a driver."""
    try:
        yield
    except (ValueError, TypeError, ImportError) as error:
        raise Mistake(one_line(error, url)) from error


def factory_of(url: str, connect_args: Mapping[str, Any] | None = None) -> Factory[Any]:
    """What a pool would connect with; the pool itself opens nothing. Raises Mistake."""
    with refusing(url), create_pool(url, connect_args) as pool:
        return pool._factory


def similar(word: str, known: Iterable[str]) -> str:
    """``", did you mean --timeout?"``, or nothing."""
    by_name = {name.lstrip("-"): name for name in known}  # dashes are alike in all of them
    close = difflib.get_close_matches(word.lstrip("-"), by_name, n=1, cutoff=0.6)
    return f", did you mean {by_name[close[0]]}?" if close else ""


@contextmanager
def own_database(command: str) -> Iterator[str]:
    """The URL of an SQLite file of the command's own, which is gone afterwards. Raises Mistake where there is no place
    for one: in a container whose files can only be read, say."""
    try:
        folder = tempfile.TemporaryDirectory(prefix=f"pooling-{command}-", ignore_cleanup_errors=True)
    except OSError as error:
        raise Mistake(f"there is no place for an SQLite file ({error.strerror}): give the URL of a server") from error
    with folder as path:
        yield f"sqlite:///{Path(path).as_posix()}/{command}.db"


def drop_output() -> None:
    """Have what is still to be written go nowhere: the interpreter would try once more at its end, and tell of it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def require_rich() -> None:
    """Raise Mistake where the library that draws tables and progress lines is not installed."""
    if importlib.util.find_spec("rich") is None:
        raise Mistake('this command needs rich: pip install "pooling[cli]"')
