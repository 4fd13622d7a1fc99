"""Does anything cost more because there are many: connections, waiters, idle ones to reap? And what do they weigh?"""

from __future__ import annotations

import gc
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from statistics import median
from time import perf_counter, process_time, sleep, thread_time
from typing import Any

from benchmarks.peer import Peer
from benchmarks.peers import Ours, contenders, installed
from benchmarks.rows import OURS, Family, Row, Settings, in_turn, ratio, row
from benchmarks.stubs import Server, Stub

CYCLE, CHAIN, MEMORY, REAP = "many connections", "many waiters", "memory", "reaping"
BATON = "a baton of locks"
STACK = 256 * 1024  # bytes of a waiting thread's stack: 10,000 of the usual 8 MB are more than many systems map
IDLE = 0.5  # seconds after which the pool that is reaped closes what is idle
PATIENCE = 60  # seconds after which it is taken for broken
SAMPLES = 6  # of each peer in a round
CYCLES = 2_000  # in a sample


def run(settings: Settings) -> Iterator[Row]:
    many = 1_000 if settings.quick else 10_000
    yield from _cycles(settings, many)
    yield from _chains(settings, many)
    yield from _memory(settings, many // 10)
    yield from _reaping(settings, many)


# -- a cycle beside many idle connections ---------------------------------------------------------------------


def _cycles(settings: Settings, many: int) -> Iterator[Row]:
    sizes = (10, 1_000, many) if many > 1_000 else (10, many)
    with ExitStack() as stack:
        peers = {
            name: {size: _filled(kind, size, stack, settings) for size in sizes} for name, kind in installed().items()
        }
        samples: dict[tuple[str, int], list[float]] = {(name, size): [] for name in peers for size in sizes}
        gc.collect()
        for number, names in enumerate(in_turn(list(peers), settings.rounds * SAMPLES), 1):
            settings.say(f"{CYCLE}: sample {number}")
            for name in names:
                # The sizes one right after the other, so that their ratio is of the same moment.
                for size, peer in peers[name].items():
                    samples[name, size].append(_cycle(peer))
    for (name, size), found in samples.items():
        yield row(CYCLE, name, "cycle", "µs", [1e6 * one for one in found], size)
    for (name, size), found in samples.items():
        if size > sizes[0]:
            yield ratio(CYCLE, name, "cycle to that at 10", found, samples[name, sizes[0]], size)


def _filled(kind: type[Peer], size: int, stack: ExitStack, settings: Settings) -> Peer:
    settings.say(f"{CYCLE}: {kind.name} opens {size}")
    peer = kind(Server(), size)
    stack.callback(peer.close)
    peer.warm(size)
    peer.spin(500)
    return peer


def _cycle(peer: Peer) -> float:
    began = thread_time()  # nobody waits here
    peer.spin(CYCLES)
    return (thread_time() - began) / CYCLES


# -- a hand-off beside many waiters -----------------------------------------------------------------------------


def _chains(settings: Settings, many: int) -> Iterator[Row]:
    """One connection goes through the hands of all that wait for it: time for each hand-off. The baton is the same
    with a lock for each thread and no pool: what so many threads cost the system in any case."""
    kinds = contenders()
    samples: dict[tuple[str, int], list[float]] = {(n, w): [] for n in [BATON, *kinds] for w in (10, many)}
    for number, names in enumerate(in_turn([BATON, *kinds], settings.rounds), 1):
        for name in names:
            for waiters in (10, many):
                settings.say(f"{CHAIN}: round {number}, {name}, {waiters} waiters")
                # Ten hand-offs are over in no time: only many chains of them make a sample.
                times = [_chain(kinds.get(name), waiters) for _ in range(20 if waiters == 10 else 1)]
                samples[name, waiters].append(median(times))
    for (name, waiters), found in samples.items():
        yield row(CHAIN, name, "hand-off", "µs", [1e6 * one for one in found], waiters)
        if name != BATON:
            yield ratio(CHAIN, name, "hand-off to the baton", found, samples[BATON, waiters], waiters)
    for name in [BATON, *kinds]:
        yield ratio(CHAIN, name, "hand-off to that at 10", samples[name, many], samples[name, 10], many)
    growth = {
        name: [large / small for large, small in zip(samples[name, many], samples[name, 10], strict=True)]
        for name in [BATON, *kinds]
    }
    for name in kinds:
        yield ratio(CHAIN, name, "growth to the baton's", growth[name], growth[BATON], many)


def _chain(kind: type[Peer] | None, waiters: int) -> float:
    """Seconds a hand-off, from the first release to the last waiter's."""
    if kind is None:
        locks = [threading.Lock() for _ in range(waiters + 1)]
        for lock in locks:
            lock.acquire()
        return _pass_on(
            waiters, lambda number: locks[number].acquire(), lambda number, _: locks[number + 1].release(),
            locks[0].release,
        )  # fmt: skip  # waiting, passing on, beginning
    peer = kind(Server(), 1, timeout=300.0)
    try:
        held = peer.acquire()
        return _pass_on(waiters, lambda _: peer.acquire(), lambda _, got: peer.release(got), lambda: peer.release(held))
    finally:
        peer.close()


def _pass_on(
    waiters: int,
    take: Callable[[int], Any],
    give: Callable[[int, Any], None],
    begin: Callable[[], None],
) -> float:
    # A thread that ends costs time, and that is not the pool's: each stays until it is called by itself. An event for
    # all of them would have thousands of threads fight for the interpreter at once, for seconds.
    ends = [threading.Lock() for _ in range(waiters)]
    times: list[float] = []

    def waiter(number: int) -> None:
        got = take(number)
        give(number, got)
        times.append(perf_counter())
        ends[number].acquire()

    for end in ends:
        end.acquire()
    threads = _start(waiter, waiters)
    began = perf_counter()
    begin()
    while len(times) < waiters:
        sleep(0.001 if waiters > 10 else 0.0001)
    for end, thread in zip(ends, threads, strict=True):
        end.release()
        thread.join()
    return (max(times) - began) / waiters


def _start(target: Callable[[int], None], count: int) -> list[threading.Thread]:
    """So many threads, each blocked by what it does first (which nobody can see from outside: they get time)."""
    before = threading.stack_size(STACK)
    try:
        threads = [threading.Thread(target=target, args=(number,), daemon=True) for number in range(count)]
        for thread in threads:
            thread.start()
    finally:
        threading.stack_size(before)
    sleep(0.01 + count / 20_000)
    return threads


# -- what they weigh --------------------------------------------------------------------------------------------


def _memory(settings: Settings, count: int) -> Iterator[Row]:
    settings.say(f"{MEMORY}: per idle connection")
    kinds = {name: kind for name, kind in installed().items() if not _variant(kind)}
    stubs = _traced(lambda: [Stub(server) for server in [Server()] for _ in range(count)])
    for name, kind in kinds.items():
        yield Row(MEMORY, name, "per idle connection", "bytes", (_idle(kind, count) - stubs) / count, 0.0)
    bare = _waiting(None, count)
    for name, kind in contenders().items():
        settings.say(f"{MEMORY}: per waiter, {name}")
        yield Row(MEMORY, name, "per waiter", "bytes", (_waiting(kind, count) - bare) / count, 0.0)


def _variant(kind: type[Peer]) -> bool:
    """Whether it is another peer's pool used in another way."""
    return kind.__base__ is not Peer and not kind.contends


def _idle(kind: type[Peer], count: int) -> int:
    def build() -> Peer:
        peer = kind(Server(), count)
        peer.warm(count)
        return peer

    kind(Server(), 1).close()  # imports its package
    return _traced(build, close=lambda peer: peer.close())


def _traced(build: Callable[[], Any], close: Callable[[Any], None] = lambda _: None) -> int:
    """Bytes that Python has allocated for what is built, rubbish not counted."""
    tracemalloc.start()
    try:
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        built = build()
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    close(built)
    return after - before


def _waiting(kind: type[Peer] | None, count: int) -> int:
    """Bytes that so many waiting threads take, those of the threads themselves included."""
    peer = kind(Server(), 1, timeout=300.0) if kind else None
    lock = threading.Lock()
    held = peer.acquire() if peer else lock.acquire()

    def waiter(_: int) -> None:
        if peer is None:
            with lock:
                return
        peer.release(peer.acquire())

    def end(threads: list[threading.Thread]) -> None:
        if peer is None:
            lock.release()
        else:
            peer.release(held)
        for thread in threads:
            thread.join()

    weight = _traced(lambda: _start(waiter, count), end)
    if peer is not None:
        peer.close()
    return weight


# -- closing what has been idle for too long --------------------------------------------------------------------


def _reaping(settings: Settings, many: int) -> Iterator[Row]:
    """Ours alone: of the peers only psycopg_pool closes idle connections, one in each ten minutes."""
    few = many // 10
    costs: dict[int, list[float]] = {few: [], many: []}
    stalls: list[float] = []
    for number in range(1, settings.rounds + 1):
        for count, found in costs.items():
            settings.say(f"{REAP}: round {number}, {count} idle")
            found.append(1e6 * _reap(count)[0] / count)
        stalls.append(1000 * _reap(many, beside=True)[1])
    for count, found in costs.items():
        yield row(REAP, OURS, "processor time a connection", "µs", found, count)
    yield ratio(REAP, OURS, f"a connection to that at {few}", costs[many], costs[few], many)
    yield row(REAP, OURS, "longest cycle beside it", "ms", stalls, many)


def _reap(count: int, *, beside: bool = False) -> tuple[float, float]:
    """Have so many idle connections closed: processor seconds, and the longest cycle of a user ``beside`` it."""
    server = Server()
    peer = Ours(server, count, idle_timeout=IDLE)
    longest = 0.0
    try:
        peer.warm(count)
        began = process_time()
        left = 1 if beside else 0
        end = perf_counter() + PATIENCE
        while server.closed < count - left:
            if perf_counter() > end:
                raise RuntimeError(f"{server.closed} of {count} idle connections were closed in {PATIENCE} s")
            if beside:
                start = perf_counter()
                peer.release(peer.acquire())
                longest = max(longest, perf_counter() - start)
            sleep(0.001 if beside else 0.02)
        return process_time() - began, longest
    finally:
        peer.close()


FAMILY = Family(
    "scale",
    "10,000 connections, 10,000 waiters, reaping, memory",
    run,
    plots=("cycle", "hand-off", "per idle connection", "per waiter"),
    axis="how many",
)
