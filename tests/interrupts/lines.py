"""An exception at a chosen line of the core, and what a pool goes through meanwhile."""

from __future__ import annotations

import dis
import functools
import itertools
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pooling
from pooling import ConnectError, Lease, Pool, PoolError, PoolTimeout
from pooling._runtime.threads import Threads
from pooling.testing import FakeBroken, FakeConnection, FakeFactory
from tests.waiting import comes_true

PACKAGE = Path(pooling.__file__).parent
CORE = (PACKAGE, PACKAGE / "_ledger", PACKAGE / "_runtime")
OUTSIDE = {"__init__.py", "__main__.py"}
SIZE = 4
Place = tuple[str, int]


class Struck(BaseException):
    """What is raised in the middle of the pool's own code, as a signal's exception would be."""


@functools.cache
def entries(code: CodeType) -> dict[int, int]:
    """The offset at which each line of a function is entered. Of a ``with`` header the later ones are its leaving
    visits: between the end of the block and ``__exit__`` CPython looks for no signal, so nothing can strike there."""
    first: dict[int, int] = {}
    for offset, line in dis.findlinestarts(code):
        if line is not None:
            first.setdefault(line, offset)
    return first


@functools.cache
def core_file(code: CodeType) -> str:
    """The file's name where it is one of the core's, else nothing."""
    path = Path(code.co_filename)
    return path.name if path.parent in CORE and path.name not in OUTSIDE else ""


class Tracer:
    """Notes the lines of the core that are reached, or strikes at the n-th visit to one of them."""

    def __init__(self, target: Place | None = None, visit: int = 1) -> None:
        self.target = target
        self.visit = visit
        self.seen: dict[Place, int] = {}
        self.struck = False

    def __call__(self, frame: FrameType, event: str, arg: Any) -> Callable[..., Any] | None:
        return self._line if core_file(frame.f_code) else None

    def _line(self, frame: FrameType, event: str, arg: Any) -> Callable[..., Any]:
        if event == "line" and frame.f_lasti <= entries(frame.f_code).get(frame.f_lineno, -1):
            place = (core_file(frame.f_code), frame.f_lineno)
            self.seen[place] = self.seen.get(place, 0) + 1
            if not self.struck and place == self.target and self.seen[place] == self.visit:
                self.struck = True
                raise Struck
        return self._line


def struck_at_each_line(function: Callable[..., Any], prepare: Callable[[], Callable[[], object]]) -> Iterator[int]:
    """For each line of a function: prepare a call, and make it with an exception raised when that line is reached.
    Yields the line then, also one that was not reached. All calls are made in one thread, which lives on: what it still
    holds, others miss."""
    code, struck = function.__code__, 0
    with ThreadPoolExecutor(1) as thread:
        for number in entries(code):
            call, reached = prepare(), False

            def strike(frame: FrameType, event: str, arg: Any, number: int = number) -> Any:
                nonlocal reached
                if frame.f_code is not code:
                    return None
                if event == "line" and frame.f_lineno == number and not reached:
                    reached = True
                    raise Struck
                return functools.partial(strike, number=number)

            _struck(thread, call, sys.settrace, strike)
            del call
            struck += reached
            yield number
    assert struck > 1, "it was not called"


def struck_after_each_call(function: Callable[..., Any], prepare: Callable[[], Callable[[], object]]) -> Iterator[int]:
    """The same within the lines: an exception as each call of something written in C has just ended, so that what it
    returned is in nobody's hands. That is where CPython looks for a signal. Yields which call it was."""
    code = function.__code__
    with ThreadPoolExecutor(1) as thread:
        for number in itertools.count(1):
            call, ended = prepare(), 0

            def strike(frame: FrameType, event: str, arg: Any, number: int = number) -> None:
                nonlocal ended
                if event == "c_return" and frame.f_code is code:
                    ended += 1
                    if ended == number:
                        sys.setprofile(None)
                        raise Struck

            _struck(thread, call, sys.setprofile, strike)
            del call
            if ended < number:
                break
            yield number
    assert number > 1, "it calls nothing"


def struck_as_it_begins(function: Callable[..., Any], call: Callable[[], object]) -> bool:
    """Make a call, with an exception raised as the function is entered, before its first line: there, too, CPython
    looks for a signal. Whether it came to that."""
    code, struck = function.__code__, False

    def strike(frame: FrameType, event: str, arg: Any) -> None:
        nonlocal struck
        if frame.f_code is code and not struck:
            struck = True
            raise Struck

    with ThreadPoolExecutor(1) as thread:
        _struck(thread, call, sys.settrace, strike)
    return struck


