"""What is special about SQLite."""

from __future__ import annotations

import contextlib
import sqlite3
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pooling import ConnectError, Pool, create_pool
from pooling.backends.sqlite import SqliteFactory
from tests.backends.contract import in_threads, run_python


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/test.db"


@pytest.fixture
def pool(url: str) -> Iterator[Pool[sqlite3.Connection]]:
    with create_pool(url) as pool:
        yield pool


def one(connection: Any, statement: str) -> Any:
    return connection.execute(statement).fetchone()[0]


def write_from_elsewhere(url: str) -> None:
    with contextlib.closing(sqlite3.connect(url.partition(":///")[2], timeout=0.2)) as other, other:
        other.execute("INSERT INTO t VALUES (7)")


def test_a_path_is_a_path_in_whatever_form(tmp_path: Path) -> None:
    with Pool(SqliteFactory(tmp_path / "new.db")) as pool, pool.acquire() as connection:
        assert one(connection, "SELECT file FROM pragma_database_list") == str(tmp_path / "new.db")
    assert repr(SqliteFactory(Path("new.db"))) == "SqliteFactory('new.db')"
    nothing: Any = None
    with pytest.raises(TypeError, match="PathLike"):
        SqliteFactory(nothing)


def test_a_database_in_memory_is_one_for_all_connections_of_the_pool() -> None:
    with create_pool("sqlite://", max_size=2) as pool:
        with pool.transaction() as first:
            first.execute("CREATE TABLE t (x)")
            first.execute("INSERT INTO t VALUES (1)")
        with pool.acquire() as first, pool.acquire() as second:
            assert first is not second
            assert one(first, "SELECT x FROM t") == one(second, "SELECT x FROM t") == 1


def test_a_database_in_memory_is_still_there_after_all_connections_were_closed() -> None:
    with create_pool("sqlite:///:memory:", idle_timeout=0.01) as pool:
        with pool.transaction() as connection:
            connection.execute("CREATE TABLE t (x)")
        pool.clear()
        with pool.acquire() as other:
            assert other is not connection
            assert one(other, "SELECT count(*) FROM t") == 0


def test_two_pools_in_memory_are_two_databases() -> None:
    with create_pool("sqlite://") as here, create_pool("sqlite://") as there:
        with here.transaction() as connection:
            connection.execute("CREATE TABLE t (x)")
        with there.acquire() as connection:
            assert one(connection, "SELECT count(*) FROM sqlite_master") == 0


def test_the_memory_is_given_back_with_the_factory() -> None:
    factory = SqliteFactory(":memory:")
    connection = factory.connect(1.0)
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    target, kept = factory._target, factory.connect(1.0)
    assert one(kept, "SELECT count(*) FROM t") == 0
    kept.close()
    del factory
    with sqlite3.connect(target, uri=True) as fresh:
        assert one(fresh, "SELECT count(*) FROM sqlite_master") == 0
    fresh.close()


@pytest.mark.parametrize(("query", "mode"), [("", "wal"), ("?wal=0", "delete")])
def test_files_are_put_into_wal_mode_unless_told_not_to(url: str, query: str, mode: str) -> None:
    with create_pool(url + query) as pool, pool.acquire() as connection:
        assert one(connection, "PRAGMA journal_mode") == mode


def test_readers_and_a_writer_do_not_block_each_other(pool: Pool[sqlite3.Connection]) -> None:
    with pool.transaction() as connection:
        connection.execute("CREATE TABLE t (x)")
    with pool.transaction() as writer, pool.acquire() as reader:
        writer.execute("INSERT INTO t VALUES (1)")
        assert one(reader, "SELECT count(*) FROM t") == 0


@pytest.mark.parametrize("memory", [False, True])
def test_concurrent_writers_wait_for_each_other(url: str, memory: bool) -> None:
    with create_pool("sqlite://" if memory else url, max_size=8) as pool:
        with pool.transaction() as connection:
            connection.execute("CREATE TABLE t (x)")

        def write(number: int) -> None:
            for _ in range(10):
                with pool.transaction() as connection:
                    connection.execute("INSERT INTO t VALUES (?)", (number,))

        in_threads(16, write)
        with pool.acquire() as connection:
            assert one(connection, "SELECT count(*) FROM t") == 160


