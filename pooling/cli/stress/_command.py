"""``python -m pooling stress [URL]``: many threads on one pool, with everything that can go wrong, and a verdict.

Exit codes: 0 only if every invariant held; 1 if one broke, or if the first connection could not be opened, in which
case nothing ran and one line on stderr says why; 2 for arguments that cannot be carried out (also a scheme nobody
knows, a missing driver, a missing rich, a JSON file that cannot be written); 130 after Ctrl-C, unless an invariant had
broken. Ctrl-C ends the run early and in order, with tables and verdict; a second one leaves at once.
"""

from __future__ import annotations

import argparse
import secrets
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from pooling._words import printable
from pooling.cli._command import FAILED, FINE, INTERRUPTED, Mistake, require_rich
from pooling.cli.stress._options import StressOptions
from pooling.cli.stress._report import print_tables, write_json

if TYPE_CHECKING:
    from pooling.cli.stress._result import Result

NAME = "stress"
HELP = "Stress a pool with many threads and injected faults, and check while it runs that it keeps its promises."


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "url",
        nargs="?",
        metavar="URL",
        help="what a pool would be given: sqlite, postgresql, mysql, redis, mongodb or http; "
        "default: an SQLite file of its own",
    )
    for name, unit, text in _SETTINGS:
        default = getattr(StressOptions, name)
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=type(default),
            default=default * 1000 if unit == "MS" else default,
            metavar=unit,
            help=f"{text} (default %(default)g)",
        )
    parser.add_argument(
        "--chaos",
        action="store_true",
        help="have the network to the server fail now and then: cut, torn, delayed, frozen, refused connections",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="what the threads do is drawn from it (default: random)")
    parser.add_argument("--json", metavar="FILE", help="also write the result to FILE, as JSON")


_SETTINGS = (
    ("threads", "N", "users of the pool"),
    ("max_size", "N", "connections at most"),
    ("min_size", "N", "connections kept open"),
    ("duration", "S", "seconds to run"),
    ("think", "MS", "mean milliseconds between two uses of a thread"),
    ("hold", "MS", "mean milliseconds that a use keeps its connection"),
    ("dirty", "SHARE", "share of uses returned in the middle of a transaction"),
    ("lost", "SHARE", "share of leases dropped without release"),
    ("faults", "SHARE", "share of uses with a fault: a broken or discarded connection, a refused or slow connect"),
    ("timeout", "S", "seconds that an acquire may take"),
)


def run(arguments: argparse.Namespace) -> int:
    settings = {
        name: getattr(arguments, name) / 1000 if unit == "MS" else getattr(arguments, name)
        for name, unit, _ in _SETTINGS
    }
    seed = secrets.randbelow(1_000_000) if arguments.seed is None else arguments.seed
    options = StressOptions(url=arguments.url, seed=seed, chaos=arguments.chaos, **settings)
    require_rich()
    _check_writable(arguments.json)
    try:
        result = _run(options)
    except KeyboardInterrupt:
        print(f"pooling {NAME}: interrupted, left without a verdict", file=sys.stderr)
        return INTERRUPTED
    if result is None:
        return FAILED
    _tell(result, arguments.json)
    if not result.verdict.held:
        return FAILED
    return INTERRUPTED if result.interrupted else FINE


def _run(options: StressOptions) -> Result | None:
    from rich.console import Console  # rich is an extra, psycopg comes with the harness where it is there

    from pooling.cli.stress._harness import run as run_harness
    from pooling.cli.stress._progress import ProgressLine
    from pooling.cli.stress._target import Unreachable

    try:
        with _interrupts() as struck, ProgressLine(Console(stderr=True)) as line:
            return run_harness(options, show=line.show, interrupted=lambda: bool(struck))
    except Unreachable as error:
        print(f"pooling {NAME}: no connection could be opened to {printable(str(error))}", file=sys.stderr)
        return None


def _tell(result: Result, json_file: str | None) -> None:
    from rich.console import Console

    if json_file is not None:  # first: whoever reads the tables may be gone
        with open(json_file, "w", encoding="utf-8") as file:
            write_json(result, file)
    print_tables(result, Console())


def _check_writable(json_file: str | None) -> None:
    """Now, not after the run."""
    if json_file is not None:
        try:
            open(json_file, "a", encoding="utf-8").close()
        except OSError as error:
            raise Mistake(f"--json cannot be written: {error}") from error


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """A list that is no longer empty after the first Ctrl-C; the second one raises KeyboardInterrupt.

    The handler only appends: the main thread may be anywhere, also inside a lock that an Event's set() would need.
    """
    struck: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield struck
        return

    def strike(number: int, _: FrameType | None) -> None:
        if struck:
            raise KeyboardInterrupt
        struck.append(number)

    before: Any = signal.signal(signal.SIGINT, strike)
    try:
        yield struck
    finally:
        signal.signal(signal.SIGINT, before)
