"""A WSGI server of a few lines, for one request at a time, that says what it was told."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

OK = ("200 OK", [("Content-Type", "text/plain")])


class Exchange:
    """One request, as a server makes it: the response's status, blocks, and close."""

    def __init__(self, application: Any, *, method: str = "GET", strict: bool = True, **environ: Any) -> None:
        self.environ: dict[str, Any] = {"QUERY_STRING": ""}
        setup_testing_defaults(self.environ)
        self.environ |= {"REQUEST_METHOD": method, **environ}
        self.status = ""
        self.replaced = False  # whether the last start_response() said so, by its exc_info
        self.headers: dict[str, str] = {}
        self.sent: list[bytes] = []
        # The validator complains of whatever a server or an application must not do.
        self.result: Any = (validator(application) if strict else application)(self.environ, self.start_response)
        self.blocks = iter(self.result)

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        if exc_info is not None and any(self.sent):
            raise exc_info[1]
        assert not self.status or exc_info is not None
        self.status, self.headers, self.replaced = status, dict(headers), exc_info is not None
        return self.sent.append

    def next(self) -> bytes:
        block = next(self.blocks)
        self.sent.append(block)
        return block

    def close(self) -> None:
        if hasattr(self.result, "close"):
            self.result.close()

    def run(self) -> bytes:
        try:
            self.sent += self.blocks
        finally:
            self.close()
        return b"".join(self.sent)


def answering(body: Callable[[Any], Iterable[bytes]]) -> Any:
    """An application that starts its answer and returns body(leases)."""

    def application(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response(*OK)
        return body(environ["pooling.leases"])

    return application