def test_a_lock_that_lasts_is_no_fault_of_the_connection(url: str) -> None:
    with create_pool(url + "?timeout=0.05", max_size=2) as pool:
        with pool.transaction() as connection:
            connection.execute("CREATE TABLE t (x)")
        with pool.transaction() as connection:
            connection.execute("INSERT INTO t VALUES (1)")
            with pytest.raises(sqlite3.OperationalError, match="locked") as caught, pool.transaction() as other:
                other.execute("INSERT INTO t VALUES (2)")
        assert pool._factory.is_retryable(caught.value)
        assert not pool._factory.is_broken(caught.value)
        assert pool.stats().opened == 2
        assert pool.stats().closed == {}


def test_a_transaction_begins_as_the_isolation_level_says(url: str) -> None:
    with (
        create_pool(url, connect_args={"isolation_level": "IMMEDIATE", "timeout": 0.05}, max_size=2) as pool,
        pool.transaction(),
        pytest.raises(sqlite3.OperationalError, match="locked"),
        pool.transaction(),
    ):
        pytest.fail("two have begun to write")


def test_paths_are_relative_absolute_and_percent_encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url, file in [
        ("sqlite:///near.db", "near.db"),
        (f"sqlite:///{tmp_path}/far.db", "far.db"),
        (f"sqlite:////{str(tmp_path).lstrip('/')}/a%20b%3F.db", "a b?.db"),
    ]:
        with create_pool(url) as pool, pool.acquire():
            assert (tmp_path / file).exists()
            assert pool.name == file.partition("?")[0]


@pytest.mark.parametrize("query", ["mode=ro&uri=true&wal=0", "mode=ro&uri=1"])
def test_a_uri_of_sqlites_own_gets_the_rest_of_the_query_and_what_can_only_be_read_keeps_its_journal_mode(
    url: str, tmp_path: Path, query: str
) -> None:
    with create_pool(url + "?wal=0") as pool, pool.transaction() as connection:
        connection.execute("CREATE TABLE t (x)")
    with create_pool(f"sqlite:///file:{tmp_path}/test.db?{query}") as pool:
        with pool.acquire() as connection:
            assert one(connection, "SELECT count(*) FROM t") == 0
            assert one(connection, "PRAGMA journal_mode") == "delete"
        with pytest.raises(sqlite3.OperationalError, match="readonly"), pool.transaction() as connection:
            connection.execute("INSERT INTO t VALUES (1)")


