"""A WSGI application that uses pools on every backend while it is loaded, as one does that reads its settings from a
database; run by servers that load it once and fork then, or load it in each worker."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from typing import Any

from tests.forks.pools import VARIABLE, Pools

pools = Pools(os.environ[VARIABLE])
LOADED_IN = os.getpid()
LOADED = pools.use()
pools.hold()


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """``/use``: the sessions of this worker. ``/let-go``: what was held at the loading is released."""
    answer: dict[str, Any] = {"pid": os.getpid(), "loaded_in": LOADED_IN, "loaded": LOADED}
    if environ["PATH_INFO"] == "/use":
        answer["sessions"] = pools.use()
    elif environ["PATH_INFO"] == "/let-go":
        pools.let_go()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]


def on_exit(server: Any) -> None:
    """Called by gunicorn's master at its end: the sessions that it had before the forks are as good as ever."""
    pools.answer()
    mine = pools.use()
    with open(os.environ["FORKS_MASTER"], "w", encoding="utf-8") as file:
        json.dump({"pid": os.getpid(), "loaded_in": LOADED_IN, "loaded": LOADED, "sessions": mine}, file)
    pools.let_go()
    pools.close()
