"""``python -m pooling check URL``: one connection, by the backend that a pool would use, and what works.

Nothing is changed there: an SQLite file that does not exist is a failure, and none is put into WAL mode.

Exit codes: 0 if everything worked; 1 if something did not, which one line on stderr names, with the step and the
driver's error; 2 for arguments that cannot be carried out (also a scheme nobody knows and a missing driver); 130 after
Ctrl-C. No password is printed.

The JSON document (``"schema": "pooling-check"``, ``"version": 1``). Times are seconds. Fields may be added within a
version; none is renamed, dropped, or given another meaning.

- ``works``, ``backend``, ``target`` (host, port and database, or null), ``driver``, ``server``, ``tls`` (text, or null
  where it is not known)
- ``steps``: a list of name, seconds (the median where a step was done several times), times, least, most
- ``failure``: step, seconds, error, ``permanent`` (whether the next try would end in the same way); null if it works
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

from pooling._clock import LONGEST
from pooling._secrets import hide
from pooling._words import printable
from pooling.cli._command import FAILED, FINE, INTERRUPTED, Mistake, factory_of
from pooling.cli.check._backends import About, about
from pooling.cli.check._file import missing, untouched
from pooling.factory import Factory
from pooling.integrations.page._words import span

NAME = "check"
HELP = "Connect once and say what works: driver, server, TLS, and how long each step takes."
SCHEMA, VERSION = "pooling-check", 1
T = TypeVar("T")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", metavar="URL", help="what a pool would be given: postgresql://user@host/db, …")
    parser.add_argument(
        "--timeout", type=float, default=10.0, metavar="S", help="seconds that a step may take (default %(default)g)"
    )
    parser.add_argument(
        "--times",
        type=int,
        default=20,
        metavar="N",
        help="how often a round trip and a reset are made (default %(default)d)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


class Step(NamedTuple):
    name: str
    seconds: float
    times: int
    least: float
    most: float


class Failure(NamedTuple):
    step: str
    seconds: float
    error: str
    permanent: bool


def run(arguments: argparse.Namespace) -> int:
    if not 0 < arguments.timeout <= LONGEST:
        raise Mistake(f"--timeout must be a finite time, greater than 0 and a week at most, not {arguments.timeout:g}")
    if arguments.times < 1:
        raise Mistake(f"--times must be at least 1, not {arguments.times}")
    factory = factory_of(arguments.url)
    result = Result(factory, arguments.url)
    if (url := untouched(arguments.url)) != arguments.url:
        factory = factory_of(url)
    try:
        Check(factory, result, arguments.timeout, arguments.times).carry_out()
    except KeyboardInterrupt:
        print(f"pooling {NAME}: interrupted", file=sys.stderr)
        return INTERRUPTED
    if result.failure is not None and (why := missing(arguments.url)):
        result.failure = result.failure._replace(error=f"{result.failure.error}: {why}")
    print(json.dumps(result.document(), indent=2) if arguments.json else "\n".join(map(printable, result.lines())))
    if result.failure is None:
        return FINE
    print(f"pooling {NAME}: {printable(result.told(result.failure))}", file=sys.stderr)
    return FAILED


class Result:
    """What has been found out so far."""

    def __init__(self, factory: Factory[Any], url: str) -> None:
        self.backend = url.partition(":")[0].lower()
        self.target: str | None = next(
            (str(value) for name in ("where", "origin", "database") if (value := getattr(factory, name, None))), None
        )
        self.driver: str | None = None
        self.server: str | None = None
        self.tls: str | None = None
        self.steps: list[Step] = []
        self.failure: Failure | None = None

    def document(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "version": VERSION,
            "works": self.failure is None,
            "backend": self.backend,
            "target": self.target,
            "driver": self.driver,
            "server": self.server,
            "tls": self.tls,
            "steps": [step._asdict() for step in self.steps],
            "failure": self.failure and self.failure._asdict(),
        }

    def lines(self) -> Iterable[str]:
        for name in ("target", "driver", "server", "tls"):
            if (value := getattr(self, name)) is not None:
                yield f"{'TLS' if name == 'tls' else name:<20} {value}"
        for step in self.steps:
            several = f"   {step.times} times: {span(step.least)} to {span(step.most)}" if step.times > 1 else ""
            yield f"{step.name:<20} {span(step.seconds):>7}{several}".rstrip()
        if self.failure is None:
            yield "works"

    def told(self, failure: Failure) -> str:
        target = "" if self.target is None else f" to {self.target}"
        lasting = " (trying again would not help)" if failure.permanent else ""
        return f"{failure.step}{target} failed after {span(failure.seconds)}: {failure.error}{lasting}"


class Check:
    """One connection from its first byte to its last."""

    def __init__(self, factory: Factory[Any], result: Result, timeout: float, times: int) -> None:
        self.factory, self.result, self.timeout, self.times = factory, result, timeout, times
        self.connection: Any = None

    def carry_out(self) -> None:
        """Fills the result in, up to the first thing that does not work."""
        try:
            self._connect()
            self._ask_about()
        except _Stopped:
            pass
        finally:
            if self.connection is not None:
                self._close()

    def _connect(self) -> None:
        self.connection = self._timed("connect", lambda: self.factory.connect(self.timeout))

    def _ask_about(self) -> None:
        result = self.result
        known = self._guarded("asking who is there", lambda: about(self.factory, self.connection))
        result.driver = known.driver()
        result.tls = self._guarded("asking for TLS", known.tls)
        result.server = self._guarded("asking for the server", known.server)
        if known.has_reset():
            self._guarded("reset", lambda: self.factory.reset(self.connection, "transaction"))
        if known.has_round_trip():
            self._repeated("round trip", lambda: known.round_trip(self.timeout))
        if known.has_reset():
            self._reset(known)

    def _reset(self, known: About) -> None:
        def reset(mode: Any) -> Callable[[], None]:
            return lambda: self.factory.reset(self.connection, mode)

        for mode in known.resets:
            self._repeated(f"reset, {mode}", reset(mode), before=known.use)

    def _close(self) -> None:
        try:
            self._timed("close", lambda: self.factory.close(self.connection))
        except _Stopped:
            pass

    def _repeated(self, name: str, call: Callable[[], object], before: Callable[[], object] | None = None) -> None:
        took = []
        for _ in range(self.times):
            if before is not None:
                self._guarded(name, before)
            took.append(self._guarded(name, lambda: _clocked(call)[0]))
        self.result.steps.append(Step(name, statistics.median(took), self.times, min(took), max(took)))

    def _timed(self, name: str, call: Callable[[], T]) -> T:
        took, value = self._guarded(name, lambda: _clocked(call))
        self.result.steps.append(Step(name, took, 1, took, took))
        return value

    def _guarded(self, name: str, call: Callable[[], T]) -> T:
        """The call's value, within the time a step may take, whatever the driver makes of a timeout. Raises _Stopped,
        with the failure noted, unless one was noted before."""
        started = time.perf_counter()
        try:
            return _within(self.timeout, call)
        except Exception as error:
            if isinstance(error, _Late) and self.connection is not None:
                self.factory.interrupt(self.connection)
            if self.result.failure is None:
                self.result.failure = Failure(
                    name, time.perf_counter() - started, self._text(error), self._lasts(name, error)
                )
            raise _Stopped from error

    def _lasts(self, name: str, error: Exception) -> bool:
        return name == "connect" and not isinstance(error, _Late) and self.factory.is_permanent(error)

    def _text(self, error: Exception) -> str:
        text = " ".join(str(error).split())
        if isinstance(error, _Late):
            return text
        kind = type(error).__name__
        return hide(f"{kind}: {text}" if text else kind, self.factory.secrets())


class _Stopped(Exception):
    """The rest cannot be tried."""


class _Late(Exception):
    """A step took longer than it may."""


def _clocked(call: Callable[[], T]) -> tuple[float, T]:
    """How long a call took, and what it returned; asked on the thread that makes the call."""
    started = time.perf_counter()
    value = call()
    return time.perf_counter() - started, value


def _within(seconds: float, call: Callable[[], T]) -> T:
    done: list[T] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            done.append(call())
        except BaseException as error:  # told to who waits for it
            failed.append(error)

    thread = threading.Thread(target=work, name="pooling-check", daemon=True)
    thread.start()
    thread.join(seconds)
    if failed:
        raise failed[0]
    if not done:
        raise _Late(f"no answer within {span(seconds)}")
    return done[0]