@pytest.mark.parametrize(
    ("url", "kind", "message"),
    [
        ("sqlite:///x.db?timout=1", TypeError, "unknown option 'timout' in the SQLite URL, did you mean 'timeout'"),
        ("sqlite:///x.db?timeout=soon", ValueError, "timeout in the SQLite URL must be seconds, not 'soon'"),
        ("sqlite:///x.db?cached_statements=x", ValueError, "in the SQLite URL must be a whole number, not 'x'"),
        ("sqlite:///x.db?wal=True", ValueError, "wal in the SQLite URL must be one of 0, 1, false, .*, on, not 'True'"),
        ("sqlite://host/x.db", ValueError, "an SQLite URL has no host"),
        ("sqlite://x.db", ValueError, "an SQLite URL has no host"),
    ],
)
def test_what_is_wrong_with_a_url_is_told(url: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        create_pool(url)


def test_a_directory_that_cannot_be_written_is_a_permanent_error() -> None:
    # In a process that is nobody's, for root may write everywhere, and so not below tmp_path, where only its owner may
    # look.
    script = """
        import os, sqlite3, sys, time, pooling, pooling.backends.sqlite
        if os.geteuid() == 0:
            os.setresuid(65534, 65534, 65534)
        for query in ("", "?wal=0"):
            start = time.monotonic()
            with pooling.create_pool(sys.argv[1] + query) as pool:
                try:
                    pool.acquire(10.0)
                except pooling.ConnectError as error:
                    assert isinstance(error.__cause__, sqlite3.OperationalError), error.__cause__
                    assert pool._factory.is_permanent(error.__cause__)
                    print(time.monotonic() - start < 2.0)
    """
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        assert run_python(script, f"sqlite:///{folder}/x.db").split() == ["True", "True"]


def test_a_damaged_connection_is_broken_and_a_mistake_is_not() -> None:
    factory = SqliteFactory(":memory:")
    assert factory.is_broken(sqlite3.ProgrammingError("Cannot operate on a closed database."))
    assert factory.is_broken(sqlite3.DatabaseError("database disk image is malformed"))
    assert factory.is_broken(sqlite3.OperationalError("disk I/O error"))
    assert not factory.is_broken(sqlite3.ProgrammingError("Incorrect number of bindings supplied."))
    assert not factory.is_broken(sqlite3.OperationalError("interrupted"))
    assert not factory.is_broken(KeyError("x"))


def test_a_closed_connection_is_neither_alive_nor_clean_and_can_be_interrupted() -> None:
    factory = SqliteFactory(":memory:")
    connection = factory.connect(1.0)
    assert factory.is_alive(connection)
    assert factory.is_clean(connection)
    connection.close()
    assert not factory.is_alive(connection)
    assert not factory.is_clean(connection)
    factory.interrupt(connection)
    factory.close(connection)


@pytest.mark.parametrize("call", ["connection.execute(WORK)", "connection.cursor().executemany(WORK, [()])"])
def test_a_connection_is_closed_once_the_thread_that_is_at_work_on_it_has_left(call: str) -> None:
    # In an interpreter of its own: closed before, the process would die of it.
    told = run_python(
        f"""
        import sqlite3, threading, pooling

        WORK = "INSERT INTO t WITH RECURSIVE r(n) AS (SELECT stay() UNION ALL SELECT n + 1 FROM r) SELECT n FROM r"
        entered, leave = threading.Event(), threading.Event()

        def stay():
            entered.set()
            leave.wait(30.0)
            return 1

        def work(connection):
            try:
                {call}  # would never end
            except Exception:
                print("it has ended")
            try:
                connection.execute("SELECT 1")
            except sqlite3.ProgrammingError as error:
                print(error)

        pool = pooling.create_pool("sqlite://", max_size=1, reset=None)
        lease = pool.acquire()
        lease.connection.execute("CREATE TABLE t (x)")
        lease.connection.create_function("stay", 0, stay)
        thread = threading.Thread(target=work, args=[lease.connection])
        thread.start()
        entered.wait(30.0)
        lease.discard()
        print(pool.stats().closing, "is being closed")
        leave.set()
        thread.join()
        pool.acquire(timeout=30.0).release()
        print(dict(pool.stats().closed))
        pool.close()
        """
    )
    assert told.splitlines() == [
        "1 is being closed", "it has ended", "Cannot operate on a closed database.", "{'discarded': 1}",
    ]  # fmt: skip  # a list


def test_exclusive_locking_by_one_user_does_not_lock_the_others_out(url: str) -> None:
    with create_pool(url + "?timeout=0.2", max_size=2, reset="session") as pool:
        with pool.transaction() as connection:
            connection.execute("CREATE TABLE t (x)")
        with pool.acquire() as connection:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        with pool.transaction() as first, pool.acquire() as second:
            first.execute("INSERT INTO t VALUES (1)")
            assert one(second, "SELECT count(*) FROM t") == 0


@pytest.mark.parametrize("statement", ["PRAGMA locking_mode = EXCLUSIVE", "PRAGMA main.locking_mode = EXCLUSIVE"])
def test_a_file_that_one_user_has_locked_is_free_before_the_next_one_comes(url: str, statement: str) -> None:
    with create_pool(url, max_size=1, reset="session") as pool:
        with pool.transaction() as connection:
            connection.execute("CREATE TABLE t (x)")
        with pool.transaction() as connection:
            connection.execute(statement)
            connection.execute("INSERT INTO t VALUES (1)")
        with pool.acquire() as connection:
            write_from_elsewhere(url)
        assert pool.stats().opened == 1


class Own(sqlite3.Connection):
    """A user's own class of connections."""

    def __init__(self, *args: Any, **options: Any) -> None:
        sqlite3.Connection.__init__(self, *args, **options)
        self.execute("PRAGMA cache_size = 100").fetchall()


def half_read(connection: Any, way: str) -> Any:
    """What reads from a table, with more to come."""
    if way == "blob":
        return connection.blobopen("t", "x", 1)
    if way == "iterdump":
        lines = connection.iterdump()
        for _ in range(3):
            next(lines)
        return lines
    if way == "execute":
        cursor = connection.execute("SELECT x FROM t")
    elif way == "cursor":
        cursor = connection.cursor()
    elif way == "executescript":
        cursor = connection.executescript("")
    else:
        cursor = connection.executemany("DELETE FROM t WHERE x = ?", [])
    cursor.execute("SELECT x FROM t")
    cursor.fetchone()
    return cursor


WAYS = ["execute", "cursor", "executescript", "executemany", "iterdump"]
if hasattr(sqlite3.Connection, "blobopen"):
    WAYS.append("blob")


@pytest.mark.parametrize("factory", [sqlite3.Connection, Own])
@pytest.mark.parametrize("reset", ["transaction", "session"])
@pytest.mark.parametrize("way", WAYS)
def test_what_was_not_read_to_its_end_keeps_no_next_user_in_the_past(
    url: str, way: str, reset: Any, factory: Any
) -> None:
    with create_pool(url, {"factory": factory, "timeout": 0.2}, max_size=1, reset=reset) as pool:
        with pool.transaction() as connection:
            connection.execute("CREATE TABLE t (x)")
            connection.executemany("INSERT INTO t VALUES (?)", [("one",), ("two",)])
        with pool.acquire() as connection:
            assert isinstance(connection, factory)
            kept = half_read(connection, way)
        write_from_elsewhere(url)
        with pool.transaction() as connection:
            connection.execute("INSERT INTO t VALUES ('three')")
        with pool.acquire() as connection:
            assert one(connection, "SELECT count(*) FROM t") == 4
        assert pool.stats().opened == 1
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            kept.read() if way == "blob" else next(kept)


def test_a_cursor_that_is_kept_costs_no_reset(pool: Pool[sqlite3.Connection]) -> None:
    seen: list[str] = []
    pool._factory.reset = lambda *_: seen.append("reset")  # type: ignore[method-assign]
    kept = []
    for _ in range(20):
        with pool.acquire() as connection:
            kept.append(connection.execute("SELECT 1 UNION SELECT 2"))
    assert seen == []
    assert connection.readers == set()  # type: ignore[attr-defined]


def test_a_connection_that_another_thread_is_still_reading_from_is_not_given_to_anybody() -> None:
    started, go_on = threading.Event(), threading.Event()

    def pause() -> None:
        started.set()
        go_on.wait(10.0)

    factory = SqliteFactory(":memory:")
    connection = factory.connect(1.0)
    connection.create_function("pause", 0, pause)
    cursor = connection.cursor()
    thread = threading.Thread(target=cursor.execute, args=("SELECT pause()",))
    thread.start()
    started.wait(10.0)
    assert not factory.is_clean(connection)
    with pytest.raises(sqlite3.ProgrammingError):
        factory.reset(connection, "transaction")
    go_on.set()
    thread.join()
    factory.close(connection)


def test_what_on_connect_reads_half_does_not_keep_the_first_user_in_the_past(url: str) -> None:
    with create_pool(url) as pool, pool.transaction() as connection:
        connection.execute("CREATE TABLE t (x)")
        connection.execute("INSERT INTO t VALUES (1), (2)")
    kept = []
    with (
        create_pool(url, on_connect=lambda c: kept.append(half_read(c, "execute"))) as pool,
        pool.acquire() as connection,
    ):
        write_from_elsewhere(url)
        assert one(connection, "SELECT count(*) FROM t") == 3


def test_connections_that_a_function_makes_are_pooled_as_well(url: str) -> None:
    def make(*args: Any, **options: Any) -> sqlite3.Connection:
        return Own(*args, **options)

    with create_pool(url, {"factory": make}, max_size=1) as pool:
        for _ in range(2):
            with pool.acquire() as connection:
                assert type(connection) is Own
        assert pool.stats().opened == 1


def test_a_function_that_makes_plain_connections_is_told_at_once(url: str) -> None:
    def make(*args: Any, **options: Any) -> sqlite3.Connection:
        return sqlite3.Connection(*args, **options)

    with create_pool(url, {"factory": make}) as pool, pytest.raises(ConnectError, match="make one of a subclass"):
        pool.acquire(timeout=60.0)


def test_rows_of_a_users_own_making_do_not_disturb_the_reset(url: str) -> None:
    class Odd(sqlite3.Connection):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.row_factory = lambda cursor, row: {"only": row[0]}

    with create_pool(url, connect_args={"factory": Odd}, max_size=1, reset="session") as pool:
        for _ in range(2):
            with pool.acquire() as connection:
                assert connection.execute("SELECT 1").fetchone() == {"only": 1}
                connection.execute("CREATE TEMP TABLE t (x)")
        assert pool.stats().opened == 1


def _execute(*statements: str) -> Callable[[Any], object]:
    return lambda connection: [connection.execute(statement).fetchall() for statement in statements]


@pytest.mark.parametrize("texts", [bytes, lambda text: text.decode().upper()], ids=["bytes", "upper"])
def test_texts_of_a_users_own_making_do_not_disturb_the_reset(url: str, texts: Any) -> None:
    def set_up(connection: Any) -> None:
        connection.text_factory = texts

    with create_pool(url, max_size=1, reset="session", on_connect=set_up) as pool:
        with pool.acquire() as connection:
            connection.execute("PRAGMA journal_mode = off")
            connection.execute("CREATE TEMP TABLE t (x)")
        with pool.acquire() as connection:
            assert one(connection, "SELECT count(*) FROM sqlite_temp_master") == 0
            assert connection.text_factory is texts
        assert pool.stats().opened == 1


def test_a_path_that_is_not_utf_8_does_not_disturb_the_reset(tmp_path: Path) -> None:
    path = f"{tmp_path}/\udcff.db"
    with Pool(SqliteFactory(path), max_size=1, reset="session") as pool:
        for _ in range(2):
            with pool.acquire() as connection:
                connection.execute("CREATE TEMP TABLE t (x)")
        assert pool.stats().opened == 1


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has no deserialize()")
@pytest.mark.parametrize("mode", ["transaction", "session"])
@pytest.mark.parametrize("where", ["memory", "file"])
def test_another_database_in_its_place_is_not_handed_on(url: str, mode: Any, where: str) -> None:
    with create_pool("sqlite://" if where == "memory" else url, max_size=1, reset=mode) as pool:
        with pool.transaction() as connection:
            connection.execute("CREATE TABLE mine (x)")
        with pool.acquire() as connection:
            connection.deserialize(_other_database())
        with pool.acquire() as connection:
            assert one(connection, "SELECT count(*) FROM mine") == 0
        assert pool.stats().closed == {"reset": 1}


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has no deserialize()")
def test_one_that_on_connect_has_put_there_is_the_pools(url: str) -> None:
    def set_up(connection: Any) -> None:
        connection.deserialize(_other_database())

    with create_pool(url, max_size=1, reset="session", on_connect=set_up) as pool:
        for _ in range(2):
            with pool.acquire() as connection:
                assert one(connection, "SELECT count(*) FROM other") == 0
        assert pool.stats().opened == 1


def _other_database() -> Any:
    with contextlib.closing(sqlite3.connect(":memory:")) as made:
        made.execute("CREATE TABLE other (x)")
        return made.serialize()


_LEFT: dict[str, tuple[str, Callable[[Any], object], Callable[[Any], object]]] = {
    **{
        name: ("?wal=0", _execute(f"PRAGMA {name} = {value}"), _execute(f"PRAGMA {name}"))
        for name, value in {
            "cache_spill": 0, "full_column_names": 1, "journal_mode": "off", "journal_size_limit": 1000,
            "max_page_count": 2,
        }.items()
    },
    "a journal mode of the file's own": ("", _execute("PRAGMA journal_mode = off"), _execute("PRAGMA journal_mode")),
    "LIKE": ("", _execute("PRAGMA case_sensitive_like = 1"), _execute("SELECT 'a' LIKE 'A'")),
    "a table called like SQLite": (
        "", _execute("CREATE TEMP TABLE sqlitedata (x)"), _execute("SELECT name FROM sqlite_temp_master"),
    ),
    "an answer of an authorizer": (
        "",
        lambda c: (c.set_authorizer(lambda *_: sqlite3.SQLITE_IGNORE), c.execute("SELECT x FROM t").fetchall()),
        _execute("SELECT x FROM t"),
    ),
    "a function": (
        "", lambda c: c.create_function("upper", 1, lambda text: text + "!"), _execute("SELECT upper('a')"),
    ),
    "a collation": (
        "", lambda c: c.create_collation("nocase", lambda *_: 0), _execute("SELECT 'a' = 'b' COLLATE nocase"),
    ),
}  # fmt: skip  # a table
if sys.version_info >= (3, 11):
    _LEFT["a limit"] = (
        "",
        lambda c: c.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, 9),
        lambda c: c.getlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH),
    )
