"""Writing to the log. What a line reaches is a user's code: a handler may raise."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

logging.getLogger("pooling").addHandler(logging.NullHandler())


class PoolLog:
    """A pool's logger: ``pooling.pool.`` and its name. The logging module keeps every logger for ever, and a program
    may have a pool for each host it ever asks: so there is none before there is something to say."""

    def __init__(self, name: str) -> None:
        self._name = f"pooling.pool.{name}"

    def __getattr__(self, name: str) -> Any:
        return getattr(logging.getLogger(self._name), name)


def named_logger(logger: Any) -> logging.Logger:
    """The logger itself, or that of a name. Raises TypeError for what is neither: later nobody would hear of it but the
    log."""
    if isinstance(logger, str):
        return logging.getLogger(logger)
    if not all(hasattr(logger, name) for name in ("log", "isEnabledFor")):
        raise TypeError(f"logger must be a logger or the name of one, not {logger!r}")
    found: logging.Logger = logger  # or an adapter
    return found


def write(log: Callable[..., object], text: str, *args: object, **options: Any) -> None:
    """Have a line written. A handler that raises harms no acquire and no upkeep."""
    try:
        log(text, *args, **options)
    except Exception:
        pass  # there is nobody to tell: what would be told with is what has failed
