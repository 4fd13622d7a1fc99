"""One thread, a connection always idle: what a cycle of acquire and release costs by itself.

Ours runs with everything on, see peers.Ours. Every figure is also a ratio to the floor, measured in the same
rounds: on a busy machine the ratio is what can be compared. The clock is the thread's own processor time: nobody
waits here, so what it leaves out is other processes having the processor.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import ExitStack
from statistics import median
from time import thread_time

from benchmarks.peer import Peer
from benchmarks.peers import Floor, Ours, Psycopg, PsycopgContext, SQLAlchemy, installed
from benchmarks.rows import OURS, Family, Row, Settings, in_turn, ratio, row
from benchmarks.stubs import Server

SCENARIO = "uncontended"
SIZE = 10  # connections open and idle
SAMPLES = 12  # of each peer in a round: many short ones, so that a disturbance spoils few
SAMPLE = 0.01  # seconds that one takes


def run(settings: Settings) -> Iterator[Row]:
    with ExitStack() as stack:
        peers = {name: _warm(kind, stack) for name, kind in installed().items()}
        samples = _measure(peers, settings)
    for name in peers:
        yield row(SCENARIO, name, "cycle", "µs", [1e6 * one for one in samples[name]])
    for name in peers:
        yield ratio(SCENARIO, name, "ratio to the floor", samples[name], samples[Floor.name])
    yield from _beside(samples)


def _warm(kind: type[Peer], stack: ExitStack) -> Peer:
    peer = kind(Server(), SIZE)
    stack.callback(peer.close)
    peer.warm(SIZE)
    return peer


def _measure(peers: dict[str, Peer], settings: Settings) -> dict[str, list[float]]:
    """Seconds a cycle, so many samples of each peer."""
    seconds = SAMPLE / 5 if settings.quick else SAMPLE
    cycles = {name: peer.cycles_in(seconds, thread_time) for name, peer in peers.items()}
    samples: dict[str, list[float]] = {name: [] for name in peers}
    rounds = settings.rounds * SAMPLES
    gc.collect()  # what building them left behind is not to be collected while one of them runs
    for number, names in enumerate(in_turn(list(peers), rounds), 1):
        settings.say(f"{SCENARIO}: {number} of {rounds}")
        for name in names:
            began = thread_time()
            peers[name].spin(cycles[name])
            peers[name].catch_up()
            samples[name].append((thread_time() - began) / cycles[name])
    return samples


def _beside(samples: dict[str, list[float]]) -> Iterator[Row]:
    """Ours as a part of what others take."""
    for kind in (Psycopg, PsycopgContext, SQLAlchemy):
        if kind.name in samples:
            yield ratio(SCENARIO, OURS, f"part of {kind.name}", samples[OURS], samples[kind.name])
    others = [name for name, kind in installed().items() if not issubclass(kind, (Floor, Ours))]
    fastest = min(others, key=lambda name: median(samples[name]))
    yield ratio(SCENARIO, OURS, "part of the fastest peer", samples[OURS], samples[fastest])


FAMILY = Family("uncontended", "one thread, a connection always idle", run, plots=("ratio to the floor",))
