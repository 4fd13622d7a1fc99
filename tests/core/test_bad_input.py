"""Bad input gets one clear error, and nothing has changed afterwards."""

from __future__ import annotations

import logging
import math
import pickle
from typing import Any

import pytest

from pooling import (
    Config,
    ConnectError,
    Factory,
    Holder,
    Pool,
    PoolClosed,
    PoolError,
    PoolTimeout,
    QueueFull,
    create_pool,
)
from pooling._ledger.outage import GRACE
from pooling.testing import FakeConnection, FakeFactory, ManualClock
from tests.core.conftest import Make
from tests.core.helpers import outcome, timed

NAN = float("nan")

OUT_OF_RANGE: list[tuple[dict[str, Any], str]] = [
    ({"min_size": -1}, "min_size must be at least 0, not -1"),
    ({"max_size": 0}, "max_size must be at least 1, not 0"),
    ({"max_size": -5}, "max_size must be at least 1, not -5"),
    ({"min_size": 5, "max_size": 4}, "min_size (5) is greater than max_size (4)"),
    ({"min_size": 11}, "min_size (11) is greater than max_size (10)"),
    ({"min_size": 3, "max_idle": 2}, "max_idle (2) is less than min_size (3)"),
    ({"max_idle": -1}, "max_idle must be at least 0, not -1"),
    ({"max_waiting": -1}, "max_waiting must be at least 0, not -1"),
    ({"max_uses": 0}, "max_uses must be at least 1, not 0"),
    ({"max_connecting": 0}, "max_connecting must be at least 1, not 0"),
    ({"timeout": -1}, "timeout must be at least 0 seconds, not -1"),
    ({"timeout": NAN}, "timeout must be at least 0 seconds, not nan"),
    ({"idle_timeout": 0}, "idle_timeout must be greater than 0 seconds, not 0"),
    ({"max_lifetime": -3.5}, "max_lifetime must be greater than 0 seconds, not -3.5"),
    ({"check_after": -1}, "check_after must be at least 0 seconds, not -1"),
    ({"keepalive": 0}, "keepalive must be greater than 0 seconds, not 0"),
    ({"connect_timeout": 0}, "connect_timeout must be greater than 0 seconds, not 0"),
    ({"fail_after": -1}, "fail_after must be at least 0 seconds, not -1"),
    ({"leak_after": 0}, "leak_after must be greater than 0 seconds, not 0"),
    ({"check": "pong"}, "check must be one of 'peek', 'ping', None, not 'pong'"),
    ({"nested": "maybe"}, "nested must be one of 'warn', 'raise', None, not 'maybe'"),
    ({"workers": "greenlets"}, "workers must be one of 'threads', 'inline', not 'greenlets'"),
    ({"reset": "all"}, "reset must be one of 'transaction', 'session', None, not 'all'"),
    ({"order": "random"}, "order must be one of 'lifo', 'fifo', not 'random'"),
]


async def coroutine(connection: Any) -> None:
    pass


LATER = "must be a plain function, not one that makes a generator or coroutine: nobody runs it"
OF_A_WRONG_TYPE: list[tuple[dict[str, Any], str]] = [
    ({"max_size": "10"}, "max_size must be a whole number or None, not '10'"),
    ({"max_size": 2.5}, "max_size must be a whole number or None, not 2.5"),
    ({"min_size": True}, "min_size must be a whole number, not True"),
    ({"min_size": None}, "min_size must be a whole number, not None"),
    ({"max_connecting": None}, "max_connecting must be a whole number, not None"),
    ({"timeout": "30"}, "timeout must be seconds as a number or None, not '30'"),
    ({"timeout": False}, "timeout must be seconds as a number or None, not False"),
    ({"check_after": None}, "check_after must be seconds as a number, not None"),
    ({"connect_timeout": None}, "connect_timeout must be seconds as a number, not None"),
    ({"backoff": 0.5}, "backoff must be callable or None, not 0.5"),
    ({"on_connect": "SET"}, "on_connect must be callable or None, not 'SET'"),
    ({"on_connect": coroutine}, f"on_connect {LATER}"),  # no connection would have been set up
    ({"backoff": coroutine}, f"backoff {LATER}"),
    ({"name": 7}, "name must be a string or None, not 7"),
    ({"maxsize": 3}, "unknown option 'maxsize', did you mean 'max_size'?"),
    ({"max_overflow": 3}, "unknown option 'max_overflow'"),
    ({"time_out": 3}, "unknown option 'time_out', did you mean 'timeout'?"),
    ({"maxconn": 3}, "unknown option 'maxconn', did you mean 'max_size'?"),
    ({"blocking": False}, "unknown option 'blocking', did you mean 'max_waiting'?"),
    ({"health_check_interval": 30}, "unknown option 'health_check_interval', did you mean 'keepalive'?"),
    ({"user": "me"}, "unknown option 'user': it is the driver's, for the URL or connect_args"),
    ({"zzz": 1}, "unknown option 'zzz'"),
]