if sys.version_info >= (3, 12):
    _LEFT["a switch"] = (
        "",
        lambda c: c.setconfig(sqlite3.SQLITE_DBCONFIG_ENABLE_TRIGGER, False),
        lambda c: c.getconfig(sqlite3.SQLITE_DBCONFIG_ENABLE_TRIGGER),
    )


@pytest.mark.parametrize("left", _LEFT)
def test_what_a_user_leaves_on_the_session_is_gone_with_it(url: str, left: str) -> None:
    query, leave, look = _LEFT[left]
    with create_pool(url + query, max_size=1, reset="session") as pool:
        with pool.transaction() as connection:
            connection.execute("CREATE TABLE t (x)")
            connection.execute("INSERT INTO t VALUES (1)")
        with pool.acquire() as connection:
            before = look(connection)
        with pool.acquire() as connection:
            leave(connection)
            assert look(connection) != before
        with pool.acquire() as connection:
            assert look(connection) == before


def test_what_on_connect_registers_costs_no_connection(url: str) -> None:
    def set_up(connection: Any) -> None:
        connection.create_function("mine", 0, lambda: 7)

    with create_pool(url, max_size=1, reset="session", on_connect=set_up) as pool:
        for _ in range(3):
            with pool.acquire() as connection:
                assert one(connection, "SELECT mine()") == 7
        assert pool.stats().opened == 1


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_on_connect_may_forbid_pragmas_and_functions(url: str, mode: Any) -> None:
    forbidden = (sqlite3.SQLITE_PRAGMA, sqlite3.SQLITE_FUNCTION)

    def decide(action: int, *_: object) -> int:
        return sqlite3.SQLITE_DENY if action in forbidden else sqlite3.SQLITE_OK

    with create_pool(
        url, max_size=1, reset=mode, fail_after=0.0, on_connect=lambda c: c.set_authorizer(decide)
    ) as pool:
        for _ in range(2):
            with pool.acquire() as connection, pytest.raises(sqlite3.DatabaseError, match="not authorized"):
                connection.execute("PRAGMA foreign_keys = 1")
        assert pool.stats().opened == 1


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 does not tell why a database is read-only")
def test_a_file_that_was_replaced_costs_one_error(url: str, tmp_path: Path) -> None:
    with create_pool(f"{url}?wal=0", max_size=3) as pool:
        with pool.transaction() as connection:
            connection.execute("CREATE TABLE t (x)")
        leases = [pool.acquire() for _ in range(3)]
        for lease in leases:
            lease.release()
        (tmp_path / "test.db").rename(tmp_path / "before.db")
        with contextlib.closing(sqlite3.connect(tmp_path / "test.db")) as other:
            other.execute("CREATE TABLE t (x)")
        with pytest.raises(sqlite3.OperationalError, match="readonly"), pool.transaction() as connection:
            connection.execute("INSERT INTO t VALUES (1)")
        for _ in range(3):
            with pool.transaction() as connection:
                connection.execute("INSERT INTO t VALUES (2)")
        assert pool.stats().closed == {"broken": 1, "stale": 2}
    with contextlib.closing(sqlite3.connect(tmp_path / "test.db")) as other:
        assert one(other, "SELECT count(*) FROM t") == 3


