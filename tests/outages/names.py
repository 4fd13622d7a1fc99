"""Run by test_hang.py in a process of its own: pools whose server has a name that is looked up without an end.

names.py nobody URL…     the nameserver of this process's world never answers; the look-ups end after three seconds
names.py patched URL…    Python's own look-up blocks until it is let go, and finds the server then
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from typing import Any

from pooling import ConnectError, Pool, PoolTimeout, create_pool
from tests.waiting import until

NAME = "db.internal.example"
SIZE = 3  # connections of each pool
GIVEN_UP = 0.3  # seconds: connect_timeout, after twice of which a look-up is written off
LATE = 2.0  # seconds by which a loaded machine may be late


def ask_for(pools: list[Pool[Any]], seconds: float) -> None:
    """Every acquire of these ends in time: by a timeout, or by what the driver said."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for pool in pools:
            before = time.monotonic()
            try:
                pool.acquire(0.1).release()
            except (PoolTimeout, ConnectError):
                pass
            took = time.monotonic() - before
            assert took < 0.1 + LATE, (pool.name, took)


def main(mode: str, *urls: str) -> None:
    let_go, look_up = threading.Event(), socket.getaddrinfo

    def blocked(host: Any, *args: Any, **options: Any) -> Any:
        let_go.wait(60.0)
        return look_up("127.0.0.1" if host == NAME else host, *args, **options)

    if mode == "patched":
        socket.getaddrinfo = blocked
    else:
        nameserver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        nameserver.bind(("127.0.0.1", 53))
    pools = [create_pool(url, max_size=SIZE, connect_timeout=GIVEN_UP, fail_after=None) for url in urls]
    ask_for(pools, 1.8)
    for pool in pools:
        stats = pool.stats()
        assert stats.hung <= SIZE, (pool.name, stats)
        assert stats.opened == 0
        monitored = "Mongo" in type(pool._factory).__name__  # there PyMongo's monitors look names up, not our workers
        assert monitored or stats.hung + stats.connecting > 0, (pool.name, stats)
    workers = [thread.name for thread in threading.enumerate() if thread.name.startswith("pooling-worker")]
    assert len(workers) <= 2 * SIZE * len(pools), workers
    let_go.set()
    until(lambda: not any(pool.stats().hung for pool in pools), "what was stuck comes back")
    for pool in pools if mode == "patched" else ():
        pool.acquire(20.0).release()
    for pool in pools:
        pool.close()
    print("all well", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
