"""The forms in which work is tried again: function, decorator, loop; and what they refuse."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

import pooling
from pooling import Pool, PoolManager
from pooling.retry import FullJitter, Retrying
from pooling.testing import FakeBroken, FakePermanent, ManualClock
from tests.core.conftest import Make
from tests.core.retried import Factory, RolledBack, Work, conflicts


@pytest.fixture
def factory(clock: ManualClock) -> Factory:
    return Factory(clock)


# -- function, decorator, loop ------------------------------------------------------------------------------------


def test_a_policy_runs_any_number_of_functions(make: Make) -> None:
    retrying = Retrying(make(), retries=1)
    for _ in range(2):
        work = Work(*conflicts(1))
        assert retrying.run(work, 5) == (5,)
        assert work.calls == 2


def test_a_policy_shows_its_pool(make: Make) -> None:
    assert repr(Retrying(make(name="orders"), retries=2)).startswith("<Retrying on <Pool 'orders' running: ")


def test_a_decorated_function_is_called_without_the_connection(make: Make) -> None:
    work = Work(*conflicts(2))

    @Retrying(make(), transaction=True)
    def transfer(connection: Any, amount: int, *, to: str) -> tuple[Any, ...]:
        """Move money."""
        return work(connection, amount, to)  # type: ignore[no-any-return]

    assert transfer(5, to="anna") == (5, "anna")
    assert work.calls == 3
    assert transfer.__name__ == "transfer"
    assert transfer.__doc__ == "Move money."
    assert list(inspect.signature(transfer).parameters) == ["amount", "to"]


def test_the_pool_of_a_decorator_may_come_later(make: Make) -> None:
    pools: list[Pool[Any]] = []

    @Retrying(lambda: pools[0])
    def number(connection: Any) -> int:
        return connection.number  # type: ignore[no-any-return]

    pools.append(make())
    assert number() == 1


def test_a_loop_ends_with_the_first_try_that_succeeds(make: Make) -> None:
    work, numbers = Work(*conflicts(2)), []
    for attempt in Retrying(make()):
        with attempt as connection:
            numbers.append(attempt.number)
            work(connection)
    assert numbers == [1, 2, 3]


def test_a_loop_may_be_left_by_return_or_break(make: Make) -> None:
    pool, work = make(), Work(*conflicts(1))

    def first() -> Any:
        for attempt in Retrying(pool):
            with attempt as connection:
                return work(connection, "found")
        return None

    assert first() == ("found",)
    assert pool.stats().leased == 0


def test_a_loop_raises_what_is_not_to_be_tried_again(make: Make) -> None:
    pool = make()
    with pytest.raises(FakeBroken, match=r"^1"):  # perhaps it was done
        for attempt in Retrying(pool):
            with attempt:
                raise FakeBroken(attempt.number)
    with pytest.raises(pooling.PoolTimeout, match=r"^try 1"):  # of another pool
        for attempt in Retrying(pool):
            with attempt:
                raise pooling.PoolTimeout(f"try {attempt.number}", stage="queue")
    with pytest.raises(RolledBack, match="third"):
        for attempt in Retrying(pool, retries=2):
            with attempt:
                raise RolledBack({1: "first", 2: "second", 3: "third"}[attempt.number])
    with pytest.raises(KeyboardInterrupt, match="1"):
        for attempt in Retrying(pool, on=lambda error: True):
            with attempt:
                raise KeyboardInterrupt(attempt.number)
    assert pool.stats().leased == 0


def test_a_loop_whose_connect_fails_tries_that_again(make: Make, factory: Factory, clock: ManualClock) -> None:
    factory.gates["connect"].error(ConnectionRefusedError())
    pool = make(fail_after=0.1)

    def loop() -> int:
        for attempt in Retrying(pool, retries=None):
            with attempt:
                return attempt.number
        return 0

    looping = clock.spawn(loop)
    clock.advance(3.0)
    factory.gates["connect"].ok()
    clock.advance(3.0)
    assert looping.result() > 1
    factory.gates["connect"].error(FakePermanent())
    pool.clear()
    with pytest.raises(pooling.ConnectError):
        loop()


def test_a_loop_cannot_commit_and_says_so(make: Make) -> None:
    with pytest.raises(TypeError, match="a loop cannot commit"):
        for _ in Retrying(make(), transaction=True):
            pass


def test_a_loop_that_does_not_use_its_attempts_ends(make: Make) -> None:
    assert len(list(Retrying(make()))) == 1


# -- who holds it -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"transaction": True}])
def test_whoever_looks_is_told_where_the_run_was_called(make: Make, options: Any) -> None:
    pool, seen = make(max_size=1), []
    for _ in range(2):  # on a new connection, and on one that was idle
        pool.run(lambda connection: seen.append(pool.holders()[0].where), **options)
    Retrying(pool, **options).run(lambda connection: seen.append(pool.holders()[0].where))
    Retrying(pool, **options)(lambda connection: seen.append(pool.holders()[0].where))()
    assert len(seen) == 4
    assert all(where.endswith(" test_whoever_looks_is_told_where_the_run_was_called") for where in seen), seen


def test_also_of_a_loop_and_of_one_who_waits(make: Make, clock: ManualClock) -> None:
    pool = make(max_size=1)
    for attempt in Retrying(pool):
        with attempt:
            assert pool.holders()[0].where.endswith(" test_also_of_a_loop_and_of_one_who_waits")
    with pool.acquire():

        def waits() -> None:
            pool.run(lambda connection: None)

        waiting = clock.spawn(waits)
        clock.advance(0.1)
        assert pool.waiters()[0].where.endswith(" waits")
    clock.advance(0)
    waiting.result()


def test_a_priority_is_that_of_each_acquire(make: Make, clock: ManualClock) -> None:
    pool, order = make(max_size=1), list[str]()
    with pool.acquire():
        for name, priority in [("plain", 0.0), ("urgent", -10.0)]:
            clock.spawn(pool.run, lambda connection, name=name: order.append(name), priority=priority)
            clock.advance(0.1)
    clock.advance(0.1)
    assert order == ["urgent", "plain"]


# -- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"retries": -1}, ValueError, "retries must be at least 0"),
        ({"retries": 1.5}, TypeError, "retries must be a whole number or None"),
        ({"retries": True}, TypeError, "retries"),
        ({"timeout": -1}, ValueError, "timeout must be at least 0"),
        ({"timeout": "5"}, TypeError, "timeout must be seconds"),
        ({"priority": None}, TypeError, "priority must be seconds"),
        ({"backoff": 0.5}, TypeError, "backoff must be callable or None, not 0.5"),
        ({"on": "ValueError"}, TypeError, "on must be exception classes"),
        ({"on": KeyboardInterrupt}, TypeError, "on must be exception classes"),
        ({"on": [ValueError]}, TypeError, "on must be exception classes"),
        ({"retrys": 1}, TypeError, "retrys"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_before_anything_is_done(
    make: Make, factory: Factory, options: Any, error: type[Exception], match: str
) -> None:
    work, pool = Work(), make()
    with pytest.raises(error, match=match):
        pool.run(work, **options)
    assert (work.calls, factory.opened) == (0, 0)


@pytest.mark.parametrize("given", [None, 5, "sqlite://", PoolManager()])
def test_what_is_no_pool_is_refused(given: Any) -> None:
    work = Work()
    refusal = rf"^pool must be a Pool, or a function that returns one, not {type(given).__name__}$"
    with pytest.raises(TypeError, match=refusal):
        Retrying(given)
    retrying = Retrying(lambda: given)
    with pytest.raises(TypeError, match=refusal):
        retrying.run(work)
    with pytest.raises(TypeError, match=refusal):
        next(iter(retrying))
    assert work.calls == 0


def generator(connection: Any) -> Iterator[int]:
    yield 1


async def coroutine(connection: Any) -> None:
    pass


class Later:
    def __call__(self, connection: Any) -> Iterator[int]:
        yield 1

    async def method(self, connection: Any, secret: str) -> None:
        pass


LATER = [generator, coroutine, Later(), partial(generator), partial(Later().method, secret="hunter2")]


@pytest.mark.parametrize("fn", [*LATER, None, 5])
def test_what_would_use_its_connection_later_is_refused(make: Make, fn: Any) -> None:
    pool = make()
    with pytest.raises(TypeError, match=r"plain function|must be callable") as raised:
        pool.run(fn)
    assert "hunter2" not in str(raised.value)
    with pytest.raises(TypeError, match=r"plain function|must be callable"):
        Retrying(pool)(fn)
    assert pool.stats().acquired == 0


def test_a_method_is_not_decorated() -> None:
    with pytest.raises(TypeError, match=r"takes? the connection first: for a method, use run"):

        class Shop:
            @Retrying(lambda: None)  # type: ignore[arg-type,return-value]
            def sell(self, connection: Any) -> None:
                pass


@pytest.mark.parametrize(("first", "longest"), [(-1, 2), (0.1, None), ("1", 2), (0.1, float("nan"))])
def test_a_schedule_of_nonsense_is_refused(first: Any, longest: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"first|longest"):
        FullJitter(first, longest)


# -- threads ------------------------------------------------------------------------------------------------------


def test_many_threads_may_share_one_policy() -> None:
    """In real time: each has its own tries and its own time."""
    factory = Factory()
    with Pool(factory, max_size=3) as pool:
        done: list[int] = []

        def call(number: int, retrying: Callable[..., Any]) -> None:
            work = Work(*conflicts(number % 4))
            assert retrying(work, number) == (number,)
            done.append(work.calls - 1)

        retrying = Retrying(pool, timeout=30.0, backoff=lambda tries: 0.001)
        threads = [threading.Thread(target=call, args=(number, retrying.run)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert sorted(done) == [number for number in range(4) for _ in range(4)]