def _struck(
    thread: ThreadPoolExecutor, call: Callable[[], object], install: Callable[[Any], None], strike: Callable[..., Any]
) -> None:
    """Make the call in that thread, under a tracer or profiler that may strike."""

    def under() -> None:
        install(strike)
        try:
            call()
        except Struck:
            pass
        finally:
            install(None)

    thread.submit(under).result()


def keeping(kept: list[BaseException], act: Callable[[], object]) -> Callable[[], None]:
    """The same act; what it raises is kept, as a debugger's or a future's is, with every frame that it has passed."""

    def call() -> None:
        try:
            act()
        except BaseException as error:
            kept.append(error)
            for frame, _ in traceback.walk_tb(error.__traceback__):
                dict(frame.f_locals)  # Python 3.10's tracer has left a copy of the variables there: it is renewed
            raise

    return call


def quietly(call: Callable[[], object], *expected: type[BaseException]) -> None:
    try:
        call()
    except expected:
        pass


def everything(pool: Pool[FakeConnection], factory: FakeFactory) -> None:
    """Every way through the pool that a caller can take."""
    with pool.acquire():
        pass
    with pool.acquire() as connection:
        connection.dirty = True
    pool.acquire().discard()
    lease = pool.acquire()
    quietly(functools.partial(refreshes, lease), ConnectError)  # the worker that connects for it may be struck
    quietly(lambda: breaks(pool), FakeBroken)
    with pool.acquire() as connection:
        pass
    connection.dead = True
    comes_true(lambda: pool.stats().busy == 0, 10.0)
    for token in list(pool._roster.idle):
        token.entry.since = token.entry.checked_at = 0.0  # as if unused for long: looked at before it goes out
        del token  # a lease of it is dropped further down: this would keep it
    with pool.acquire():
        pass
    with pool.transaction():
        pass
    del lease
    pool.acquire()  # dropped
    wait_for_a_connection(pool)
    pool.stats()
    pool.holders()
    pool.suspend()
    try:
        quietly(lambda: pool.acquire(timeout=0.001), PoolTimeout)
    finally:
        pool.resume()
    pool.resize(min_size=1, max_size=SIZE)
    pool.warm_up(5.0)
    pool.clear()
    unsubscribe = pool.subscribe(lambda event: None)
    with pool.acquire():
        pass
    unsubscribe()


def refreshes(lease: Lease[FakeConnection]) -> None:
    lease.refresh()
    lease.release()


def breaks(pool: Pool[FakeConnection]) -> None:
    with pool.acquire():
        raise FakeBroken


def wait_for_a_connection(pool: Pool[FakeConnection]) -> None:
    """Wait in the queue: once until a connection comes back, once until the time is over."""
    held = [pool.acquire() for _ in range(SIZE)]
    helper = threading.Timer(0.004, held.pop().release)
    helper.start()
    try:
        quietly(lambda: pool.acquire(timeout=2.0).release(), PoolError)
    finally:
        helper.join()
        del helper  # and with it the lease, where it was struck before that had ended
    held.append(pool.acquire())
    quietly(lambda: pool.acquire(timeout=0.002), PoolTimeout)
    for lease in held:
        lease.release()


def make(connect_timeout: float) -> tuple[Pool[FakeConnection], FakeFactory]:
    factory = FakeFactory()
    # Threads of its own: none of them has a tracer of an earlier run. What only time brings (nested) may or may not
    # fall into a caller's hands: each run is to go the same way.
    pool = Pool(
        factory, runtime=Threads(), max_size=SIZE, timeout=10.0, check_after=60.0, connect_timeout=connect_timeout,
        nested=None,
    )  # fmt: skip  # the pool's own options, then the test's
    return pool, factory


def run_traced(tracer: Tracer, *, workers: bool) -> tuple[Pool[FakeConnection], FakeFactory]:
    """Go through everything, with the tracer on this thread or on the pool's own threads."""
    # What a struck worker was at is mended once it counts as hung: soon, where that is what is looked at.
    pool, factory = make(0.3 if workers else 10.0)
    if workers:
        threading.settrace(tracer)
    else:
        sys.settrace(tracer)
    try:
        everything(pool, factory)
    except Struck:
        pass
    finally:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]  # None is what switches it off
    return pool, factory
