"""``python -m pooling top URL``: the live page of another process in a terminal, once a second, until Ctrl-C.

Exit codes: 0 at the end; 1 if the page cannot be reached, or something else answers; 2 for arguments that cannot be
carried out (also a missing rich). Once it has begun, a page that falls silent is waited for: the last numbers stay, and
the first line says since when.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING, Any

from pooling.cli._command import FAILED, FINE, YEAR, Mistake, drop_output, require_rich
from pooling.cli.top._frame import frame, line
from pooling.cli.top._remote import Remote, Unanswered
from pooling.config import nearest
from pooling.integrations.page._words import span

if TYPE_CHECKING:
    from rich.console import Console

NAME = "top"
HELP = "Show a process's pools live in the terminal, as its page tells them."

ONCE = 60  # lines of a single frame, about


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", metavar="URL", help="the address of the page, such as http://127.0.0.1:8080/")
    parser.add_argument("--once", action="store_true", help="show one frame and end")
    parser.add_argument(
        "--interval", type=float, default=1.0, metavar="S", help="seconds between two frames (default %(default)g)"
    )
    parser.add_argument("--pool", action="append", metavar="NAME", help="show this pool only; may be given again")
    parser.add_argument("--json", action="store_true", help="print the page's document as JSON, one a line")


def run(arguments: argparse.Namespace) -> int:
    if not 0.1 <= arguments.interval <= YEAR:
        raise Mistake(
            f"--interval must be a finite time of 0.1 seconds or more, a year at most, not {arguments.interval:g}"
        )
    remote = Remote(arguments.url)
    if not arguments.json:
        require_rich()
    try:
        watch = Watcher(remote, arguments.pool)
        if arguments.json:
            return _print_json(watch, arguments)
        return _show(watch, arguments)
    except Unanswered as error:
        print(f"pooling {NAME}: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return FINE  # how it ends
    except BrokenPipeError:  # whoever has read has seen enough
        drop_output()
        return FINE


class Watcher:
    """What the page says about the pools that are asked for. The first look is made at once; raises Unanswered."""

    def __init__(self, remote: Remote, names: list[str] | None) -> None:
        self.name = remote.name
        self._remote = remote
        self._names = names
        self._known: list[str] = []
        self.document = self._look()
        self.lost = ""
        self._heard = time.monotonic()
        if missing := set(names or ()) - set(self._known):
            name = min(missing)
            known = ", ".join(map(repr, self._known)) or "none"  # as they are, they could steer the terminal
            raise Unanswered(f"there is no pool {name!r} on the page{nearest(name, self._known)} (there are: {known})")

    def again(self) -> None:
        """Look once more. Where nobody answers, the last numbers stay and ``lost`` says so."""
        try:
            self.document, self.lost = self._look(), ""
            self._heard = time.monotonic()
        except Unanswered as error:
            self.lost = f"no answer for {span(time.monotonic() - self._heard)}: {error}"

    def look(self) -> dict[str, Any]:
        """The document of this moment; raises Unanswered."""
        self.document = self._look()
        return self.document

    def _look(self) -> dict[str, Any]:
        document = self._remote.look()
        self._known = [pool["name"] for pool in document["pools"]]
        if self._names:
            document["pools"] = [pool for pool in document["pools"] if pool["name"] in self._names]
        return document


def _print_json(watch: Watcher, arguments: argparse.Namespace) -> int:
    while True:
        print(json.dumps(watch.document, separators=(",", ":")), flush=True)
        if arguments.once:
            return FINE
        time.sleep(arguments.interval)
        watch.look()


def _show(watch: Watcher, arguments: argparse.Namespace) -> int:
    from rich.console import Console

    console = Console(highlight=False)
    if arguments.once:
        console.print(frame(watch.document, watch.name, height=ONCE))
        return FINE
    if console.is_terminal and not console.is_dumb_terminal:
        _live(watch, console, arguments.interval)
    while True:  # nothing can be redrawn: a line for each pool and look
        for pool in watch.document["pools"]:
            print(f"{time.strftime('%H:%M:%S')} {watch.lost or line(pool)}", flush=True)
        time.sleep(arguments.interval)
        watch.again()


def _live(watch: Watcher, console: Console, interval: float) -> None:
    """Redraw until Ctrl-C."""
    from rich.live import Live

    with Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            picture = frame(watch.document, watch.name, height=console.height, lost=watch.lost)
            live.update(picture, refresh=True)
            time.sleep(interval)
            watch.again()
