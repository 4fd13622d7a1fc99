"""The page on a port of its own: who may reach it, and how it begins and ends."""

from __future__ import annotations

import contextlib
import gc
import http.client
import json
import logging
import select
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from pooling import Pool
from pooling.integrations.page import _server, serve
from pooling.testing import FakeFactory
from tests.core.helpers import run_python


@pytest.fixture
def pool() -> Iterator[Pool[Any]]:
    with Pool(FakeFactory(), name="main") as pool:
        yield pool


def port(url: str) -> int:
    return int(url.rpartition(":")[2].rstrip("/"))


def get(
    url: str, path: str = "/pools.json", *, host: str | None = None, address: str = "127.0.0.1"
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(address, port(url), timeout=20)
    try:
        connection.request("GET", path, headers={} if host is None else {"Host": host})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_it_answers_on_the_loopback_interface_and_nowhere_else(pool: Pool[Any]) -> None:
    with serve(pool, port=0) as server:
        assert server.url == f"http://127.0.0.1:{port(server.url)}/"
        assert server._server.socket.getsockname()[0] == "127.0.0.1"
        status, body = get(server.url)
        assert (status, json.loads(body)["pools"][0]["name"]) == (200, "main")
        assert get(server.url, "/")[0] == 200


def test_it_looks_at_the_pools_from_its_beginning_not_from_the_first_request(pool: Pool[Any]) -> None:
    with serve(pool, port=0) as server:
        time.sleep(1.1)
        history = json.loads(get(server.url)[1])["pools"][0]["history"]
    age = history["columns"].index("age")
    assert max(row[age] for row in history["rows"]) >= 1.0


@pytest.mark.parametrize("host", ["localhost:{}", "127.0.0.1:{}", "[::1]:{}", "localhost"])
def test_it_answers_to_the_names_of_this_machine(host: str, pool: Pool[Any]) -> None:
    with serve(pool, port=0) as server:
        assert get(server.url, host=host.format(port(server.url)))[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{}", "localhost.evil.example", "10.0.0.1", "", "]["])
def test_a_name_that_was_made_to_lead_here_is_refused(host: str, pool: Pool[Any]) -> None:
    with serve(pool, port=0) as server:
        status, body = get(server.url, host=host.format(port(server.url)))
        assert status == 403
        assert b"main" not in body


def test_open_to_the_network_it_answers_to_any_name_and_warns(
    pool: Pool[Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), serve(pool, host="0.0.0.0", port=0) as server:
        assert get(server.url, host="pools.internal")[0] == 200
    assert caplog.messages == ["the page can be read by everybody who can reach 0.0.0.0"]


def test_ipv6_works_as_well(pool: Pool[Any]) -> None:
    if not socket.has_ipv6:
        pytest.fail("this machine's Python was built without IPv6")
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"this machine has no IPv6, as many a container has none: {error}")
    with serve(pool, host="::1", port=0) as server:
        assert server.url.startswith("http://[::1]:")
        assert get(server.url, address="::1")[0] == 200


def test_it_answers_though_nobody_keeps_it(pool: Pool[Any]) -> None:
    url = serve(pool, port=0).url
    gc.collect()
    assert get(url)[0] == 200


def test_closed_it_is_gone_with_its_threads_and_its_port_is_free(pool: Pool[Any]) -> None:
    before = {thread.name for thread in threading.enumerate()}
    server = serve(pool, port=0)
    get(server.url)
    server.close()
    server.close()
    left = {thread.name for thread in threading.enumerate()} - before
    assert not {name for name in left if name.startswith("pooling-page")}
    with pytest.raises(ConnectionRefusedError):
        get(server.url)
    with serve(pool, port=port(server.url)) as again:
        assert again.url == server.url


def test_a_port_that_is_taken_is_an_error_at_once(pool: Pool[Any]) -> None:
    with serve(pool, port=0) as server, pytest.raises(OSError, match="in use"):
        serve(pool, port=port(server.url))


@pytest.mark.parametrize("wrong", [-1, 65536, "80", True, None])
def test_a_port_out_of_range_is_refused(wrong: Any, pool: Pool[Any]) -> None:
    with pytest.raises(ValueError, match="port must be a number from 0 to 65535"):
        serve(pool, port=wrong)


def test_a_client_that_says_nothing_holds_nobody_up(pool: Pool[Any]) -> None:
    with serve(pool, port=0) as server, socket.create_connection(("127.0.0.1", port(server.url)), timeout=20):
        assert get(server.url)[0] == 200


def test_a_crowd_of_clients_finds_a_place(pool: Pool[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """While nobody accepts, as in a program that is busy: who finds no place would try again a second later."""
    free, accept = threading.Event(), _server._Server.get_request

    def later(self: Any) -> Any:
        free.wait(30)
        return accept(self)

    monkeypatch.setattr(_server._Server, "get_request", later)
    with contextlib.ExitStack() as clients, serve(pool, port=0) as server:
        clients.callback(free.set)
        for _ in range(40):
            client = clients.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port(server.url)))
            # On this machine a connect that finds a place is over when it returns.
            assert select.select([], [client], [], 0)[1]
        free.set()


def test_an_order_that_does_not_come_is_the_clients_fault(
    pool: Pool[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_server._Handler, "timeout", 0.2)
    head = "POST /actions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
    with (
        serve(pool, port=0, token="a token") as server,
        socket.create_connection(("127.0.0.1", port(server.url)), timeout=20) as client,
        client.makefile("rb") as answer,
    ):
        client.sendall(head.encode())
        assert answer.readline() == b"HTTP/1.0 408 Request Timeout\r\n"
    assert not caplog.records


def test_a_forked_child_does_not_keep_the_port() -> None:
    run_python(
        """
        import os, socket, warnings
        from pooling import Pool
        from pooling.integrations.page import _server, serve
        from pooling.testing import FakeFactory

        pool = Pool(FakeFactory())
        server = serve(pool, port=0)
        port = server._server.server_port
        hold, end = os.pipe()
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 and later warn of a fork beside threads
        child = os.fork()
        if not child:
            server.close()  # does nothing here
            os.close(end)
            os.read(hold, 1)
            os._exit(0)
        server.close()
        try:
            socket.create_connection(("127.0.0.1", port), timeout=10).close()
            raise SystemExit("somebody listens still")
        except ConnectionRefusedError:
            pass
        os.close(end)
        assert os.waitpid(child, 0)[1] == 0
        pool.close()
        """
    )
