"""What the contract suite has to know of HTTP and HTTPS: see adapters.py.

A session is a connection, told by the number that the server gives it.
"""

from __future__ import annotations

from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any, ClassVar

from urllib3.exceptions import HTTPError

from pooling import Pool
from tests.backends.adapters import ConnectArgs, Dirt, Remote
from tests.servers import HTTP


def get(connection: Any, path: str, body: str | None = None) -> str:
    """A request on a raw connection; the response's text."""
    connection.request("GET" if body is None else "POST", path, body)
    response = connection.getresponse()
    if response.status >= 400:
        raise LookupError(f"{path}: status {response.status}")
    return response.data.decode()


class Http(Remote):
    fixture = "http_server"
    errors = (OSError, HTTPException, HTTPError)
    transactions = False
    server: HTTP
    elsewhere: ClassVar[Mapping[str, str]] = {
        "test_a_session_killed_in_use_costs_that_connection_and_the_others_are_looked_at": (
            "HTTP has no harmless round trip: the others are replaced, see test_http.py"
        ),
        "test_a_lost_lease_costs_its_connection_and_the_slot_comes_back": (
            "which connection it was, only a request can tell, and the lease is lost before: see test_http.py"
        ),
        "test_a_connection_that_hangs_is_given_up_by_a_check": "HTTP has no harmless round trip",
        "test_a_black_hole_costs_a_caller_its_timeout_and_no_more": (
            "nothing is said before the first request: see https, and test_http.py for one that does not accept"
        ),
    }

    def __init__(self, server: Any, folder: Path) -> None:
        super().__init__(server, folder)
        self.name = str(server.certificates.authority) if server.certificates else ""

    @property
    def url(self) -> str:
        return self.server.url

    def open(self, url: str, connect_args: ConnectArgs, **options: Any) -> Pool[Any]:
        if options.get("check") == "ping":
            options["check"] = "peek"  # the other one is refused: see test_http.py
        return super().open(url, connect_args, **options)

    def marked(self, connect_args: ConnectArgs) -> ConnectArgs:
        def args() -> Mapping[str, Any]:
            further = connect_args() if callable(connect_args) else connect_args
            return {**({"ca_certs": self.name} if self.name else {}), **(further or {})}

        return args

    def ask(self, connection: Any, token: int) -> int:
        return int(get(connection, "/", str(token)))

    def session(self, connection: Any) -> Any:
        return int(get(connection, "/connection"))

    def write(self, connection: Any, token: int) -> None:
        raise NotImplementedError

    def written(self, connection: Any, token: int) -> bool:
        raise NotImplementedError

    def mistake(self, connection: Any) -> None:
        get(connection, "/nowhere")

    def nap(self, connection: Any) -> None:
        get(connection, "/drip/30")

    def set_up(self, connection: Any) -> None:
        connection.timeout = 7.5

    def is_set_up(self, connection: Any) -> bool:
        return bool(connection.timeout == 7.5)

    def dirt(self, mode: str) -> Mapping[str, Dirt]:
        def state(connection: Any) -> Any:
            return connection.unread

        def leave_unread(connection: Any) -> None:
            connection.request("GET", "/bytes/1000", preload_content=False)
            left.append(connection.getresponse())

        left: list[Any] = []

        transaction = {
            "a response that was not read": Dirt(leave_unread, state),
            "a response that was not asked for": Dirt(lambda c: c.request("GET", "/bytes/1000"), state),
        }
        if mode == "transaction":
            return transaction
        return {**transaction, "a timeout": Dirt(lambda c: setattr(c, "timeout", 3.0), lambda c: c.timeout == 3.0)}

    def count(self) -> int:
        return self.server.session_count()

    def kill(self, session: Any) -> None:
        self.server.hang_up(session)


class Https(Http):
    fixture = "https_server"
    elsewhere: ClassVar[Mapping[str, str]] = {
        test: reason for test, reason in Http.elsewhere.items() if "black_hole" not in test
    }
