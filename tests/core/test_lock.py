"""The lock that stands in ``with``: whatever strikes on the way in, nobody leaves it taken."""

from __future__ import annotations

import ast
import ctypes
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pooling
from pooling import Pool
from pooling._runtime.lock import EnteredCarefully, let_go, new_lock, under
from pooling._runtime.reaper import Reaper
from pooling._runtime.threads import Threads
from pooling.testing import FakeFactory
from tests.core.helpers import outcome
from tests.waiting import until

STRIKES = 300


class Struck(BaseException):
    """What a signal handler raises, or another thread sends."""


class StruckAfter(EnteredCarefully):
    def acquire(self, *details: Any) -> bool:
        super().acquire(*details)
        raise Struck


class StruckWaiting(EnteredCarefully):
    def acquire(self, *_: Any) -> bool:
        raise Struck


def taken(lock: Any) -> bool:
    """Whether another thread would have to wait for it."""
    found: list[bool] = []

    def look() -> None:
        free = lock.acquire(blocking=False)
        found.append(not free)
        if free:
            lock.release()

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return found.pop()


def test_it_is_taken_within_and_free_after() -> None:
    careful: Any = EnteredCarefully()
    with careful:
        assert careful._is_owned()
        assert taken(careful)
        with careful:  # again, by the same thread
            pass
        assert taken(careful)
    assert not careful._is_owned()
    assert not taken(careful)


@pytest.mark.parametrize("kind", [StruckAfter, StruckWaiting])
def test_what_strikes_on_the_way_in_leaves_it_free(kind: type[Any]) -> None:
    lock = kind()
    with pytest.raises(Struck), lock:
        pytest.fail("the block has begun")
    assert not lock._is_owned()


def test_it_stays_where_it_was_taken_before() -> None:
    lock = StruckAfter()
    EnteredCarefully.acquire(lock)
    with pytest.raises(Struck), lock:
        pytest.fail("the block has begun")
    assert lock._is_owned()
    lock.release()
    assert not lock._is_owned()


@pytest.mark.parametrize("between", [True, False])
def test_where_it_is_not_needed_it_is_threadings(between: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pooling._runtime.lock.STRUCK_BETWEEN", between)
    assert type(new_lock()) is (EnteredCarefully if between else type(threading.RLock()))
    monkeypatch.setattr(threading, "RLock", threading.Lock)  # as gevent puts another kind there
    assert type(new_lock()) is type(threading.Lock())


def test_no_strike_leaves_it_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Python 3.14 they leave threading's own behind before long."""
    for module, hook in ((threading, "excepthook"), (sys, "unraisablehook")):  # threads that end by a strike
        monkeypatch.setattr(module, hook, lambda args: None)
    lock: Any = new_lock()
    rounds: list[int] = []  # an event's own lock would be struck as well

    def use() -> None:
        while True:
            with lock:
                rounds.append(1)

    for number in range(STRIKES):
        rounds.clear()
        thread = threading.Thread(target=use, daemon=True)
        thread.start()
        until(lambda: rounds)
        ident = ctypes.c_ulong(thread.ident or 0)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(Struck))
        thread.join()
        # Asked by this thread: another new one may go by the identity of the one that has ended.
        assert lock.acquire(blocking=False), f"left behind by strike {number}"
        lock.release()


# -- for want of memory the call that leaves it is not made -------------------------------------------------


class Starved(EnteredCarefully):
    """The thread that has said so is starved as it leaves it for the n-th time from then on."""

    starving: tuple[int, int] = 0, 0

    def starve(self, times: int) -> None:
        self.starving = threading.get_ident(), times

    def __exit__(self, *details: object) -> None:
        thread, times = self.starving
        if thread == threading.get_ident():
            self.starving = thread, times - 1
            if times == 1:
                raise MemoryError
        super().__exit__(*details)


def test_one_that_was_left_taken_is_let_go_of() -> None:
    lock = Starved()
    lock.starve(1)
    assert type(outcome(under, lock, int)) is MemoryError
    assert not lock._is_owned()


def test_one_that_a_thread_had_before_stays_with_it() -> None:
    lock = Starved()
    with lock:
        lock.starve(1)
        assert type(outcome(under, lock, int)) is MemoryError
        assert lock._is_owned()
    let_go(lock)
    assert not lock._is_owned()


OPERATIONS: dict[str, Callable[[Any, Any], object]] = {
    "acquire": lambda pool, lease: pool.acquire(timeout=0.01),
    "release": lambda pool, lease: lease.release(),
    "release with an error": lambda pool, lease: lease.__exit__(OSError, OSError(), None),
    "discard": lambda pool, lease: lease.discard(),
    "refresh": lambda pool, lease: lease.refresh(),
    "clear": lambda pool, lease: pool.clear(),
    "stats": lambda pool, lease: pool.stats(),
    "holders": lambda pool, lease: pool.holders(),
    "waiters": lambda pool, lease: pool.waiters(),
    "look": lambda pool, lease: pool.look(),
}


@pytest.mark.parametrize("workers", ["threads", "inline"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_operation_of_a_pool_leaves_it_taken(operation: str, workers: Any) -> None:
    """Nobody else ever got a connection, nor a PoolTimeout: they waited for the lock."""

    class Starving(Threads):
        def lock(self) -> Any:
            return lock

    for times in range(1, 5):
        lock = Starved()
        with Pool(FakeFactory(), runtime=Starving(), max_size=1, workers=workers, timeout=10.0) as pool:
            lease = pool.acquire()
            other = threading.Thread(target=lambda: pool.acquire().release(), daemon=True)
            other.start()
            until(lambda: pool.stats().waiting)
            lock.starve(times)
            struck = type(outcome(OPERATIONS[operation], pool, lease))
            assert times > 1 or struck is MemoryError
            lock.starve(0)
            assert not lock._is_owned()
            del lease
            other.join(20)
            assert not other.is_alive()


@pytest.mark.parametrize("times", range(1, 4))
def test_the_reapers_is_not_left_taken(times: int) -> None:
    reaper = Reaper(at_rest=lambda: None)
    reaper._starting = lock = Starved()
    lock.starve(times)
    for step in (lambda: reaper.alarm(0.0), lambda: reaper.park(5.0), reaper._end):
        outcome(step)
        assert not lock._is_owned()
    lock.starve(0)
    reaper.park(5.0)


LOOPS = (ast.For, ast.While, ast.ListComp, ast.SetComp, ast.DictComp)
PACKAGE = Path(pooling.__file__).parent


def within(node: ast.AST) -> Iterator[ast.AST]:
    """What a node has in it, without what runs in frames of their own."""
    if not isinstance(node, (ast.FunctionDef, ast.Lambda, ast.GeneratorExp)):
        yield node
        for inner in ast.iter_child_nodes(node):
            yield from within(inner)


@pytest.mark.parametrize(
    "path", [path for path in PACKAGE.rglob("*.py") if "cli" not in path.parts], ids=lambda path: path.stem
)
def test_no_loop_stands_where_a_lock_is_taken(path: Path) -> None:
    """From 3.12 on, the jump back at the end of many a loop is in none of the ranges that the "with" around it looks
    after. CPython looks for signals there: struck then, the lock would stay taken. A function of its own has no such
    place, for the call that it is made by lies within."""
    blocks = (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.With))
    locked = [node for node in blocks if any("lock" in ast.unparse(item.context_expr) for item in node.items)]
    steps = (inner for node in locked for step in node.body for inner in within(step))
    assert [step.lineno for step in steps if isinstance(step, LOOPS)] == []
