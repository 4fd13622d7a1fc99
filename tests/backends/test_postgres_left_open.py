"""What users of PostgreSQL leave open or changed, and that it neither reaches the next one nor passes for done."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pooling import Pool
from tests.backends.adapters import PostgreSQL
from tests.backends.contract import session_of
from tests.servers import Postgres

# What was left open: psycopg's cursors say so at their end, and before 3.3 its COPY does.
pytestmark = pytest.mark.filterwarnings("ignore:.*(ServerCursor|Cursor.copy):pytest.PytestUnraisableExceptionWarning")

MANY = "SELECT generate_series(1, 1000000)"


@pytest.fixture
def backend(postgres: Postgres, tmp_path: Path) -> Iterator[PostgreSQL]:
    with PostgreSQL(postgres, tmp_path) as adapter:
        yield adapter


def one(connection: Any, statement: str) -> Any:
    return connection.execute(statement).fetchone()[0]


class TestLeftBehind:
    """Things that stay referenced by the last user while the next one has its turn."""

    @pytest.mark.parametrize("mode", ["transaction", "session"])
    def test_an_unread_stream_or_a_copy_never_reaches_the_next_user(self, backend: PostgreSQL, mode: Any) -> None:
        pool = backend.pool(max_size=1, reset=mode)
        kept: list[Any] = []

        def stream(connection: Any) -> None:
            kept.append(rows := connection.cursor().stream("SELECT generate_series(1, 100000)"))
            next(rows)

        def copy(statement: str) -> Callable[[Any], None]:
            def start(connection: Any) -> None:
                kept.append(block := connection.cursor().copy(statement))
                kept.append(block.__enter__())

            return start

        def pipeline(connection: Any) -> None:
            kept.append(block := connection.pipeline())
            block.__enter__()

        def notifications(connection: Any) -> None:
            connection.autocommit = True
            connection.execute("LISTEN news; NOTIFY news, '1'; NOTIFY news, '2'")
            kept.append(notes := connection.notifies(timeout=5.0))
            next(notes)

        def block(connection: Any) -> None:
            kept.append(transaction := connection.transaction())
            transaction.__enter__()
            connection.execute("ROLLBACK")

        def served(connection: Any) -> None:
            cursor = connection.cursor("mine")
            cursor.execute("SELECT generate_series(1, 100000)")
            kept.append((cursor, cursor.fetchone()))

        into, out_of = "COPY notes FROM STDIN", "COPY (SELECT generate_series(1, 100000)) TO STDOUT"
        for leave in (stream, copy(into), copy(out_of), pipeline, notifications, block, served):
            with pool.acquire() as connection:
                leave(connection)
            with pool.acquire(timeout=5.0) as connection:
                assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
                assert connection.info.pipeline_status == psycopg.pq.PipelineStatus.OFF
                assert backend.ask(connection, 7) == 7
                connection.commit()  # refused within a block
        # What cannot be cleaned is closed for that reason; it says nothing of the other connections.
        assert pool.stats().closed == {"reset": 6}
        kept.clear()

    @pytest.mark.parametrize("prepared", [False, True])
    def test_a_two_phase_transaction_is_not_left_to_the_next_user(self, backend: PostgreSQL, prepared: bool) -> None:
        pool = backend.pool(max_size=1)
        with pool.acquire() as connection:
            xid = connection.xid(1, backend.name, "branch")
            connection.tpc_begin(xid)
            backend.write(connection, 1)
            if prepared:
                connection.tpc_prepare()
        with pool.transaction() as connection:
            assert not backend.written(connection, 1)
            backend.write(connection, 2)
        with pool.acquire() as connection:
            if prepared:
                connection.tpc_rollback(xid)
            assert backend.written(connection, 2)

    def test_a_finished_two_phase_transaction_costs_no_connection(self, backend: PostgreSQL) -> None:
        pool = backend.pool(max_size=1)
        for number in range(3):
            with pool.acquire() as connection:
                connection.tpc_begin(connection.xid(1, backend.name, str(number)))
                backend.write(connection, number)
                connection.tpc_prepare()
                connection.tpc_commit()
        assert pool.stats().opened == 1

    @pytest.mark.parametrize("autocommit", [False, True])
    def test_a_clean_connection_begins_its_next_transaction_as_the_first(
        self, backend: PostgreSQL, autocommit: bool
    ) -> None:
        def set_up(connection: Any) -> None:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ

        pool = backend.pool(connect_args={"autocommit": autocommit}, max_size=1, on_connect=set_up)
        factory = pool._factory
        with pool.acquire() as connection:
            assert factory.is_clean(connection)
            connection.set_read_only(True)
            assert not factory.is_clean(connection)
        with pool.acquire() as connection:
            assert connection.read_only is None
            connection.deferrable = True
            connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        with pool.acquire() as connection:
            assert connection.deferrable is None
            connection.isolation_level = None
        with pool.transaction() as connection:
            assert one(connection, "SHOW transaction_isolation") == "repeatable read"
            backend.write(connection, 1)
        assert factory.is_clean(connection)
        assert pool.stats().opened == 1

    def test_handlers_adapters_and_unread_notifications_go_with_the_session(self, backend: PostgreSQL) -> None:
        pool = backend.pool(max_size=1, reset="session")
        heard: list[Any] = []

        class Loud(psycopg.adapt.Loader):
            def load(self, data: Any) -> Any:
                return "loud"

        with pool.acquire() as connection:
            connection.add_notice_handler(heard.append)
            connection.add_notify_handler(print)
            connection.remove_notify_handler(print)
            connection.adapters.register_loader("int4", Loud)
            assert one(connection, "SELECT 1") == "loud"
            connection.execute("LISTEN news")
            connection.commit()
            backend.admin.execute("NOTIFY news, 'hello'")
            connection.execute("SELECT 1")  # brings it
        with pool.acquire() as connection:
            connection.add_notify_handler(heard.append)
        with pool.acquire() as connection, warnings.catch_warnings():
            warnings.simplefilter("error")  # psycopg warns of handlers beside notifies()
            assert one(connection, "SELECT 1") == 1
            connection.execute("DO $$ BEGIN RAISE NOTICE 'hello'; END $$")
            assert list(connection.notifies(timeout=0.0)) == []
        assert heard == []
        assert pool.stats().opened == 1

    def test_adapters_given_for_all_connections_stay(self, backend: PostgreSQL) -> None:
        class Loud(psycopg.adapt.Loader):
            def load(self, data: Any) -> Any:
                return "loud"

        context = psycopg.adapt.AdaptersMap(psycopg.adapters)
        context.register_loader("int4", Loud)

        class Context:
            adapters, connection = context, None

        pool = backend.pool(connect_args={"context": Context()}, max_size=1, reset="session")
        for _ in range(2):
            with pool.acquire() as connection:
                assert one(connection, "SELECT 1") == "loud"
                connection.adapters.register_loader("int4", psycopg.types.numeric.IntLoader)
                assert one(connection, "SELECT 1") == 1

    def test_statements_are_prepared_anew_after_a_session_reset(self, backend: PostgreSQL) -> None:
        pool = backend.pool(connect_args={"prepare_threshold": 0}, max_size=1, reset="session")
        for _ in range(10):
            session_of(backend, pool)
        assert pool.stats().opened == 1
        assert pool.stats().errors == 0

    def test_a_use_that_prepares_nothing_does_not_hide_what_the_next_one_prepares(self, backend: PostgreSQL) -> None:
        pool = backend.pool(max_size=1, reset="session")
        session_of(backend, pool)
        for _ in range(3):
            with pool.transaction() as connection:  # a rollback makes psycopg forget them
                for number in range(10):  # psycopg prepares a statement with its sixth execution
                    assert connection.execute("SELECT %s::int", (number,)).fetchone() == (number,)
                assert one(connection, "SELECT count(*) FROM pg_prepared_statements") == 1
        assert pool.stats().opened == 1


def _pipeline(connection: Any) -> list[Any]:
    block = connection.pipeline()
    block.__enter__()
    return [block]


def _stream(connection: Any) -> list[Any]:
    rows = connection.cursor().stream(MANY)
    return [rows, next(rows)]


def _copy_in(connection: Any) -> list[Any]:
    block = connection.cursor().copy("COPY notes FROM STDIN")
    return [block, block.__enter__()]


def _copy_out(connection: Any) -> list[Any]:
    block = connection.cursor().copy(f"COPY ({MANY}) TO STDOUT")
    return [block, block.__enter__().read()]


def _notifies(connection: Any) -> list[Any]:
    # None comes while a transaction is open: this one did before.
    notes = connection.notifies(timeout=5.0)
    return [notes, next(notes)]


UNFINISHED = [
    (_pipeline, "a pipeline was not ended"),
    (_stream, "a query or COPY is still under way"),
    (_copy_in, "a query or COPY is still under way"),
    (_copy_out, "a query or COPY is still under way"),
    (_notifies, "a generator of notifies"),
]


@pytest.mark.parametrize(("leave", "told"), UNFINISHED)
class TestTransaction:
    """One that ends with something open in it. Each ends on a thread of its own: it used to wait for ever."""

    @pytest.fixture
    def pool(self, backend: PostgreSQL) -> Pool[Any]:
        pool = backend.pool(max_size=1, timeout=5.0)
        with pool.acquire() as connection:
            connection.execute("LISTEN news; NOTIFY news")
            connection.commit()
        return pool

    def begin(self, backend: PostgreSQL, connection: Any, leave: Callable[[Any], list[Any]]) -> list[Any]:
        kept = [] if leave is not _pipeline else leave(connection)
        backend.write(connection, 1)
        return kept or leave(connection)

    def outcome(self, work: Callable[[], None]) -> BaseException | None:
        raised: list[BaseException] = []

        def run() -> None:
            try:
                work()
            except BaseException as error:
                raised.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(10.0)
        assert not thread.is_alive()
        return raised[0] if raised else None

    def transaction(
        self,
        backend: PostgreSQL,
        pool: Pool[Any],
        leave: Callable[[Any], list[Any]],
        kept: list[Any],
        error: Exception | None = None,
    ) -> BaseException | None:
        """What comes of a transaction that leaves something open, in ``kept``, and perhaps ends by an error."""

        def work() -> None:
            with pool.transaction() as connection:
                kept.extend(self.begin(backend, connection, leave))
                if error is not None:
                    raise error

        return self.outcome(work)

    def is_lost(self, backend: PostgreSQL, pool: Pool[Any]) -> None:
        with pool.acquire() as connection:
            assert not backend.written(connection, 1)
        assert pool.stats().closed == {"reset": 1}

    def test_it_does_not_pass_for_committed(
        self, backend: PostgreSQL, pool: Pool[Any], leave: Callable[[Any], list[Any]], told: str
    ) -> None:
        kept: list[Any] = []
        error = self.transaction(backend, pool, leave, kept)
        assert isinstance(error, psycopg.InterfaceError)
        assert str(error).startswith(told)
        assert str(error).endswith("within the transaction: it was not committed")
        self.is_lost(backend, pool)
        kept.clear()

    def test_the_users_own_error_comes_through(
        self, backend: PostgreSQL, pool: Pool[Any], leave: Callable[[Any], list[Any]], told: str
    ) -> None:
        kept: list[Any] = []
        assert isinstance(self.transaction(backend, pool, leave, kept, KeyError(told)), KeyError)
        self.is_lost(backend, pool)
        kept.clear()
