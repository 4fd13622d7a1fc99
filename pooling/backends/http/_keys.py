"""The keys by which a manager finds the pool of a request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

KEPT = 100  # origins whose key is known: more than a program talks to in turn, little enough to forget about


class KnownKeys:
    """What stands in a manager's ``key_fn_by_scheme`` before the function that was there: it knows what that one made
    of an origin's last context.

    urllib3 makes a key of some thirty parts for each request, and throws it away once the pool is found: about as much
    work as all that our pool does for it. Called by every thread that sends, without a lock: each step here is one of
    a dict's own, and whoever comes too late makes a key.
    """

    def __init__(self, make: Callable[[dict[str, Any]], Any]) -> None:
        self._make = make
        self._known: dict[tuple[Any, ...], tuple[dict[str, Any], Any]] = {}

    def __call__(self, context: dict[str, Any]) -> Any:
        origin = context.get("scheme"), context.get("host"), context.get("port")
        known = self._known.get(origin)
        if known is not None and known[0] == context:
            return known[1]
        key = self._make(context)
        try:
            hash(tuple(context.values()))
        except TypeError:  # headers or options that may change, and be the same still
            return key
        if len(self._known) >= KEPT:
            self._known.clear()
        self._known[origin] = context.copy(), key
        return key
