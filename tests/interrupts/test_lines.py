"""An exception raised at every line of the core, one run per line: no slot is lost, the cap holds, nothing hangs."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pooling import Lease
from pooling._ledger.entry import Entry, Token
from tests.interrupts.lines import SIZE, Place, Tracer, run_traced
from tests.waiting import comes_true

MISSED = "the line was not reached"


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """No other tracer, no report of the threads that are struck, and no garbage to collect but a run's own."""
    known, threading.excepthook = threading.excepthook, lambda args: None
    traced = sys.gettrace()
    sys.settrace(None)
    gc.collect()
    gc.freeze()  # else each run would have all that other tests have left looked through
    yield
    gc.unfreeze()
    threading.excepthook = known
    sys.settrace(traced)


def strike(place: Place, visit: int, *, workers: bool) -> list[str]:
    """Everything that is wrong after an exception at one line."""
    tracer = Tracer(place, visit)
    wrong: list[str] = []
    try:
        pool, factory = run_traced(tracer, workers=workers)
    except Exception as error:
        return [f"{place[0]}:{place[1]} visit {visit}: {error}"]
    gc.collect()
    pool.resume()  # where that itself was struck
    leases = []
    try:
        for _ in range(SIZE):
            leases.append(pool.acquire(timeout=10.0))  # noqa: PERF401  # it matters how many came before an error
    except Exception as error:
        wrong.append(f"only {len(leases)} of {SIZE} slots can be leased: {error}")
    for lease in leases:
        lease.release()
    leases.clear()
    if factory.peak > SIZE and not workers:  # a worker that was struck is written off, its connection beside the cap
        wrong.append(f"{factory.peak} connections were open at once")
    pool.close()
    if not comes_true(lambda: factory.open == 0, 3.0):
        wrong.append(f"{factory.open} connections are open after close()")
    if not tracer.struck:
        return wrong or [MISSED]
    return [f"{place[0]}:{place[1]} visit {visit}: {text}" for text in wrong]


@pytest.mark.timeout(600)
def test_an_exception_at_any_line_of_a_caller_loses_nothing() -> None:
    dry = Tracer()
    pool, factory = run_traced(dry, workers=False)
    pool.close()
    assert factory.open == 0
    assert len(dry.seen) > 300
    strikes = [(place, visit) for place, visits in sorted(dry.seen.items()) for visit in {1, (visits + 1) // 2}]
    # In a thread of its own: an exception that a tracer raises at the "pass" of a handler leaves CPython's 3.11 to 3.13
    # with the handled one as the thread's current exception for good, the context of whatever other tests raise.
    with ThreadPoolExecutor(1) as thread:
        striking = thread.submit(lambda: [strike(place, visit, workers=False) for place, visit in strikes])
    wrong = [text for found in striking.result() for text in found]
    # On a busy machine a few lines fall to the pool's threads in one run and to the caller in another.
    assert wrong.count(MISSED) < len(dry.seen) / 10
    assert set(wrong) <= {MISSED}, "\n".join(wrong)


@pytest.mark.timeout(600)
def test_an_exception_at_any_line_of_the_pools_own_threads_is_mended() -> None:
    """No signal strikes them; a debugger can. What they were at is mended after it counts as hung."""
    dry = Tracer()
    run_traced(dry, workers=True)[0].close()
    wrong = []
    for place in sorted(dry.seen):
        wrong += strike(place, 1, workers=True)
    assert set(wrong) <= {MISSED}, "\n".join(wrong)


def test_the_check_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool that keeps tokens in a register of its own, where nobody owns them, is found out."""
    register: list[object] = []
    plain = Entry.mint

    def keeping(self: Entry[object], *callbacks: Any) -> Token[object]:
        token = plain(self, *callbacks)
        register.append(token)
        return token

    tracer = Tracer()
    run_traced(tracer, workers=False)[0].close()
    monkeypatch.setattr(Entry, "mint", keeping)
    begun = "lease.py", Lease._leave.__code__.co_firstlineno
    places = [place for place in sorted(tracer.seen) if place > begun][:1]  # each costs a timeout
    assert [wrong for place in places for wrong in strike(place, 1, workers=False)]
