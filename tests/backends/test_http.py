"""What is special about pools of raw HTTP connections."""

from __future__ import annotations

import contextlib
import io
import logging
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.client import NotConnected
from typing import Any

import pytest
import urllib3
from urllib3.exceptions import NameResolutionError, NewConnectionError, ProtocolError

import pooling
from pooling import ConnectError, Pool, PoolError, PoolTimeout
from pooling.backends import http
from pooling.backends.http._factory import DRAIN_TIME
from tests.backends.adapters_http import get
from tests.backends.contract import LATE, settled
from tests.servers import HTTP


@pytest.fixture
def make(http_server: HTTP) -> Iterator[Callable[..., Pool[Any]]]:
    """make(**options): a pool to the server; no connection is left at the end."""
    pools = []

    def build(url: str | None = None, connect_args: Any = None, **options: Any) -> Pool[Any]:
        pools.append(pooling.create_pool(url or http_server.url, connect_args, **options))
        return pools[-1]

    yield build
    for pool in pools:
        pool.close()
    http_server.wait_for_sessions(0)


def number(pool: Pool[Any]) -> int:
    with pool.acquire() as connection:
        return int(get(connection, "/connection"))


# -- leases ---------------------------------------------------------------------------------------------


def test_a_lease_is_a_connected_connection_of_urllib3s(make: Any, http_server: HTTP) -> None:
    pool = make()
    assert pool.name == f"http://127.0.0.1:{http_server.port}"
    with pool.acquire() as connection:
        assert isinstance(connection, urllib3.connection.HTTPConnection)
        assert not connection.is_closed
        http_server.wait_for_sessions(1)
        assert not connection.reused
        assert get(connection, "/") == "ok"
        assert connection.reused
    assert repr(pool._factory) == f"HttpFactory('http://127.0.0.1:{http_server.port}')"


def test_connect_args_are_those_of_urllib3s_pool(make: Any) -> None:
    pool = make(connect_args=lambda: {"timeout": 0.2, "socket_options": http.keep_alive(42)})
    with pool.acquire() as connection:
        assert connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert connection.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 42
        assert connection.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        start = time.monotonic()
        with pytest.raises(TimeoutError):
            get(connection, "/delay/1")
        assert time.monotonic() - start < 0.2 + LATE
    with pool.acquire() as connection:
        assert get(connection, "/") == "ok"


def test_a_read_timeout_costs_its_connection_and_no_other(make: Any) -> None:
    pool = make(connect_args={"timeout": 0.1}, max_size=2)
    with pool.acquire(), pool.acquire() as other:
        first = int(get(other, "/connection"))
    with pytest.raises(TimeoutError), pool.acquire() as connection:
        get(connection, "/delay/0.5")
    settled(pool, size=1, idle=1)
    assert "broken" not in pool.stats().closed
    assert first > 0


@pytest.mark.parametrize(
    "url", ["http://", "http://host/path", "http://user:secret@host", "http://host?query=1", "http://host:99999"]
)
def test_a_url_that_is_none_of_an_origin_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="origin") as caught:
        pooling.create_pool(url)
    assert "secret" not in str(caught.value)


def test_there_is_no_round_trip_to_ask_for_and_no_transaction(make: Any) -> None:
    for options in ({"check": "ping"}, {"keepalive": 1.0}):
        with pytest.raises(ValueError, match="check"):
            make(**options)
    pool = make()
    with pytest.raises(PoolError, match="HTTP has no transactions"), pool.transaction():
        pass
    assert pool.stats().leased == 0


# -- what comes back --------------------------------------------------------------------------------------


def test_a_response_of_which_much_is_left_costs_its_connection(make: Any) -> None:
    pool = make(max_size=1)
    first = number(pool)
    with pool.acquire() as connection:
        connection.request("GET", "/bytes/1000000", preload_content=False)
        response = connection.getresponse()
        assert len(response.read(10)) == 10
    assert number(pool) != first
    assert pool.stats().closed == {"reset": 1}


@pytest.mark.parametrize("path", ["/bytes/100000", "/chunks/3", "/drip/0.2"])
@pytest.mark.parametrize("options", [{}, {"reset": None}, {"reset": None, "check_after": 60.0}])
def test_a_response_that_was_dropped_unread_never_reaches_the_next_user(make: Any, path: str, options: Any) -> None:
    pool = make(max_size=1, **options)
    for _ in range(3):
        with pool.acquire() as connection:
            connection.request("GET", path, preload_content=False)
            connection.getresponse()  # and nobody keeps it: it closes its connection
        with pool.acquire() as connection:
            assert get(connection, "/") == "ok"


