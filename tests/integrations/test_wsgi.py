"""The WSGI middleware by the letter of PEP 3333: when a lease is taken, how long it is kept, and that it ends once."""

from __future__ import annotations

import gc
import io
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.util import FileWrapper
from wsgiref.validate import validator

import pytest

import pooling
from pooling.integrations import wsgi
from pooling.integrations.wsgi import Middleware
from pooling.testing import FakeBroken, FakeFactory
from tests.docs.pages import ROOT, bare, table
from tests.integrations.exchange import OK, Exchange, answering
from tests.waiting import until


@pytest.fixture
def factory() -> FakeFactory:
    return FakeFactory()


@pytest.fixture
def pool(factory: FakeFactory) -> Iterator[pooling.Pool[Any]]:
    """At the end every lease that was taken has been given back, once."""
    with pooling.Pool(factory, name="main", max_size=2, timeout=0.2) as pool:
        yield pool
        gc.collect()
        stats = pool.stats()
        assert (stats.leased, stats.released) == (0, stats.acquired)
        assert stats.closed.get("dropped", 0) == 0, "a lease was lost and found"


def test_nothing_is_taken_by_a_request_that_asks_for_nothing(pool: Any, factory: FakeFactory) -> None:
    body = [b"hello"]
    exchange = Exchange(Middleware(answering(lambda leases: body), pool), strict=False)
    assert exchange.result is body  # not even wrapped
    assert exchange.run() == b"hello"
    assert (factory.opened, pool.stats().acquired) == (0, 0)


def test_a_request_has_one_lease_however_often_it_asks(pool: Any) -> None:
    def body(leases: wsgi.Leases) -> list[bytes]:
        assert leases.connection() is leases.connection("default") is leases.lease().connection
        return [b"%d" % pool.stats().leased]

    assert Exchange(Middleware(answering(body), pool)).run() == b"1"
    assert pool.stats().acquired == 1


def test_what_stands_between_the_middleware_and_the_application_may_be_strict(pool: Any) -> None:
    # A name without a dot is one of CGI's, and has to be a string.
    application = validator(answering(lambda leases: [b"%d" % leases.connection().number]))
    assert Exchange(Middleware(application, pool)).run() == b"1"


def test_the_helper_finds_the_leases_and_says_what_is_missing_where_there_are_none(pool: Any) -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response(*OK)
        assert wsgi.connection(environ) is wsgi.leases(environ).connection()
        return []

    Exchange(Middleware(application, pool)).run()
    with pytest.raises(pooling.PoolError, match=r"wrap the application in pooling\.integrations\.wsgi\.Middleware"):
        wsgi.connection({})


@pytest.mark.parametrize("body", [list, tuple, iter], ids=lambda kind: kind.__name__)
def test_a_lease_is_kept_until_the_server_closes_the_response(pool: Any, body: Any) -> None:
    def stream(leases: wsgi.Leases) -> Iterable[bytes]:
        leases.connection()
        return body([b"a", b"b"])

    exchange = Exchange(Middleware(answering(stream), pool))
    for block in (b"a", b"b"):
        assert exchange.next() == block
        assert pool.stats().leased == 1
    with pytest.raises(StopIteration):
        exchange.next()
    assert pool.stats().leased == 1
    exchange.close()
    assert (pool.stats().leased, pool.stats().released) == (0, 1)


def test_a_lease_may_be_taken_while_the_response_is_streamed(pool: Any) -> None:
    def stream(leases: wsgi.Leases) -> Iterator[bytes]:
        yield b"first"
        leases.connection()
        yield b"second"

    exchange = Exchange(Middleware(answering(stream), pool))
    exchange.next()
    assert pool.stats().leased == 0
    exchange.next()
    assert pool.stats().leased == 1
    exchange.close()
    assert pool.stats().leased == 0