_AUTOCOMMIT = [True, False, -1] if hasattr(sqlite3.Connection, "autocommit") else []


@pytest.mark.parametrize("mode", ["transaction", "session"])
@pytest.mark.parametrize("autocommit", _AUTOCOMMIT or ["Python 3.12 is the first to have it"])
def test_every_autocommit_of_python_3_12_rolls_back_and_commits(url: str, autocommit: Any, mode: Any) -> None:
    arguments = {"autocommit": autocommit} if _AUTOCOMMIT else {}
    with create_pool(url, connect_args=arguments, max_size=1, reset=mode) as pool:
        with pool.transaction() as connection:
            connection.execute("CREATE TABLE t (x)")
            connection.execute("INSERT INTO t VALUES (1)")
        with pytest.raises(KeyError), pool.transaction() as connection:
            connection.execute("INSERT INTO t VALUES (2)")
            raise KeyError
        with pool.acquire() as connection:
            if not connection.in_transaction:
                connection.execute("BEGIN")
            connection.execute("INSERT INTO t VALUES (3)")
            connection.execute("CREATE TEMP TABLE mine (x)")
        with pool.acquire() as connection:
            assert connection.execute("SELECT x FROM t").fetchall() == [(1,)]
            assert connection.execute("SELECT name FROM sqlite_temp_master").fetchall() == []
            assert getattr(connection, "autocommit", autocommit) == autocommit
            inside = connection.in_transaction
        with pool.acquire() as connection:
            connection.autocommit = False  # which begins a transaction
        with pool.acquire() as connection:
            assert connection.in_transaction == inside
        assert pool.stats().opened == 1


