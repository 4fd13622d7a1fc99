"""``python -m pooling page [URL]``: a pool in use, and the live page about it, until Ctrl-C.

It is for looking at the page, and for watching a server through a pool: stop the server, start it again, and see what a
pool makes of it. The threads only take connections and give them back; nothing is read or written. A program of your
own shows its pools by ``pooling.integrations.page``.

Exit codes: 0 at the end; 1 if the page's address cannot be had; 2 for arguments that cannot be carried out (also a
scheme nobody knows, a missing driver).
"""

from __future__ import annotations

import argparse
import errno
import math
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from pooling import Pool, PoolError, create_pool
from pooling.cli._command import FAILED, FINE, Mistake, check_count, check_time, own_database, refusing
from pooling.integrations.page import serve

NAME = "page"
HELP = "Put a pool to use and show the live page about it."
TOKEN = "POOLING_PAGE_TOKEN"  # the name of a variable: on the command line everybody could read it
_PORT_IS_NOT_OURS = (errno.EADDRINUSE, errno.EACCES)
KEEPALIVE = 5.0  # seconds after which an idle connection is tried, so that the page knows of the server


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "url", nargs="?", metavar="URL", help="postgresql://…, or any other that a pool takes; default: an SQLite file"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="this machine's name or address that the page answers at (default %(default)s)",
    )
    parser.add_argument(
        "--port", type=int, default=8080, help="the port it answers at, 0 for any that is free (default %(default)d)"
    )
    for name, unit, default, text in _SETTINGS:
        parser.add_argument(
            f"--{name}", type=type(default), default=default, metavar=unit, help=f"{text} (default %(default)g)"
        )
    parser.add_argument("--duration", type=float, metavar="S", help="seconds after which it ends; default: at Ctrl-C")


_SETTINGS: tuple[tuple[str, str, int | float, str], ...] = (
    ("threads", "N", 8, "users of the pool"),
    ("max-size", "N", 4, "connections at most"),
    ("hold", "MS", 40.0, "mean milliseconds that a use keeps its connection"),
    ("think", "MS", 40.0, "mean milliseconds between two uses of a thread"),
    ("timeout", "S", 30.0, "seconds that an acquire may take"),
)


def run(arguments: argparse.Namespace) -> int:
    _check(arguments)
    place = own_database(NAME) if arguments.url is None else nullcontext(arguments.url)
    with place as url, _pool(url, arguments) as pool:
        try:
            server = serve(pool, host=arguments.host, port=arguments.port, token=os.environ.get(TOKEN) or None)
        except OSError as error:
            why = error.strerror or error
            hint = "; take another by --port, 0 for any that is free" if error.errno in _PORT_IS_NOT_OURS else ""
            print(f"pooling {NAME}: cannot listen on {arguments.host}:{arguments.port}: {why}{hint}", file=sys.stderr)
            return FAILED
        except ValueError as error:
            raise Mistake(str(error)) from error
        with server, Users(pool, arguments), _until_told():
            print(f"{server.url}  (Ctrl-C ends it)", flush=True)
            _wait(arguments.duration)
    return FINE


def _check(arguments: argparse.Namespace) -> None:
    for name in ("threads", "max_size"):
        check_count(name, getattr(arguments, name))
    for name, unit in (("hold", 1000), ("think", 1000), ("timeout", 1), ("duration", 1)):
        if (value := getattr(arguments, name)) is not None:
            check_time(name, value / unit, unit=unit)
    if not 0 <= arguments.port <= 65535:
        raise Mistake(f"--port must be a number from 0 to 65535, not {arguments.port}")


def _pool(url: str, arguments: argparse.Namespace) -> Pool[Any]:
    # Nobody sends anything here, so nobody would notice that the server has gone: every acquire looks at the socket.
    options: Any = {"max_size": arguments.max_size, "timeout": arguments.timeout, "check_after": 0.0}
    with refusing(url):
        try:
            return create_pool(url, **options, keepalive=KEEPALIVE)
        except ValueError as error:
            if "keepalive" not in str(error):
                raise
            return create_pool(url, **options)  # a backend without a round trip of its own


@contextmanager
def _until_told() -> Iterator[None]:
    """What is inside ends at Ctrl-C, or when the process is asked to end: what was opened is closed either way."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)


def _wait(seconds: float | None) -> None:
    """Until the time is over; without one, until Ctrl-C."""
    until = math.inf if seconds is None else time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, 3600.0))


class Users:
    """Threads that take connections and give them back, for as long as it is entered."""

    def __init__(self, pool: Pool[Any], arguments: argparse.Namespace) -> None:
        self._pool = pool
        self._hold, self._think = arguments.hold / 1000, arguments.think / 1000
        self._end = threading.Event()
        self._threads = [
            threading.Thread(target=self._use, name=f"worker-{number + 1}", daemon=True)
            for number in range(arguments.threads)
        ]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *details: object) -> None:
        self._end.set()
        self._pool.close(0.0)  # for those who wait
        for thread in self._threads:
            thread.join(5.0)

    def _use(self) -> None:
        while not self._end.is_set():
            try:
                with self._pool.acquire():
                    self._pause(self._hold)
            except PoolError:
                self._end.wait(0.2)  # the page says what is the matter
            self._pause(self._think)

    def _pause(self, mean: float) -> None:
        if mean:
            self._end.wait(random.expovariate(1 / mean))
