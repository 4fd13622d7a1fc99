"""A process that forks while it has pools on every backend, and does what it is told, a line at a time.

``use``: its sessions. ``fork HOW``: a child that uses the pools and waits; its sessions. ``end ENDING``: that child's
end. ``traffic``: threads that use the pools all the time, until ``quiet``, which tells how often they did.
``patience``: from now on a fork waits longer for the pools' threads to end. Each line is answered by one of JSON.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from pooling._runtime import threads
from tests.forks.pools import VARIABLE, Pools

FORKING = multiprocessing.get_context("fork")
ENDINGS: dict[str, Callable[[Pools], object]] = {
    "sys.exit": lambda pools: sys.exit(0),
    "os._exit": lambda pools: os._exit(0),
    "pool.close": lambda pools: (pools.close(), os._exit(0)),
    "kill": lambda pools: os.kill(os.getpid(), signal.SIGKILL),
    "exec": lambda pools: os.execv(sys.executable, [sys.executable, "-c", ""]),
    "subprocess": lambda pools: (subprocess.run([sys.executable, "-c", ""], check=True), os._exit(0)),
}


class Traffic:
    """A thread for each pool, which uses it again and again."""

    def __init__(self, pools: Pools) -> None:
        self._ends = threading.Event()
        self._counts: list[int] = []
        self._threads = [threading.Thread(target=self._run, args=(use,)) for use in pools.uses()]
        for thread in self._threads:
            thread.start()

    def _run(self, use: Callable[[], None]) -> None:
        count = 0
        while not self._ends.is_set():
            use()
            count += 1
            time.sleep(0.001)  # without it the child would hardly come to anything
        self._counts.append(count)

    def end(self) -> list[int]:
        self._ends.set()
        for thread in self._threads:
            thread.join(30)
        return self._counts


def child(pools: Pools, line: Connection) -> None:
    """A child's life: the parent's pools are used, its leases released, and then it ends as it is told."""
    try:
        line.send(pools.use())
        pools.let_go()
        line.send(pools.use())
        ENDINGS[line.recv()](pools)
    except Exception:
        traceback.print_exc()
        os._exit(1)


def by_fork(pools: Pools, line: Connection, mine: Connection) -> Callable[[], int]:
    pid = os.fork()
    if pid == 0:
        mine.close()
        try:
            child(pools, line)
        except SystemExit:  # as in a program of its own: through the end of the interpreter
            sys.exit(0)
    return lambda: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def by_process(pools: Pools, line: Connection, mine: Connection) -> Callable[[], int]:
    process = FORKING.Process(target=child, args=(pools, line))
    process.start()

    def wait() -> int:
        process.join()
        assert process.exitcode is not None  # join() has waited for it
        return process.exitcode

    return wait


def by_pool(pools: Pools, line: Connection, mine: Connection) -> Callable[[], int]:
    """Two worker processes at once, which end when the pool of processes does."""
    with FORKING.Pool(2) as workers:
        for sessions in workers.imap_unordered(_use, range(6), chunksize=1):
            line.send(sessions)
        workers.close()
        workers.join()
    return lambda: 0


def _use(_: int) -> dict[str, list[str]]:
    return POOLS.use()


WAYS = {"os.fork": by_fork, "multiprocessing.Process": by_process}


POOLS = Pools(os.environ[VARIABLE])  # like an application's: alive until the process ends


def main() -> None:
    pools = POOLS
    pools.use()
    pools.hold()
    waits: Callable[[], int] = lambda: 0  # noqa: E731  # replaced by each fork
    traffic: Traffic
    mine, line = FORKING.Pipe()
    for order in sys.stdin:
        what, _, argument = order.strip().partition(" ")
        answer: Any = None
        if what == "use":
            pools.answer()
            answer = pools.use()
        elif what == "patience":
            threads.AT_FORK = 10.0
        elif what == "traffic":
            traffic = Traffic(pools)
        elif what == "quiet":
            answer = traffic.end()
        elif what == "fork" and argument == "multiprocessing.Pool":
            by_pool(pools, line, mine)
            answer = [mine.recv() for _ in range(6)]
        elif what == "fork":
            waits = WAYS[argument](pools, line, mine)
            answer = [mine.recv(), mine.recv()]
        elif what == "end":
            mine.send(argument)
            answer = waits()
        print(json.dumps(answer), flush=True)
    pools.let_go()
    pools.close()


if __name__ == "__main__":
    main()
