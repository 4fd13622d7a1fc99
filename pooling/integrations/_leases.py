"""The leases of one request: each taken at its first use, all ended together."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pooling._clock import DEFAULT, Timeout
from pooling._holders import Between
from pooling.config import nearest
from pooling.errors import PoolError
from pooling.lease import Lease, Transaction
from pooling.pool import Pool

SOLE = "default"
"""The name a pool goes by that was given alone, and of the one that is meant where several are there and none is
named."""

_BETWEEN = Between("contextlib")  # the latter where a transaction is entered

Pools = Mapping[str, Pool[Any]]


class Leases:
    """The leases of one request, at most one on each pool.

    Any thread may use it while the request lasts. The connections belong to the request: they go back by themselves at
    its end, and may go back earlier by :meth:`release`.
    """

    # Threads of one request may come at once. There is no lock, as an acquire may wait for long and the end of the
    # request must not wait for it: setdefault() and popitem() of a dict are atomic, and whoever loses gives back.
    __slots__ = ("__weakref__", "_begin", "_begun", "_held", "_over", "_pools", "_timeout")

    def __init__(self, pools: Pools, timeout: Timeout = DEFAULT, *, begin: Container[str] = ()) -> None:
        self._pools = pools
        self._timeout = timeout
        self._begin = begin  # the pools whose leases start with a transaction, which _settle() ends
        self._held: dict[str, Lease[Any]] = {}
        self._begun: dict[str, Lease[Any]] = {}  # those with a transaction of ours
        self._over = False

    def connection(self, name: str | None = None) -> Any:
        """The request's connection, the driver's own object; taken from the pool at the first call.

        ``name`` chooses among several pools; without it the only one, or the one called ``"default"``. Raises what
        :meth:`pooling.Pool.acquire` raises, LookupError for an unknown name, PoolError once the request is over.
        """
        return self.lease(name).connection

    def lease(self, name: str | None = None) -> Lease[Any]:
        """The lease itself, for ``refresh()`` and ``discard()``. After an end by hand the next call takes a new one.

        Raises as :meth:`connection` does.
        """
        chosen = self._chosen(name)
        held = self._held.get(chosen)
        if held is not None and not held.ended and not held._is_parents:
            return held
        return self._take(chosen)

    @contextmanager
    def transaction(self, name: str | None = None) -> Iterator[Any]:
        """A transaction on the request's connection: commits at the end of the ``with``, rolls back on an exception.

        Raises as :meth:`connection` does, what the driver's commit raises, and PoolError inside another one.
        """
        chosen, lease = self._chosen(name), self.lease(name)
        if self._begun.get(chosen) is lease:
            raise PoolError("a transaction is open already on this request's connection")
        Transaction._begin(lease)
        self._begun[chosen] = lease
        try:
            yield lease.connection
        except BaseException as error:
            self._finish(chosen, commit=False, error=error)
            raise
        self._finish(chosen, commit=True)

    def release(self) -> None:
        """Give the connections back now, for instance before slow work that needs none. A later use takes new ones."""
        self._give_back(None)

    def _settle(self, *, commit: bool) -> None:
        """End the transactions that were begun, in the order of their beginning. Raises what a commit raises; those
        after it are rolled back then."""
        for name in list(self._begun):
            try:
                self._finish(name, commit=commit)
            except BaseException:
                self._settle(commit=False)
                raise

    def _end(self, error: BaseException | None = None) -> None:
        """The request is over, by ``error`` if it failed: nothing more is taken, everything goes back. May be called
        again."""
        self._over = True  # before the look at what is held: see _take()
        self._give_back(error)

    @property
    def _any(self) -> bool:
        """Whether a lease is held."""
        return bool(self._held)

    def _chosen(self, name: str | None) -> str:
        if name is not None:
            return name
        return next(iter(self._pools)) if len(self._pools) == 1 else SOLE

    def _take(self, name: str) -> Lease[Any]:
        self._check_over()
        if name not in self._pools:
            known = list(self._pools)
            raise LookupError(f"no pool is called {name!r}{nearest(name, known)} (known: {', '.join(known)})")
        self._held.pop(name, None)  # one that has ended by hand
        lease = self._pools[name]._acquire_for(_BETWEEN.outside(), self._timeout)
        begin = name in self._begin
        if begin:
            Transaction._begin(lease)
        kept = self._held.setdefault(name, lease)
        if kept is not lease:
            lease.discard()  # another thread of this request was first; this one may be in a transaction
        elif begin:
            self._begun[name] = lease
        self._check_over()
        return kept

    def _check_over(self) -> None:
        if self._over:
            self._give_back(None)
            raise PoolError("the request is over: its connections have gone back to their pools")

    def _finish(self, name: str, *, commit: bool, error: BaseException | None = None) -> None:
        lease = self._begun.pop(name, None)
        if lease is not None:
            Transaction._finish(lease, error, commit=commit)

    def _give_back(self, error: BaseException | None) -> None:
        if self._begun:
            self._settle(commit=False)
        while self._held:
            try:
                _, lease = self._held.popitem()
            except KeyError:
                break  # another thread gave it back
            lease.__exit__(None if error is None else type(error), error, None)


def as_pools(pools: Pool[Any] | Pools) -> Pools:
    """The mapping that an integration works on. Raises TypeError for anything else than a pool or pools by name."""
    if isinstance(pools, Pool):
        return {SOLE: pools}
    if not isinstance(pools, Mapping):
        raise TypeError(f"pools must be a Pool, or a mapping of names to pools, not {type(pools).__name__}")
    return pools
