"""Run by the contract suite in an interpreter of its own, as a fork wants."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import traceback
from importlib import import_module
from pathlib import Path
from typing import IO, Any


def taken_again() -> list[IO[bytes]]:
    """Close every descriptor, as who becomes a daemon does; files that have their numbers now."""
    os.closerange(3, 100)
    return [tempfile.TemporaryFile(buffering=0) for _ in range(97)]


def check(files: list[IO[bytes]]) -> None:
    """Nobody else has closed one."""
    for file in files:
        file.write(b"a line")
        assert os.fstat(file.fileno()).st_size == 6, "it leads elsewhere by now"


def main(kind: str, url: str, folder: str, ending: str, name: str = "forking") -> None:
    """``kind`` is an adapter's class, ``module:name`` where it is in another module than the first ones."""
    module, _, cls = kind.rpartition(":")
    adapter = getattr(import_module(module or "tests.backends.adapters"), cls)
    backend: Any = adapter.__new__(adapter)
    backend.name, backend.folder = name, Path(folder)
    pool = backend.open(url, backend.marked(None), max_size=2)

    with pool.acquire() as used, pool.acquire() as idle:
        sessions = {backend.session(used), backend.session(idle)}
    lease = pool.acquire()  # in use at the moment of the fork

    child = os.fork()
    if child == 0:
        code = 1
        try:
            files = taken_again() if ending == "daemon" else []
            with pool.acquire() as first, pool.acquire() as second:
                assert backend.ask(first, 1) == 1
                assert backend.ask(second, 2) == 2
                assert not {backend.session(first), backend.session(second)} & sessions
            lease.release()  # the parent's: no concern of this process
            pool.close()
            del used, idle, first, second, lease, pool
            gc.collect()  # whose destructors close descriptors by their numbers
            check(files)
            code = 0
        except BaseException:
            traceback.print_exc()
        if ending == "exit":
            sys.exit(code)
        os._exit(code)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert backend.ask(lease.connection, 3) == 3
    lease.release()
    with pool.acquire() as used, pool.acquire() as idle:
        assert {backend.session(used), backend.session(idle)} == sessions
        assert backend.ask(used, 4) == 4
        assert backend.ask(idle, 5) == 5
    pool.close()