@pytest.mark.parametrize("interrupt", [False, True])
def test_a_response_that_was_given_up_half_read_never_reaches_the_next_user(interrupt: bool) -> None:
    """Its rest, which comes later, may look like a response."""

    def strike(*_: object) -> None:
        raise KeyboardInterrupt("struck")

    arguments = {"timeout": None if interrupt else 0.1}
    before = signal.signal(signal.SIGALRM, strike)
    try:
        with scripted(BEGUN, PLAIN) as (host, port, _), pooling.create_pool(f"http://{host}:{port}", arguments) as pool:
            with pytest.raises(BaseException, match=r"timed out|struck"), pool.acquire() as connection:
                connection.request("GET", "/")
                if interrupt:
                    signal.setitimer(signal.ITIMER_REAL, 0.1)
                connection.getresponse()
            settled(pool, size=0)
            assert pool.stats().closed == {"reset": 1}
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(("args", "timeout"), [({}, None), ({"timeout": urllib3.Timeout(connect=5.0, read=7.0)}, 7.0)])
def test_a_response_has_its_own_time_whatever_a_connect_or_a_reset_may_take(
    make: Any, args: dict[str, Any], timeout: float | None
) -> None:
    pool = make(max_size=1, connect_args=args)
    for _ in range(2):
        with pool.acquire() as connection:
            assert connection.timeout == timeout
            connection.request("GET", "/bytes/1000")  # a worker reads that
    assert pool.stats().opened == 1


@pytest.mark.parametrize("preload", [True, False])
@pytest.mark.parametrize("path", ["/bytes/1000", "/chunks/3", "/"])
def test_a_response_that_nobody_has_asked_for_is_read(make: Any, path: str, preload: bool) -> None:
    pool = make(max_size=1)
    for _ in range(3):
        with pool.acquire() as connection:
            connection.request("GET", path, preload_content=preload)
        with pool.acquire() as connection:
            assert get(connection, "/") == "ok"
    assert pool.stats().opened == 1


def test_one_whose_server_hangs_up_in_the_middle_of_it_costs_the_connection(make: Any) -> None:
    pool = make(max_size=1)
    with pool.acquire() as connection:
        connection.request("GET", "/short")
    settled(pool, size=0)
    assert pool.stats().closed == {"broken": 1}


@pytest.mark.parametrize("asked", [True, False])
def test_one_that_comes_in_drops_does_not_keep_a_worker(make: Any, asked: bool) -> None:
    pool = make(max_size=1)
    with pool.acquire() as connection:
        connection.request("GET", "/drip/60", preload_content=not asked)
        response = connection.getresponse() if asked else None
    start = time.monotonic()
    settled(pool, size=0)
    assert time.monotonic() - start < DRAIN_TIME + LATE
    assert pool.stats().closed == {"reset": 1}
    del response


@pytest.mark.parametrize("path", ["/bytes/100000", "/chunks/3", "/bytes/0"])
def test_a_response_that_was_streamed_to_its_end_leaves_the_connection_clean(make: Any, path: str) -> None:
    pool = make(max_size=1)
    for _ in range(3):
        with pool.acquire() as connection:
            connection.request("GET", path, preload_content=False)
            for _ in connection.getresponse().stream(1000):
                pass
    assert pool.stats().opened == 1
    assert not pool.stats().closed


def test_a_connection_that_the_server_wants_closed_is_replaced_and_no_other(make: Any) -> None:
    pool = make(max_size=2)
    with pool.acquire() as one, pool.acquire() as two:
        keep, _ = int(get(one, "/connection")), get(two, "/close")
    settled(pool, size=1)
    assert number(pool) == keep
    assert pool.stats().closed == {"reset": 1}


@contextlib.contextmanager
def scripted(*answers: bytes) -> Iterator[tuple[str, int, list[bytes]]]:
    """A server of a few lines, for what http.server does not do. On each connection it gives one answer after the
    other, each when the end of a head has come. Its host and port, and the first lines of what it has read."""
    seen: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            for answer in answers:
                data = b""
                while b"\r\n\r\n" not in data:
                    data += (new := connection.recv(65536))
                    if not new:
                        return
                seen.append(data.partition(b"\r\n")[0])
                connection.sendall(answer)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        yield (*listener.getsockname(), seen)
        listener.shutdown(socket.SHUT_RDWR)  # close() alone would leave it in accept()
        accepting.join(LATE)


