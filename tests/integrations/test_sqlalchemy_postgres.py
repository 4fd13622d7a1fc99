"""FairPool on a real PostgreSQL: connections that the server cuts, forks, threads by the dozen, endings."""

from __future__ import annotations

import gc
import inspect
import multiprocessing
import os
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy
from sqlalchemy import event, exc, text

from pooling.integrations.sqlalchemy import FairPool
from tests.core.helpers import run_python
from tests.integrations.sqlalchemy_engines import SOON, Engines, below, engines_on
from tests.proxy import Proxy
from tests.servers import Postgres
from tests.waiting import until


def sqlalchemys(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://", 1)


@pytest.fixture
def engines(postgres: Postgres) -> Iterator[Engines]:
    """engines("name", pool_size=1, …): an engine whose sessions are called so."""
    with engines_on(sqlalchemys(postgres.url)) as make:
        yield lambda name, **options: make(connect_args={"application_name": name, "connect_timeout": 10}, **options)


@pytest.fixture
def admin(postgres: Postgres) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        yield connection


def sessions(admin: psycopg.Connection[Any], name: str) -> set[int]:
    rows = admin.execute("SELECT pid FROM pg_stat_activity WHERE application_name = %s", (name,)).fetchall()
    return {pid for (pid,) in rows}


def pid(connection: sqlalchemy.Connection) -> int:
    return int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())


def fill(engine: sqlalchemy.Engine, count: int) -> set[int]:
    """So many idle connections; their sessions."""
    held = [engine.connect() for _ in range(count)]
    found = {pid(connection) for connection in held}
    for connection in held:
        connection.close()
    return found


def kill(admin: psycopg.Connection[Any], pids: set[int]) -> None:
    for number in pids:
        admin.execute("SELECT pg_terminate_backend(%s, 10000)", (number,))


def test_the_numbers_are_the_servers(engines: Engines, admin: psycopg.Connection[Any]) -> None:
    engine = engines("fair-numbers", pool_size=2, max_overflow=2)
    held = [engine.connect() for _ in range(4)]
    assert len(sessions(admin, "fair-numbers")) == below(engine).stats().size == 4
    for connection in held:
        connection.close()
    until(lambda: len(sessions(admin, "fair-numbers")) == 2)
    assert below(engine).stats().idle == 2
    engine.dispose()
    until(lambda: not sessions(admin, "fair-numbers"))


