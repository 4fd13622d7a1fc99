"""Fixtures for the servers and the fault proxy. A server is started by the first test that asks for it."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.proxy import Proxy
from tests.servers import HTTP, KINDS, MariaDB, MongoDB, Postgres, Redis, Server

# What runs for minutes with few tests in a file goes first: begun last it would keep one process waiting for another.
LONGEST = ("tests/schedules", "tests/interrupts", "tests/machines", "tests/outages", "tests/cli", "tests/docs")
# Nothing here depends on the machine's time: what fails once there is a race that was found, and is not tried again.
EXACT = ("tests/schedules", "tests/machines")


def pytest_configure() -> None:
    """A shell ignores Ctrl-C in what it starts in the background, pytest-xdist in its workers, and whatever a test
    starts would inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        return next((number for number, path in enumerate(LONGEST) if item.nodeid.startswith(path)), len(LONGEST))

    items.sort(key=rank)  # stable: files stay whole
    for item in items:
        if item.nodeid.startswith(EXACT):
            item.add_marker(pytest.mark.flaky(reruns=0))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what was tried again, and why: a test that fails now and then is a fault of the test, or of what it tests."""
    for report in terminalreporter.stats.get("rerun", []):
        terminalreporter.section(f"tried again: {report.nodeid}", "-")
        terminalreporter.write_line("\n".join(report.longreprtext.splitlines()[-12:]))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    with MariaDB() as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    with Redis() as server:
        yield server


@pytest.fixture(scope="session")
def mongodb() -> Iterator[MongoDB]:
    with MongoDB() as server:
        yield server


@pytest.fixture(scope="session")
def http_server() -> Iterator[HTTP]:
    with HTTP() as server:
        yield server


@pytest.fixture
def own_server() -> Iterator[Callable[..., Any]]:
    """own_server("postgres", tls=True): a server this test may stop, kill and freeze.

    It is private even where a variable points at a server for the other tests.
    """
    with contextlib.ExitStack() as running:

        def start(kind: str, **options: Any) -> Server:
            return running.enter_context(KINDS[kind](external=False, **options))

        yield start


@pytest.fixture
def proxy() -> Iterator[Callable[[Server | tuple[str, int]], Proxy]]:
    """proxy(server): a fault proxy in front of a server, or of an address."""
    with contextlib.ExitStack() as running:

        def start(upstream: Server | tuple[str, int]) -> Proxy:
            address = upstream.address if isinstance(upstream, Server) else upstream
            return running.enter_context(Proxy(address))

        yield start