@pytest.mark.parametrize(("options", "message"), OUT_OF_RANGE)
def test_options_out_of_range(factory: FakeFactory, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        Pool(factory, **options)
    assert str(caught.value) == message


@pytest.mark.parametrize(("options", "message"), OF_A_WRONG_TYPE)
def test_options_of_a_wrong_type_and_unknown_ones(factory: FakeFactory, options: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError) as caught:
        Pool(factory, **options)
    assert str(caught.value).startswith(message)


def test_every_option_can_be_given_and_is_kept() -> None:
    """What is valid is taken, at the edges as well."""
    edges: dict[str, Any] = {
        "name": "x", "min_size": 4, "max_size": 4, "max_idle": 4, "timeout": 0, "max_waiting": 0, "idle_timeout": 1e-9,
        "max_lifetime": None, "max_uses": 1, "check": None, "check_after": 0, "keepalive": None, "max_connecting": 1,
        "connect_timeout": 1e9, "fail_after": 0, "backoff": lambda n: 0.0, "nested": None, "workers": "inline",
        "reset": None, "leak_after": 0.1, "order": "fifo", "on_connect": print,
    }  # fmt: skip  # a table
    config = Config.of(edges)
    assert {name: getattr(config, name) for name in edges} == edges
    with pytest.raises(AttributeError):
        config.max_size = 5  # type: ignore[misc]


def test_a_size_without_a_cap_is_none(make: Make) -> None:
    assert make(max_size=None, min_size=1000).stats().max_size is None


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (7, "factory must be a pooling.Factory or a callable that returns a connection, not int"),
        (None, "factory must be a pooling.Factory or a callable that returns a connection, not NoneType"),
        (FakeFactory, "factory is the class FakeFactory: pass an instance, FakeFactory(…)"),
    ],
)
def test_what_is_no_factory(factory: Any, message: str) -> None:
    with pytest.raises(TypeError) as caught:
        Pool(factory)
    assert str(caught.value) == message


def test_a_url_is_no_factory_and_the_error_says_where_it_goes() -> None:
    with pytest.raises(TypeError, match=r"not str \(for a URL: pooling\.create_pool\)$"):
        Pool("sqlite://")  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"check": "ping"}, {"keepalive": 5}])
def test_a_round_trip_asked_of_a_factory_that_has_none(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^check='ping' and keepalive need a factory with a check\(\), ") as caught:
        Pool(object, **options)
    assert str(caught.value).endswith("a check(), CallableFactory has none")


def test_a_factory_without_connect() -> None:
    class Empty(Factory[Any]):
        pass

    with pytest.raises(NotImplementedError, match=r"^Empty has to define connect\(timeout\)$"):
        Empty().connect(1)


BAD_CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
    ("acquire", (-1,), {}, ValueError, "timeout must be at least 0 seconds, not -1"),
    ("acquire", (NAN,), {}, ValueError, "timeout must be at least 0 seconds, not nan"),
    ("acquire", ("5",), {}, TypeError, "timeout must be seconds as a number or None, not '5'"),
    ("acquire", (), {"priority": NAN}, ValueError, "priority must be a finite number of seconds, not nan"),
    ("acquire", (), {"priority": -math.inf}, ValueError, "priority must be a finite number of seconds, not -inf"),
    ("acquire", (), {"priority": "high"}, TypeError, "priority must be seconds as a number, not 'high'"),
    ("acquire", (), {"priority": None}, TypeError, "priority must be seconds as a number, not None"),
    ("acquire", (), {"priority": True}, TypeError, "priority must be seconds as a number, not True"),
    ("warm_up", (-1,), {}, ValueError, "timeout must be at least 0 seconds, not -1"),
    ("close", (-1,), {}, ValueError, "timeout must be at least 0 seconds, not -1"),
    ("drain", (-1,), {}, ValueError, "timeout must be at least 0 seconds, not -1"),
    ("transaction", (-1,), {}, ValueError, "timeout must be at least 0 seconds, not -1"),
    ("resize", (5, 4), {}, ValueError, "min_size (5) is greater than max_size (4)"),
    ("resize", (-1,), {}, ValueError, "min_size must be at least 0, not -1"),
    ("resize", (), {"max_size": 0}, ValueError, "max_size must be at least 1, not 0"),
    ("resize", (), {"max_size": "3"}, TypeError, "max_size must be a whole number or None, not '3'"),
    ("resize", (), {"max_size": math.inf}, TypeError, "max_size must be a whole number or None, not inf"),
    ("resize", (11,), {}, ValueError, "min_size (11) is greater than max_size (10)"),
    ("subscribe", (None,), {}, TypeError, "a listener must be callable, not None"),
    ("subscribe", (coroutine,), {}, TypeError, f"a listener {LATER}"),
]


