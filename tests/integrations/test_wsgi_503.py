"""The WSGI middleware where there is no connection to be had: 503 with Retry-After, if asked for."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

import pooling
from pooling.integrations import wsgi
from pooling.integrations.wsgi import Middleware
from pooling.testing import FakeFactory
from tests.integrations.exchange import OK, Exchange


@pytest.fixture
def taken() -> Iterator[pooling.Pool[Any]]:
    """A pool whose only connection is in use."""
    with pooling.Pool(FakeFactory(), max_size=1) as pool, pool.acquire():
        yield pool
        assert (pool.stats().leased, pool.stats().waiting) == (1, 0)


def early(environ: Any, start_response: Any) -> Iterable[bytes]:
    wsgi.connection(environ)
    raise AssertionError("there was none")


def started(environ: Any, start_response: Any) -> Iterable[bytes]:
    start_response(*OK)
    return early(environ, start_response)


def streaming(environ: Any, start_response: Any) -> Iterator[bytes]:
    wsgi.connection(environ)
    start_response(*OK)
    yield b"x"


def test_a_log_handler_that_raises_costs_no_answer(taken: Any) -> None:
    class Away(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("no space left on device")

    handler = Away()
    logging.getLogger("pooling.wsgi").addHandler(handler)
    try:
        exchange = Exchange(Middleware(early, taken, timeout=0.05, retry_after=2.5))
        exchange.run()
    finally:
        logging.getLogger("pooling.wsgi").removeHandler(handler)
    assert exchange.status == "503 Service Unavailable"


@pytest.mark.parametrize("application", [early, started, streaming], ids=lambda one: one.__name__)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_no_connection_is_503_with_retry_after_where_asked_for(
    taken: Any, application: Any, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    middleware = Middleware(application, taken, timeout=0.05, retry_after=2.5)
    with caplog.at_level(logging.WARNING, "pooling.wsgi"):
        exchange = Exchange(middleware, method=method, PATH_INFO="/orders\n")
        body = exchange.run()
    assert exchange.status == "503 Service Unavailable"
    assert exchange.replaced == (application is started)  # some take exc_info for an error whenever they see it
    assert exchange.headers["Retry-After"] == "3"
    assert exchange.headers["Content-Length"] == "47"
    assert len(body) == (47 if method == "GET" else 0)
    (record,) = [record for record in caplog.records if record.name == "pooling.wsgi"]
    assert f"{method} '/orders\\n' was answered 503: " in record.getMessage()
    assert "(all in use): 1 in use, 0 idle" in record.getMessage()
    assert "\n" not in record.getMessage()


@pytest.mark.parametrize("application", [early, started, streaming], ids=lambda one: one.__name__)
def test_no_connection_is_the_servers_business_where_not_asked_for(taken: Any, application: Any) -> None:
    with pytest.raises(pooling.PoolTimeout):
        Exchange(Middleware(application, taken, timeout=0), strict=False).run()


def test_a_response_that_is_on_its_way_is_not_turned_into_another(taken: Any) -> None:
    def stream(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response(*OK)
        yield b"begun"
        wsgi.connection(environ)

    exchange = Exchange(Middleware(stream, taken, timeout=0, retry_after=1))
    exchange.next()
    with pytest.raises(pooling.PoolTimeout):
        exchange.next()
    exchange.close()
    assert exchange.status == "200 OK"


def test_a_full_queue_a_closed_pool_and_a_server_that_is_away_are_503_too_and_other_errors_are_not() -> None:
    factory = FakeFactory()
    factory.gates["connect"].error(ConnectionRefusedError())
    with pooling.Pool(factory, fail_after=0.0, max_waiting=1) as away:
        exchange = Exchange(Middleware(early, away, retry_after=1))
        assert (exchange.status[:3], exchange.run()) == ("503", exchange.sent[0])
    exchange = Exchange(Middleware(early, away, retry_after=1))  # closed by now
    assert (exchange.status[:3], exchange.run()) == ("503", exchange.sent[0])

    with pooling.Pool(FakeFactory(), max_size=1, max_waiting=0) as full, full.acquire():
        exchange = Exchange(Middleware(early, full, retry_after=1))
        assert (exchange.status[:3], exchange.run()) == ("503", exchange.sent[0])

        def wrong(environ: Any, start_response: Any) -> Iterable[bytes]:
            raise TimeoutError("something else")

        def wrong_later(environ: Any, start_response: Any) -> Iterator[bytes]:
            yield from wrong(environ, start_response)

        with pytest.raises(TimeoutError, match="something else"):
            Exchange(Middleware(wrong, full, retry_after=1))
        exchange = Exchange(Middleware(wrong_later, full, retry_after=1))
        with pytest.raises(TimeoutError, match="something else"):
            exchange.next()
        exchange.close()
        assert exchange.status == ""
