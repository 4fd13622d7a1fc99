"""Engines with a FairPool, and looks at them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy

from pooling.integrations.sqlalchemy import FairPool

SOON = 30.0  # seconds: longer than anything here takes on a machine with much to do

Engines = Callable[..., sqlalchemy.Engine]


@contextmanager
def engines_on(url: str) -> Iterator[Engines]:
    """make(pool_size=1, …): an engine on a database, closed at the end."""
    made: list[sqlalchemy.Engine] = []

    def make(**options: Any) -> sqlalchemy.Engine:
        engine = sqlalchemy.create_engine(options.pop("url", url), poolclass=FairPool, **options)
        made.append(engine)
        return engine

    try:
        yield make
    finally:
        for engine in made:
            engine.dispose()
            below(engine).close()


def below(engine: sqlalchemy.Engine) -> Any:
    """The pool underneath."""
    return engine.pool.pooling  # type: ignore[attr-defined]  # a FairPool


def counts(engine: sqlalchemy.Engine) -> tuple[int, int, int, int]:
    pool: Any = engine.pool
    return pool.size(), pool.checkedin(), pool.overflow(), pool.checkedout()


def balance(engine: sqlalchemy.Engine) -> bool:
    """Whether as many connections are open as were opened and not closed."""
    stats = below(engine).stats()
    return bool(stats.opened - sum(stats.closed.values()) == stats.size)


def borrow(engine: sqlalchemy.Engine) -> Any:
    """A call site with a name of its own."""
    return engine.connect()
