"""One pool on each backend, in a process that is about to fork; and what its sessions are.

A process gets them described in JSON, as :func:`describe` writes it: the pools must be made there, by the code that
users have in theirs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from pooling import Lease, Pool
from tests.backends.adapters import Adapter

VARIABLE = "FORKS_BACKENDS"
SIZE = 3


def describe(backends: Mapping[str, Adapter]) -> str:
    return json.dumps(
        {
            kind: {
                "module": type(backend).__module__,
                "adapter": type(backend).__name__,
                "url": backend.url,
                "folder": str(backend.folder),
                "name": getattr(backend, "name", "forks"),
            }
            for kind, backend in backends.items()
        }
    )


class Pools:
    """The pools by their backends' names. Two sessions of each are opened at once, and one lease is held."""

    def __init__(self, described: str) -> None:
        self._backends: dict[str, Any] = {}
        self._pools: dict[str, Pool[Any]] = {}
        self._held: dict[str, Lease[Any]] = {}
        for kind, one in json.loads(described).items():
            adapter = getattr(import_module(one["module"]), one["adapter"])
            backend = self._backends[kind] = adapter.__new__(adapter)
            backend.name, backend.folder = one["name"], Path(one["folder"])
            self._pools[kind] = backend.open(one["url"], backend.marked(None), max_size=SIZE)

    def use(self) -> dict[str, list[str]]:
        """Ask on two sessions of each at the same time; which sessions these were."""
        return {kind: self._use(self._backends[kind], pool) for kind, pool in self._pools.items()}

    def _use(self, backend: Any, pool: Pool[Any]) -> list[str]:
        with pool.acquire() as first, pool.acquire() as second:
            assert backend.ask(first, 1) == 1
            assert backend.ask(second, 2) == 2
            sessions = {str(backend.session(first)), str(backend.session(second))}
            backend.end(first)
            backend.end(second)
        return sorted(sessions)  # of MongoDB one or two: its client decides which socket an operation takes

    def uses(self) -> list[Callable[[], None]]:
        """A short use of each pool."""

        def of(backend: Any, pool: Pool[Any]) -> Callable[[], None]:
            def use() -> None:
                with pool.acquire() as connection:
                    assert backend.ask(connection, 4) == 4

            return use

        return [of(self._backends[kind], pool) for kind, pool in self._pools.items()]

    def hold(self) -> None:
        """Have a lease of each pool out."""
        self._held = {kind: pool.acquire() for kind, pool in self._pools.items()}

    def let_go(self) -> None:
        """Release those; in a forked child they are the parent's."""
        while self._held:
            self._held.popitem()[1].release()

    def answer(self) -> None:
        """Ask on the sessions that are held."""
        for kind, lease in self._held.items():
            assert self._backends[kind].ask(lease.connection, 3) == 3

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()
