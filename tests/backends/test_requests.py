"""requests with our pools underneath."""

from __future__ import annotations

import gc
import pickle
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from pooling.integrations.requests import Adapter
from tests.backends.contract import LATE, in_threads, settled
from tests.forwarder import Forwarder
from tests.servers import HTTP


@pytest.fixture
def mounted(http_server: HTTP) -> Iterator[Callable[..., requests.Session]]:
    """mounted(**options): a session with an adapter of ours; no connection is left at the end."""
    sessions = []

    def build(**options: Any) -> requests.Session:
        session = requests.Session()
        session.trust_env = False
        adapter = Adapter(**options)
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        sessions.append(session)
        return session

    yield build
    for session in sessions:
        session.close()
    gc.collect()
    http_server.wait_for_sessions(0)


def pool_of(session: requests.Session) -> Any:
    (pool,) = session.adapters["http://"].pooling.values()  # type: ignore[attr-defined]
    return pool


def test_a_session_keeps_its_connections_and_shows_its_pools(mounted: Any, http_server: HTTP) -> None:
    session = mounted()
    numbers = {session.get(http_server.url + "/connection").text for _ in range(5)}
    assert len(numbers) == 1
    assert list(session.adapters["http://"].pooling) == [http_server.url]
    assert pool_of(session).stats().acquired == 5


def test_a_request_that_gets_no_connection_ends_in_time(mounted: Any, http_server: HTTP) -> None:
    session = mounted(pool_maxsize=1, pool_block=True, pool_timeout=0.3)
    held = session.get(http_server.url + "/", stream=True)
    (holder,) = pool_of(session).holders()
    assert "test_requests.py" in holder.where
    start = time.monotonic()
    with pytest.raises(requests.exceptions.ConnectTimeout, match=r"test_requests\.py"):
        session.get(http_server.url + "/")
    assert 0.3 <= time.monotonic() - start < 0.3 + LATE
    held.close()
    assert session.get(http_server.url + "/").text == "ok"


def test_threads_are_served_in_turn_and_the_cap_holds(mounted: Any, http_server: HTTP) -> None:
    session = mounted(pool_maxsize=2, pool_block=True)
    served: Counter[int] = Counter()
    numbers = set()
    until = time.monotonic() + 1.0

    def work(name: int) -> None:
        while time.monotonic() < until:
            numbers.add(session.get(http_server.url + "/connection").text)
            served[name] += 1

    in_threads(8, work)
    assert len(numbers) == 2
    assert min(served.values()) > max(served.values()) / 2, served


@pytest.mark.parametrize("path", ["/chunks/5", "/bytes/50000", "/redirect/redirect/bytes/100", "/status/500", "/close"])
@pytest.mark.parametrize("stream", [True, False])
def test_every_response_that_was_read_gives_its_connection_back(
    mounted: Any, http_server: HTTP, path: str, stream: bool
) -> None:
    session = mounted(pool_maxsize=1, pool_block=True, pool_timeout=5.0)
    for _ in range(3):
        response = session.get(http_server.url + path, stream=stream)
        assert sum(map(len, response.iter_content(1000)))
    assert pool_of(session).stats().leased == 0


@pytest.mark.parametrize("how", ["drop", "close", "leave"])
def test_every_response_that_was_not_read_gives_its_place_back(mounted: Any, http_server: HTTP, how: str) -> None:
    session = mounted(pool_maxsize=1, pool_block=True, pool_timeout=5.0)
    for _ in range(3):
        response = session.get(http_server.url + "/bytes/1000000", stream=True)
        if how == "close":
            response.close()
        elif how == "leave":
            with response:
                next(response.iter_content(10))
        del response
        assert session.get(http_server.url + "/").text == "ok"
    settled(pool_of(session), leased=0)


@pytest.mark.parametrize("path", ["/broken", "/short", "/delay/0.5"])
def test_every_request_that_failed_gives_its_place_back(mounted: Any, http_server: HTTP, path: str) -> None:
    session = mounted(pool_maxsize=1, pool_block=True, pool_timeout=5.0)
    for _ in range(2):
        with pytest.raises(requests.exceptions.RequestException):
            session.get(http_server.url + path, timeout=0.1)
        assert session.get(http_server.url + "/").text == "ok"
    assert pool_of(session).stats().leased == 0


def test_a_server_that_closes_idle_connections_causes_no_error(mounted: Any, http_server: HTTP) -> None:
    session = mounted()
    for _ in range(10):
        session.post(http_server.url + "/", data=b"x")
        http_server.kill_sessions()
    assert pool_of(session).stats().errors == 0


def test_a_total_holds_over_all_origins(mounted: Any, http_server: HTTP, proxy: Any) -> None:
    other = proxy(http_server)
    session = mounted(max_total=1)
    for _ in range(3):
        session.get(http_server.url + "/")
        session.get(f"http://{other.host}:{other.port}/")
        http_server.wait_for_sessions(1)


def test_certificates_are_checked(mounted: Any, https_server: HTTP) -> None:
    session = mounted(pool_maxsize=1, pool_block=True, pool_timeout=5.0)
    assert https_server.certificates is not None
    with pytest.raises(requests.exceptions.SSLError):
        session.get(https_server.url + "/")
    authority = str(https_server.certificates.authority)
    numbers = {session.get(https_server.url + "/connection", verify=authority).text for _ in range(3)}
    assert len(numbers) == 1
    assert len(session.adapters["https://"].pooling) == 2  # with other certificates it is another pool
    session.close()
    https_server.wait_for_sessions(0)


def test_proxies_are_used_for_both_schemes(mounted: Any, http_server: HTTP, https_server: HTTP) -> None:
    assert https_server.certificates is not None
    with Forwarder() as forwarder:
        forwarder.user = "user:password"
        url = forwarder.url.replace("//", "//user:password@")
        session = mounted(pool_maxsize=1, pool_block=True, pool_timeout=5.0)
        session.proxies = {"http": url, "https": url}
        session.verify = str(https_server.certificates.authority)
        for _ in range(2):
            assert session.get(http_server.url + "/").text == "ok"
            assert session.get(https_server.url + "/").text == "ok"
        assert (forwarder.forwarded, forwarder.tunnels) == (2, 1)
        pools = session.adapters["http://"].pooling
        assert set(pools) == {f"{forwarder.url[7:]} {forwarder.url}", f"{forwarder.url[7:]} {https_server.url}"}
        assert "password" not in str(pools)
        session.close()


def test_an_adapter_can_be_pickled_with_its_options(mounted: Any, http_server: HTTP) -> None:
    adapter = pickle.loads(pickle.dumps(Adapter(pool_maxsize=3, pool_block=True, pool_timeout=0.5, max_total=7)))
    session = mounted()
    session.mount("http://", adapter)
    session.get(http_server.url + "/")
    pool = pool_of(session)
    assert (pool._config.max_size, pool._config.timeout, adapter.poolmanager._total.limit) == (3, 0.5, 7)


def test_an_option_that_does_not_exist_is_refused() -> None:
    with pytest.raises(TypeError, match="idle_timeut"):
        Adapter(idle_timeut=3)
