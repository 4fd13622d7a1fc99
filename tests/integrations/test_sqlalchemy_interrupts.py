"""An exception at every line of FairPool, as a signal's may be: no place is lost, and nothing stays open."""

from __future__ import annotations

import contextlib
import gc
import sqlite3
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import pooling.integrations.sqlalchemy
from pooling.integrations.sqlalchemy import FairPool
from pooling.integrations.sqlalchemy._place import PlaceFactory
from pooling.integrations.sqlalchemy._place_pool import PlacePool
from tests.interrupts.lines import entries, keeping, struck_at_each_line
from tests.waiting import until

OURS = Path(pooling.integrations.sqlalchemy.__file__).parent
SIZE = 3
Place = tuple[str, int]

# What a connection says that is collected.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


class Struck(BaseException):
    """What is raised."""


class Connection(sqlite3.Connection):
    """One that is in ``alive`` until it is closed or collected."""

    def close(self) -> None:
        alive.discard(self)
        super().close()


alive: weakref.WeakSet[Connection] = weakref.WeakSet()


def creator() -> Connection:
    connection = sqlite3.connect(":memory:", check_same_thread=False, factory=Connection)
    alive.add(connection)
    return connection


def failing() -> Connection:
    raise sqlite3.OperationalError("no")


class Tracer:
    """Notes the lines that are reached, or strikes at the n-th visit to one of them."""

    def __init__(self, target: Place | None = None, visit: int = 1) -> None:
        self.target = target
        self.visit = visit
        self.seen: dict[Place, int] = {}
        self.struck = False

    def __call__(self, frame: FrameType, what: str, arg: Any) -> Callable[..., Any] | None:
        return self._line if Path(frame.f_code.co_filename).parent == OURS else None

    def _line(self, frame: FrameType, what: str, arg: Any) -> Callable[..., Any]:
        if what == "line" and frame.f_lasti <= entries(frame.f_code).get(frame.f_lineno, -1):
            place = (Path(frame.f_code.co_filename).name, frame.f_lineno)
            self.seen[place] = self.seen.get(place, 0) + 1
            if not self.struck and place == self.target and self.seen[place] == self.visit:
                self.struck = True
                raise Struck
        return self._line


def steps(pool: Any) -> Iterator[Callable[[], object]]:
    """Every way through the pool that SQLAlchemy can take."""
    yield lambda: pool.connect().close()
    yield lambda: [pool.connect(), pool.connect()]  # overflow, and dropped
    yield lambda: pool.connect().invalidate()
    yield lambda: pool.connect().detach()
    yield lambda: pool.pooling.acquire().release()
    yield lambda: setattr(pool, "_creator", failing)
    yield lambda: [pool.dispose(), pool.connect()]
    yield pool.pooling.acquire
    yield lambda: setattr(pool, "_creator", creator)
    yield lambda: [pool.connect(), pool.connect(), pool.connect(), pool.connect()]  # one too many
    yield pool.status
    yield pool.dispose
    yield pool.recreate


def run(tracer: Tracer) -> Any:
    pool = FairPool(creator, pool_size=1, max_overflow=SIZE - 1, timeout=0.0)
    for step in steps(pool):
        sys.settrace(tracer)
        try:
            with contextlib.suppress(Struck, sqlite3.OperationalError, pooling.PoolTimeout):
                step()
        finally:
            sys.settrace(None)
        pool._creator = failing if pool._creator is failing else creator
    pool._creator = creator
    return pool


def wrong(tracer: Tracer) -> list[str]:
    """Everything that is not as it should be."""
    pool = run(tracer)
    gc.collect()
    found = []
    try:
        until(lambda: pool.checkedout() == 0)
        pool._timeout = 10.0
        held = [pool.connect() for _ in range(SIZE)]
        for connection in held:
            connection.cursor().execute("SELECT 1")
            connection.close()
        del held, connection
        gc.collect()
        until(lambda: len(alive) == pool.checkedin() == 1)
        pool.pooling.close()
        until(lambda: not alive)
    except (AssertionError, pooling.PoolError) as error:
        found.append(f"{tracer.target} visit {tracer.visit}: {error!r}, {pool.status()}, {len(alive)} open")
        alive.clear()
    return found


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """No other tracer, and nobody who keeps what was raised in a destructor, with all that its frames hold."""
    traced, hook = sys.gettrace(), sys.unraisablehook
    sys.settrace(None)
    sys.unraisablehook = lambda unraisable: None
    alive.clear()
    yield
    sys.unraisablehook = hook
    sys.settrace(traced)


def lines() -> list[tuple[Place, int]]:
    """Every line of ours that is reached, and how often."""
    dry = Tracer()
    assert wrong(dry) == []
    assert len(dry.seen) > 120
    return sorted(dry.seen.items())


def test_an_exception_at_a_line_loses_nothing() -> None:
    found = [fault for place, _ in lines()[::12] for fault in wrong(Tracer(place))]
    assert not found, "\n".join(found)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(4))  # pytest's own patience is with each test
def test_an_exception_at_any_line_loses_nothing(part: int) -> None:
    found = []
    for place, visits in lines()[part::4]:
        for visit in {1, (visits + 1) // 2, visits}:
            found += wrong(Tracer(place, visit))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("function", [FairPool._do_get, FairPool._take_back, PlacePool._acquire_for])
def test_an_exception_that_is_kept_keeps_no_place(function: Any) -> None:
    """As a debugger's is, or a future's, and with it every frame that it has passed: SQLAlchemy's hold the record."""
    pools: list[Any] = []
    kept: list[BaseException] = []

    def use() -> Callable[[], object]:
        pools.append(FairPool(creator, pool_size=1, max_overflow=0, timeout=5.0))
        pools[-1].connect().close()
        return keeping(kept, lambda: (pools[-1].connect().close(), pools[-1].pooling.acquire().release()))

    for line in struck_at_each_line(function, use):
        pools[-1].connect().close()
        assert pools[-1].checkedout() == 0, line
        pools[-1].pooling.close()
    assert kept


@pytest.mark.parametrize("had", [False, True], ids=["a new place", "a place that was invalidated"])
def test_an_interrupt_reaches_the_caller_while_a_failed_connect_is_noted_without_secrets(
    monkeypatch: pytest.MonkeyPatch, had: bool
) -> None:
    """To take them out takes longer than a connect that is refused: while the server is away, Ctrl-C mostly strikes
    there."""

    def strike(_: PlaceFactory) -> list[str]:
        raise Struck

    pool = FairPool(creator, pool_size=1, max_overflow=0, timeout=5.0)
    if had:
        pool.connect().invalidate()
    pool._creator = failing
    with monkeypatch.context() as patched:
        patched.setattr(PlaceFactory, "secrets", strike)
        with pytest.raises(Struck) as kept:
            pool.connect()
    pool._creator = creator
    pool.connect().close()
    assert (pool.checkedin(), pool.checkedout()) == (1, 0), kept
    pool.pooling.close()
