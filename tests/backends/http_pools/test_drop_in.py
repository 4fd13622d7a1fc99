"""urllib3's pools and managers with ours underneath."""

from __future__ import annotations

import logging
import socket
import threading
import time
import traceback
from collections import Counter
from typing import Any

import pytest
import urllib3
from urllib3.exceptions import ClosedPoolError, EmptyPoolError, MaxRetryError, NewConnectionError

from pooling import ConnectError, Pool, PoolTimeout
from pooling._runtime.threads import THREADS
from pooling.backends import http
from pooling.backends.http._connect import connect_in_time
from tests.backends.contract import LATE, in_threads, run_python, settled
from tests.backends.http_pools.conftest import number
from tests.core.helpers import outcome
from tests.servers import HTTP
from tests.servers.base import free_port
from tests.waiting import until

# -- urllib3's contract ----------------------------------------------------------------------------------


def test_they_are_urllib3s_own_and_keep_connections(make: Any, manage: Any, http_server: HTTP) -> None:
    pool = make()
    assert isinstance(pool, urllib3.HTTPConnectionPool)
    assert isinstance(pool.pooling, Pool)
    assert len({number(pool) for _ in range(5)}) == 1
    assert pool.num_connections == 1
    manager = manage()
    assert isinstance(manager, urllib3.PoolManager)
    assert len({number(manager, http_server.url + "/connection") for _ in range(5)}) == 1
    assert list(manager.pooling) == [http_server.url]
    assert manager.pooling[http_server.url].stats().acquired == 5
    assert urllib3.poolmanager.pool_classes_by_scheme["http"] is urllib3.HTTPConnectionPool  # not ours: no monkey


