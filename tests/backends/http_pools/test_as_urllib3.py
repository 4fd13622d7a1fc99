"""What urllib3's own pools allow, and ours have to: a look at the queue, subclasses, requests within requests, and not
to wait at all."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import urllib3
from urllib3.connection import HTTPConnection
from urllib3.exceptions import ClosedPoolError, EmptyPoolError, FullPoolError

from pooling.backends import http
from tests.backends.contract import in_threads, settled
from tests.servers import HTTP


class Asking(http.HTTPConnectionPool):
    """What docker-py and others do: the queue is asked as urllib3's own methods ask it."""

    def _get_conn(self, timeout: float | None = None) -> Any:
        assert self.pool is not None
        connection = None
        try:
            connection = self.pool.get(block=self.block, timeout=timeout)
        except queue.Empty:
            if self.block:
                raise EmptyPoolError(self, "Pool is empty.") from None
        return connection or self._new_conn()

    def _put_conn(self, connection: Any) -> None:
        assert self.pool is not None
        try:
            self.pool.put(connection, block=False)
        except queue.Full:
            if connection:
                connection.close()


# -- the queue --------------------------------------------------------------------------------------------


def test_it_does_not_matter_how_urllib3_makes_its_queue(http_server: HTTP) -> None:
    class Older(http.HTTPConnectionPool):
        def _new_pool_queue(self, maxsize: int) -> Any:  # before urllib3 2.8 there is no such method to override
            return queue.LifoQueue(maxsize)

    pool = Older(http_server.host, http_server.port, maxsize=2)
    assert pool.request("GET", "/").data == b"ok"
    assert pool.pool is not None
    assert pool.pool.qsize() == 2
    pool.close()


def test_the_queue_like_face_counts_places_and_hands_them_out(make: Any) -> None:
    pool = make(maxsize=3, block=True)
    face = pool.pool
    assert isinstance(face, queue.LifoQueue)  # as vcrpy asks, to know that each place is to be put back
    assert (face.qsize(), face.full(), face.empty()) == (3, True, False)
    connection = face.get()
    assert face.qsize() == 2
    with pytest.raises(EmptyPoolError):
        [pool._get_conn(0.05) for _ in range(3)]
    with pytest.raises(queue.Empty):
        face.get_nowait()
    face.put(connection)
    assert face.queue == [connection]
    assert face.get_nowait() is connection
    pool._put_conn(connection)
    pool.close()
    assert pool.pool is None
    assert face.qsize() == 0
    assert face.queue == []
    face.put(None)  # of no more use, and no error
    with pytest.raises(ClosedPoolError):
        pool.request("GET", "/")


@pytest.mark.parametrize("kind", [http.HTTPConnectionPool, urllib3.HTTPConnectionPool])
def test_a_queue_without_a_place_or_without_room_says_so(http_server: HTTP, kind: Any) -> None:
    pool = kind(http_server.host, http_server.port, maxsize=1)
    with pytest.raises(queue.Full):
        pool.pool.put(HTTPConnection(http_server.host, http_server.port), block=False)
    taken = pool.pool.get(block=False)
    with pytest.raises(queue.Empty):
        pool.pool.get_nowait()
    pool.pool.put(taken)
    assert pool.pool.qsize() == 1
    pool.close()


# -- subclasses ------------------------------------------------------------------------------------------


def test_a_subclass_may_ask_the_queue_itself(make: Any) -> None:
    pool = make(Asking, maxsize=1, block=True)
    assert len({pool.request("GET", "/connection").data for _ in range(3)}) == 1
    held = pool.request("GET", "/", preload_content=False)
    with pytest.raises(EmptyPoolError):
        pool.request("GET", "/", pool_timeout=0.05)
    held.release_conn()
    with pytest.raises(ValueError, match="told"):
        pool.request("POST", "/", body=failing())
    settled(pool.pooling, leased=0)
    assert pool.request("GET", "/").data == b"ok"


def test_a_subclass_that_asks_the_queue_loses_no_connection_that_is_surplus(make: Any) -> None:
    pool = make(Asking, maxsize=1)
    for response in [pool.request("GET", "/", preload_content=False) for _ in range(3)]:
        assert response.read() == b"ok"
    settled(pool.pooling, leased=0, size=1)
    held = [pool.request("GET", "/", preload_content=False) for _ in range(2)]
    with pytest.raises(ValueError, match="told"):
        pool.request("POST", "/", body=failing())
    for response in held:
        assert response.read() == b"ok"
    settled(pool.pooling, leased=0, size=1)