@pytest.mark.parametrize(("method", "arguments", "named", "kind", "message"), BAD_CALLS)
def test_bad_arguments_of_a_running_pool(
    clock: ManualClock,
    make: Make,
    method: str,
    arguments: tuple[Any, ...],
    named: dict[str, Any],
    kind: type[Exception],
    message: str,
) -> None:
    pool = make()
    one, two = pool.acquire(), pool.acquire()
    before = pool.stats()
    error = outcome(getattr(pool, method), *arguments, **named)
    clock.advance(0)
    assert (type(error), str(error)) == (kind, message)
    assert pool.stats() == before
    one.release()
    two.release()


@pytest.mark.parametrize("idle", [0.0, 5.0])
def test_a_bad_argument_costs_no_idle_connection(clock: ManualClock, make: Make, idle: float) -> None:
    """Neither one that is ready nor one that would have to be looked at."""
    pool = make()
    pool.acquire().release()
    clock.advance(idle)
    for bad in ({"priority": NAN}, {"timeout": NAN}):
        assert isinstance(outcome(pool.acquire, **bad), ValueError)
    clock.advance(0)
    assert (pool.stats().idle, pool.stats().acquired, pool.stats().closed) == (1, 1, {})


def test_a_factory_that_returns_none(clock: ManualClock, make: Make) -> None:
    pool = make(factory=lambda: None, name="p")
    error = outcome(pool.acquire, 5)
    assert isinstance(error, ConnectError)
    assert "the factory returned None in place of a connection" in str(error)
    assert isinstance(error.__cause__, PoolError)
    assert pool.stats().size == 0


def test_a_factory_that_returns_the_same_connection_twice(clock: ManualClock, make: Make) -> None:
    closed: list[Any] = []

    class Single(Factory[FakeConnection]):
        connection = FakeConnection(1)

        def connect(self, timeout: float) -> FakeConnection:
            return self.connection

        def close(self, connection: FakeConnection) -> None:
            closed.append(connection)

    pool = make(factory=Single())
    lease = pool.acquire()
    took, error = timed(clock, pool.acquire, 5)
    assert isinstance(error, ConnectError)
    assert "the factory returned a connection that is in the pool already" in str(error)
    assert took <= GRACE  # trying again would not help
    clock.advance(0)
    assert (closed, pool.stats().size, pool.stats().leased) == ([], 1, 1)
    lease.release()
    pool.close()
    assert closed == [Single.connection]


def test_the_same_connection_again_after_it_was_closed_is_a_new_one(clock: ManualClock, make: Make) -> None:
    connection = FakeConnection(1)
    connection.close = lambda: None  # type: ignore[attr-defined]
    pool = make(factory=lambda: connection, max_size=1)
    for _ in range(3):
        pool.acquire(timeout=1).discard()
        clock.advance(0)
    assert pool.stats().opened == 3


def test_a_new_connection_at_the_address_of_one_just_closed_is_a_new_one(clock: ManualClock, make: Make) -> None:
    """What was closed is let go of by its worker, and its address given to another, before the pool has heard of it."""
    connection = FakeConnection(1)

    class Closing(Factory[FakeConnection]):
        def connect(self, timeout: float) -> FakeConnection:
            return connection  # in the place of another one with the same id()

        def close(self, connection: FakeConnection) -> None:
            raise OSError("closed all the same, and told the log")

    class Slow(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            clock.sleep(1)

    pool = make(factory=Closing(), max_size=2)
    log, handler = logging.getLogger("pooling"), Slow()
    log.addHandler(handler)
    try:
        pool.acquire().discard()
        with pool.acquire(timeout=0.5):
            clock.advance(2)  # the end of the first one is told
            assert (pool.stats().leased, pool.stats().size) == (1, 1)
            assert isinstance(outcome(pool.acquire, 5), ConnectError)  # that is known of the second one still
    finally:
        log.removeHandler(handler)


def test_an_unknown_url_scheme_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"^unknown URL scheme 'postgre', did you mean 'postgres'\? \(known: .*sqlite"):
        create_pool("postgre://localhost/db")
    with pytest.raises(ValueError, match=r"^unknown URL scheme 'gopher' \(known: "):
        create_pool("gopher://localhost")
    with pytest.raises(ValueError, match=r"^url must look like 'postgresql://user@host/db'"):
        create_pool("localhost")