def test_the_applications_own_close_still_has_the_connection_and_is_called_once(pool: Any) -> None:
    class Body:
        closed = 0

        def __init__(self, leases: wsgi.Leases) -> None:
            self.leases = leases
            leases.connection()

        def __iter__(self) -> Iterator[bytes]:
            return iter([b"x"])

        def close(self) -> None:
            self.closed += 1
            assert self.leases.connection()
            assert pool.stats().leased == 1

    made: list[Body] = []

    def body(leases: wsgi.Leases) -> Body:
        made.append(Body(leases))
        return made[0]

    exchange = Exchange(Middleware(answering(body), pool), strict=False)
    assert exchange.run() == b"x"
    exchange.close()  # a server should not, and nothing happens
    assert made[0].closed == 1
    assert pool.stats().released == 1


def test_a_close_that_raises_gives_back_all_the_same(pool: Any) -> None:
    class Body(list[bytes]):
        def close(self) -> None:
            raise RuntimeError("in close")

    def body(leases: wsgi.Leases) -> Body:
        leases.connection()
        return Body([b"x"])

    exchange = Exchange(Middleware(answering(body), pool), strict=False)
    with pytest.raises(RuntimeError, match="in close"):
        exchange.run()
    assert pool.stats().leased == 0


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt(), SystemExit(3)], ids=repr)
def test_an_application_that_raises_gives_back_at_once(pool: Any, error: BaseException) -> None:
    def body(leases: wsgi.Leases) -> list[bytes]:
        leases.connection()
        raise error

    with pytest.raises(type(error)) as raised:
        Exchange(Middleware(answering(body), pool))
    assert raised.value is error
    assert (pool.stats().leased, pool.stats().idle) == (0, 1)


def test_an_iterator_that_fails_gives_back_when_it_is_closed(pool: Any) -> None:
    def stream(leases: wsgi.Leases) -> Iterator[bytes]:
        leases.connection()
        yield b"a"
        raise RuntimeError("midway")

    exchange = Exchange(Middleware(answering(stream), pool))
    with pytest.raises(RuntimeError, match="midway"):
        exchange.run()
    assert (pool.stats().leased, pool.stats().idle) == (0, 1)


def test_an_iterable_whose_iter_raises_gives_back_when_it_is_closed(pool: Any) -> None:
    class Body:
        def __init__(self, leases: wsgi.Leases) -> None:
            leases.connection()

        def __iter__(self) -> Iterator[bytes]:
            raise RuntimeError("no iterator")

    exchange = Exchange(Middleware(answering(Body), pool), strict=False)
    with pytest.raises(RuntimeError, match="no iterator"):
        exchange.run()
    assert pool.stats().leased == 0


@pytest.mark.parametrize("when", ["call", "stream", "close"])
def test_an_error_that_breaks_the_connection_has_it_closed(pool: Any, when: str) -> None:
    class Body:
        def __init__(self, leases: wsgi.Leases) -> None:
            leases.connection()
            if when == "call":
                raise FakeBroken("gone")

        def __iter__(self) -> Iterator[bytes]:
            yield b"a"
            if when == "stream":
                raise FakeBroken("gone")

        def close(self) -> None:
            if when == "close":
                raise FakeBroken("gone")

    with pytest.raises(FakeBroken):
        Exchange(Middleware(answering(Body), pool), strict=False).run()
    assert pool.stats().leased == 0
    until(lambda: pool.stats().closed == {"broken": 1})


def test_a_client_that_goes_away_midway_costs_nothing(pool: Any) -> None:
    """The server closes without having taken the rest."""
    ended = []

    def stream(leases: wsgi.Leases) -> Iterator[bytes]:
        leases.connection()
        try:
            yield b"a"
            yield b"b"
        finally:
            ended.append(pool.stats().leased)

    exchange = Exchange(Middleware(answering(stream), pool))
    exchange.next()
    exchange.close()
    assert ended == [1]  # the application's own end came first, with its connection
    assert (pool.stats().leased, pool.stats().idle) == (0, 1)


def test_a_lease_that_was_ended_by_hand_is_followed_by_a_new_one(pool: Any, factory: FakeFactory) -> None:
    def body(leases: wsgi.Leases) -> list[bytes]:
        first = leases.connection()
        leases.lease().discard()
        assert leases.connection() is not first
        second = leases.connection()
        assert leases.lease().refresh() is leases.connection() is not second
        leases.release()
        assert pool.stats().leased == 0
        assert leases.connection() is factory.connections[-1]
        leases.release()
        return [b"x"]

    assert Exchange(Middleware(answering(body), pool)).run() == b"x"


