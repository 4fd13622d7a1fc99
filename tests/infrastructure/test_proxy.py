"""Each fault of the proxy does what it says, to real sockets."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.proxy import Proxy


class Echo:
    """Sends back what it gets; its greeting tells two of them apart."""

    def __init__(self, greeting: bytes = b"") -> None:
        self.greeting = greeting
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self.listener.getsockname()
        self.threads = [threading.Thread(target=self._listen)]
        self.threads[0].start()

    def _listen(self) -> None:
        while True:
            try:
                one, _ = self.listener.accept()
            except OSError:
                return
            self.threads.append(threading.Thread(target=self._serve, args=[one]))
            self.threads[-1].start()

    def _serve(self, one: socket.socket) -> None:
        with one:
            try:
                one.sendall(self.greeting)
                while data := one.recv(65536):
                    one.sendall(data)
            except OSError:
                pass

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def faulty(echo: Echo) -> Iterator[Proxy]:
    with Proxy(echo.address) as proxy:
        yield proxy


@pytest.fixture
def connect(faulty: Proxy) -> Iterator[Callable[[], socket.socket]]:
    sockets: list[socket.socket] = []

    def open_one() -> socket.socket:
        one = socket.create_connection(faulty.address, timeout=5)
        sockets.append(one)
        return one

    yield open_one
    for one in sockets:
        one.close()


Connect = Callable[[], socket.socket]


def say(one: socket.socket, data: bytes) -> bytes:
    one.sendall(data)
    return hear(one, len(data))


def hear(one: socket.socket, count: int) -> bytes:
    heard = b""
    while len(heard) < count and (data := one.recv(count - len(heard))):
        heard += data
    return heard


def test_bytes_and_connections_are_counted(faulty: Proxy, connect: Connect) -> None:
    first = connect()
    assert say(first, b"hello") == b"hello"
    assert (faulty.bytes_from_client, faulty.bytes_from_server) == (5, 5)
    assert say(connect(), b"you") == b"you"
    assert (faulty.accepted, faulty.open) == (2, 2)
    first.close()
    faulty.wait_for_open(1)
    assert faulty.accepted == 2
    assert faulty.arrivals == sorted(faulty.arrivals)
    assert say(connect(), b"again") == b"again"
    assert (faulty.accepted, faulty.peak) == (3, 2)


def test_a_server_can_fall_silent_after_so_many_bytes(faulty: Proxy, connect: Connect) -> None:
    before = connect()
    assert say(before, b"x") == b"x"
    faulty.mute_after(from_server=2)
    after = connect()
    after.sendall(b"hello")
    assert hear(after, 2) == b"he"
    after.settimeout(0.1)
    with pytest.raises(TimeoutError):
        after.recv(1)
    assert say(before, b"hello") == b"hello"


def test_much_data_arrives_whole_and_half_closing_is_passed_on(connect: Connect) -> None:
    one = connect()
    data = bytes(range(256)) * 40_000

    def send() -> None:
        one.sendall(data)
        one.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    heard = hear(one, len(data))
    assert one.recv(1) == b""
    sender.join()
    assert heard == data


def test_what_a_server_sends_last_arrives_although_it_has_hung_up(faulty: Proxy, connect: Connect) -> None:
    faulty.delay = 0.05
    one = connect()
    one.sendall(b"last words")
    one.shutdown(socket.SHUT_WR)
    assert hear(one, 100) == b"last words"
    faulty.wait_for_open(0)


def test_delay_makes_bytes_late_in_each_direction(faulty: Proxy, connect: Connect) -> None:
    one = connect()
    faulty.delay = 0.1
    before = time.monotonic()
    assert say(one, b"slow") == b"slow"
    assert time.monotonic() - before >= 0.2


def test_mute_swallows_bytes_and_keeps_connections(faulty: Proxy, connect: Connect) -> None:
    one = connect()
    say(one, b"before")
    faulty.mute = True
    one.sendall(b"lost")
    one.settimeout(0.2)
    with pytest.raises(TimeoutError):
        one.recv(1)
    assert (faulty.bytes_from_client, faulty.open) == (10, 1)
    faulty.mute = False
    assert say(one, b"after") == b"after"


def test_an_end_is_held_back_while_mute(faulty: Proxy, connect: Connect) -> None:
    one = connect()
    say(one, b"x")
    faulty.mute = True
    one.close()
    time.sleep(0.1)
    assert faulty.open == 1
    faulty.mute = False
    faulty.wait_for_open(0)


def test_cut_after_so_many_bytes_from_the_server(faulty: Proxy, connect: Connect) -> None:
    one = connect()
    say(one, b"before")
    faulty.cut_after(from_server=3)
    one.sendall(b"abcdef")
    assert hear(one, 6) == b"abc"
    faulty.cut_after()
    assert say(connect(), b"abcdef") == b"abcdef"


def test_cut_after_so_many_bytes_from_the_client(faulty: Proxy, connect: Connect) -> None:
    faulty.cut_after(from_client=4)
    one = connect()
    assert say(one, b"abc") == b"abc"
    one.sendall(b"def")
    try:
        assert hear(one, 3) in {b"", b"d"}
    except ConnectionResetError:
        pass  # which is what the kernel makes of bytes that nobody has read


def test_reset_reaches_one_connection_or_all(faulty: Proxy, connect: Connect) -> None:
    first, second, third = (connect() for _ in range(3))
    for one in (first, second, third):
        say(one, b"x")
    faulty.links()[0].reset()
    with pytest.raises(ConnectionResetError):
        first.recv(1)
    assert say(second, b"alive") == b"alive"
    faulty.reset_all()
    for one in (second, third):
        with pytest.raises(ConnectionResetError):
            one.recv(1)
    assert faulty.open == 0


def test_cut_ends_a_connection_in_an_orderly_way(faulty: Proxy, connect: Connect) -> None:
    one = connect()
    say(one, b"x")
    faulty.cut_all()
    assert one.recv(1) == b""


def test_refuse_closes_the_door_but_nobody_inside(faulty: Proxy, connect: Connect) -> None:
    one = connect()
    say(one, b"x")
    port = faulty.port
    faulty.refuse()
    with pytest.raises(ConnectionRefusedError):
        connect()
    assert say(one, b"alive") == b"alive"
    faulty.accept()
    assert faulty.port == port
    assert say(connect(), b"new") == b"new"


def test_new_connections_can_meet_a_black_hole(faulty: Proxy, connect: Connect) -> None:
    old = connect()
    say(old, b"x")
    faulty.on_accept = "mute"
    new = connect()
    new.sendall(b"anybody there?")
    new.settimeout(0.2)
    with pytest.raises(TimeoutError):
        new.recv(1)
    assert say(old, b"alive") == b"alive"
    new.close()
    faulty.wait_for_open(1)


def test_new_connections_can_meet_a_reset(faulty: Proxy, connect: Connect) -> None:
    faulty.on_accept = "reset"
    with pytest.raises(ConnectionResetError):
        say(connect(), b"x")


def test_an_upstream_that_refuses_resets_the_client(faulty: Proxy, echo: Echo, connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        faulty.retarget(gone.getsockname())
    with pytest.raises(ConnectionResetError):
        connect().recv(1)


def test_retarget_sends_new_connections_elsewhere(faulty: Proxy, connect: Connect) -> None:
    old = connect()
    say(old, b"x")
    other = Echo(greeting=b"other")
    faulty.retarget(other.address)
    new = connect()
    assert hear(new, 5) == b"other"
    assert say(old, b"same") == b"same"
    new.close()
    faulty.wait_for_open(1)
    other.close()


def test_closing_leaves_no_thread_and_no_socket(echo: Echo) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    threads, before = set(threading.enumerate()), descriptors()
    with Proxy(echo.address) as proxy, socket.create_connection(proxy.address, timeout=5) as one:
        say(one, b"hello")
    for thread in echo.threads[1:]:
        thread.join()
    assert set(threading.enumerate()) <= threads  # one of another test's may have ended
    assert descriptors() <= before
    proxy.close()