def test_a_connect_that_timed_out_leaves_no_socket_behind_while_its_error_lives() -> None:
    """psycopg closes it when the garbage collector comes: until then it would be one beyond the limit."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql+psycopg://nobody@127.0.0.1:{silent.getsockname()[1]}/none"
        engine = sqlalchemy.create_engine(url, poolclass=FairPool, connect_args={"connect_timeout": 2})
        gc.disable()
        try:
            with pytest.raises(exc.OperationalError, match="timeout"):
                engine.connect()
            heard, _ = silent.accept()
            with heard:
                heard.settimeout(SOON)
                while heard.recv(1000):  # what a client says first
                    pass
        finally:
            gc.enable()
        below(engine).close()


def test_idle_connections_that_the_server_has_cut_reach_nobody(
    engines: Engines, admin: psycopg.Connection[Any]
) -> None:
    engine = engines("fair-cut", check_after=0.0)
    old = fill(engine, 4)
    kill(admin, old)
    for _ in range(5):  # not one error, and no ping: what has come from the server is looked at
        with engine.connect() as connection:
            assert pid(connection) not in old
    stats = below(engine).stats()
    assert stats.closed["broken"] >= 1
    assert stats.timeouts == 0


def test_a_cut_in_use_is_one_error_and_the_next_user_gets_a_fresh_connection(
    engines: Engines, admin: psycopg.Connection[Any]
) -> None:
    engine = engines("fair-in-use")
    old = fill(engine, 3)
    with engine.connect() as connection:
        kill(admin, old)
        with pytest.raises(exc.OperationalError) as raised:
            connection.execute(text("SELECT 1"))
        assert raised.value.connection_invalidated
    for _ in range(4):
        with engine.connect() as connection:
            assert pid(connection) not in old
    assert below(engine).stats().state == "up"


def test_a_check_by_ping_finds_what_no_look_can_tell(engines: Engines, admin: psycopg.Connection[Any]) -> None:
    engine = engines("fair-ping", check="ping", check_after=0.0)
    old = fill(engine, 2)
    pings: list[int] = []
    event.listen(engine, "before_cursor_execute", lambda *args: pings.append(1))
    with engine.connect() as connection:
        assert pid(connection) in old
    kill(admin, old)
    with engine.connect() as connection:
        assert pid(connection) not in old
    assert len(pings) == 2  # the pings were none of the engine's statements


def test_pre_ping_is_sqlalchemys(engines: Engines, admin: psycopg.Connection[Any]) -> None:
    engine = engines("fair-pre-ping", pool_pre_ping=True, check=None)
    old = fill(engine, 3)
    kill(admin, old)
    for _ in range(3):
        with engine.connect() as connection:
            assert pid(connection) not in old


def test_a_notice_on_an_idle_connection_is_no_reason_to_close_it(
    engines: Engines, admin: psycopg.Connection[Any]
) -> None:
    engine = engines("fair-notice", check_after=0.0, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("LISTEN fair"))
        first = pid(connection)
    admin.execute("NOTIFY fair")
    time.sleep(0.1)
    with engine.connect() as connection:
        assert pid(connection) == first


def test_keepalive_replaces_what_died_while_it_was_idle(engines: Engines, admin: psycopg.Connection[Any]) -> None:
    engine = engines("fair-keepalive", keepalive=0.1, check=None, min_size=1)
    with engine.connect() as connection:
        old = pid(connection)
    kill(admin, {old})
    until(lambda: below(engine).stats().closed.get("broken") == 1)
    until(lambda: len(sessions(admin, "fair-keepalive") - {old}) == 1)


def test_a_transaction_that_was_left_open_is_rolled_back(engines: Engines, admin: psycopg.Connection[Any]) -> None:
    engine = engines("fair-reset", pool_size=1, max_overflow=0)
    with engine.connect() as connection:
        connection.execute(text("CREATE TABLE fair_reset (x int)"))
    with below(engine).acquire() as raw:
        raw.execute("CREATE TABLE fair_reset (x int)")
    with engine.connect() as connection:
        assert connection.execute(text("SELECT to_regclass('fair_reset')")).scalar() is None


# What somebody leaves behind who has the driver's connection from the pool itself.
def autocommit(raw: Any) -> Any:
    raw.autocommit = True


def begun_in_autocommit(raw: Any) -> Any:
    raw.autocommit = True
    raw.execute("BEGIN")
    raw.execute("CREATE TABLE fair_left (x int)")


def committing(raw: Any) -> Any:
    raw.execute("CREATE TABLE fair_left (x int)")


def aborted(raw: Any) -> Any:
    with pytest.raises(psycopg.errors.SyntaxError):
        raw.execute("SELEC")


def pipeline(raw: Any) -> Any:
    left = raw.pipeline()
    left.__enter__()
    raw.execute("SELECT 1")
    return left


def half_a_copy(raw: Any) -> Any:
    block = raw.cursor().copy("COPY (SELECT generate_series(1, 1000000)) TO STDOUT")
    rows = iter(block.__enter__())
    next(rows)
    return block, rows


def half_a_stream(raw: Any) -> Any:
    rows = raw.cursor().stream("SELECT generate_series(1, 1000000)")
    next(rows)
    return rows


def a_synced_pipeline(raw: Any) -> Any:
    left = raw.pipeline()
    left.__enter__().sync()
    return left


LEFT = [autocommit, begun_in_autocommit, committing, aborted, pipeline, a_synced_pipeline, half_a_copy, half_a_stream]
# Those are not worth waiting for.
BUSY = {pipeline, a_synced_pipeline, half_a_copy, half_a_stream}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # what is left half is dropped at last
@pytest.mark.parametrize("reset", ["rollback", "commit", None])
@pytest.mark.parametrize("leave", LEFT, ids=lambda leave: leave.__name__)
def test_nothing_of_what_a_lease_of_the_pool_underneath_leaves_reaches_the_engines_users(
    engines: Engines, leave: Callable[[Any], Any], reset: Any
) -> None:
    engine = engines("fair-left", pool_size=1, max_overflow=0, pool_timeout=5.0, pool_reset_on_return=reset)
    with engine.connect() as connection:
        first = pid(connection)
        connection.rollback()
    with below(engine).acquire() as raw:
        left = leave(raw)
    with engine.connect() as connection:
        same = pid(connection) == first
        assert connection.execute(text("SELECT to_regclass('fair_left')")).scalar() is None
        connection.execute(text("CREATE TABLE fair_mine (x int)"))
        connection.rollback()
        assert connection.execute(text("SELECT to_regclass('fair_mine')")).scalar() is None
        connection.rollback()
    assert same == (leave not in BUSY)
    del left


def test_a_lease_of_the_pool_underneath_that_breaks_makes_the_others_suspect(
    engines: Engines, admin: psycopg.Connection[Any]
) -> None:
    engine = engines("fair-below", pool_size=2, max_overflow=0, check_after=3600.0)
    for session in fill(engine, 2):
        admin.execute("SELECT pg_terminate_backend(%s)", (session,))
    until(lambda: not sessions(admin, "fair-below"))
    with pytest.raises(psycopg.OperationalError), below(engine).acquire() as raw:
        raw.execute("SELECT 1")
    assert below(engine).stats().errors_by["use"] == 1
    with engine.connect() as one, engine.connect() as other:
        assert pid(one) != pid(other)
    until(lambda: below(engine).stats().closed["broken"] == 2)


def test_work_on_the_pool_underneath_whose_connection_breaks_is_tried_again_where_that_does_no_harm(
    engines: Engines, admin: psycopg.Connection[Any]
) -> None:
    engine = engines("fair-again", pool_size=1, max_overflow=0)
    asked: list[int] = []

    def ask(raw: psycopg.Connection[Any]) -> int:
        asked.append(raw.info.backend_pid)
        if len(asked) == 1:
            admin.execute("SELECT pg_terminate_backend(%s)", asked)
            until(lambda: not sessions(admin, "fair-again"))
        raw.execute("SELECT 1")
        return asked[-1]

    assert below(engine).run(ask, idempotent=True) == asked[1] != asked[0]
    assert len(asked) == 2


def test_an_error_of_a_read_only_transaction_costs_no_connection(engines: Engines) -> None:
    engine = engines("fair-reader", pool_size=1, max_overflow=0)
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), below(engine).acquire() as raw:
        raw.execute("SET TRANSACTION READ ONLY")
        raw.execute("CREATE TABLE fair_reader (x int)")
    engine.connect().close()
    assert (below(engine).stats().opened, below(engine).stats().errors) == (1, 0)


@pytest.mark.parametrize("options", [{}, {"skip_autocommit_rollback": True}])
def test_an_engines_own_autocommit_outlives_a_lease_of_the_pool_underneath(
    engines: Engines, options: dict[str, Any]
) -> None:
    known = inspect.signature(sqlalchemy.engine.default.DefaultDialect.__init__).parameters
    if not options.keys() <= known.keys():
        pytest.skip("not in this SQLAlchemy")
    engine = engines("fair-own", pool_size=1, max_overflow=0, isolation_level="AUTOCOMMIT", **options)
    with below(engine).acquire() as raw:
        assert raw.autocommit
        raw.autocommit = False
        raw.execute("CREATE TABLE fair_own (x int)")
    with below(engine).acquire() as raw:
        raw.execute("BEGIN")
        raw.execute("CREATE TABLE fair_own (x int)")
    with engine.connect() as connection:
        assert connection.connection.driver_connection.autocommit  # type: ignore[union-attr]  # there is one
        assert connection.execute(text("SELECT to_regclass('fair_own')")).scalar() is None
        connection.rollback()
        connection.execution_options(isolation_level="SERIALIZABLE")
        assert connection.execute(text("SHOW transaction_isolation")).scalar() == "serializable"
    with below(engine).acquire() as raw:
        assert raw.autocommit
    assert below(engine).stats().opened == 1


def test_an_option_of_one_connection_is_undone_as_ever(engines: Engines) -> None:
    engine = engines("fair-one", pool_size=1, max_overflow=0)
    for _ in range(2):
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            assert connection.connection.driver_connection.autocommit  # type: ignore[union-attr]  # there is one
        with below(engine).acquire() as raw:
            assert not raw.autocommit
            raw.autocommit = True
        with engine.connect() as connection:
            assert not connection.connection.driver_connection.autocommit  # type: ignore[union-attr]  # there is one
    assert below(engine).stats().opened == 1


def test_a_check_by_ping_ends_in_time_on_links_that_have_gone_mute(
    engines: Engines, postgres: Postgres, proxy: Callable[..., Proxy]
) -> None:
    link = proxy(postgres)
    url = sqlalchemys(postgres.url).replace(f":{postgres.port}/", f":{link.port}/")
    engine = engines("fair-mute", url=url, pool_size=2, max_overflow=0, check="ping", check_after=0.0,
                     connect_timeout=0.3, pool_timeout=10.0)  # fmt: skip  # one argument list
    old = fill(engine, 2)
    for each in link.links():
        each.mute = True
    with engine.connect() as connection:  # no error
        assert pid(connection) not in old
    stats = below(engine).stats()
    assert stats.hung == 0
    assert set(stats.closed) == {"broken"}, "the thread has come back by itself, and was not written off"


def test_a_server_that_is_not_there_is_the_drivers_error_at_once(engines: Engines) -> None:
    engine = engines("fair-away", url="postgresql+psycopg://postgres@127.0.0.1:1/postgres", pool_size=1, max_overflow=0)
    for _ in range(3):
        started = time.monotonic()
        with pytest.raises(exc.OperationalError):
            engine.connect()
        assert time.monotonic() - started < SOON / 3
    assert below(engine).stats().size == 0


def test_everybody_is_served_while_the_server_restarts(own_server: Callable[..., Any], engines: Engines) -> None:
    server = own_server("postgres")
    engine = engines("fair-restart", url=sqlalchemys(server.url), pool_size=4, max_overflow=0, pool_timeout=SOON)
    done, stop, lost = [0], threading.Event(), threading.Event()
    bad: list[BaseException] = []

    def work() -> None:
        while not stop.is_set():
            try:
                with engine.connect() as connection:
                    connection.execute(text("SELECT 1"))
                done[0] += 1
            except exc.DBAPIError:
                lost.set()  # a user's own retry
                time.sleep(0.02)
            except BaseException as error:
                bad.append(error)
                return

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: done[0] > 50)
        server.restart()
        before = done[0]
        until(lambda: done[0] > before + 100)
    finally:
        stop.set()
        for thread in threads:
            thread.join(SOON)
    assert bad == []
    assert lost.is_set()
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]  # a FairPool
    assert below(engine).stats().size <= 4


def test_forty_threads_share_four_connections_and_each_gets_its_turn(
    engines: Engines, admin: psycopg.Connection[Any]
) -> None:
    engine = engines("fair-forty", pool_size=4, max_overflow=0, pool_timeout=SOON)
    turns: dict[int, int] = dict.fromkeys(range(40), 0)
    start, stop = threading.Barrier(41), threading.Event()

    def work(number: int) -> None:
        start.wait(SOON)
        while not stop.is_set():
            with engine.connect() as connection:
                connection.execute(text("SELECT pg_sleep(0.001)"))
            turns[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in turns]
    for thread in threads:
        thread.start()
    start.wait(SOON)
    until(lambda: sum(turns.values()) >= 800)
    stop.set()
    for thread in threads:
        thread.join(SOON)
    assert min(turns.values()) >= 0.5 * max(turns.values()), sorted(turns.values())
    assert len(sessions(admin, "fair-forty")) <= 4


FORK = """
    import os, sys, traceback
    import sqlalchemy
    from sqlalchemy import text
    from pooling.integrations.sqlalchemy import FairPool

    engine = sqlalchemy.create_engine({url!r}, poolclass=FairPool, pool_size=2, max_overflow=0, pool_timeout=20)
    pid = lambda connection: connection.execute(text("SELECT pg_backend_pid()")).scalar()
    with engine.connect() as used, engine.connect() as idle:
        sessions = {{pid(used), pid(idle)}}
        descriptors = [each.connection.driver_connection.fileno() for each in (used, idle)]
    held = engine.connect()
    held.execute(text("CREATE TEMP TABLE parents (x int)"))
    direct = engine.pool.pooling.acquire()
    direct.connection.execute("CREATE TEMP TABLE parents (x int)")

    def use_own(deed):
        assert {{os.readlink(f"/proc/self/fd/{{number}}") for number in descriptors}} == {{os.devnull}}
        exec(deed, globals())  # before the child has asked its pool for anything
        with engine.connect() as first, engine.connect() as second:
            assert not {{pid(first), pid(second)}} & sessions
        assert engine.pool.checkedout() == 0, (deed, engine.pool.status())
        engine.dispose()

    deeds = "held.close()", "del held", "held.connection.close()", "held.rollback()", "pass", "direct.release()"
    for deed in (*deeds, "direct.discard()", "del direct"):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                use_own(deed)
                code = 0
            except BaseException:
                traceback.print_exc()
            {ending}(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, deed

    held.execute(text("INSERT INTO parents VALUES (1)"))
    assert held.execute(text("SELECT count(*) FROM parents")).scalar() == 1
    held.commit()
    held.close()
    direct.connection.execute("INSERT INTO parents VALUES (1)")
    direct.connection.commit()
    direct.release()
    with engine.connect() as first, engine.connect() as second:
        assert {{pid(first), pid(second)}} == sessions
    engine.dispose()
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="it looks into Linux's /proc")
@pytest.mark.parametrize("ending", ["os._exit", "sys.exit"])
def test_a_forked_child_has_connections_of_its_own_and_leaves_its_parents_alone(
    postgres: Postgres, ending: str
) -> None:
    run_python(FORK.format(url=sqlalchemys(postgres.url), ending=ending), timeout=90)


