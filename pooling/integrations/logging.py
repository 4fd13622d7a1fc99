"""The events of a pool as lines of a log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from pooling._ledger.outage import describe
from pooling._log import named_logger
from pooling._secrets import hide
from pooling._sources import one_pool
from pooling._words import in_words
from pooling.events import PoolEvent
from pooling.pool import Pool

LEVELS: Mapping[str, int] = {
    "connect": logging.INFO, "close": logging.INFO, "clear": logging.INFO, "resize": logging.INFO,
    "state": logging.INFO, "wait": logging.DEBUG, "acquire": logging.DEBUG, "release": logging.DEBUG,
    "error": logging.WARNING, "timeout": logging.WARNING, "leak": logging.WARNING,
}  # fmt: skip  # a table
TROUBLE = {"down", "suspect", "broken", "hung", "dropped", "reset"}
"""Reasons for which a ``state`` or ``close`` is a warning."""


def log_events(
    pool: Pool[Any], logger: logging.Logger | str = "pooling.events", levels: Mapping[str, int | str] | None = None
) -> Callable[[], None]:
    """Have every event of a pool logged, on a worker thread. Returns a function that ends it.

    ``levels``: the level of each kind of event that is not to have its default (:data:`LEVELS`), as a number
    or by its name, ``"INFO"``; 0 leaves it out. Each record has the event as its attribute ``event``. Like any listener
    it makes every acquire and release take the pool's lock.

    Raises ValueError for a kind of event or a level that does not exist, TypeError for what can be no level or no
    logger.
    """
    one_pool(pool, Pool)
    chosen = {**LEVELS, **{kind: _number(kind, level) for kind, level in (levels or {}).items()}}
    if unknown := chosen.keys() - LEVELS.keys():
        raise ValueError(f"there are no events of the kind {min(unknown)!r} (kinds: {', '.join(sorted(LEVELS))})")
    log = named_logger(logger)
    secrets = pool._factory.secrets

    def listener(event: PoolEvent) -> None:
        level = chosen[event.kind]
        if level and event.kind in ("state", "close") and event.reason in TROUBLE:
            level = max(level, logging.WARNING)
        if level and log.isEnabledFor(level):
            # An error that has ended a lease is its user's own, with whatever that one put into it.
            text = _in_words(event)
            log.log(level, "%s", hide(text, secrets()) if event.error else text, extra={"event": event})

    return pool.subscribe(listener)


def _number(kind: str, level: object) -> int:
    """Now, not in each event's handler, where nobody would hear of it but the log."""
    if isinstance(level, str):
        number: object = logging.getLevelName(level)  # of a name it is the number, where there is one
        if not isinstance(number, int):
            raise ValueError(f"the level of {kind!r} must be one that logging knows, such as 'INFO', not {level!r}")
        return number
    if isinstance(level, bool) or not isinstance(level, int):
        raise TypeError(f"the level of {kind!r} must be a number or the name of one, not {level!r}")
    return level


def _in_words(event: PoolEvent) -> str:
    parts = [f"pool {event.pool!r}: {event.kind}"]
    if event.reason is not None:
        parts.append(f"({event.reason})")
    if event.connection_id is not None:
        parts.append(f"connection {event.connection_id}")
    if event.duration is not None:
        parts.append(f"after {in_words(event.duration)}")
    if event.holder is not None:
        parts.append(f"held by {event.holder}")
    return " ".join(parts) + (f": {describe(event.error)}" if event.error is not None else "")
