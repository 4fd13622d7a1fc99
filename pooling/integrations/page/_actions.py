"""The orders that a page takes, from whoever knows the token."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable, Mapping
from typing import Any

from pooling._clock import DEFAULT
from pooling._log import write
from pooling.pool import Pool

_log = logging.getLogger("pooling.page")


class Refused(Exception):
    """An order that is not carried out. ``status`` is the answer's status line."""

    def __init__(self, status: str, why: str) -> None:
        super().__init__(why)
        self.status = status


class Desk:
    """Where orders are handed in. Without a token none is taken."""

    def __init__(self, token: str | None) -> None:
        if token is not None and not isinstance(token, str):
            raise TypeError(f"token must be a string or None, not {type(token).__name__}")
        if token is not None and not token.strip():
            raise ValueError("token must not be empty: leave it out for a page that only reads")
        if token is not None and not (token.isascii() and token.isprintable()):
            raise ValueError("token must be printable ASCII: it is sent in a header")
        self._token = token

    @property
    def is_open(self) -> bool:
        return self._token is not None

    def carry_out(self, token: str, order: object, pools: Mapping[str, Pool[Any]]) -> str:
        """What was done, in words. Raises Refused."""
        if self._token is None:
            raise Refused("403 Forbidden", "this page only reads: it was given no token")
        # As bytes: compare_digest takes no text but ASCII, and anybody can send any.
        if not hmac.compare_digest(token.encode("latin-1", "replace"), self._token.encode("ascii")):
            raise Refused("401 Unauthorized", "the token is wrong")
        if not isinstance(order, dict):
            raise Refused("400 Bad Request", "an order is an object with pool and action")
        name, action = order.get("pool"), order.get("action")
        if not isinstance(action, str) or action not in _ACTIONS:
            raise Refused("400 Bad Request", f"action must be one of {', '.join(_ACTIONS)}")
        if not isinstance(name, str) or name not in pools:
            raise Refused("404 Not Found", "there is no pool of that name")
        try:
            done = _ACTIONS[action](pools[name], order)
        except (ValueError, TypeError) as error:
            raise Refused("400 Bad Request", str(error)) from error
        write(_log.warning, "pool %r: %s, by order of the page", name, done)
        return done


def _clear(pool: Pool[Any], order: Mapping[str, Any]) -> str:
    interrupt = order.get("interrupt", False)
    if not isinstance(interrupt, bool):
        raise TypeError("interrupt must be true or false")
    pool.clear(interrupt=interrupt)
    return "cleared, with those in use interrupted" if interrupt else "cleared"


def _suspend(pool: Pool[Any], order: Mapping[str, Any]) -> str:  # noqa: ARG001  # the shape of an action
    pool.suspend()
    return "suspended"


def _resume(pool: Pool[Any], order: Mapping[str, Any]) -> str:  # noqa: ARG001  # the same
    pool.resume()
    return "resumed"


def _resize(pool: Pool[Any], order: Mapping[str, Any]) -> str:
    if "min_size" not in order and "max_size" not in order:
        raise ValueError("resize needs min_size, max_size, or both")
    pool.resize(min_size=order.get("min_size"), max_size=order.get("max_size", DEFAULT))
    stats = pool.stats()
    return f"resized to {stats.min_size} to {'any number' if stats.max_size is None else stats.max_size} connections"


_ACTIONS: dict[str, Callable[[Pool[Any], Mapping[str, Any]], str]] = {
    "clear": _clear,
    "suspend": _suspend,
    "resume": _resume,
    "resize": _resize,
}
