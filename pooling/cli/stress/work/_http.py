"""Work on any HTTP server: GET / is all that is asked of it."""

from __future__ import annotations

import itertools
import socket
from http.client import HTTPException
from typing import Any

from urllib3.exceptions import HTTPError

_ECHO = "X-Request-ID"  # many servers send it back; of one that does not, the answer is taken for ours
_PATIENCE = 30.0  # seconds an answer may take


class HttpWork:
    """Each connection is told apart by a number of ours together with its local port, which is another one when urllib3
    has connected anew behind our back."""

    errors: tuple[type[Exception], ...] = (OSError, HTTPException, HTTPError)

    def __init__(self) -> None:
        self._marks = itertools.count(1)

    def mark(self, connection: Any) -> Any:
        connection.timeout = _PATIENCE
        connection.stress_mark = next(self._marks)
        return _mark(connection)

    def mark_again(self, connection: Any) -> Any:
        """By what it tells itself apart after a reset: that connects anew where the server has hung up."""
        return _mark(connection)

    def leftover(self, connection: Any) -> str:
        return "a connection with an unread response" if connection.unread else ""

    def ask(self, connection: Any, number: int) -> tuple[int, Any, bool]:
        mark = _mark(connection)
        connection.request("GET", "/", headers={_ECHO: str(number)})
        echo = connection.getresponse().headers.get(_ECHO, "")
        return int(echo) if echo.isdigit() else number, mark, False

    def soil(self, connection: Any, number: int) -> None:
        connection.request("GET", "/", headers={_ECHO: str(number)})  # and nobody reads the response

    def break_(self, connection: Any) -> None:
        if connection.sock is None:
            raise ConnectionResetError("the server has hung up after its answer")
        connection.sock.shutdown(socket.SHUT_RDWR)

    def is_busy(self, error: Exception) -> bool:  # noqa: ARG002  # HTTP has nothing of the kind
        return False


def _mark(connection: Any) -> Any:
    port = None if connection.sock is None else connection.sock.getsockname()[1]
    return connection.stress_mark, port