def test_whoever_takes_several_may_say_of_each_that_it_is_of_no_use(make: Any) -> None:
    """As vcrpy does with those that it has recorded on."""
    pool = make(maxsize=3, block=True)
    first, *_ = [pool.pool.get() for _ in range(3)]
    pool._put_conn(first)  # not the last
    assert pool.request("GET", "/").data == b"ok"  # which has nothing to do with the others
    for left in (1, 0, 0):
        pool._put_conn(None)
        settled(pool.pooling, leased=left)


@pytest.mark.parametrize("kind", [http.HTTPConnectionPool, urllib3.HTTPConnectionPool])
@pytest.mark.parametrize("block", [False, True])
def test_a_connection_that_it_has_not_handed_out_is_closed(http_server: HTTP, kind: Any, block: bool) -> None:
    """It was made for another pool, or by hand; where no more may be open, that is an error as well."""
    pool = kind(http_server.host, http_server.port, maxsize=1, block=block)
    pool.request("GET", "/")
    stranger = HTTPConnection(http_server.host, http_server.port)
    stranger.connect()
    with pytest.raises(FullPoolError) if block else contextlib.nullcontext():
        pool._put_conn(stranger)
    assert stranger.sock is None
    assert pool.pool.qsize() == 1
    assert pool.request("GET", "/").data == b"ok"
    pool.close()


# -- requests within requests ----------------------------------------------------------------------------


def failing(before: Callable[[], Any] = lambda: None) -> Iterator[bytes]:
    yield b"a"
    before()
    raise ValueError("told")


@pytest.mark.parametrize("within", ["a request", "one that fails", "one that finds no place"])
def test_a_body_that_asks_the_same_server_loses_no_place_when_it_fails(make: Any, within: str) -> None:
    pool = make(maxsize=2, block=True, pool_timeout=5.0)

    def before() -> None:
        if within == "a request":
            assert pool.request("GET", "/").data == b"ok"
        elif within == "one that fails":
            with pytest.raises(ValueError, match="told"):
                pool.request("POST", "/", body=failing())
        else:
            held = pool.request("GET", "/", preload_content=False)
            with pytest.raises(EmptyPoolError):
                pool.request("GET", "/", pool_timeout=0.05)
            assert held.read() == b"ok"

    for _ in range(3):
        with pytest.raises(ValueError, match="told"):
            pool.request("POST", "/", body=failing(before))
    settled(pool.pooling, leased=0)
    assert pool.pool.qsize() == 2


def test_what_another_thread_has_given_back_is_taken_from_nobody(make: Any) -> None:
    pool = make(maxsize=1, block=True)
    mine = pool._get_conn()
    in_threads(1, lambda _: pool._put_conn(mine))
    theirs: list[Any] = []
    in_threads(1, lambda _: theirs.append(pool._get_conn()))
    assert theirs == [mine]
    pool._put_conn(None)
    assert pool.pooling.stats().leased == 1
    pool._put_conn(mine)
    settled(pool.pooling, leased=0, size=1)


# -- waiting ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [True, False])
def test_who_does_not_want_to_wait_for_a_place_gets_one_that_is_free(make: Any, block: bool) -> None:
    pool = make(maxsize=2, block=block)
    held = [pool.request("GET", "/", preload_content=False, pool_timeout=0) for _ in range(2)]
    if block:
        with pytest.raises(EmptyPoolError):
            pool.request("GET", "/", pool_timeout=0)
    else:
        assert pool.request("GET", "/", pool_timeout=0).data == b"ok"
    for response in held:
        assert response.read() == b"ok"
    assert pool.request("GET", "/", pool_timeout=0).data == b"ok"


def test_it_gets_one_as_well_where_the_pool_says_so_and_there_is_a_total(http_server: HTTP) -> None:
    with http.PoolManager(max_size=2, max_total=1, pool_timeout=0) as manager:
        held = manager.request("GET", http_server.url, preload_content=False)
        with pytest.raises(EmptyPoolError):
            manager.request("GET", http_server.url)
        assert held.read() == b"ok"
        del held  # a response keeps its pool
        assert manager.request("GET", http_server.url).data == b"ok"
    http_server.wait_for_sessions(0)


def test_the_queue_hands_out_what_it_counts(make: Any) -> None:
    pool = make(maxsize=1, block=True)
    connection = pool.pool.get_nowait()
    assert pool.pool.empty()
    pool.pool.put_nowait(connection)
    assert pool.pool.full()