def test_a_missing_driver_names_the_extra_to_install() -> None:
    from tests.core.helpers import run_python

    said = run_python(
        """
        import sys
        sys.modules["psycopg"] = None
        import pooling
        try:
            pooling.create_pool("postgresql://localhost/db")
        except ImportError as error:
            print(error)
        """
    )
    assert "pooling[postgres]" in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    "error",
    [
        PoolError("a"),
        QueueFull("b"),
        PoolClosed("c"),
        ConnectError("d"),
        PoolTimeout("e"),
        PoolTimeout("f", stage="check", holders=(Holder("t", 1.5, "f:1 g"),)),
    ],
)
def test_errors_pickle(error: PoolError) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        copy = pickle.loads(pickle.dumps(error, protocol))
        assert (type(copy), copy.args, copy.__dict__) == (type(error), error.args, error.__dict__)
        for name in ("stage", "stats", "holders"):
            assert getattr(copy, name, None) == getattr(error, name, None)


def test_a_real_timeout_pickles_with_its_numbers(clock: ManualClock, make: Make) -> None:
    pool = make(max_size=1)
    with pool.acquire():
        error = outcome(pool.acquire, 1)
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.stats, copy.holders, copy.stage, str(copy)) == (error.stats, error.holders, "queue", str(error))
    assert copy.holders[0].thread == "MainThread"


def test_a_pool_refuses_to_be_pickled_in_one_clear_line(make: Make) -> None:
    with pytest.raises(TypeError) as caught:
        pickle.dumps(make(name="main"))
    assert str(caught.value) == "pool 'main' cannot be pickled: open one in each process"


def test_stats_pickle(make: Make) -> None:
    pool = make()
    pool.acquire().release()
    assert pickle.loads(pickle.dumps(pool.stats())) == pool.stats()


@pytest.mark.parametrize("name", ["execute", "cursor", "commit", "request"])
def test_a_lease_that_is_taken_for_its_connection_says_how_to_get_that(name: str) -> None:
    with Pool(FakeFactory(), max_size=1, timeout=5) as pool:
        with pytest.raises(AttributeError) as caught:
            getattr(pool.acquire(), name)
        assert str(caught.value) == (
            f"'Lease' object has no attribute {name!r}, its connection has: "
            "use `with pool.acquire() as connection`, or `lease.connection`"
        )
        with pool.acquire():  # the error is kept: the lease that was lost by it is not
            pass
        with pytest.raises(AttributeError, match=r"use `with pool.transaction\(\) as connection`$"):
            getattr(pool.transaction(), name)


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("getconn", "use `with pool.acquire() as connection`"),
        ("execute", "use `with pool.acquire() as connection`"),
        ("putconn", "the end of its `with`, or of the lease, gives a connection back"),
        ("closeall", "use `pool.close()`"),
        ("dispose", "use `pool.clear()` to go on with other connections, `pool.close()` to end"),
        ("open", "it is open from the start, `pool.warm_up()` opens connections"),
        ("wait", "it is open from the start, `pool.warm_up()` opens connections"),
        ("get_stats", "`pool.stats()` tells"),
        ("size", "`pool.stats()` tells"),
    ],
)
def test_a_pool_that_is_asked_by_another_pools_name_says_what_that_is_here(name: str, instead: str, make: Make) -> None:
    with pytest.raises(AttributeError) as caught:
        getattr(make(), name)
    assert str(caught.value) == f"'Pool' object has no attribute {name!r}: {instead}"


def test_names_that_are_elsewhere_are_offered_by_nothing(make: Make) -> None:
    pool = make()
    lease = pool.acquire()
    assert not hasattr(pool, "getconn")
    for holder, theirs in ((pool, "getconn"), (lease, "execute"), (pool.transaction(), "commit")):
        assert theirs not in dir(holder)
    assert {"acquire", "stats"} < set(dir(pool))
    assert {"connection", "release"} < set(dir(lease))
    lease.release()


def test_other_names_are_missing_from_a_lease_as_from_any_object() -> None:
    with Pool(FakeFactory(), max_size=1) as pool:
        lease: Any = pool.acquire()
        assert not hasattr(lease, "execute")
        with pytest.raises(AttributeError, match=r"^'Lease' object has no attribute 'close': use `lease.release\(\)`$"):
            lease.close()
        with pytest.raises(AttributeError, match=r"object has no attribute 'nonsense'$"):
            lease.nonsense  # noqa: B018
        lease.release()