def test_without_block_there_is_no_cap_and_what_is_surplus_is_closed(
    make: Any, http_server: HTTP, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make(maxsize=2)
    responses = [pool.request("GET", "/", preload_content=False) for _ in range(4)]
    assert pool.pooling.stats().leased == 4
    for response in responses:
        assert response.read() == b"ok"
    settled(pool.pooling, size=2, idle=2)
    assert caplog.text.count("Connection pool is full, discarding connection") == 2
    http_server.wait_for_sessions(2)


def test_with_block_no_more_than_maxsize_are_ever_open(make: Any, http_server: HTTP) -> None:
    pool = make(maxsize=3, block=True)
    seen: set[int] = set()
    in_threads(12, lambda _: seen.update(number(pool) for _ in range(20)))
    assert len(seen) <= 3
    assert pool.pooling.stats().acquired == 240
    assert http_server.session_count() <= 3


# -- waiting --------------------------------------------------------------------------------------------


def test_waiting_ends_in_time_by_the_pools_own_timeout_and_by_the_requests(make: Any) -> None:
    pool = make(maxsize=1, block=True, pool_timeout=0.3)
    held = pool.request("GET", "/", preload_content=False)
    for given, expected in ((None, 0.3), (0.1, 0.1), (0.0, 0.0)):
        start = time.monotonic()
        with pytest.raises(EmptyPoolError, match=r"test_drop_in\.py") as caught:
            pool.request("GET", "/", pool_timeout=given, retries=3)
        assert expected <= time.monotonic() - start < expected + LATE
        assert isinstance(caught.value.__cause__, PoolTimeout)
    held.read()
    assert pool.request("GET", "/").status == 200
    assert pool.pooling.stats().timeouts == 3


def test_max_waiting_refuses_at_once(make: Any) -> None:
    pool = make(max_size=1, max_waiting=0)
    held = pool.request("GET", "/", preload_content=False)
    start = time.monotonic()
    with pytest.raises(EmptyPoolError, match="max_waiting"):
        pool.request("GET", "/")
    assert time.monotonic() - start < LATE
    held.read()


def test_threads_are_served_in_turn(make: Any) -> None:
    pool = make(maxsize=2, block=True)
    served: Counter[int] = Counter()
    until = time.monotonic() + 1.0

    def work(name: int) -> None:
        while time.monotonic() < until:
            pool.request("GET", "/delay/0.002")
            served[name] += 1

    in_threads(8, work)
    assert min(served.values()) > max(served.values()) / 2, served


def test_holders_are_told_by_the_users_own_line(make: Any) -> None:
    pool = make(maxsize=1, block=True)
    held = pool.request("GET", "/", preload_content=False)  # this one
    (holder,) = pool.pooling.holders()
    assert "test_drop_in.py" in holder.where
    assert "test_holders_are_told" in holder.where
    held.read()
    assert pool.pooling.holders() == ()


def test_who_waits_is_told_of_by_the_users_own_line(make: Any) -> None:
    pool = make(maxsize=1, block=True)
    held = pool.request("GET", "/", preload_content=False)

    def wait() -> None:
        pool.request("GET", "/")

    thread = threading.Thread(target=wait)
    thread.start()
    settled(pool.pooling, waiting=1)
    (waiting,) = pool.pooling.waiters()
    held.read()
    thread.join()
    assert waiting.where.endswith(" wait")


# -- responses --------------------------------------------------------------------------------------------


def test_a_response_that_was_streamed_gives_its_connection_back(make: Any) -> None:
    pool = make(maxsize=1, block=True)
    for path in ("/chunks/5", "/bytes/50000"):
        response = pool.request("GET", path, preload_content=False)
        assert pool.pooling.stats().leased == 1
        assert sum(map(len, response.stream(1000))) in (5000, 50000)
        assert pool.pooling.stats().leased == 0
    assert pool.num_connections == 1


def test_a_response_that_was_dropped_gives_its_place_back(
    make: Any, http_server: HTTP, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make(maxsize=1, block=True, pool_timeout=5.0)
    for _ in range(3):
        response = pool.request("GET", "/bytes/1000000", preload_content=False)
        response.read(10)
        del response
    assert pool.request("GET", "/").data == b"ok"
    stats = pool.pooling.stats()
    assert (stats.closed, stats.leaks) == ({"dropped": 3}, 3)
    assert "test_drop_in.py" in caplog.text
    assert not pool._uses, "nothing is noted for a response that is gone"


@pytest.mark.parametrize("give_up", ["close", "release_conn"])
@pytest.mark.parametrize("path", ["/bytes/1000000", "/drip/0.3"])
def test_what_one_user_has_not_read_never_reaches_the_next(make: Any, path: str, give_up: str) -> None:
    pool = make(maxsize=1, block=True, pool_timeout=5.0)
    for _ in range(3):
        response = pool.request("GET", path, preload_content=False)
        getattr(response, give_up)()
        del response
        assert pool.request("GET", "/").data == b"ok"
    assert pool.pooling.stats().leased == 0


@pytest.mark.parametrize("path", ["/bytes/1000000", "/drip/0.3", "/"])
def test_closing_a_response_gives_its_place_back_though_somebody_still_has_it(
    make: Any, manage: Any, http_server: HTTP, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    pool, manager = make(maxsize=1, block=True, pool_timeout=5.0), manage(max_total=1, pool_timeout=5.0)
    kept = []
    for ask, url in ((pool, path), (manager, http_server.url + path)):
        kept.append(ask.request("GET", url, preload_content=False))
        kept[-1].close()
        with ask.request("GET", url, preload_content=False) as response:
            kept.append(response)
        response.close()  # once more: nothing is given back twice
        response.release_conn()
        assert ask.request("GET", url.replace(path, "/")).data == b"ok"
        kept.append(ask.request("GET", url.replace(path, "/"), preload_content=False))
        assert kept[-1].read() == b"ok"
        kept[-1].close()  # read before: its connection may be in use by another
    del kept, response
    (below,) = manager.pooling.values()
    for stats in (pool.pooling.stats(), below.stats()):
        assert (stats.leased, stats.leaks, stats.acquired) == (0, 0, 4)
    assert not pool._uses
    assert caplog.text == ""


def test_what_was_read_and_then_closed_keeps_its_connection(make: Any) -> None:
    pool = make(maxsize=1, block=True)
    numbers = set()
    for _ in range(3):
        with pool.request("GET", "/connection", preload_content=False) as response:
            numbers.add(response.read())
    assert len(numbers) == 1


@pytest.mark.parametrize("path", ["/redirect/status/404", "/redirect/redirect/connection", "/redirect/close"])
@pytest.mark.parametrize("preload", [True, False])
def test_redirects_give_every_connection_back(
    make: Any, manage: Any, http_server: HTTP, path: str, preload: bool
) -> None:
    pool, manager = make(maxsize=1, block=True, pool_timeout=5.0), manage(maxsize=1, block=True, pool_timeout=5.0)
    for _ in range(2):
        pool.request("GET", path, preload_content=preload).read()
        manager.request("GET", http_server.url + path, preload_content=preload).read()
    assert pool.pooling.stats().leased == manager.pooling[http_server.url].stats().leased == 0


@pytest.mark.parametrize("path", ["/broken", "/short", "/delay/0.5"])
def test_failed_requests_give_their_places_back(make: Any, path: str) -> None:
    pool = make(maxsize=1, block=True, pool_timeout=5.0, timeout=urllib3.Timeout(read=0.1))
    for retries in (False, 1):
        with pytest.raises(urllib3.exceptions.HTTPError):
            pool.request("GET", path, retries=retries)
        with pytest.raises(urllib3.exceptions.HTTPError):
            pool.request("GET", path, retries=retries, preload_content=False).read()
    assert pool.pool.qsize() == 1
    assert pool.request("GET", "/").data == b"ok"


def test_an_error_before_anything_was_taken_takes_nothing_from_anybody(make: Any) -> None:
    """urllib3 says _put_conn(None) then as well."""
    pool = make(maxsize=2, block=True)
    held = pool.request("GET", "/", preload_content=False)
    mine = pool._get_conn()
    pool._put_conn(mine)
    pool._put_conn(None)
    pool._put_conn(mine)  # twice: it is nobody's now
    assert pool.pooling.stats().leased == 1
    assert held.read() == b"ok"
    settled(pool.pooling, leased=0, size=2)


# -- servers ---------------------------------------------------------------------------------------------


def test_a_server_that_closes_idle_connections_causes_no_error(make: Any, http_server: HTTP) -> None:
    pool = make(maxsize=4, block=True)
    in_threads(4, lambda _: number(pool))
    for _ in range(5):
        http_server.kill_sessions()
        in_threads(4, lambda _: pool.request("POST", "/", body=b"x", retries=False))
        assert pool.request("GET", "/drop", retries=False).data == b"ok"
    assert pool.pooling.stats().errors == 0


def test_the_servers_keep_alive_hint_closes_in_time_less_one_second(make: Any, http_server: HTTP) -> None:
    pool = make()
    first = number(pool)
    pool.request("GET", "/hint/2")
    assert number(pool) == first
    start = time.monotonic()
    http_server.wait_for_sessions(0)  # and nobody asks for it
    assert 0.8 < time.monotonic() - start < 1.0 + LATE
    assert pool.pooling.stats().closed == {"idle": 1}
    pool.request("GET", "/hint/1")
    assert number(pool, retries=False) != first


@pytest.mark.parametrize("option", ["idle_timeout", "max_lifetime"])
def test_idle_and_old_connections_are_closed_though_nobody_asks(make: Any, http_server: HTTP, option: str) -> None:
    pool = make(**{option: 0.2})
    number(pool)
    http_server.wait_for_sessions(0, timeout=2.0)
    until(lambda: sum(pool.pooling.stats().closed.values()) == 1, "the pool knows that it is closed")


def test_a_connection_that_breaks_in_use_has_the_idle_ones_replaced(make: Any) -> None:
    pool = make(maxsize=3, block=True)
    held = [pool.request("GET", "/", preload_content=False) for _ in range(3)]
    for response in held:
        response.read()
    with pytest.raises(urllib3.exceptions.ProtocolError):
        pool.request("GET", "/broken", retries=False)
    settled(pool.pooling, size=0)
    assert pool.pooling.stats().closed == {"broken": 1, "stale": 2}


# -- connects ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [http.HTTPConnectionPool, urllib3.HTTPConnectionPool])
def test_after_one_that_did_not_answer_the_next_request_connects_anew(http_server: HTTP, proxy: Any, kind: Any) -> None:
    """A firewall has forgotten all that lay idle. urllib3's own pool has one request find that out, if they come one
    after the other."""
    between = proxy(http_server)
    pool = kind(between.host, between.port, maxsize=3, block=True, timeout=0.4, retries=False)
    try:
        responses = [pool.request("GET", "/", preload_content=False) for _ in range(3)]
        for response in responses:
            response.drain_conn()
        for link in between.links():
            link.mute = True
        with pytest.raises(urllib3.exceptions.ReadTimeoutError):
            pool.request("GET", "/")
        assert pool.request("GET", "/", timeout=5.0).status == 200
        assert pool.pool.qsize() == 3
    finally:
        pool.close()


def test_a_connect_ends_in_time_where_nobody_accepts_and_where_names_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        for options in ({"timeout": 0.3}, {"connect_timeout": 0.3}):
            with http.HTTPConnectionPool("127.0.0.1", full.getsockname()[1], retries=False, **options) as pool:
                start = time.monotonic()
                with pytest.raises(urllib3.exceptions.ConnectTimeoutError):
                    pool.request("GET", "/")
                assert time.monotonic() - start < 0.3 + LATE
                assert pool.pooling.stats().leased == 0
        for filler in fillers:
            filler.close()
    hang = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kw: hang.wait(5.0) and [])
    with http.HTTPConnectionPool("slow.invalid", timeout=0.2, retries=False) as pool:
        start = time.monotonic()
        with pytest.raises(urllib3.exceptions.ConnectTimeoutError):
            pool.request("GET", "/")
        assert time.monotonic() - start < 0.2 + LATE
    hang.set()


def test_a_busy_machine_has_some_time_to_load_certificates() -> None:
    """Which is work, and does not count in urllib3's own timeout."""
    connection = urllib3.connection.HTTPSConnection("localhost")
    connection.sock = socket.socket()
    connect_in_time(connection, lambda: time.sleep(0.3), 0.05)
    connection.close()


@pytest.mark.parametrize("begun", [True, False])
def test_one_connects_whatever_strikes_the_thread_that_has_just_asked_a_worker_to(
    monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    """A signal handler's RuntimeError looked like a thread that cannot be started, and two connected the same one."""
    plain, connects, closed = THREADS.submit, [], threading.Event()
    jobs: list[Any] = []

    def connect() -> None:
        connects.append(threading.current_thread())
        time.sleep(0.1)

    def struck(job: Any) -> None:
        jobs.append(job)
        if begun:
            plain(job)
            until(lambda: bool(connects))
        raise RuntimeError("out of time")

    connection = urllib3.connection.HTTPConnection("localhost")
    connection.close = closed.set  # type: ignore[method-assign]
    monkeypatch.setattr(THREADS, "submit", struck)
    if begun:
        with pytest.raises(RuntimeError, match="out of time"):
            connect_in_time(connection, connect, 1.0)
        assert closed.wait(5.0)  # by the worker: nobody waits for what it brings
    else:
        connect_in_time(connection, connect, 1.0)
        jobs.pop()()
    assert len(connects) == 1


def test_a_refused_connect_is_told_at_once_and_every_try_is_a_real_one(http_server: HTTP) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    with http.HTTPConnectionPool("127.0.0.1", port, maxsize=1, block=True) as pool:
        start = time.monotonic()
        with pytest.raises(MaxRetryError) as caught:
            pool.request("GET", "/", retries=3)
        assert time.monotonic() - start < 1.0
        assert isinstance(caught.value.reason, NewConnectionError)
        assert pool.num_connections == 4


def test_an_error_that_many_callers_are_told_has_the_traceback_of_none(http_server: HTTP) -> None:
    """One that a worker has met with, which keeps min_size. The pool keeps it until the next try."""
    with http.HTTPConnectionPool(
        http_server.host, free_port(), min_size=1, fail_after=0.0, backoff=lambda _: 60.0, retries=False
    ) as pool:
        assert isinstance(outcome(pool.pooling.warm_up), ConnectError)
        raised = [outcome(pool.request, "GET", "/") for _ in range(10)]
        kept = pool.pooling._ledger.outage.error
        assert {type(error) for error in raised} == {NewConnectionError}
        assert "Connection refused" in str(raised[-1])
        assert str(raised[-1]) == str(kept)
        assert raised[-1] is not kept
        assert len({len(traceback.extract_tb(error.__traceback__)) for error in raised}) == 1


def test_pooling_itself_yields_connected_connections(make: Any, http_server: HTTP) -> None:
    pool = make(min_size=1, max_size=2)
    pool.pooling.warm_up()
    http_server.wait_for_sessions(1)
    with pool.pooling.acquire() as one, pool.pooling.acquire() as two:
        assert not one.is_closed
        assert not two.is_closed
        one.request("GET", "/connection")
        mine = int(one.getresponse().data)
    assert number(pool) == mine


def test_its_connects_heed_the_timeout_of_urllib3s_pool(http_server: HTTP, proxy: Any) -> None:
    between = proxy(http_server)
    between.on_accept = "mute"
    with http.HTTPSConnectionPool(between.host, between.port, timeout=0.2, connect_timeout=60.0) as pool:
        with pytest.raises(PoolTimeout, match="timed out"):
            pool.pooling.acquire(2.0)
        assert pool.pooling.stats().errors >= 1
    between.reset_all()


def test_nor_does_it_yield_one_on_which_the_server_has_hung_up(make: Any, http_server: HTTP) -> None:
    pool = make(check_after=0.0)
    http_server.hang_up(number(pool))
    with pool.pooling.acquire() as connection:
        connection.request("GET", "/")
        assert connection.getresponse().data == b"ok"
    assert pool.pooling.stats().errors == 0


# -- endings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [http.HTTPConnectionPool, urllib3.HTTPConnectionPool])
def test_what_is_in_use_while_it_is_closed_is_closed_when_it_comes_back(
    http_server: HTTP, nothing_left: None, kind: Any
) -> None:
    pool = kind(http_server.host, http_server.port, maxsize=2)
    responses = [pool.request("GET", "/bytes/50000", preload_content=False) for _ in range(2)]
    pool.close()
    assert [len(response.read()) for response in responses] == [50000, 50000]
    http_server.wait_for_sessions(0)  # while their user still has the responses
    assert [response.status for response in responses] == [200, 200]


@pytest.mark.parametrize("kind", [http.HTTPConnectionPool, urllib3.HTTPConnectionPool])
def test_what_comes_back_to_a_closed_pool_is_closed_at_once(http_server: HTTP, kind: Any) -> None:
    closed_by: list[threading.Thread] = []
    with kind(http_server.host, http_server.port, maxsize=1, block=True) as pool:
        response = pool.request("GET", "/bytes/50000", preload_content=False)
        connection = response.connection
    close = connection.close
    connection.close = lambda: (closed_by.append(threading.current_thread()), close())
    response.read()
    assert closed_by[0] is threading.current_thread()  # and by no worker, some time later
    assert connection.sock is None


def test_a_pool_underneath_that_its_owner_has_closed_is_a_closed_pool_of_urllib3s(make: Any) -> None:
    pool = make()
    pool.request("GET", "/")
    pool.pooling.close()
    with pytest.raises(ClosedPoolError):
        pool.request("GET", "/")


def test_a_pool_that_nobody_closed_closes_its_connections_without_a_word(http_server: HTTP) -> None:
    pool = http.HTTPConnectionPool(http_server.host, http_server.port)
    number(pool)
    del pool
    http_server.wait_for_sessions(0)


def test_a_forked_child_has_connections_of_its_own_and_leaves_the_parents_alone(http_server: HTTP) -> None:
    script = """
        import os, sys
        from pooling.backends import http
        pool = http.HTTPConnectionPool(sys.argv[1], int(sys.argv[2]), maxsize=2, block=True, pool_timeout=5.0)
        manager = http.PoolManager(max_total=2)
        url = f"http://{sys.argv[1]}:{sys.argv[2]}/connection"
        first, second = pool.request("GET", "/connection").data, manager.request("GET", url).data
        held = pool.request("GET", "/bytes/100000", preload_content=False)
        child = os.fork()
        if child == 0:
            mine = {pool.request("GET", "/connection").data, manager.request("GET", url).data}
            assert not mine & {first, second}, mine
            assert pool.pooling.stats().size == 1
            pool.close()
            manager.clear()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert len(held.read()) == 100000
        assert pool.request("GET", "/connection").data == first
        assert manager.request("GET", url).data == second
        pool.close()
        manager.clear()
    """
    run_python(script, http_server.host, str(http_server.port))
    http_server.wait_for_sessions(0)


def test_a_daemon_has_its_descriptors_whatever_response_its_parent_was_reading(http_server: HTTP) -> None:
    """One that dies closes its connection, and that a number that is a file's of the daemon by now."""
    script = """
        import gc, os, sys
        from pooling.backends import http
        from tests.backends.forking import check, taken_again
        manager = http.PoolManager(maxsize=2, block=True)
        url = f"http://{sys.argv[1]}:{sys.argv[2]}"
        held = manager.request("GET", url + "/bytes/100000", preload_content=False)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                files = taken_again()
                assert manager.request("GET", url + "/connection").status == 200
                manager.clear()
                del held, manager
                gc.collect()
                check(files)
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert len(held.read()) == 100000
        manager.clear()
    """
    run_python(script, http_server.host, str(http_server.port))


@pytest.mark.parametrize("lock", ["threading's", "a profiler's"])
def test_a_child_that_is_forked_while_a_manager_looks_for_a_pool_can_use_it(http_server: HTTP, lock: str) -> None:
    """urllib3's lock was its parent's for ever."""
    script = """
        import os, signal, sys, threading
        from pooling.backends import http
        manager = http.PoolManager()
        class Profiled:
            def __init__(self, lock):
                self.lock = lock
            def __enter__(self):
                return self.lock.__enter__()
            def __exit__(self, *details):
                self.lock.__exit__(*details)
        if sys.argv[3] == "a profiler's":
            manager.pools.lock = Profiled(manager.pools.lock)
        url = f"http://{sys.argv[1]}:{sys.argv[2]}/"
        there, over = threading.Event(), threading.Event()
        def look():
            with manager.pools.lock:
                there.set()
                over.wait(20)
        looking = threading.Thread(target=look)
        looking.start()
        there.wait(20)
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            assert manager.request("GET", url).status == 200
            assert list(manager.pooling)
            manager.clear()
            os._exit(0)
        over.set()
        looking.join()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        manager.clear()
    """
    run_python(script, http_server.host, str(http_server.port), lock)


def test_nothing_is_logged_at_warning_level_by_ordinary_use(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    pool = make(maxsize=2, block=True)
    for path in ("/", "/close", "/drop", "/hint/5", "/redirect/close"):
        for preload in (True, False):
            pool.request("GET", path, preload_content=preload).read()
    assert caplog.text == ""
