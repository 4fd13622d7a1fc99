"""What several of the core's tests need."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pooling.testing import ManualClock

ROOT = Path(__file__).parents[2]


def outcome(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """What a call returned, or the exception that it raised."""
    try:
        return call(*args, **options)
    except BaseException as error:
        return error


def timed(clock: ManualClock, call: Callable[..., Any], *args: Any, **options: Any) -> tuple[float, Any]:
    """How many seconds of virtual time a call took, and its outcome."""
    start = clock.now()
    result = outcome(call, *args, **options)
    return clock.now() - start, result


@contextmanager
def struck_while_waiting(clock: ManualClock, error: type[BaseException]) -> Iterator[None]:
    """In here whoever waits for a connection is struck by the error as it wakes up, as by a signal handler's."""
    ordinary = clock.bell

    def struck() -> Any:
        bell = ordinary()

        class Struck(type(bell)):  # type: ignore[misc]
            def wait(self, seconds: float, waiter: Any) -> None:
                super().wait(seconds, waiter)
                raise error

        return Struck(clock)

    clock.bell = struck  # type: ignore[method-assign]
    yield
    clock.bell = ordinary  # type: ignore[method-assign]


def run_python(script: str, *, timeout: float = 30.0, options: tuple[str, ...] = ("-W", "error")) -> str:
    """Run a script in a fresh interpreter; its standard output. Fails unless it exits 0 and says nothing on
    standard error."""
    done = subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


class Traced:
    """A proxy, as wrapt makes them, which agents use."""

    __slots__ = ("__weakref__", "__wrapped__")

    def __init__(self, connection: Any) -> None:
        object.__setattr__(self, "__wrapped__", connection)

    @property
    def __class__(self) -> Any:
        return self.__wrapped__.__class__

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__wrapped__, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.__wrapped__, name, value)