def test_after_the_end_nothing_more_is_taken(pool: Any) -> None:
    kept: list[wsgi.Leases] = []
    Exchange(Middleware(answering(lambda leases: kept.append(leases) or [b""]), pool)).run()  # type: ignore[func-returns-value]
    with pytest.raises(pooling.PoolError, match="the request is over"):
        kept[0].connection()


def test_a_request_that_ends_while_it_waits_for_a_connection_does_not_keep_it(pool: Any) -> None:
    """A thread of the request's own is still waiting when the server closes."""
    leases = wsgi.Leases({"default": pool}, 5.0)
    held = [pool.acquire(), pool.acquire()]
    outcome: list[BaseException] = []

    def wait() -> None:
        try:
            leases.connection()
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    until(lambda: pool.stats().waiting == 1)
    leases._end()
    for lease in held:
        lease.release()
    thread.join(10)
    assert isinstance(outcome[0], pooling.PoolError)
    assert pool.stats().leased == 0


def test_threads_of_one_request_share_its_lease(pool: Any) -> None:
    leases = wsgi.Leases({"default": pool})
    gate = threading.Barrier(2)
    seen: list[Any] = []

    def ask() -> None:
        gate.wait(10)
        seen.append(leases.connection())

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert seen[0] is seen[1]
    assert pool.stats().leased == 1
    leases._end()


def test_concurrent_requests_never_share(pool: Any) -> None:
    exchanges = [
        Exchange(Middleware(answering(lambda leases: iter([str(leases.connection()).encode()])), pool))
        for _ in range(2)
    ]
    assert len({exchange.next() for exchange in exchanges}) == 2
    for exchange in exchanges:
        exchange.close()


def test_a_holder_is_shown_where_the_application_asked(pool: Any) -> None:
    def body(leases: wsgi.Leases) -> list[bytes]:
        leases.connection()
        return [pool.holders()[0].where.encode()]

    assert Exchange(Middleware(answering(body), pool)).run().endswith(b" body")

    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response(*OK)
        wsgi.connection(environ)
        return [pool.holders()[0].where.encode()]

    where = Exchange(Middleware(application, pool)).run()
    assert b"test_wsgi.py" in where
    assert where.endswith(b" application")


# -- several pools ---------------------------------------------------------------------------------------------------


def test_several_pools_are_asked_by_name(pool: Any) -> None:
    with pooling.Pool(FakeFactory(), name="other") as other:

        def body(leases: wsgi.Leases) -> list[bytes]:
            assert leases.connection("default") is leases.connection()
            assert leases.connection("cache") is not leases.connection()
            with pytest.raises(LookupError, match=r"no pool is called 'cash', did you mean 'cache'\?"):
                leases.connection("cash")
            return [b"%d%d" % (pool.stats().leased, other.stats().leased)]

        assert Exchange(Middleware(answering(body), {"default": pool, "cache": other})).run() == b"11"
        assert (pool.stats().leased, other.stats().leased) == (0, 0)


def test_the_only_pool_needs_no_name_and_of_several_the_default_is_meant(pool: Any) -> None:
    leases = wsgi.Leases({"main": pool})
    assert leases.connection() is leases.connection("main")
    leases._end()
    with pytest.raises(LookupError, match=r"no pool is called 'default' \(known: one, two\)"):
        wsgi.Leases({"one": pool, "two": pool}).connection()


# -- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapper", ["class", "function", "none"])
def test_a_file_reaches_the_server_as_it_was_and_its_close_ends_the_lease(pool: Any, wrapper: str) -> None:
    """A server sends a file without Python's help if it gets the very object that its wrapper made."""

    class File(io.BytesIO):
        closings = 0

        def close(self) -> None:
            type(self).closings += 1
            super().close()

    made: list[Any] = []

    def application(environ: Any, start_response: Any) -> Any:
        start_response(*OK)
        environ["pooling.leases"].connection()
        made.append(environ.get("wsgi.file_wrapper", FileWrapper)(File(b"content")))
        return made[0]

    wrappers = {"class": FileWrapper, "function": lambda file, size=0: file, "none": None}
    environ = {} if wrapper == "none" else {"wsgi.file_wrapper": wrappers[wrapper]}
    exchange = Exchange(Middleware(application, pool), strict=False, **environ)
    assert (exchange.result is made[0]) == (wrapper != "none")
    assert exchange.run() == b"content"
    assert File.closings == 1
    assert pool.stats().leased == 0


