"""The stress command on HTTP."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pooling.backends.http import HttpFactory
from pooling.cli.stress.work._http import HttpWork
from tests.servers import HTTP

Main = Callable[..., tuple[int, str, str]]
FAULTS = ("--faults", "0.05", "--lost", "0.03", "--dirty", "0.2")


def test_it_runs_on_http_and_holds(main: Main, http_server: HTTP) -> None:
    code, out, _ = main("stress", http_server.url, "--duration", "0.6", "--threads", "8", "--max-size", "3", *FAULTS)
    assert code == 0, out
    assert "HELD" in out
    http_server.wait_for_sessions(0)


@pytest.mark.parametrize(
    ("url", "expected", "told"),
    [("http://127.0.0.1/path", 2, "an HTTP pool's URL is an origin"), ("http://127.0.0.1:1", 1, "refused")],
)
def test_what_cannot_be_used_is_told_in_one_line(main: Main, url: str, expected: int, told: str) -> None:
    code, _, err = main("stress", url, "--duration", "0.2")
    assert code == expected
    assert told in err


def test_the_work_sees_what_it_is_there_to_see(http_server: HTTP) -> None:
    factory, work = HttpFactory(http_server.url), HttpWork()
    connection = factory.connect(5.0)
    mark = work.mark(connection)
    assert work.ask(connection, 41) == (41, mark, False)
    assert not work.leftover(connection)
    work.soil(connection, 42)
    assert work.leftover(connection)
    factory.reset(connection, "transaction")
    assert work.ask(connection, 43) == (43, mark, False)
    work.break_(connection)
    with pytest.raises(work.errors) as caught:
        work.ask(connection, 44)
    assert factory.is_broken(caught.value)
    factory.close(connection)
