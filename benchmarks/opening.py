"""When there are too few connections: how fast a pool opens them, how many, and whether callers wait for it.

The stub server takes a fixed time for a connect, so every total has an ideal that follows from arithmetic.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from time import perf_counter, sleep

from benchmarks.crowd import together
from benchmarks.peer import Peer
from benchmarks.peers import contenders
from benchmarks.rows import Family, Row, Settings, in_turn, row
from benchmarks.stubs import Server

Measure = Callable[[type[Peer]], dict[str, float]]

SPIKE, RAMP, FIRST, HANG = "spike", "ramp", "whichever comes first", "connect hangs"
CALLERS = 50
SETTLE = 0.05  # seconds for pools to come to rest after warming: their workers report after the caller has its own
BEYOND = 1.0  # seconds that a connect hangs on after the caller's time is over
EARLY = 0.005  # seconds before its time that an acquire may end: less than the shortest timeout but 0
TIMEOUTS = (0.0, 0.01, 0.1, 1.0)


def run(settings: Settings) -> Iterator[Row]:
    yield from _scenario(SPIKE, spike, settings, {"total": "ms", "opened": "connections"})
    yield from _scenario(RAMP, ramp, settings, {"total": "ms"})
    yield from _scenario(FIRST, whichever_first, settings, {"after the return": "ms"})
    for timeout in TIMEOUTS[:3] if settings.quick else TIMEOUTS:
        yield from _scenario(HANG, partial(hang, timeout=timeout), settings, {"past the timeout": "ms"}, at=timeout)


def _scenario(
    scenario: str, measure: Measure, settings: Settings, units: dict[str, str], at: float | None = None
) -> Iterator[Row]:
    kinds = {name: kind for name, kind in contenders().items() if scenario != HANG or kind.bounded}
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in kinds}
    for number, names in enumerate(in_turn(list(kinds), settings.rounds), 1):
        for name in names:
            settings.say(f"{scenario}: round {number}, {name}")
            samples[name].append(measure(kinds[name]))
    for figure, unit in units.items():
        for name, found in samples.items():
            yield row(scenario, name, figure, unit, [one[figure] for one in found], at)


def spike(kind: type[Peer]) -> dict[str, float]:
    """5 idle of at most 50, 50 callers at once, use 2 ms, connect 150 ms. Five connections serve them in ten turns
    of 2 ms; whoever waits for its own connect takes 150."""
    with _prepared(kind, size=50, warm=5, delay=0.150) as (server, peer):
        opened = server.opened

        def use() -> None:
            held = peer.acquire()
            sleep(0.002)
            peer.release(held)

        began = together(CALLERS, use)
        return {"total": 1000 * (perf_counter() - began), "opened": server.opened - opened}


def ramp(kind: type[Peer]) -> dict[str, float]:
    """From 1 connection to 50 that are held, connect 50 ms: nobody gives back before all have one."""
    everybody = threading.Barrier(CALLERS)
    with _prepared(kind, size=50, warm=1, delay=0.050) as (_, peer):

        def use() -> None:
            try:
                held = peer.acquire()
            except Exception:
                everybody.abort()  # nobody is to wait for this one
                raise
            with suppress(threading.BrokenBarrierError):  # whoever broke it says why
                everybody.wait()
            peer.release(held)

        began = together(CALLERS, use)
        return {"total": 1000 * (perf_counter() - began)}


def whichever_first(kind: type[Peer]) -> dict[str, float]:
    """A caller whose own demand has begun a connect of 1 s; after 30 ms another gives a connection back. How long
    after that return the caller has a connection."""
    with _prepared(kind, size=2, warm=1, delay=1.0) as (_, peer):
        held = peer.acquire()
        served: list[float] = []

        def caller() -> None:
            got = peer.acquire()
            served.append(perf_counter())
            peer.release(got)

        thread = threading.Thread(target=caller, daemon=True)
        thread.start()
        sleep(0.030)
        returned = perf_counter()
        peer.release(held)
        thread.join()
        return {"after the return": 1000 * (served[0] - returned)}


def hang(kind: type[Peer], timeout: float) -> dict[str, float]:
    """A connect that hangs for 1 s longer than the caller is ready to wait: by how much the caller overstays."""
    with _prepared(kind, size=2, delay=timeout + BEYOND, timeout=timeout) as (_, peer):
        began = perf_counter()
        try:
            held = peer.acquire()
        except Exception:
            held = None  # each pool raises an error of its own; only the time counts
        over = perf_counter() - began - timeout
        if over < -EARLY:
            raise RuntimeError(f"{kind.name} ended an acquire {-over:.3f} s before its time")
        if held is not None:
            peer.release(held)
        return {"past the timeout": 1000 * over}


@contextmanager
def _prepared(
    kind: type[Peer], *, size: int, warm: int = 0, delay: float, timeout: float = 60.0
) -> Iterator[tuple[Server, Peer]]:
    """A pool with so many idle connections; from now on a connect takes ``delay`` seconds."""
    server = Server()
    peer = kind(server, size, timeout)
    try:
        if warm:
            peer.warm(warm)
            sleep(SETTLE)
        server.delay = delay
        yield server, peer
    finally:
        server.end()
        peer.close()


FAMILY = Family(
    "opening",
    "spike, ramp, whichever comes first, a connect that hangs",
    run,
    plots=("total", "opened", "after the return", "past the timeout"),
    axis="timeout, s",
)
