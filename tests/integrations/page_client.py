"""Calling the page as a WSGI server would, and looking at pools in virtual time as its thread does."""

from __future__ import annotations

import io
import json
from typing import Any, NamedTuple
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

from pooling import Pool
from pooling.integrations.page import Page
from pooling.integrations.page._document import document
from pooling.integrations.page._source import source
from pooling.integrations.page._watch import Watch
from pooling.testing import ManualClock


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def call(page: Page, path: str = "/", *, method: str = "GET", body: bytes = b"", **environ: str) -> Answer:
    """One request, with everything that WSGI asks of both sides checked."""
    told: list[Any] = []
    request: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "SCRIPT_NAME": "",
        "QUERY_STRING": "",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
        **environ,
    }
    setup_testing_defaults(request)
    answer = validator(page)(request, lambda *args: told.append(args) or (lambda data: None))
    try:
        content = b"".join(answer)
    finally:
        answer.close()  # type: ignore[attr-defined]  # the validator's has one
    status, headers = told[0][:2]
    assert len(dict(headers)) == len(headers), "a header came twice"
    return Answer(int(status.split()[0]), dict(headers), content)


def order(page: Page, token: str | None = "a token", **what: Any) -> Answer:
    """An order, as the page's own script sends it."""
    headers = {} if token is None else {"HTTP_X_POOLING_TOKEN": token}
    body = json.dumps(what).encode()
    return call(page, "/actions", method="POST", body=body, CONTENT_TYPE="application/json", **headers)


class Looking:
    """A page's eyes on pools in virtual time: it looks once in each second that passes."""

    def __init__(self, clock: ManualClock, *pools: Pool[Any]) -> None:
        self.clock = clock
        self.watch = Watch(source(pools))
        self.watch.tick()

    def passes(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.advance(1)
            self.watch.tick()

    def sees(self, **asked: Any) -> Any:
        """The document's part about the first pool."""
        return self.document(**asked)["pools"][0]

    def document(self, **asked: Any) -> Any:
        return json.loads(json.dumps(document(self.watch, actions=False, **asked), allow_nan=False))

    def says(self) -> str:
        return str(self.sees()["verdict"]["text"])
