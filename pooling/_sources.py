"""The pools that a monitor, an exporter or a page looks at, asked anew at every look: pools come and go."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from pooling._log import write
from pooling.stats import PoolStats

T = TypeVar("T")
CLOSED = "closed"
_log = logging.getLogger("pooling")


class Sources:
    """Every pool among what it is given: a Pool, a PoolManager, what has its pools in ``pooling`` as drop-ins do, a
    mapping or iterable of these, or a function that returns any of them.

    What has a ``stats()`` is a pool, if it is of the ``kind``. All are held weakly, so that watching keeps nothing
    alive; functions as they are. A mapping counts for what is in it when it is given, or, with ``live``, is held as it
    is and read at every look. Raises TypeError for anything else.
    """

    def __init__(self, *given: Any, kind: type = object, live: bool = False) -> None:
        self._kind, self._live = kind, live
        self._refs: list[Callable[[], Any]] = []
        self._called: dict[tuple[int, str], tuple[Callable[[], Any], str]] = {}  # who was called what at the last look
        for source in given:
            self.add(source)

    def add(self, source: Any) -> None:
        """One more."""
        self._refs.extend(self._held(source))

    def pools(self) -> list[tuple[str, Any]]:
        """Each pool that is there, once, with what the mappings on the way to it call it: empty where none does."""
        self._refs = [ref for ref in self._refs if not _dead(ref)]
        found: dict[int, tuple[str, Any]] = {}
        for ref in self._refs:
            for name, pool in self._flat("", ref()):
                found.setdefault(id(pool), (name, pool))
        return list(found.values())

    def stats(self) -> list[PoolStats]:
        """A snapshot of each pool that is there and not closed."""
        return [stats for _, stats in self.all() if stats.state != CLOSED]

    def all(self) -> list[tuple[Any, PoolStats]]:
        """Each pool that is there, and a snapshot of it. No two of those have the same name. Each is called what it was
        called at the look before, whoever has gone meanwhile and whatever their order is: else what one has done would
        be taken for what another one has."""
        snapshots = [(pool, stats) for _, pool in self.pools() for stats in _snapshots(pool)]
        names = self._names([(pool, stats.name) for pool, stats in snapshots])
        return [
            (pool, stats if name == stats.name else replace(stats, name=name))
            for name, (pool, stats) in zip(names, snapshots, strict=True)
        ]

    def _names(self, pools: list[tuple[Any, str]]) -> list[str]:
        """What each of the pools is called here, of whose own names some may be the same."""
        taken: set[str] = set()
        kept: list[str | None] = []
        for pool, own in pools:
            ref, name = self._called.get((id(pool), own), (_nobody, own))
            keeps = ref() is pool and name not in taken
            kept.append(name if keeps else None)
            if keeps:
                taken.add(name)
        names = [_free(own, taken) if name is None else name for name, (_, own) in zip(kept, pools, strict=True)]
        called: dict[tuple[int, str], tuple[Callable[[], Any], str]] = {}
        for name, (pool, own) in zip(names, pools, strict=True):
            called.setdefault((id(pool), own), (weakly(pool), name))  # a manager of the user's own may have two of one
        self._called = called  # as a whole: several threads may look at once
        return names

    def gone(self) -> bool:
        """Whether nothing is left to look at: every pool was collected."""
        return all(map(_dead, self._refs))

    def _held(self, source: Any) -> Iterator[Callable[[], Any]]:
        if isinstance(source, (type, str, bytes)):
            raise _refusal(source)
        if self._live and isinstance(source, Mapping):
            yield lambda: source
        elif self._is_pool(source) or hasattr(source, "pooling"):
            yield weakly(source)
        elif callable(source):
            yield source
        elif isinstance(source, Iterable):
            for each in source.values() if isinstance(source, Mapping) else source:
                yield from self._held(each)
        else:
            raise _refusal(source)

    def _flat(self, name: str, source: Any) -> Iterator[tuple[str, Any]]:
        if source is None:
            return
        if isinstance(source, Mapping):  # a manager too
            for key, each in _those_that_work(source):
                yield from self._flat(f"{name} {key}".strip(), each)
        elif self._is_pool(source):
            yield name, source
        elif hasattr(source, "pooling"):
            yield from self._flat(name, source.pooling)
        elif isinstance(source, Iterable) and not isinstance(source, (str, bytes)):
            for each in source:
                yield from self._flat(name, each)
        else:
            raise _refusal(source)

    def _is_pool(self, source: Any) -> bool:
        return isinstance(source, self._kind) and hasattr(source, "stats")


def _snapshots(pool: Any) -> Iterable[PoolStats]:
    """One, or those of a manager of the user's own."""
    found = pool.stats()
    return found.values() if isinstance(found, Mapping) else [found]


def numbered(named: Iterable[tuple[str, T]]) -> dict[str, T]:
    """By name; of those that share one, the second ``shop`` is ``shop#2``."""
    taken: set[str] = set()
    return {_free(given, taken): each for given, each in named}


def _free(given: str, taken: set[str]) -> str:
    """The name, or with a number behind it one that is not taken; now it is."""
    name = given.encode("utf-8", "backslashreplace").decode()  # else it could be sent nowhere, nor the others'
    unique, number = name, 2
    while unique in taken:
        unique, number = f"{name}#{number}", number + 1
    taken.add(unique)
    return unique


def _nobody() -> None:
    """A reference to no pool."""


def _refusal(source: Any) -> TypeError:
    what = source.__name__ if isinstance(source, type) else type(source).__name__
    return TypeError(
        f"this needs a Pool, a PoolManager, a mapping or iterable of pools, or a function that returns one, not {what}"
    )


def weakly(source: Any) -> Callable[[], Any]:
    """A function that returns the source while it is there."""
    try:
        return weakref.ref(source)
    except TypeError:
        return lambda: source


def _dead(ref: Callable[[], Any]) -> bool:
    return isinstance(ref, weakref.ref) and ref() is None


def _those_that_work(pools: Mapping[Any, Any]) -> Iterator[tuple[Any, Any]]:
    """What is in a mapping. Where a manager cannot make one of its pools, its owner will be told by using it: the
    others are there all the same."""
    for key in list(pools):
        try:
            each = pools[key]
        except Exception:
            write(_log.debug, "no pool %r to look at", key, exc_info=True)
        else:
            yield key, each


def one_pool(source: object, kind: type) -> None:
    """Raise TypeError where the one pool that is needed is something else: many pools, a drop-in around one."""
    if not isinstance(source, kind):
        each = " (of a manager or a list: each of its pools)" if isinstance(source, Iterable) else ""
        raise TypeError(f"this needs a Pool, not {type(source).__name__}{each}")