def test_what_on_connect_does_in_a_transaction_lasts(url: str) -> None:
    def set_up(connection: Any) -> None:
        connection.execute("CREATE TABLE t (x)")
        connection.execute("INSERT INTO t VALUES (1)")  # begins a transaction, which nobody ends

    with create_pool(url, on_connect=set_up) as pool:
        with pool.acquire() as connection:
            connection.execute("INSERT INTO t VALUES (2)")
        with pool.acquire() as connection:
            assert connection.execute("SELECT x FROM t").fetchall() == [(1,)]


def test_what_a_forked_child_commits_outlives_the_parents_connections(url: str) -> None:
    # SQLite keeps account of a file's locks for the whole process. With the parent's connections still on its books
    # the child would hold none, and the parent, as the last one to its knowledge, would remove the log under it.
    script = """
        import os, sys, pooling
        pool = pooling.create_pool(sys.argv[1])
        with pool.transaction() as connection:
            connection.execute("CREATE TABLE t (x)")
        here, there = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            with pool.transaction() as connection:
                connection.execute("INSERT INTO t VALUES (1)")
            os.write(here[1], b"x")
            os.read(there[0], 1)
            with pool.transaction() as connection:
                connection.execute("INSERT INTO t VALUES (2)")
            os._exit(0)
        os.read(here[0], 1)
        del connection
        pool.close()
        os.write(there[1], b"x")
        os.waitpid(child, 0)
        with pooling.create_pool(sys.argv[1]) as pool, pool.acquire() as connection:
            print(connection.execute("SELECT x FROM t").fetchall())
    """
    assert run_python(script, url) == "[(1,), (2,)]\n"


def test_the_repr_says_which_database() -> None:
    assert repr(SqliteFactory(":memory:")) == "SqliteFactory(':memory:')"
