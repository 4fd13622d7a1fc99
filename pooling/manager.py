"""Pools by name: described in one place, made when they are first asked for, closed together."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from pooling import _configuration
from pooling._clock import monotonic
from pooling._ledger.phase import Phase
from pooling.backends import ConnectArgs, check_connect_args, create_pool, scheme_of
from pooling.config import Config, nearest, seconds
from pooling.errors import PoolClosed
from pooling.factory import Factory, as_factory
from pooling.pool import Pool
from pooling.stats import PoolStats

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from pooling.config import Options

Source = str | Pool[Any] | Factory[Any] | Callable[[], Any]
"""A URL, a pool, or what a pool is made of: a factory, or a callable that returns a connection."""


class PoolManager(Mapping[str, Pool[Any]]):
    """Pools by name: ``manager.add("orders", url)``, then ``manager["orders"]``. A pool is made when it is first asked
    for, which opens nothing and loads its driver; :meth:`close` closes all of them.

    ``options`` are those of every pool that is added, unless it has others. All methods may be called from any
    thread, and in a forked child. At the end of the interpreter the pools close their idle connections by themselves.

    Raises TypeError or ValueError for options that make no sense.
    """

    # There is no lock: each step is one atomic operation on a dict. A fork can happen at any of them.

    def __init__(self, **options: Unpack[Options]) -> None:
        if "name" in options:
            raise TypeError("one name for all pools makes no sense: each is called what it is added as")
        Config.of(options)
        self._options = options
        self._plans: dict[str, Callable[[], Pool[Any]]] = {}  # how each pool is made; they have passwords in them
        self._pools: dict[str, Pool[Any]] = {}
        self._closed = False

    def add(
        self, name: str, url_or_pool: Source, /, connect_args: ConnectArgs = None, **options: Unpack[Options]
    ) -> None:
        """Describe a pool: by its URL with the arguments of :func:`pooling.create_pool`, by its factory, or by the pool
        itself, which is closed with the others. A pool that is made is called the same in errors, logs and metrics,
        unless ``options`` has another ``name``.

        Raises TypeError or ValueError where it makes no sense or the name is taken, PoolClosed after :meth:`close`.
        """
        if not isinstance(name, str):
            raise TypeError(f"the name of a pool must be a string, not {name!r}")
        if not name:
            raise ValueError("the name of a pool must not be empty")
        if self._closed:
            raise _closed()
        try:
            plan = self._plan(name, url_or_pool, connect_args, options)
        except (TypeError, ValueError) as error:
            raise _about(name, error) from None
        if self._plans.setdefault(name, plan) is not plan:
            raise ValueError(f"there is a pool {name!r} already")
        if isinstance(url_or_pool, Pool):
            self[name]  # from now on it is closed with the others

    @classmethod
    def from_dict(cls, described: Mapping[str, Any], **options: Unpack[Options]) -> Self:
        """A manager of all the pools in a mapping: name → URL, or name → mapping of ``url``, ``connect_args`` and the
        pool's options. ``url_env`` in the place of ``url`` is the name of an environment variable that has it, read
        when the pool is made. ``options`` are those of every pool.

        An option may be a string, as configuration files have it: ``"5"``, ``"2.5"``, ``"none"``.
        """
        if not isinstance(described, Mapping):
            raise TypeError(f"pools must be described by a mapping of their names, not {type(described).__name__}")
        manager = cls(**options)
        for name, entry in described.items():
            url, connect_args, given = _configuration.arguments(name, entry)
            manager.add(name, url, connect_args, **given)
        return manager

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str], table: str = "pools", **options: Unpack[Options]) -> Self:
        """A manager of the pools in a table of a TOML file, a sub-table each, with the keys of :meth:`from_dict`.
        ``table`` may be dotted, as in ``"tool.shop.pools"``.

        Raises OSError where the file cannot be read, ValueError where it has no such table or is no TOML. On
        Python 3.10 it needs tomli, or raises ImportError.
        """
        return cls.from_dict(_configuration.from_toml(path, table), **options)

    @classmethod
    def from_env(
        cls, prefix: str = "POOLING_", environ: Mapping[str, str] | None = None, **options: Unpack[Options]
    ) -> Self:
        """A manager of the pools in the environment: ``POOLING_ORDERS_URL`` describes the pool ``orders``,
        ``POOLING_ORDERS_MAX_SIZE`` is its max_size, and so on.

        Raises ValueError or TypeError for an option without a pool, or that does not exist.
        """
        return cls.from_dict(_configuration.from_env(prefix, os.environ if environ is None else environ), **options)

    def __getitem__(self, name: str) -> Pool[Any]:
        """The pool of that name. Raises KeyError where there is none, PoolClosed where it would have to be made after
        :meth:`close`, ImportError where its driver is missing, ValueError or TypeError where that cannot read the URL
        or ``url_env`` names a variable that is not set."""
        pool = self._pools.get(name)
        return self._make(name) if pool is None else pool

    def __contains__(self, name: object) -> bool:
        return name in self._plans

    def __iter__(self) -> Iterator[str]:
        """The names, in the order in which they were added."""
        return iter(tuple(self._plans))

    def __len__(self) -> int:
        return len(self._plans)

    # Two managers are never the same one; a Mapping would compare, and so make, their pools.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def stats(self) -> dict[str, PoolStats]:
        """The numbers of each pool. Makes those that were not asked for yet; once closed, it leaves them out."""
        return {name: self[name].stats() for name in (self._pools if self._closed else self)}

    def drain(self, timeout: float | None = 30.0) -> bool:
        """Have no pool take new acquires (PoolClosed), wait for the leases that are out, then close. True if all came
        back within ``timeout`` seconds in all (None: for ever)."""
        back = [pool.drain(left) for pool, left in self._end(Phase.DRAINING, timeout)]
        return all(back)

    def close(self, timeout: float | None = 5.0) -> None:
        """Close all pools, as :meth:`pooling.Pool.close` does: waits at most ``timeout`` seconds in all. May be called
        again."""
        for pool, left in self._end(Phase.CLOSED, timeout):
            pool.close(left)

    def _end(self, phase: Phase, timeout: float | None) -> Iterator[tuple[Pool[Any], float | None]]:
        """Every pool that was made, and how long it may still be waited for. All of them are told before the first
        one is waited for."""
        seconds("timeout", timeout)
        until = None if timeout is None else monotonic() + timeout
        self._closed = True  # before the pools are looked at: see _make()
        pools = list(self._pools.values())
        for pool in pools:
            pool._check_process()  # else, in a forked child, the parent's books would be told
            pool._tell(pool._ledger.enter, phase)
        for pool in pools:
            yield pool, None if until is None else max(0.0, until - monotonic())

    def _make(self, name: str) -> Pool[Any]:
        plan = self._plans.get(name)
        if plan is None:
            known = ", ".join(self._plans) or "none was added"
            raise KeyError(f"no pool is called {name!r}{nearest(str(name), self._plans)} (known: {known})")
        if self._closed:
            raise _closed()
        try:
            made = plan()
        except (TypeError, ValueError, ImportError) as error:
            raise _about(name, error) from error
        pool = self._pools.setdefault(name, made)
        if pool is not made:  # another thread was first
            made.close()
        if self._closed:  # by another thread, since we looked: it has seen this pool, or we see that it has closed
            pool.close()  # type: ignore[unreachable]
        return pool

    def _plan(
        self, name: str, source: Source | _configuration.Variable, connect_args: ConnectArgs, options: Mapping[str, Any]
    ) -> Callable[[], Pool[Any]]:
        if isinstance(source, Pool):
            if connect_args is not None or options:
                raise TypeError("a pool that exists already takes no options")
            return lambda: source
        chosen: Any = {"name": name, **self._options, **options}
        Config.of(chosen)
        check_connect_args(connect_args)
        if isinstance(source, _configuration.Variable):
            return lambda: create_pool(source(), connect_args, **chosen)
        if isinstance(source, str):
            scheme_of(source)
            return partial(create_pool, source, connect_args, **chosen)
        if connect_args is not None:
            raise TypeError("connect_args go with a URL; a factory has its own")
        if not callable(source) and not isinstance(source, Factory):
            # Mostly a variable that is not set: whoever wrote "url" has never heard of factories.
            raise TypeError(f"it must be made of a URL, a Pool or a factory, not of {type(source).__name__}")
        return partial(Pool, as_factory(source), **chosen)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a PoolManager cannot be pickled: make one in each process")

    def __repr__(self) -> str:
        return f"<PoolManager {'closed' if self._closed else 'open'}: {', '.join(self._plans) or 'no pools'}>"


def _closed() -> PoolClosed:
    return PoolClosed("the manager of the pools is closed")


def _about(name: str, error: Exception) -> Exception:
    """The same error, saying which pool it is about."""
    kind = next(kind for kind in (ImportError, TypeError, ValueError) if isinstance(error, kind))
    return kind(f"pool {name!r}: {error}")
