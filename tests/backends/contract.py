"""What every backend promises, on its real server. test_contract.py runs it for each.

``Contract`` is for all of them, ``RemoteContract`` for those behind a network.
"""

from __future__ import annotations

import itertools
import logging
import math
import socket
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pooling import ConnectError, Pool, PoolTimeout
from tests.backends.adapters import Adapter, Remote

ROOT = Path(__file__).resolve().parents[2]
LATE = 0.5  # seconds by which a loaded machine may be late
_tokens = itertools.count(1)


def in_threads(count: int, work: Callable[[int], object]) -> None:
    """Run it in so many threads at once; raises what one of them raised."""
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def run_python(script: str, *arguments: str) -> str:
    """Run a script in a fresh interpreter; its standard output. Fails unless it exits 0 and has no complaints."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def fill(backend: Adapter, pool: Pool[Any], count: int) -> list[Any]:
    """Open so many connections and give them back; their sessions."""
    leases = [pool.acquire() for _ in range(count)]
    sessions = backend.sessions([lease.connection for lease in leases])
    for lease in leases:
        lease.release()
    return sessions


def session_of(backend: Adapter, pool: Pool[Any], timeout: float = 5.0) -> Any:
    """The session that the next user gets, which answers."""
    token = next(_tokens)
    with pool.acquire(timeout) as connection:
        assert backend.ask(connection, token) == token
        return backend.session(connection)


def settled(pool: Pool[Any], **numbers: int) -> None:
    """Wait until the pool's numbers are these."""
    until = time.monotonic() + 5.0
    while any(getattr(pool.stats(), name) != number for name, number in numbers.items()):
        assert time.monotonic() < until, f"not {numbers}: {pool.stats()}"
        time.sleep(0.002)


