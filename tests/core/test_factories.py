"""The defaults of a Factory, and its questions."""

from __future__ import annotations

import contextvars
import copy
import functools
import inspect
import pickle
import sqlite3
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest

from pooling import ConnectError, Factory, Pool
from pooling._clock import DEFAULT, Deadline
from pooling._runtime.fork import _inherited
from pooling.config import Config
from pooling.factory import as_factory
from pooling.testing import FakeConnection, FakeFactory, ManualClock
from tests.core.conftest import Make
from tests.core.helpers import Traced, timed


class Connection:
    def __init__(self) -> None:
        self.said: list[str] = []

    def close(self) -> None:
        self.said.append("close")

    def commit(self) -> None:
        self.said.append("commit")

    def rollback(self) -> None:
        self.said.append("rollback")


class Plain(Factory[Connection]):
    def connect(self, timeout: float) -> Connection:
        return Connection()


def test_the_defaults_ask_nothing_of_a_connection_but_close_commit_and_rollback() -> None:
    factory, connection, error = Plain(), Connection(), OSError()
    factory.reset(connection, "transaction")
    factory.interrupt(connection)
    factory.begin(connection)
    factory.check(connection, 1.0)
    assert connection.said == []
    assert (factory.is_alive(connection), factory.is_clean(connection), factory.view(connection)) == (
        True,
        True,
        connection,
    )
    assert (factory.is_broken(error), factory.is_permanent(error), factory.is_retryable(error)) == (False,) * 3
    factory.commit(connection)
    factory.rollback(connection)
    factory.close(connection)
    assert connection.said == ["commit", "rollback", "close"]


def test_a_check_by_default_is_the_look_at_the_connection() -> None:
    class Dead(Plain):
        def is_alive(self, connection: Connection) -> bool:
            return False

    with pytest.raises(ConnectionError, match="the connection is closed"):
        Dead().check(Connection(), 1.0)


def test_an_abandoned_connection_is_kept_for_ever() -> None:
    connection = Connection()
    Plain().abandon(connection)
    assert _inherited.pop() is connection


def test_so_it_is_without_a_ctypes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ctypes", None)
    test_an_abandoned_connection_is_kept_for_ever()


def test_a_transaction_of_a_plain_dbapi_connection(clock: ManualClock, make: Make) -> None:
    pool: Any = make(factory=Plain())
    with pool.transaction() as connection:
        pass
    assert connection.said == ["commit"]


def test_a_callable_is_made_a_factory_that_names_it() -> None:
    assert repr(as_factory(Connection)) == "CallableFactory(Connection)"
    factory = Plain()
    assert as_factory(factory) is factory

    class Callable:
        def __call__(self) -> Connection:
            return Connection()

    assert repr(as_factory(Callable())) == "CallableFactory(Callable)"


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> type[Connection]:
    """The connections of a DB-API driver."""
    module = types.ModuleType("driver")
    vars(module).update(threadsafety=1, Error=Exception)  # what PEP 249 asks of a module
    monkeypatch.setitem(sys.modules, "driver", module)
    return type("Theirs", (Connection,), {"__module__": "driver.connections"})


def test_what_the_connection_of_a_callable_has_open_is_rolled_back(
    clock: ManualClock, make: Make, driver: type[Connection]
) -> None:
    """It was the next user's before, and a failed transaction everybody's."""
    own = type("Own", (driver,), {"__wrapped__": driver})  # as functools.wraps() leaves it on a class
    for kind in (driver, own, lambda: Traced(driver())):
        pool: Any = make(factory=kind, max_size=1)
        with pool.acquire() as connection:
            pass
        clock.advance(0)
        assert connection.said == ["rollback"]
        with pool.acquire() as again:
            assert again is connection


def test_one_that_says_it_has_nothing_open_is_left_alone(clock: ManualClock, make: Make) -> None:
    pool: Any = make(factory=lambda: sqlite3.connect(":memory:", check_same_thread=False), max_size=1)
    with pool.acquire() as connection:
        connection.execute("CREATE TABLE t (n)")
    assert (pool.stats().idle, pool.stats().busy) == (1, 0)
    with pool.acquire() as connection:
        connection.execute("INSERT INTO t VALUES (1)")
    clock.advance(0)
    with pool.acquire() as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)


@pytest.mark.parametrize("reset", ["transaction", None])
def test_what_is_no_drivers_is_asked_nothing(clock: ManualClock, make: Make, reset: Any) -> None:
    class Thing(Connection):
        def __getattr__(self, name: str) -> None:
            raise AssertionError(f"asked for {name}")

    pool: Any = make(factory=Thing, max_size=1, reset=reset)
    with pool.acquire() as connection:
        pass
    assert (pool.stats().idle, pool.stats().busy) == (1, 0)
    assert connection.said == []


def test_an_interrupted_connection_of_a_callable_is_not_kept(
    clock: ManualClock, make: Make, driver: type[Connection]
) -> None:
    pool: Any = make(factory=driver, max_size=1)
    with pytest.raises(KeyboardInterrupt), pool.acquire():
        raise KeyboardInterrupt
    clock.advance(0)
    assert pool.stats().closed == {"discarded": 1}


def test_a_lease_yields_the_factorys_view_made_once_per_connection(clock: ManualClock, make: Make) -> None:
    class Viewed(FakeFactory):
        views = 0

        def view(self, connection: Any) -> Any:
            self.views += 1
            return ("view", connection.number)

    factory = Viewed(clock)
    seen: list[Any] = []
    pool: Any = make(factory=factory, on_connect=seen.append)
    for _ in range(3):
        with pool.acquire() as view:
            assert view == ("view", 1)
    assert (factory.views, seen) == (1, [("view", 1)])
    lease = pool.acquire()
    assert lease.detach() == ("view", 1)


