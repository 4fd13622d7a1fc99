"""One peer in a process of its own, its figures printed as JSON.

``python -m benchmarks.probe start NAME``: what its construction and its first acquire take.
``python -m benchmarks.probe rest NAME SETTLE SECONDS``: what it does while nobody does anything with it.
"""

from __future__ import annotations

import json
import sys
import threading
from time import perf_counter, process_time, sleep

from benchmarks.peers import ALL
from benchmarks.stubs import Server

SIZE = 10
KINDS = {kind.name: kind for kind in ALL}  # none of the others' packages is to be imported here


def start(name: str) -> dict[str, float]:
    kind = KINDS[name]
    kind(Server(), 1).close()  # what it imports is another figure
    began = perf_counter()
    peer = kind(Server(), SIZE)
    built = perf_counter()
    peer.release(peer.acquire())
    acquired = perf_counter()
    peer.close()
    return {"construction": built - began, "first acquire": acquired - built}


def rest(name: str, settle: float, seconds: float) -> dict[str, float]:
    peer = KINDS[name](Server(), SIZE)
    peer.warm(SIZE)
    sleep(settle)
    wakes, processor = _switches(), process_time()
    sleep(seconds)
    figures = {
        "wake-ups": (_switches() - wakes - 1) / seconds,  # one is our own, from the sleep
        "processor time": (process_time() - processor) / seconds,
        "threads": float(threading.active_count() - 1),
    }
    peer.close()
    return figures


def _switches() -> int:
    """How often threads of this process went to sleep so far: each time, one had woken up."""
    try:
        import resource
    except ImportError:
        return 0  # Windows
    return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw


if __name__ == "__main__":
    what, name, *times = sys.argv[1:]
    print(json.dumps(start(name) if what == "start" else rest(name, *map(float, times))))
