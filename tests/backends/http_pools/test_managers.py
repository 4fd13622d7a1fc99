"""urllib3's pool managers with our pools underneath: totals, TLS, proxies."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import urllib3
from urllib3.exceptions import EmptyPoolError, NewConnectionError, SSLError, TimeoutError  # noqa: A004  # urllib3's

from pooling.backends import http
from pooling.integrations.requests import Adapter
from tests.backends.contract import LATE, in_threads, run_python
from tests.backends.http_pools.conftest import number
from tests.forwarder import Forwarder
from tests.servers import HTTP
from tests.servers.base import free_port
from tests.waiting import until


@pytest.fixture(scope="module")
def forwarder() -> Iterator[Forwarder]:
    with Forwarder() as forwarder:
        yield forwarder


# -- managers ----------------------------------------------------------------------------------------------


def test_a_total_holds_over_all_origins_and_idle_ones_make_room(
    manage: Any, http_server: HTTP, proxy: Callable[..., Any]
) -> None:
    """A proxy in front of the server is another origin."""
    others = [proxy(http_server) for _ in range(3)]
    urls = [http_server.url, *(f"http://{one.host}:{one.port}" for one in others)]
    manager = manage(max_total=4, maxsize=4, pool_timeout=20.0)
    peak = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            peak.append(http_server.session_count())

    watcher = threading.Thread(target=watch)
    watcher.start()
    in_threads(12, lambda name: [manager.request("GET", urls[(name + use) % 4] + "/delay/0.002") for use in range(15)])
    done.set()
    watcher.join()
    # A connection that was closed here is one of the server's for a moment longer.
    assert sorted(peak)[len(peak) * 3 // 4] <= 4
    assert sum(pool.stats().idle for pool in manager.pooling.values()) >= 1
    assert manager._total.pooling.stats().leased == 0
    until(lambda: http_server.session_count() <= 4)


def test_a_total_that_is_reached_is_waited_for_in_time(manage: Any, http_server: HTTP, proxy: Any) -> None:
    other = proxy(http_server)
    manager = manage(max_total=1, pool_timeout=0.2)
    held = manager.request("GET", http_server.url + "/", preload_content=False)
    start = time.monotonic()
    with pytest.raises(EmptyPoolError, match=r"held by .*test_managers\.py:\d+ test_a_total_that"):
        manager.request("GET", f"http://{other.host}:{other.port}/")
    assert 0.2 <= time.monotonic() - start < 0.2 + LATE
    held.read()
    assert manager.request("GET", f"http://{other.host}:{other.port}/").data == b"ok"
    http_server.wait_for_sessions(1)
    assert manager.request("GET", http_server.url + "/").data == b"ok"
    del held
    dropped = manager.request("GET", http_server.url + "/bytes/1000000", preload_content=False)
    del dropped
    gc.collect()
    assert manager.request("GET", http_server.url + "/", pool_timeout=5.0).data == b"ok"
    _, using, claimed = manager._total._state()
    assert (len(using), len(claimed)) == (0, 0)


def test_a_total_is_waited_for_as_long_as_the_request_says(manage: Any, http_server: HTTP, proxy: Any) -> None:
    other = proxy(http_server)
    manager = manage(max_total=1, pool_timeout=0.0)
    held = manager.request("GET", http_server.url + "/", preload_content=False)
    reading = threading.Timer(0.2, held.read)
    reading.start()
    assert manager.request("GET", f"http://{other.host}:{other.port}/", pool_timeout=10.0).data == b"ok"
    reading.join()


@pytest.mark.parametrize("block", [False, True])
def test_a_request_that_fails_gives_back_what_it_has_of_the_total(
    manage: Any, http_server: HTTP, proxy: Any, block: bool
) -> None:
    hung = proxy(http_server)
    hung.on_accept = "mute"
    nobody = f"http://127.0.0.1:{free_port()}"
    manager = manage(max_total=1, maxsize=1, block=block, pool_timeout=5.0, timeout=0.1, retries=False)
    for url in (f"http://{hung.host}:{hung.port}/", f"{nobody}/", http_server.url + "/delay/1"):
        for _ in range(2):
            with pytest.raises((TimeoutError, NewConnectionError)):  # not an EmptyPoolError
                manager.request("GET", url)
    assert manager._total.pooling.stats().leased == manager._total.pooling.stats().leaks == 0
    hung.reset_all()
    assert manager.request("GET", http_server.url + "/", timeout=5.0).data == b"ok"
    manager.clear()
    gc.collect()  # urllib3 keeps an error in a frame that the error has, and with it the pool


def test_what_is_taken_by_hand_is_not_counted_and_not_closed(manage: Any, http_server: HTTP, proxy: Any) -> None:
    other = proxy(http_server)
    manager = manage(max_total=1)
    manager.request("GET", http_server.url + "/")
    with manager.pooling[http_server.url].acquire() as connection:
        assert manager.request("GET", f"http://{other.host}:{other.port}/").data == b"ok"
        assert not connection.is_closed
        connection.request("GET", "/")
        assert connection.getresponse().data == b"ok"


def test_a_pool_that_a_manager_has_no_room_for_is_closed(http_server: HTTP, proxy: Any) -> None:
    other = proxy(http_server)
    with http.PoolManager(num_pools=1) as manager:
        manager.request("GET", http_server.url + "/")
        late = manager.request("GET", http_server.url + "/", preload_content=False)
        manager.request("GET", f"http://{other.host}:{other.port}/")
        assert list(manager.pooling) == [f"http://{other.host}:{other.port}"]
        assert late.read() == b"ok"  # its pool lives as long as it does
        del late
        http_server.wait_for_sessions(1)
    http_server.wait_for_sessions(0)


def test_options_that_do_not_exist_or_cannot_be_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="idle_timeout"):
        http.PoolManager(idle_timeout=-1)
    with pytest.raises(ValueError, match="max_lifetime"):
        http.HTTPConnectionPool("localhost", max_lifetime=-1)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"pool_timeout": "5"}, "pool_timeout must be seconds as a number or None, not '5'"),
    ({"pool_timeout": -1}, "pool_timeout must be at least 0 seconds, not -1"),
    ({"max_total": 0}, "max_total must be at least 1, not 0"),
    ({"max_total": "5"}, "max_total must be a whole number or None, not '5'"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_they_are_refused_by_the_names_that_they_have_here(options: dict[str, Any], message: str) -> None:
    kinds: list[Any] = [http.PoolManager, partial(http.ProxyManager, "http://127.0.0.1:1"), Adapter]
    if "pool_timeout" in options:
        kinds.append(partial(http.HTTPConnectionPool, "127.0.0.1"))
    for kind in kinds:
        with pytest.raises((TypeError, ValueError)) as refused:
            kind(**options)
        assert str(refused.value) == message


def test_a_pool_of_another_kind_takes_part_in_a_manager_as_it_does_in_urllib3s(manage: Any, http_server: HTTP) -> None:
    class Foreign(urllib3.HTTPConnectionPool):
        scheme = "http+foreign"

    manager = manage(maxsize=2, pool_timeout=1.0, max_total=3)
    manager.pool_classes_by_scheme = {**manager.pool_classes_by_scheme, "http+foreign": Foreign}
    manager.key_fn_by_scheme["http+foreign"] = manager.key_fn_by_scheme["http"]
    for scheme, kind in (("http", http.HTTPConnectionPool), ("http+foreign", Foreign)):
        pool = manager.connection_from_host(http_server.host, http_server.port, scheme)
        assert type(pool) is kind
        assert pool.request("GET", "/").data == b"ok"
    assert list(manager.pooling) == [http_server.url]
    pool.close()  # urllib3's own ends when it is collected, not with its manager


# -- TLS and proxies ------------------------------------------------------------------------------------------


def trusting(server: HTTP) -> dict[str, Any]:
    assert server.certificates is not None
    return {"ca_certs": str(server.certificates.authority)}


def test_certificates_are_checked_as_urllib3_does(https_server: HTTP) -> None:
    with http.PoolManager(retries=False) as manager, pytest.raises(SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        manager.request("GET", https_server.url + "/")
    with http.PoolManager(**trusting(https_server)) as manager:
        first = number(manager, https_server.url + "/connection")
        assert number(manager, https_server.url + "/connection") == first
        https_server.hang_up(first)
        assert number(manager, https_server.url + "/connection", retries=False) != first
    with (
        http.PoolManager(cert_reqs="CERT_NONE") as manager,
        pytest.warns(urllib3.exceptions.InsecureRequestWarning),
    ):
        manager.request("GET", https_server.url + "/")
    https_server.wait_for_sessions(0)


def test_a_forwarding_proxy_is_used_and_its_connections_are_kept(http_server: HTTP, forwarder: Forwarder) -> None:
    with http.ProxyManager(forwarder.url, maxsize=1, block=True, pool_timeout=5.0) as manager:
        before = forwarder.forwarded
        for _ in range(3):
            assert manager.request("GET", http_server.url + "/").data == b"ok"
        assert forwarder.forwarded == before + 3
        (pool,) = manager.pooling.values()
        assert (pool.name, pool.stats().opened) == (forwarder.url, 1)


def test_tunnels_are_kept_and_opened_in_time(https_server: HTTP, forwarder: Forwarder) -> None:
    options = {"maxsize": 1, "block": True, "pool_timeout": 5.0, **trusting(https_server)}
    with http.ProxyManager(forwarder.url, **options) as manager:
        before = forwarder.tunnels
        first = number(manager, https_server.url + "/connection")
        assert number(manager, https_server.url + "/connection") == first
        assert forwarder.tunnels == before + 1
        https_server.hang_up(first)
        time.sleep(0.05)
        assert number(manager, https_server.url + "/connection", retries=False) != first
        (pool,) = manager.pooling.values()
        with pool.acquire() as connection:
            assert connection.proxy_is_tunneling
    https_server.wait_for_sessions(0)


def test_a_proxy_that_refuses_or_hangs_costs_no_place(https_server: HTTP, forwarder: Forwarder, proxy: Any) -> None:
    hung = proxy(https_server)
    hung.on_accept = "mute"
    with http.ProxyManager(f"http://{hung.host}:{hung.port}", maxsize=1, block=True, timeout=0.2) as manager:
        start = time.monotonic()
        with pytest.raises(urllib3.exceptions.HTTPError):
            manager.request("GET", https_server.url + "/", retries=False)
        assert time.monotonic() - start < 0.2 + LATE
        assert [pool.stats().leased for pool in manager.pooling.values()] == [0]
    forwarder.user = "user:password"
    try:
        with http.ProxyManager(forwarder.url, maxsize=1, block=True) as manager:
            with pytest.raises(urllib3.exceptions.HTTPError, match="407"):
                manager.request("GET", https_server.url + "/", retries=False)
            assert [pool.stats().leased for pool in manager.pooling.values()] == [0]
        headers = urllib3.make_headers(proxy_basic_auth="user:password")
        with http.ProxyManager(forwarder.url, proxy_headers=headers, **trusting(https_server)) as manager:
            assert manager.request("GET", https_server.url + "/").data == b"ok"
    finally:
        forwarder.user = None
    hung.reset_all()


def test_who_takes_a_connection_by_hand_gets_it_connected_through_the_proxy(
    https_server: HTTP, forwarder: Forwarder
) -> None:
    with http.ProxyManager(forwarder.url, **trusting(https_server)) as manager:
        pool = manager.connection_from_host(https_server.host, https_server.port, "https")
        before = forwarder.tunnels
        with pool.pooling.acquire() as connection:
            assert connection.proxy_is_tunneling
            assert forwarder.tunnels == before + 1
            connection.request("GET", "/")
            assert connection.getresponse().data == b"ok"
        pool.close()
    https_server.wait_for_sessions(0)


def test_two_pools_of_one_origin_are_told_apart_as_they_are_everywhere() -> None:
    with http.PoolManager() as manager:
        for maxsize in (1, 2):
            manager.connection_from_host("one.example", 80, pool_kwargs={"maxsize": maxsize})
        assert list(manager.pooling) == ["http://one.example:80", "http://one.example:80#2"]


def test_behind_a_socks_proxy_the_pools_are_of_urllib3s_kind_so_that_what_is_set_on_its_classes_holds() -> None:
    # Without a SOCKS library, of which nothing is needed to tell: vcrpy records and replays in this way.
    said = run_python("""
        import sys, types
        sys.modules["socks"] = types.ModuleType("socks")
        sys.modules["socks"].PROXY_TYPE_SOCKS5 = 2
        import urllib3.contrib.socks as theirs
        from pooling.backends import http
        from pooling.backends.http import _socks as ours
        for name in ("SOCKSHTTPConnectionPool", "SOCKSHTTPSConnectionPool"):
            kind, mine = getattr(theirs, name), getattr(ours, name)
            assert mine.ConnectionCls is kind.ConnectionCls
            kind.ConnectionCls = object
            assert mine.ConnectionCls is object
        http.HTTPConnectionPool.ConnectionCls = http.HTTPSConnectionPool.ConnectionCls = str  # for all but these
        assert ours.SOCKSHTTPConnectionPool.ConnectionCls is ours.SOCKSHTTPSConnectionPool.ConnectionCls is object
        with ours.SOCKSProxyManager("socks5h://db.example", max_total=3, maxsize=2, max_lifetime=60) as manager:
            pool = manager.connection_from_host("one.example", 443, "https")
            assert type(pool) is ours.SOCKSHTTPSConnectionPool
            assert (pool.pooling.stats().max_size, manager._total.limit) == (3, 3)
            assert pool.pooling._config.max_lifetime == 60
        print("held")
    """)
    assert said == "held\n"
