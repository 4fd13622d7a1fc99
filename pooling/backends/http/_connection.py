"""One HTTP connection: whether it is alive, whether it is in the middle of something, what its server asked for."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from urllib3 import HTTPResponse
from urllib3.connection import HTTPConnection, HTTPSConnection

from pooling._clock import monotonic
from pooling.backends import _sockets

# What "less one second" of http.Agent is: a request must not be on its way when the server hangs up.
MARGIN = 1.0
_TIMEOUT = re.compile(r"\btimeout\s*=\s*\"?(\d{1,9})", re.IGNORECASE)
_IDLE = "Idle"
OK, REDIRECTS = 200, 300  # where statuses of success begin, and end


def keep_alive(seconds: float = 1.0) -> list[tuple[int, int, int | bytes]]:
    """Socket options that have TCP probe a connection that was silent for so many seconds, beside urllib3's own;
    0: never."""
    return [*HTTPConnection.default_socket_options, *_sockets.keep_alive(seconds)]


def is_idle(connection: Any) -> bool:
    """Whether the last response was read to its end, so that another request can be sent."""
    # http.client's own state: a response that still holds the connection, or a request without one. A response that
    # was dropped unread lets go of it as well, which is what ``unread`` is for.
    response = getattr(connection, "_HTTPConnection__response", None)
    if response is not None and not response.isclosed():
        return False
    return getattr(connection, "_HTTPConnection__state", _IDLE) == _IDLE and not getattr(connection, "unread", False)


def is_open(connection: Any) -> bool:
    """Whether the other side has not hung up on an idle connection. Sends nothing and never blocks."""
    return connection.sock is not None and _sockets.looks_open(connection.sock)


def is_fit(connection: Any) -> bool:
    """Whether another request may be sent on it."""
    stale_at = getattr(connection, "stale_at", math.inf)
    return is_idle(connection) and (stale_at == math.inf or monotonic() < stale_at) and is_open(connection)


def allowed_idle(headers: Mapping[str, str]) -> float | None:
    """For how many seconds the server will keep the connection, by ``Keep-Alive: timeout=``; None: it does not say."""
    if "Keep-Alive" not in headers:  # get() would raise within, and most servers do not say
        return None
    found = _TIMEOUT.search(headers["Keep-Alive"])
    return max(0.0, int(found[1]) - MARGIN) if found else None


def ends_http(response: Any, method: str | None) -> bool:
    """Whether something else than the answer to another request comes after this response: another protocol (101), a
    tunnel, or (102, 103) the real answer to this one, since http.client takes any other than 100 for that."""
    status: int = response.status
    return status < OK or (method == "CONNECT" and status < REDIRECTS)


class Owner(HTTPResponse):
    """A response that has taken its use along: closing it gives the connection back, closed. urllib3 itself closes the
    connection and waits for release_conn(), which nobody calls who leaves a ``with``."""

    def close(self) -> None:
        super().close()
        # A destructor closes as well. What nobody has closed is lost, and to be reported as that.
        if not getattr(self, "_finalizing", False):  # io.IOBase's own word for it
            connection, self._connection = self._connection, None
            if connection is not None:
                self._pool._put_conn(connection)  # type: ignore[union-attr]  # urllib3's pool


class _Attentive:
    """Notes whether a response was read to its end, whether another request may follow it, what the server says about
    keeping the connection, and whether it was used before.

    A response that is dropped before it was read closes the connection, as urllib3 has it in its own pools: what
    it gives the connection back to is the connection itself.
    """

    reused = False
    unread = False
    stale_at = math.inf
    _allowed: float | None = None
    # Whether the server would not take another request for one: it waits for the rest of a body, or speaks something
    # else by now.
    spoilt = False

    def putrequest(self, *args: Any, **kw: Any) -> None:
        self.unread = True
        super().putrequest(*args, **kw)  # type: ignore[misc]  # HTTPConnection's
        self.spoilt = True

    def request(self, *args: Any, **kw: Any) -> None:
        before = self.spoilt
        super().request(*args, **kw)  # type: ignore[misc]  # HTTPConnection's
        self.spoilt = before  # it was sent to its end

    def getresponse(self) -> Any:
        response = super().getresponse()  # type: ignore[misc]  # HTTPConnection's
        if self.sock is not None and ends_http(response, self._method):  # type: ignore[attr-defined]  # theirs
            self.spoilt = True
        response._pool = response._connection = self
        if response.isclosed():
            response.release_conn()
        allowed = allowed_idle(response.headers)
        self._allowed = self._allowed if allowed is None else allowed
        self.touch()
        self.reused = True
        return response

    def _put_conn(self, connection: Any) -> None:
        """The response has been read, or was given up by its release_conn()."""
        response = getattr(self, "_HTTPConnection__response", None)
        self.unread = self.spoilt or (response is not None and not response.isclosed())
        self.touch()

    def touch(self) -> None:
        """The server's time begins: with each response, as it comes and as it ends. (Not with the end of the lease, of
        which the server knows nothing.)"""
        if self._allowed is not None:
            self.stale_at = monotonic() + self._allowed

    def close(self) -> None:
        super().close()  # type: ignore[misc]  # HTTPConnection's
        self.unread, self.stale_at, self.reused = False, math.inf, False
        self.spoilt = False


class Connection(_Attentive, HTTPConnection):
    """urllib3's HTTPConnection. ``reused`` is True once it has carried a response."""


class SecureConnection(_Attentive, HTTPSConnection):
    """urllib3's HTTPSConnection. ``reused`` is True once it has carried a response."""