def childs_work(url: str) -> int:
    engine = _engines[url]
    with engine.connect() as connection:
        return pid(connection)


_engines: dict[str, sqlalchemy.Engine] = {}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # pytest and its plugins have threads
def test_children_of_multiprocessing_use_the_engine_they_inherit(engines: Engines) -> None:
    engine = _engines["children"] = engines("fair-children")
    mine = fill(engine, 2)
    with multiprocessing.get_context("fork").Pool(3) as workers:
        theirs = set(workers.map_async(childs_work, ["children"] * 6).get(SOON))
    assert not theirs & mine
    assert fill(engine, 2) == mine


def test_an_engine_that_is_forgotten_closes_its_sessions(postgres: Postgres, admin: psycopg.Connection[Any]) -> None:
    engine: Any = sqlalchemy.create_engine(
        sqlalchemys(postgres.url), poolclass=FairPool, connect_args={"application_name": "fair-forgotten"}
    )
    fill(engine, 3)
    assert len(sessions(admin, "fair-forgotten")) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del engine
        gc.collect()
    until(lambda: not sessions(admin, "fair-forgotten"))


def test_a_program_ends_in_silence_and_leaves_no_session(postgres: Postgres, admin: psycopg.Connection[Any]) -> None:
    run_python(
        f"""
        import sqlalchemy
        from pooling.integrations.sqlalchemy import FairPool

        engine = sqlalchemy.create_engine(
            {sqlalchemys(postgres.url)!r}, poolclass=FairPool, connect_args={{"application_name": "fair-ending"}}
        )
        held = [engine.connect() for _ in range(3)]
        for connection in held:
            connection.close()
        """
    )
    until(lambda: not sessions(admin, "fair-ending"))