BEGUN = b"HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n"
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n"
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"
REFUSED = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno"


@pytest.mark.parametrize("drop_in", [False, True])
@pytest.mark.parametrize(
    ("method", "answer"), [("GET", SWITCH), ("GET", HINTS), ("CONNECT", PLAIN)], ids=["101", "103", "CONNECT"]
)
def test_a_connection_that_speaks_no_http_any_more_reaches_nobody(method: str, answer: bytes, drop_in: bool) -> None:
    with scripted(answer, b"other: what was that?") as (host, port, seen), contextlib.ExitStack() as stack:
        if drop_in:
            theirs = stack.enter_context(http.HTTPConnectionPool(host, port, maxsize=1, block=True, retries=False))
            assert theirs.request(method, "/first").status == int(answer[9:12])
            (entry,) = theirs.pooling._roster.entries
            assert entry.connection.sock is None, "closed at once"
            assert theirs.request(method, "/second", preload_content=False).read() in {b"", b"ok"}
        else:
            pool = stack.enter_context(pooling.create_pool(f"http://{host}:{port}", max_size=1))
            for path in ("/first", "/second"):
                with pool.acquire() as connection:
                    connection.request(method, path)
                    assert connection.getresponse().status == int(answer[9:12])
            settled(pool, size=0)
            assert pool.stats().closed == {"reset": 2}
        assert [line.split()[1] for line in seen] == [b"/first", b"/second"]


@pytest.mark.parametrize("headers", [{"Content-Length": "1000"}, {}])
def test_an_answer_before_the_end_of_the_body_costs_the_connection(headers: dict[str, str]) -> None:
    def broken() -> Iterator[bytes]:
        yield b"begun"
        raise LookupError("the rest")

    with scripted(REFUSED, PLAIN) as (host, port, _), pooling.create_pool(f"http://{host}:{port}", max_size=1) as pool:
        for read in (True, False):
            with pool.acquire() as connection:
                with pytest.raises(LookupError):
                    connection.request("POST", "/", body=broken(), headers=headers)
                if read:
                    assert connection.getresponse().data == b"no"
            settled(pool, size=0)
        assert pool.stats().closed == {"reset": 2}


def test_a_body_that_was_sent_to_its_end_leaves_the_connection_clean(make: Any) -> None:
    pool = make(max_size=1)
    for body in (b"x" * 100000, "x", io.BytesIO(b"x" * 100000)):
        with pool.acquire() as connection:
            length = {"Content-Length": "100000"} if isinstance(body, io.BytesIO) else {}
            connection.request("POST", "/", body=body, headers=length)
            assert connection.getresponse().data.strip(b"x") == b""
    assert pool.stats().opened == 1
    assert not pool.stats().closed


# -- servers that hang up -----------------------------------------------------------------------------------


def test_a_server_that_hangs_up_between_two_requests_costs_the_user_no_error(make: Any, http_server: HTTP) -> None:
    pool = make(max_size=1)
    for _ in range(20):
        with pool.acquire() as connection:
            assert get(connection, "/drop") == "ok"
        http_server.wait_for_sessions(0)
    assert pool.stats().errors == 0


def test_a_connection_broken_in_use_has_the_others_replaced(make: Any) -> None:
    pool = make(max_size=3, check_after=60.0)
    leases = [pool.acquire() for _ in range(3)]
    for lease in leases:
        lease.release()
    with pytest.raises((ProtocolError, ConnectionError)), pool.acquire() as connection:
        get(connection, "/broken")
    settled(pool, size=0)
    assert pool.stats().closed == {"broken": 1, "stale": 2}


def test_the_servers_keep_alive_hint_is_heeded_less_one_second(make: Any) -> None:
    pool = make(max_size=1)
    with pool.acquire() as connection:
        get(connection, "/hint/2")
        first = int(get(connection, "/connection"))
        assert 0.9 < connection.stale_at - time.monotonic() <= 1.0
    assert number(pool) == first
    with pool.acquire() as connection:
        get(connection, "/hint/1")  # less one second: not a moment
    assert number(pool) != first


