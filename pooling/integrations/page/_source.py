"""Which pools a page is about, asked anew at every look: pools come and go."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from pooling.pool import Pool

Source = Pool[Any] | Mapping[str, Any] | Iterable[Any] | object
"""A pool; pools by name, such as a PoolManager; several pools; a function that returns any of these; or what has its
pools in ``pooling``, as the drop-ins of this package do. Mappings and sequences may hold any of them."""


def source(pools: Source) -> Callable[[], dict[str, Pool[Any]]]:
    """A function that returns the pools of this moment by name.

    Pools and drop-ins are held weakly, so that a page keeps none alive that its owner has dropped; mappings and
    functions are held as they are. Raises TypeError for anything that has no pools.
    """
    held = list(_held(pools))
    return lambda: _numbered((name, pool) for look in held for name, pool in _flat("", look()))


def _held(pools: Source) -> Iterator[Callable[[], Any]]:
    if isinstance(pools, (type, str, bytes)):
        raise _refusal(pools)
    if isinstance(pools, Pool) or hasattr(pools, "pooling"):
        yield weakref.ref(pools)
    elif isinstance(pools, Mapping):
        yield lambda: pools
    elif isinstance(pools, Iterable):
        for each in pools:
            yield from _held(each)
    elif callable(pools):
        yield pools
    else:
        raise _refusal(pools)


def _refusal(pools: object) -> TypeError:
    return TypeError(f"a page is about a pool, pools by name, or several pools, not {type(pools).__name__}")


def _flat(name: str, pools: Any) -> Iterator[tuple[str, Pool[Any]]]:
    """Every pool in there; ``name`` is what stands for it, empty for the pool's own."""
    if isinstance(pools, Pool):
        yield name or pools.name, pools
    elif hasattr(pools, "pooling"):
        yield from _flat(name, pools.pooling)
    elif isinstance(pools, Mapping):
        for key in list(pools):
            try:
                below = pools[key]
            except Exception:
                continue  # gone since the look at the keys, or a manager cannot make it: its owner will be told
            yield from _flat(f"{name} {key}".strip(), below)
    elif isinstance(pools, Iterable) and not isinstance(pools, (str, bytes)):
        for each in pools:
            yield from _flat(name, each)


def _numbered(pools: Iterable[tuple[str, Pool[Any]]]) -> dict[str, Pool[Any]]:
    """By name, each pool once; of several that share a name, the later ones get a number."""
    found: dict[str, Pool[Any]] = {}
    for name, pool in pools:
        if any(pool is known for known in found.values()):
            continue
        number, unique = 2, name
        while unique in found:
            unique, number = f"{name} ({number})", number + 1
        found[unique] = pool
    return found
