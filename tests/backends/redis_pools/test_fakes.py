"""A connection class of somebody's test: it answers by itself, and has no socket."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from pooling import Pool
from pooling.backends.redis import BlockingConnectionPool, ConnectionPool, create
from tests.backends.contract import settled

Pair = tuple[socket.socket, socket.socket]


class FakeSocket:
    """As fakeredis has it: where the driver keeps its socket, with a number for it that is made up."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.answers: list[bytes] = []

    def fileno(self) -> int:
        return self.number

    def sendall(self, data: bytes) -> None:
        verb = data.split(b"\r\n")[2]
        self.answers.append({b"PING": b"PONG", b"RESET": b"RESET"}.get(verb, b"OK"))

    def shutdown(self, how: int) -> None:
        pass

    def close(self) -> None:
        pass


class FakeConnection(redis.Connection):
    def __init__(self, number: int, **options: Any) -> None:
        self.number = number
        super().__init__(**options)

    def _connect(self) -> Any:
        return FakeSocket(self.number)

    def can_read(self, timeout: float = 0) -> bool:
        assert self._sock is not None
        return bool(self._sock.answers)

    def read_response(self, **options: Any) -> Any:  # type: ignore[override]  # the driver gives nothing by position
        assert self._sock is not None
        return self._sock.answers.pop(0)


@pytest.fixture
def strangers() -> Iterator[Pair]:
    """Somebody else's sockets: the first has the number that the fake makes up."""
    pair = socket.socketpair()
    yield pair
    for end in pair:
        end.close()


def are_well(strangers: Pair) -> bool:
    strangers[0].sendall(b"a word")
    return strangers[1].recv(10) == b"a word"


@pytest.mark.parametrize("kind", [redis.ConnectionPool, ConnectionPool, BlockingConnectionPool])
def test_a_client_is_served(kind: Any, strangers: Pair) -> None:
    strangers[1].sendall(b"for somebody else")  # which is no sign of the connection's end
    options: dict[str, Any] = (
        {} if kind is redis.ConnectionPool else {"check_after": 0.0, "reset": "session", "max_connections": 1}
    )
    pool = kind(connection_class=FakeConnection, number=strangers[0].fileno(), protocol=2, **options)
    client = redis.Redis(connection_pool=pool)
    for _ in range(3):
        assert client.ping()
        assert client.set("a", 1)
        client.execute_command("CLIENT", "SETNAME", "x")
    if kind is not redis.ConnectionPool:
        settled(pool.pooling, leased=0, busy=0)
        assert pool.pooling.stats().opened == 1
        pool.pooling.clear(interrupt=True)
    pool.disconnect()
    assert are_well(strangers)


@pytest.fixture
def leases(strangers: Pair) -> Iterator[Pool[redis.Redis]]:
    fake = {"connection_class": FakeConnection, "number": strangers[0].fileno()}
    with create("redis://nowhere?protocol=2", fake, max_size=1, check_after=0.0) as pool:
        yield pool


def test_a_lease_is_served_and_a_strangers_socket_not_looked_at(leases: Pool[redis.Redis], strangers: Pair) -> None:
    strangers[1].sendall(b"for somebody else")
    for _ in range(3):
        with leases.acquire() as client:
            assert client.ping()
            client.execute_command("SELECT", 3)
    settled(leases, leased=0, busy=0)
    assert leases.stats().opened == 1


def test_a_strangers_socket_is_not_shut_down(leases: Pool[redis.Redis], strangers: Pair) -> None:
    with leases.acquire():
        leases.clear(interrupt=True)
    assert are_well(strangers)


@pytest.mark.skipif(sys.platform == "win32", reason="has no fork")
def test_a_child_leaves_a_strangers_socket_as_it_is(leases: Pool[redis.Redis], strangers: Pair) -> None:
    with leases.acquire():
        child = os.fork()
        if child == 0:
            code = 1
            try:
                leases.stats()
                strangers[0].sendall(b"from the child")
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
    assert strangers[1].recv(20) == b"from the child"
