"""Which pools a page is about, asked anew at every look: pools come and go."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pooling.pool import Pool

Source = Pool[Any] | Mapping[str, Pool[Any]] | Iterable[Pool[Any]] | object
"""A pool; pools by name; several pools; or what has its pools in ``pooling``, such as a drop-in of this package."""


def source(pools: Source) -> Callable[[], dict[str, Pool[Any]]]:
    """A function that returns the pools of this moment by name.

    Pools are held weakly, so that a page keeps none alive that its owner has dropped; a mapping is held as it is.
    Raises TypeError for anything that has no pools.
    """
    if isinstance(pools, Pool):
        return _weakly([pools])
    if isinstance(pools, Mapping) or (hasattr(pools, "keys") and hasattr(pools, "__getitem__")):
        mapping: Any = pools
        return lambda: _by_name(mapping)
    if hasattr(pools, "pooling"):
        reference = weakref.ref(pools)
        return lambda: _inside(reference())
    if isinstance(pools, Iterable) and not isinstance(pools, (str, bytes)):
        listed = list(pools)
        if all(isinstance(pool, Pool) for pool in listed):
            return _weakly(listed)
    raise TypeError(f"a page is about a pool, pools by name, or several pools, not {type(pools).__name__}")


def _weakly(pools: list[Pool[Any]]) -> Callable[[], dict[str, Pool[Any]]]:
    references = [weakref.ref(pool) for pool in pools]
    return lambda: _numbered([(pool.name, pool) for pool in (reference() for reference in references) if pool])


def _by_name(mapping: Any) -> dict[str, Pool[Any]]:
    found = []
    for name in list(mapping.keys()):
        try:
            pool = mapping[name]
        except KeyError:
            continue  # it went between the two looks
        if isinstance(pool, Pool):
            found.append((str(name), pool))
    return _numbered(found)


def _inside(owner: Any) -> dict[str, Pool[Any]]:
    if owner is None:
        return {}
    inner = owner.pooling
    return _numbered([(inner.name, inner)]) if isinstance(inner, Pool) else _by_name(inner)


def _numbered(pools: list[tuple[str, Pool[Any]]]) -> dict[str, Pool[Any]]:
    """By name; of several that share one, the later ones get a number."""
    found: dict[str, Pool[Any]] = {}
    for name, pool in pools:
        number, unique = 2, name
        while unique in found:
            unique, number = f"{name} ({number})", number + 1
        found[unique] = pool
    return found