def test_a_file_whose_close_can_not_be_replaced_is_sent_by_iteration(pool: Any) -> None:
    class Slotted:
        __slots__ = ("file",)

        def __init__(self, file: Any) -> None:
            self.file = file

        def __iter__(self) -> Iterator[bytes]:
            return iter(self.file)

        def close(self) -> None:
            self.file.close()

    def application(environ: Any, start_response: Any) -> Any:
        start_response(*OK)
        environ["pooling.leases"].connection()
        return environ["wsgi.file_wrapper"](io.BytesIO(b"content"))

    exchange = Exchange(Middleware(application, pool), strict=False, **{"wsgi.file_wrapper": Slotted})
    assert exchange.run() == b"content"
    assert pool.stats().leased == 0


def test_the_length_of_a_body_stays_known(pool: Any) -> None:
    """Of a body of one block servers take the Content-Length."""

    def one(leases: wsgi.Leases) -> list[bytes]:
        leases.connection()
        return [b"x"]

    exchange = Exchange(Middleware(answering(one), pool), strict=False)
    assert len(exchange.result) == 1
    exchange.close()
    exchange = Exchange(Middleware(answering(lambda leases: iter([])), pool), strict=False)
    assert not hasattr(exchange.result, "__len__")
    exchange.close()


def test_a_manager_is_a_mapping_of_pools_too(tmp_path: Path) -> None:
    with pooling.PoolManager() as manager:
        for name in ("main", "audit", "unused"):
            manager.add(name, f"sqlite:///{tmp_path}/{name}.db")

        def body(leases: wsgi.Leases) -> list[bytes]:
            assert leases.connection("main") is not leases.connection("audit")
            with pytest.raises(LookupError, match=r"no pool is called 'mian', did you mean 'main'\?"):
                leases.connection("mian")
            return [b"%d" % manager["main"].stats().leased]

        assert Exchange(Middleware(answering(body), manager)).run() == b"1"
        assert manager["main"].stats().leased == 0


def test_the_page_lists_every_member_of_what_a_request_has() -> None:
    page = ROOT / "docs" / "how-to" / "use-wsgi.md"
    listed = [bare(row[0]).partition("(")[0] for row in table(page, 'member of `environ["pooling.leases"]`')]
    assert sorted(listed) == sorted(name for name in vars(wsgi.Leases) if not name.startswith("_"))


# -- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"application": None}, "application must be a WSGI application"),
        ({"pools": "postgresql://user:secret@host/db"}, "pools must be a Pool, or a mapping of names to pools"),
        ({"timeout": "soon"}, "timeout must be seconds"),
        ({"timeout": -1}, "timeout must be at least 0 seconds"),
        ({"retry_after": -1}, "retry_after must be at least 0 seconds"),
        ({"retry_after": float("inf")}, "retry_after must be a finite number of seconds, not inf"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(pool: Any, arguments: dict[str, Any], message: str) -> None:
    given = {"application": answering(lambda leases: []), "pools": pool, **arguments}
    with pytest.raises((TypeError, ValueError), match=message) as refused:
        Middleware(given.pop("application"), given.pop("pools"), **given)
    assert "secret" not in str(refused.value)


def test_another_key_leaves_room_for_another_middleware(pool: Any) -> None:
    with pooling.Pool(FakeFactory()) as other:

        def application(environ: Any, start_response: Any) -> list[bytes]:
            start_response(*OK)
            assert wsgi.connection(environ) is not environ["second"].connection()
            return [b"%d%d" % (pool.stats().leased, other.stats().leased)]

        both = Middleware(Middleware(application, pool), other, key="second")
        assert Exchange(both).run() == b"11"
        assert (pool.stats().leased, other.stats().leased) == (0, 0)