def test_a_factory_is_told_how_long_it_may_take(clock: ManualClock, make: Make) -> None:
    told: list[float] = []

    class Told(FakeFactory):
        def connect(self, timeout: float) -> FakeConnection:
            told.append(timeout)
            return super().connect(timeout)

        def check(self, connection: FakeConnection, timeout: float) -> None:
            told.append(timeout)

    pool = make(factory=Told(clock), connect_timeout=7, check="ping", check_after=0)
    pool.acquire().release()
    clock.advance(1)
    pool.acquire().release()
    assert told == [7, 7]


def test_what_somebody_was_using_at_a_fork_is_abandoned_as_such(clock: ManualClock, make: Make) -> None:
    """Its driver's state cannot be relied on. A factory that knows no difference makes none."""
    idle, used = [], []

    class Noted(FakeFactory):
        def abandon(self, connection: FakeConnection) -> None:
            idle.append(connection.number)

    class Knowing(Noted):
        def abandon_in_use(self, connection: FakeConnection) -> None:
            used.append(connection.number)

    factory = Knowing(clock)
    pool = make(factory=factory)
    leases = [pool.acquire() for _ in range(3)]
    leases[0].release()
    factory.gates["reset"].never()
    leases[1].connection.dirty = True
    leases[1].release()
    clock.advance(0)
    pool._hooks.abandon(pool._roster.entries)  # as a forked child does
    assert (idle, used) == ([1], [2, 3])
    Noted().abandon_in_use(leases[2].connection)
    assert idle == [1, 3]
    factory.gates["reset"].ok()
    leases[2].release()


@pytest.mark.parametrize("workers", ["threads", "inline"])
def test_hooks_run_in_an_empty_context(clock: ManualClock, make: Make, workers: str) -> None:
    """A connection outlives the request in which it happened to be opened; inline as well."""
    request = contextvars.ContextVar("request", default="none")
    seen: list[str] = []
    token = request.set("a user's")
    try:
        pool = make(on_connect=lambda _: seen.append(request.get()), workers=workers)
        pool.acquire().release()
    finally:
        request.reset(token)
    assert seen == ["none"]


def test_on_connect_that_fails_is_a_failed_connect_and_the_connection_is_closed(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    error = OSError("SET failed")

    def on_connect(connection: Any) -> None:
        if connection.number == 1:
            raise error

    pool = make(on_connect=on_connect)
    with pool.acquire() as connection:
        assert connection.number == 2
    assert factory.connections[0].closed
    assert (pool.stats().opened, pool.stats().errors) == (1, 1)


def test_a_subclass_may_call_its_parameters_what_it_likes() -> None:
    """Type checkers compare the names of what is not positional only."""
    for name, method in vars(Factory).items():
        if not name.startswith("_"):
            _, *parameters = inspect.signature(method).parameters.values()
            assert {parameter.kind for parameter in parameters} <= {inspect.Parameter.POSITIONAL_ONLY}, name


def test_the_default_names_itself_for_whatever_it_stands() -> None:
    for method in (Pool.acquire, Pool.resize):
        assert "= the pool's own" in str(inspect.signature(method))


def test_there_is_one_default_however_it_is_copied() -> None:
    assert copy.copy(DEFAULT) is copy.deepcopy(DEFAULT) is pickle.loads(pickle.dumps(DEFAULT)) is DEFAULT


def test_a_deadline_is_one_moment() -> None:
    deadline = Deadline(10.0, 5.0)
    assert (deadline.at, deadline.remaining(12.0), deadline.remaining(20.0)) == (15.0, 3.0, 0.0)
    assert (deadline.passed(14.9), deadline.passed(15.0)) == (False, True)
    assert not Deadline(10.0, None).passed(1e12)


def test_a_name_is_made_up_where_none_is_given(make: Make) -> None:
    one, two = make(), make()
    assert one.name.startswith("pool-")
    assert one.name != two.name
    assert make(name="mine").name == "mine"
    assert Config().name is None
    assert isinstance(one, Pool)


def test_each_method_of_the_fake_is_described_as_what_it_is() -> None:
    methods = {name: getattr(FakeFactory, name) for name in ("begin", "commit", "rollback")}
    assert {name: method.__name__ for name, method in methods.items()} == {name: name for name in methods}
    assert (inspect.getdoc(FakeFactory.rollback) or "").startswith((inspect.getdoc(Factory.rollback) or "?")[:10])


def test_a_coroutine_function_or_generator_is_refused() -> None:
    """What a call of a generator returns has a close(), and went out as if it were the connection."""

    async def connect() -> Connection:
        return Connection()

    def generate() -> Iterator[Connection]:
        yield Connection()

    class Connects:
        async def __call__(self) -> Connection:
            return Connection()

    factories: list[Any] = [connect, functools.partial(connect), generate, Connects()]
    for factory in factories:
        with pytest.raises(TypeError, match="factory is a coroutine function"):
            Pool(factory)


def test_a_callable_that_wants_arguments_is_told_of_at_once(clock: ManualClock) -> None:
    def connect(address: str) -> Connection:
        return Connection()

    pool = Pool(connect, runtime=clock)  # type: ignore[arg-type]
    took, error = timed(clock, pool.acquire)
    assert isinstance(error, ConnectError)
    assert isinstance(error.__cause__, TypeError)
    assert took == 0
