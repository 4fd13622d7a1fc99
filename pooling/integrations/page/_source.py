"""Which pools a page is about, asked anew at every look: pools come and go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pooling._sources import Sources, numbered
from pooling.pool import Pool

Source = Pool[Any] | Mapping[str, Any] | Iterable[Any] | object
"""A pool; pools by name, such as a PoolManager; several pools; a function that returns any of these; or what has its
pools in ``pooling``, as the drop-ins of this package do. Mappings and sequences may hold any of them."""


def source(pools: Source) -> Callable[[], dict[str, Pool[Any]]]:
    """A function that returns the pools of this moment by name.

    Pools and drop-ins are held weakly, so that a page keeps none alive that its owner has dropped; mappings and
    functions are held as they are. Raises TypeError for anything that has no pools.
    """
    sources = Sources(pools, kind=Pool, live=True)
    return lambda: numbered((name or pool.name, pool) for name, pool in sources.pools())
