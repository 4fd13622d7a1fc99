"""One thread, and two at the same time, each with a connection idle for it: what a second processor brings.

Beside the interpreter's lock it brings nothing, and the two pay for taking turns. On a free-threaded build the figure
says how much the threads of a pool still have in common.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from time import perf_counter

from benchmarks.crowd import together
from benchmarks.peer import Peer
from benchmarks.peers import installed
from benchmarks.rows import Family, Row, Settings, in_turn, ratio, row
from benchmarks.stubs import Server

SCENARIO = "cores"
SIZE = 4  # connections open and idle: more than anybody needs
SAMPLE = 0.2  # seconds that one takes: many times as long as a thread may keep the interpreter to itself


def run(settings: Settings) -> Iterator[Row]:
    with ExitStack() as stack:
        peers: dict[str, Peer] = {}
        for name, kind in installed().items():
            peers[name] = peer = kind(Server(), SIZE)
            stack.callback(peer.close)
            peer.warm(SIZE)
        rates: dict[tuple[str, int], list[float]] = {(name, threads): [] for name in peers for threads in (1, 2)}
        seconds = SAMPLE / 20 if settings.quick else SAMPLE
        for number, names in enumerate(in_turn(list(peers), settings.rounds), 1):
            settings.say(f"{SCENARIO}: {number} of {settings.rounds}")
            for name in names:
                cycles = peers[name].cycles_in(seconds, perf_counter)
                for threads in (1, 2):
                    rates[name, threads].append(_rate(peers[name], threads, cycles))
    for (name, threads), found in rates.items():
        yield row(SCENARIO, name, "cycles", "1/s", found, threads)
    for name in peers:
        yield ratio(SCENARIO, name, "cycles of two threads to one's", rates[name, 2], rates[name, 1])


def _rate(peer: Peer, threads: int, cycles: int) -> float:
    """Cycles a second of so many threads together, each of which makes so many."""
    began = together(threads, lambda: peer.spin(cycles))
    peer.catch_up()
    return threads * cycles / (perf_counter() - began)


FAMILY = Family("cores", "two threads beside one", run, plots=("cycles of two threads to one's",))
