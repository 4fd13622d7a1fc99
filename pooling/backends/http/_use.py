"""Who has which connection of urllib3's pools.

Each use of a connection is a :class:`Use`. Until the response is there it belongs to its pool; a response that is to be
read later takes it along, so that it comes back by collection when the response is dropped. urllib3 says
``_put_conn(None)`` for "whatever I have taken is of no use", and also when it has taken nothing: the use is then the
one that this very thread took last, within the same request.
"""

from __future__ import annotations

import weakref
from typing import Any

from pooling.lease import Lease


class Use:
    """One use of one connection: its lease, the permit where there is a total, what went wrong, and the use that its
    thread had before."""

    __slots__ = ("__weakref__", "before", "connection", "error", "lease", "permit", "unanswered")

    def __init__(self, lease: Lease[Any], before: Use | None) -> None:
        self.lease = lease
        self.before = before
        self.connection: Any = lease._entry.view
        self.permit: Lease[Any] | None = None
        self.error: BaseException | None = None
        self.unanswered = False  # nothing came in time on a connection that had been used before


def forget(uses: dict[int, Use | weakref.ref[Use]], number: int, dropped: weakref.ref[Use]) -> None:
    """A response was dropped, and its use with it. Its connection has not come back before this ends: nobody else can
    have put another use in the place."""
    if uses.get(number) is dropped:
        uses.pop(number, None)
