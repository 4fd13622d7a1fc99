"""An application with the live page mounted below a path, run by the servers of serving.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pooling import Pool
from pooling.integrations.page import Page
from pooling.testing import FakeFactory

pool = Pool(FakeFactory(), name="main", max_size=3)
page = Page(pool)
MOUNT = "/in side/pools"


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path == MOUNT or path.startswith(MOUNT + "/"):
        environ["SCRIPT_NAME"] += MOUNT
        environ["PATH_INFO"] = path[len(MOUNT) :]
        return page(environ, start_response)
    with pool.acquire():
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "0")])
    return [b""]
