from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from pooling.cli import main as cli_main
from pooling.cli.stress import _harness
from tests.cli.tiny_pool import strays


@pytest.fixture
def main(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """main("stress", …): exit code, stdout, stderr."""

    def call(*argv: str) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = cli_main(argv)
        except SystemExit as end:  # argparse's way
            code = end.code if isinstance(end.code, int) else 1
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def stressing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], None]]:
    """stressing(BrokenPool): from here on the command stresses that in place of pooling.Pool, and with little
    patience at its end."""
    run, factories = _harness.run, []

    def put(make_pool: Any) -> None:
        def make(factory: Any, **options: Any) -> Any:
            factories.append(factory)
            return make_pool(factory, **options)

        monkeypatch.setattr(
            _harness, "run", lambda options, **rest: run(replace(options, patience=0.3), make_pool=make, **rest)
        )

    yield put
    for thread in threading.enumerate():
        if thread.name.startswith("user "):
            thread.join(10)  # closing a connection under its user can bring SQLite down
    for factory in factories:  # what broken pools have left open
        for card in list(factory._census._by_connection.values()):
            connection = card.connection
            (getattr(connection, "close", None) or connection.disconnect)()  # redis-py's have another word for it
    while strays:
        strays.pop()()