def test_the_servers_time_begins_with_the_end_of_a_response_and_not_of_the_lease(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("pooling.backends.http._connection.monotonic", lambda: now)
    pool = make(max_size=1)
    with pool.acquire() as connection:
        connection.request("GET", "/hint/9", preload_content=False)
        response = connection.getresponse()
        now += 100.0
        response.read()
    for _ in range(2):
        with pool.acquire():
            now += 5.0
    assert pool.stats().opened == 1
    number(pool)
    assert pool.stats().opened == 2


@pytest.mark.parametrize("drop_in", [False, True])
@pytest.mark.parametrize("digits", [20, 400, 5000])
def test_a_hint_of_any_length_is_only_a_long_one(drop_in: bool, digits: int) -> None:
    hinted = PLAIN.replace(b"\r\n\r\n", b"\r\nKeep-Alive: timeout=" + b"9" * digits + b"\r\n\r\n")
    with scripted(hinted, PLAIN) as (host, port, seen):
        if drop_in:
            with http.PoolManager() as manager:
                answers = [manager.request("GET", f"http://{host}:{port}/").data for _ in range(2)]
        else:
            with pooling.create_pool(f"http://{host}:{port}") as pool:
                answers = []
                for _ in range(2):
                    with pool.acquire() as connection:
                        answers.append(get(connection, "/").encode())
    assert answers == [b"ok"] * 2
    assert len(seen) == 2


# -- connects -------------------------------------------------------------------------------------------------


def test_what_never_reached_the_server_may_be_retried_and_what_may_have_may_not(make: Any, http_server: HTTP) -> None:
    factory = http.HttpFactory(http_server.url)
    never = [NewConnectionError(None, "refused"), NameResolutionError("host", None, socket.gaierror())]  # type: ignore[arg-type]
    assert all(factory.is_retryable(error) and not factory.is_broken(error) for error in never)
    unknown = [ConnectionResetError(), ProtocolError("cut"), BrokenPipeError()]
    assert all(factory.is_broken(error) and not factory.is_retryable(error) for error in unknown)
    assert not factory.is_broken(TimeoutError())
    assert not factory.is_broken(LookupError())


def test_a_host_that_does_not_accept_costs_a_caller_its_timeout_and_no_more(make: Any) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        pool = make(f"http://127.0.0.1:{address[1]}")
        start = time.monotonic()
        with pytest.raises(PoolTimeout) as caught:
            pool.acquire(0.3)
        assert time.monotonic() - start < 0.3 + LATE
        assert caught.value.stage == "connect"
        pool.close(timeout=0)
        for filler in fillers:
            filler.close()


def test_a_lost_lease_costs_its_connection_and_its_place_comes_back(
    make: Any, http_server: HTTP, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make(max_size=1)
    first = number(pool)
    lease = pool.acquire()
    del lease
    assert number(pool) != first
    assert pool.stats().closed == {"dropped": 1}
    assert "test_http.py" in caplog.text


def test_a_connection_that_the_pool_has_closed_does_not_connect_anew_for_who_kept_it(make: Any) -> None:
    pool = make()
    with pool.acquire() as kept:
        assert get(kept, "/") == "ok"
    pool.close()
    with pytest.raises(NotConnected):
        kept.request("GET", "/")
    assert kept.sock is None


# -- TLS --------------------------------------------------------------------------------------------------------


def trusting(server: HTTP) -> dict[str, Any]:
    assert server.certificates is not None
    return {"ca_certs": str(server.certificates.authority)}


def test_certificates_are_checked_and_a_wrong_one_is_told_at_once(https_server: HTTP, caplog: Any) -> None:
    caplog.set_level(logging.CRITICAL)
    with pooling.create_pool(https_server.url, timeout=20.0) as pool:
        start = time.monotonic()
        with pytest.raises(ConnectError) as caught:
            pool.acquire()
        assert time.monotonic() - start < 3.0
        assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
    args = {**trusting(https_server), "assert_hostname": "elsewhere.example"}
    with pooling.create_pool(https_server.url, args) as pool, pytest.raises(ConnectError, match="elsewhere"):
        pool.acquire()


def test_tls_connections_stay_warm_though_session_tickets_lie_unread(https_server: HTTP) -> None:
    with pooling.create_pool(https_server.url, trusting(https_server), max_size=1) as pool:
        with pool.acquire() as connection:
            assert connection.sock.version() == "TLSv1.3"
        time.sleep(0.1)
        assert not connection.is_connected  # the tickets are here, and that is what urllib3 makes of it
        with pool.acquire() as connection:
            assert get(connection, "/") == "ok"
        first = number(pool)
        assert all(number(pool) == first for _ in range(5))
        assert pool.stats().opened == 1
        https_server.hang_up(first)
        assert number(pool) != first
        assert pool.stats().closed == {"broken": 1}
    https_server.wait_for_sessions(0)