class Contract:
    # -- many users ---------------------------------------------------------------------------------

    @pytest.mark.parametrize(("threads", "size", "uses"), [(64, 8, 50), (32, 4, 500)])
    def test_every_user_gets_the_right_answer_and_the_server_never_sees_more_than_max_size(
        self, backend: Adapter, threads: int, size: int, uses: int
    ) -> None:
        pool = backend.pool(max_size=size)
        counts: list[int] = []
        done = threading.Event()

        def sample() -> None:
            while not done.wait(0.02):
                counts.append(backend.count())

        def work(number: int) -> None:
            for use in range(uses):
                with pool.acquire() as connection:
                    token = number * uses + use
                    assert backend.ask(connection, token) == token

        sampler = threading.Thread(target=sample)
        sampler.start()
        try:
            in_threads(threads, work)
        finally:
            done.set()
            sampler.join()
        assert counts
        assert 0 < max(counts) <= size
        assert pool.stats().errors == 0
        assert pool.stats().acquired == pool.stats().released == threads * uses
        pool.close()
        backend.wait_for(0)

    # -- times --------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("long", [1e9, 1e300, math.inf])
    def test_a_time_that_stands_for_ever_may_be_any_number(self, backend: Adapter, long: float) -> None:
        """Drivers and sockets take no infinite number, nor a very large one."""
        pool = backend.pool(
            max_size=1, timeout=long, connect_timeout=long, idle_timeout=long, max_lifetime=long, fail_after=long
        )
        with pool.acquire() as connection:
            assert backend.ask(connection, 1) == 1
        lease = pool.acquire(timeout=long)
        assert backend.ask(lease.refresh(timeout=long), 2) == 2
        lease.release()

    # -- what one user leaves for the next ------------------------------------------------------------

    @pytest.mark.parametrize("mode", ["transaction", "session"])
    def test_what_a_user_leaves_behind_does_not_reach_the_next_one_and_the_session_is_kept(
        self, backend: Adapter, mode: Any
    ) -> None:
        pool = backend.pool(max_size=1, reset=mode)
        first = session_of(backend, pool)
        for name, dirt in backend.dirt(mode).items():
            with pool.acquire() as connection:
                assert not dirt.there(connection), f"{name} is there before anybody made it"
                backend.end(connection)
                dirt.make(connection)
                assert dirt.there(connection), f"{name} was not made"
            with pool.acquire() as connection:
                assert not dirt.there(connection), f"{name} has reached the next user"
                assert backend.session(connection) == first, f"{name} has cost the session"
        assert pool.stats().opened == 1

    def test_uncommitted_work_is_rolled_back(self, backend: Adapter) -> None:
        if not backend.transactions:
            return
        pool = backend.pool(max_size=1)
        with pool.acquire() as connection:
            backend.write(connection, 1)
        with pytest.raises(KeyError), pool.acquire() as connection:
            backend.write(connection, 2)
            raise KeyError
        with pool.acquire() as connection:
            assert not backend.written(connection, 1)
            assert not backend.written(connection, 2)

    def test_a_mistake_of_the_user_does_not_cost_the_connection(self, backend: Adapter) -> None:
        pool = backend.pool(max_size=1)
        first = session_of(backend, pool)
        with pytest.raises(Exception) as caught, pool.acquire() as connection:
            backend.mistake(connection)
        assert not pool._factory.is_broken(caught.value)
        assert session_of(backend, pool) == first
        assert pool.stats().opened == 1

    def test_a_transaction_commits_at_its_end_and_rolls_back_on_an_exception(self, backend: Adapter) -> None:
        if not backend.transactions:
            return
        pool = backend.pool(max_size=1)
        with pool.transaction() as connection:
            backend.write(connection, 1)
        with pytest.raises(KeyError), pool.transaction() as connection:
            backend.write(connection, 2)
            raise KeyError
        with pytest.raises(KeyboardInterrupt), pool.transaction() as connection:
            backend.write(connection, 3)
            raise KeyboardInterrupt
        with pool.acquire() as connection:
            assert [backend.written(connection, token) for token in (1, 2, 3)] == [True, False, False]
        assert pool.stats().opened == 1 + backend.interrupts_cost

    # -- connections that die -------------------------------------------------------------------------

    @pytest.mark.parametrize("check", ["peek", "ping"])
    def test_sessions_killed_while_idle_are_found_within_one_acquire(self, backend: Adapter, check: Any) -> None:
        pool = backend.pool(max_size=4, check=check, check_after=0.0)
        old = fill(backend, pool, 4)
        for session in old:
            backend.kill(session)
        backend.wait_for(0)
        assert session_of(backend, pool) not in old
        in_threads(4, lambda _: session_of(backend, pool))
        assert pool.stats().closed.get("broken", 0) >= 1
        assert pool.stats().timeouts == 0

    def test_a_session_killed_in_use_costs_that_connection_and_the_others_are_looked_at(self, backend: Adapter) -> None:
        pool = backend.pool(max_size=3, check_after=60.0)
        old = set(fill(backend, pool, 3))
        with pytest.raises(backend.errors), pool.acquire() as connection:
            victim = backend.session(connection)
            backend.kill(victim)
            backend.ask(connection, 1)
        settled(pool, size=2, idle=2, busy=0)
        assert pool.stats().closed == {"broken": 1}
        assert set(fill(backend, pool, 2)) == old - {victim}
        assert pool.stats().opened == 3

    def test_all_sessions_killed_under_one_user_cost_no_other_user_an_error(self, backend: Adapter) -> None:
        pool = backend.pool(max_size=4, check_after=60.0)
        old = fill(backend, pool, 4)
        with pytest.raises(backend.errors), pool.acquire() as connection:
            for session in old:
                backend.kill(session)
            backend.ask(connection, 1)
        in_threads(8, lambda _: session_of(backend, pool))

    def test_a_connection_that_the_user_closed_is_not_used_again(self, backend: Adapter) -> None:
        pool = backend.pool(max_size=1)
        with pool.acquire() as connection:
            first = backend.session(connection)
            connection.close()
        assert session_of(backend, pool) != first

    # -- the end of a connection ----------------------------------------------------------------------

    def test_a_connection_is_replaced_after_its_uses(self, backend: Adapter) -> None:
        pool = backend.pool(max_size=1, max_uses=2)
        sessions = [session_of(backend, pool) for _ in range(4)]
        assert sessions[0] == sessions[1] != sessions[2] == sessions[3]
        settled(pool, size=0)
        assert pool.stats().closed == {"uses": 2}

    def test_a_connection_is_replaced_after_its_lifetime(self, backend: Adapter) -> None:
        pool = backend.pool(max_size=1, max_lifetime=0.2)
        first = session_of(backend, pool)
        backend.wait_for(0)  # it is closed in time, though nobody asks
        assert session_of(backend, pool) != first
        assert pool.stats().closed["lifetime"] >= 1

    def test_idle_connections_are_closed_down_to_min_size(self, backend: Adapter) -> None:
        pool = backend.pool(min_size=1, max_size=3, idle_timeout=0.1)
        fill(backend, pool, 3)
        backend.wait_for(1)
        settled(pool, size=1)
        assert pool.stats().closed == {"idle": 2}

    def test_a_lost_lease_costs_its_connection_and_the_slot_comes_back(self, backend: Adapter) -> None:
        pool = backend.pool(max_size=1)
        lease = pool.acquire()
        first = backend.session(lease.connection)
        del lease
        assert session_of(backend, pool) != first
        assert pool.stats().closed == {"dropped": 1}

    def test_refresh_brings_another_session(self, backend: Adapter) -> None:
        pool = backend.pool(max_size=1)
        with pool.acquire() as connection:
            first = backend.session(connection)
        lease = pool.acquire()
        second = backend.session(lease.refresh())
        assert second != first
        lease.release()
        assert session_of(backend, pool) == second

    def test_a_detached_connection_is_the_callers_own(self, backend: Adapter) -> None:
        pool = backend.pool(max_size=1)
        connection = pool.acquire().detach()
        assert session_of(backend, pool) != backend.session(connection)
        pool.close()
        backend.wait_for(1)
        assert backend.ask(connection, 7) == 7
        connection.close()

    def test_clear_with_interrupt_ends_what_runs(self, backend: Adapter) -> None:
        pool = backend.pool(max_size=2)
        started, ended = threading.Event(), threading.Event()

        def sleeper() -> None:
            with pytest.raises(Exception), pool.acquire() as connection:  # noqa: B017 - the driver's own
                started.set()
                backend.nap(connection)
            ended.set()

        thread = threading.Thread(target=sleeper)
        thread.start()
        started.wait()
        time.sleep(0.1)  # until the server is at it
        pool.clear(interrupt=True)
        assert ended.wait(5.0)
        thread.join()
        session_of(backend, pool)
        assert pool.stats().leased == 0

    def test_a_lease_that_another_thread_discards_ends_what_runs_and_frees_its_slot(self, backend: Adapter) -> None:
        pool = backend.pool(max_size=1)
        lease, ended = pool.acquire(), threading.Event()
        connection = lease.connection

        def sleeper() -> None:
            with pytest.raises(Exception):  # noqa: B017 - the driver's own
                backend.nap(connection)
            ended.set()

        thread = threading.Thread(target=sleeper)
        thread.start()
        time.sleep(0.1)  # until the server is at it
        lease.discard()
        assert ended.wait(5.0)
        thread.join()
        session_of(backend, pool)
        assert pool.stats().closed == {"discarded": 1}

    # -- new connections ------------------------------------------------------------------------------

    @pytest.mark.parametrize("mode", ["transaction", "session", None])
    def test_what_on_connect_sets_is_there_for_every_user(self, backend: Adapter, mode: Any) -> None:
        pool = backend.pool(max_size=1, reset=mode, on_connect=backend.set_up)
        for _ in range(3):
            with pool.acquire() as connection:
                assert backend.is_set_up(connection)
        assert pool.stats().opened == 1

    def test_an_on_connect_that_raises_is_a_failed_connect_that_leaves_nothing_open(self, backend: Adapter) -> None:
        def refuse(connection: Any) -> None:
            raise LookupError("not today")

        pool = backend.pool(on_connect=refuse, fail_after=0.0)
        with pytest.raises(ConnectError) as caught:
            pool.acquire()
        assert isinstance(caught.value.__cause__, LookupError)
        backend.wait_for(0)

    def test_arguments_from_a_callable_are_asked_for_each_connection(self, backend: Adapter) -> None:
        asked: list[int] = []

        def arguments() -> dict[str, Any]:
            asked.append(1)
            return {}

        pool = backend.pool(connect_args=arguments, max_size=2)
        assert not asked
        fill(backend, pool, 2)
        assert len(asked) == 2

    def test_a_permanent_error_reaches_the_waiter_at_once_and_tells_no_secret(
        self, backend: Adapter, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        for what, url in backend.permanent().items():
            pool = backend.pool(url, timeout=20.0)
            start = time.monotonic()
            with pytest.raises(ConnectError) as caught:
                pool.acquire()
            assert time.monotonic() - start < 3.0, what
            cause = caught.value.__cause__
            assert cause is not None, what
            assert type(cause).__module__.partition(".")[0] != "pooling", what
            assert pool._factory.is_permanent(cause), what
            texts = ["".join(traceback.format_exception(caught.value)), repr(cause), repr(pool), repr(pool._factory)]
            told = "\n".join([*texts, pool.name, str(pool.stats()), caplog.text])
            assert not backend.secret or backend.secret not in told, what
            pool.close()

    # -- forks ----------------------------------------------------------------------------------------

    @pytest.mark.parametrize("ending", ["exit", "os._exit"])
    def test_a_forked_child_has_sessions_of_its_own_and_leaves_the_parents_alone(
        self, backend: Adapter, ending: str
    ) -> None:
        forked(backend, ending)


def forked(backend: Adapter, ending: str) -> None:
    script = "import sys; from tests.backends.forking import main; main(*sys.argv[1:])"
    kind = f"{type(backend).__module__}:{type(backend).__name__}"
    run_python(script, kind, backend.url, str(backend.folder), ending, getattr(backend, "name", "forking"))


class RemoteContract:
    def test_descriptors_that_a_daemon_has_closed_and_taken_again_are_its_own(self, remote: Remote) -> None:
        forked(remote, "daemon")

    @pytest.mark.parametrize("mode", ["transaction", None])
    def test_a_clean_healthy_use_of_a_connection_sends_nothing(
        self, remote: Remote, proxy: Callable[..., Any], mode: Any
    ) -> None:
        between = proxy(remote.server)
        pool = remote.pool(remote.at(between.host, between.port), reset=mode, check_after=0.0, max_size=1)
        with pool.acquire() as connection:
            assert remote.ask(connection, 1) == 1
            remote.end(connection)
        time.sleep(0.05)
        before = between.bytes_from_client, between.bytes_from_server
        for _ in range(100):
            pool.acquire().release()
        time.sleep(0.05)
        assert (between.bytes_from_client, between.bytes_from_server) == before
        assert pool.stats().opened == 1

    def test_a_refused_port_is_told_with_the_drivers_error_once_it_has_lasted(self, remote: Remote) -> None:
        with socket.create_server(("127.0.0.1", 0)) as nobody:
            port = nobody.getsockname()[1]
        pool = remote.pool(remote.at("127.0.0.1", port), fail_after=0.2)
        start = time.monotonic()
        with pytest.raises(ConnectError) as caught:
            pool.acquire(10.0)
        assert time.monotonic() - start < 0.2 + 2.0
        assert isinstance(caught.value.__cause__, remote.errors)
        assert not pool._factory.is_permanent(caught.value.__cause__)

    # A reset that comes between a connect and its handshake: the ssl module raises, and leaves its new socket open.
    @pytest.mark.filterwarnings("ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning")
    @pytest.mark.parametrize("timeout", [0.0, 0.1, 0.5])
    def test_a_black_hole_costs_a_caller_its_timeout_and_no_more(
        self, remote: Remote, proxy: Callable[..., Any], timeout: float
    ) -> None:
        between = proxy(remote.server)
        between.on_accept = "mute"
        pool = remote.pool(remote.at(between.host, between.port))
        start = time.monotonic()
        with pytest.raises(PoolTimeout):
            pool.acquire(timeout)
        assert timeout <= time.monotonic() - start < timeout + LATE
        pool.close(timeout=0)
        between.reset_all()

    def test_an_unknown_host_is_told_with_the_drivers_error(self, remote: Remote) -> None:
        pool = remote.pool(remote.at("no-such-host.invalid", 1), fail_after=0.0)
        with pytest.raises(ConnectError, match=r"no-such-host\.invalid") as caught:
            pool.acquire(10.0)
        assert isinstance(caught.value.__cause__, remote.errors)

    def test_a_server_that_comes_back_is_used_again(self, remote: Remote, proxy: Callable[..., Any]) -> None:
        between = proxy(remote.server)
        pool = remote.pool(remote.at(between.host, between.port), max_size=2, check_after=0.0)
        fill(remote, pool, 2)
        between.refuse()
        between.reset_all()
        with pytest.raises(PoolTimeout) as caught:
            pool.acquire(0.3)
        assert isinstance(caught.value.__cause__, remote.errors)
        between.accept()
        session_of(remote, pool)
        assert pool.stats().state == "up"

    def test_a_connection_that_hangs_is_given_up_by_a_check(self, remote: Remote, proxy: Callable[..., Any]) -> None:
        between = proxy(remote.server)
        pool = remote.pool(
            remote.at(between.host, between.port), max_size=2, check="ping", check_after=0.0, connect_timeout=2.0
        )
        first = session_of(remote, pool)
        between.links()[0].mute = True
        assert session_of(remote, pool, 10.0) != first
