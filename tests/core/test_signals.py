"""A signal drains the pools first, and then has the effect that it would have had."""

from __future__ import annotations

import _thread
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

import pooling
from pooling import Pool, PoolManager, signals
from pooling.signals import drain_on_signals
from pooling.testing import FakeFactory
from tests.core.helpers import ROOT, run_python
from tests.waiting import until

pytestmark = pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals as POSIX has them")

CONTAINER = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
REAL_TIME = getattr(signal, "SIGRTMIN", 34) + 3  # what systemd asks a container to end by; Python has no name for it
LENIENT = ("-W", "error", "-W", "ignore:This process:DeprecationWarning")


class Effects:
    """What signals of this process have caused, once they were through: (name, on the main thread). The handler takes
    no lock: the main thread may hold it."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, bool]] = []

    def handler(self, number: int, frame: Any) -> None:
        self.seen.append((signal.Signals(number).name, threading.current_thread() is threading.main_thread()))

    def wait(self, count: int = 1) -> None:
        until(lambda: len(self.seen) >= count)


@pytest.fixture
def effects(monkeypatch: pytest.MonkeyPatch) -> Iterator[Effects]:
    """The handlers of before: for the time of a test they note what happens. Whoever measures the coverage sees the
    thread that drains, which is none of threading's."""
    start = _thread.start_new_thread

    def traced(function: Callable[..., object], args: tuple[Any, ...]) -> int:
        def run() -> None:
            sys.settrace(threading.gettrace())
            function(*args)

        return start(run, ())

    monkeypatch.setattr("_thread.start_new_thread", traced)
    effects = Effects()
    before = {number: signal.signal(number, effects.handler) for number in (signal.SIGTERM, signal.SIGINT)}
    yield effects
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def manager() -> Iterator[PoolManager]:
    with PoolManager() as manager:
        manager.add("a", FakeFactory())
        manager.add("b", FakeFactory())
        for name in manager:
            manager[name].acquire().release()
        yield manager


def states(manager: PoolManager) -> set[str]:
    return {stats.state for stats in manager.stats().values()}


# -- in this process ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_the_pools_are_drained_before_the_former_handler_runs(
    effects: Effects, manager: PoolManager, name: str
) -> None:
    drain_on_signals(manager, timeout=10.0)
    lease = manager["a"].acquire()
    signal.raise_signal(signal.Signals[name])  # returns at once, though a lease is out
    until(lambda: states(manager) == {"draining"})
    for pool in manager.values():
        with pytest.raises(pooling.PoolClosed):
            pool.acquire()
    assert effects.seen == []
    lease.release()
    effects.wait()
    assert effects.seen == [(name, True)]
    assert states(manager) == {"closed"}


def test_a_lease_that_does_not_come_back_is_waited_for_no_longer_than_that(
    effects: Effects, manager: PoolManager, caplog: pytest.LogCaptureFixture
) -> None:
    drain_on_signals(manager, timeout=0.3)
    lease = manager["a"].acquire()
    start = time.monotonic()
    signal.raise_signal(signal.SIGTERM)
    effects.wait()
    assert 0.3 <= time.monotonic() - start < 5.0
    assert "after SIGTERM not all leases came back within 0.3 s" in caplog.messages
    lease.release()


def test_a_pool_may_be_the_target(effects: Effects) -> None:
    pool = Pool(FakeFactory())
    drain_on_signals(pool)
    signal.raise_signal(signal.SIGTERM)
    effects.wait()
    assert pool.stats().state == "closed"


def test_further_signals_change_nothing_but_a_second_interrupt_has_its_effect_at_once(
    effects: Effects, manager: PoolManager
) -> None:
    drain_on_signals(manager, timeout=20.0)
    with manager["a"].acquire():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        until(lambda: states(manager) == {"draining"})
        signal.raise_signal(signal.SIGTERM)
        assert effects.seen == []
        signal.raise_signal(signal.SIGINT)
        assert effects.seen == [("SIGINT", True)]
    effects.wait(2)  # what the first one would have done is still to come
    assert effects.seen == [("SIGINT", True), ("SIGTERM", True)]


def test_a_second_interrupt_is_not_followed_by_the_effect_of_the_first(effects: Effects, manager: PoolManager) -> None:
    drain_on_signals(manager, timeout=20.0)
    with manager["a"].acquire():
        signal.raise_signal(signal.SIGINT)
        until(lambda: states(manager) == {"draining"})
        signal.raise_signal(signal.SIGINT)
        assert effects.seen == [("SIGINT", True)]
    until(lambda: states(manager) == {"closed"})
    time.sleep(0.2)
    assert effects.seen == [("SIGINT", True)]


def test_afterwards_a_signal_has_its_effect_every_time(
    effects: Effects, manager: PoolManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    drain_on_signals(manager)
    signal.raise_signal(signal.SIGTERM)
    effects.wait()
    signal.raise_signal(signal.SIGTERM)  # at once: it may be the echo of the first
    signal.raise_signal(signal.SIGINT)
    monkeypatch.setattr(signals, "ECHO", 0.0)
    signal.raise_signal(signal.SIGTERM)
    assert [name for name, _ in effects.seen] == ["SIGTERM", "SIGINT", "SIGTERM"]


def test_a_signal_that_the_main_thread_does_not_notice_is_sent_again(
    effects: Effects, manager: PoolManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where it arrives between the last look for signals and the beginning of a wait."""
    sent: list[int] = []
    kill = signal.pthread_kill

    def lost_at_first(thread: int, number: int) -> None:
        sent.append(number)
        if len(sent) > 2:
            kill(thread, number)

    monkeypatch.setattr(signal, "pthread_kill", lost_at_first)
    drain_on_signals(manager)
    signal.raise_signal(signal.SIGTERM)
    effects.wait()
    assert len(sent) >= 3
    assert effects.seen == [("SIGTERM", True)]


def test_what_takes_in_new_work_is_stopped_first_and_its_time_counts(effects: Effects) -> None:
    order: list[Any] = []

    class Target:
        def drain(self, timeout: float | None) -> bool:
            order.append(timeout)
            return True

    def stop() -> None:
        order.append("stopped")
        time.sleep(0.3)

    drain_on_signals(Target(), timeout=10.0, stop=stop)
    signal.raise_signal(signal.SIGTERM)
    effects.wait()
    assert order[0] == "stopped"
    assert 0.0 <= order[1] <= 9.75


def test_a_stop_that_fails_is_logged_and_keeps_nothing_from_ending(
    effects: Effects, manager: PoolManager, caplog: pytest.LogCaptureFixture
) -> None:
    def stop() -> None:
        raise SystemExit("no")

    drain_on_signals(manager, stop=stop)
    signal.raise_signal(signal.SIGTERM)
    effects.wait()
    assert "what was to be stopped on SIGTERM raised" in caplog.text
    assert states(manager) == {"closed"}


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit])
def test_a_drain_that_fails_is_logged_and_the_signal_has_its_effect(
    effects: Effects, caplog: pytest.LogCaptureFixture, error: type[BaseException]
) -> None:
    class Fails:
        def drain(self, timeout: float | None) -> bool:
            raise error

    drain_on_signals(Fails())
    signal.raise_signal(signal.SIGTERM)
    effects.wait()
    assert "draining on SIGTERM failed" in caplog.text


def test_it_may_strike_while_the_thread_is_inside_a_pool(effects: Effects, manager: PoolManager) -> None:
    drain_on_signals(manager, timeout=10.0)
    with manager["a"]._lock:
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.05)
    effects.wait()
    assert states(manager) == {"closed"}


def test_where_no_thread_can_be_started_the_signal_has_its_effect(
    effects: Effects, manager: PoolManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    def limit(*args: Any) -> None:
        raise RuntimeError("can't start new thread")

    drain_on_signals(manager)
    monkeypatch.setattr("_thread.start_new_thread", limit)
    signal.raise_signal(signal.SIGTERM)
    assert effects.seen == [("SIGTERM", True)]


def test_the_handlers_can_be_taken_away_again(effects: Effects, manager: PoolManager) -> None:
    restore = drain_on_signals(manager)
    restore()
    assert signal.getsignal(signal.SIGTERM) == effects.handler
    signal.raise_signal(signal.SIGTERM)
    assert effects.seen == [("SIGTERM", True)]
    assert states(manager) == {"up"}


def test_a_handler_that_came_later_is_left_alone(effects: Effects, manager: PoolManager) -> None:
    restore = drain_on_signals(manager)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    restore()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    assert signal.getsignal(signal.SIGINT) == effects.handler


def test_what_is_ignored_stays_ignored(effects: Effects, manager: PoolManager) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    drain_on_signals(manager)
    signal.raise_signal(signal.SIGINT)
    assert states(manager) == {"up"}
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_the_default_action_is_the_systems(effects: Effects, manager: PoolManager) -> None:
    """That of SIGURG: to do nothing."""
    drain_on_signals(manager, signals=[signal.SIGURG])
    signal.raise_signal(signal.SIGURG)
    until(lambda: states(manager) == {"closed"})
    until(lambda: signal.getsignal(signal.SIGURG) == signal.SIG_DFL)


@pytest.mark.parametrize(
    ("number", "codes"), [(signal.SIGTERM, [143]), (signal.SIGURG, []), (REAL_TIME, [128 + REAL_TIME])]
)
def test_the_first_process_of_a_container_has_no_default_action_and_ends_all_the_same(
    effects: Effects, manager: PoolManager, monkeypatch: pytest.MonkeyPatch, number: int, codes: list[int]
) -> None:
    signal.signal(number, signal.SIG_DFL)
    drain_on_signals(manager, signals=[number])
    exits: list[int] = []
    raised: list[int] = []
    monkeypatch.setattr(signals, "os", SimpleNamespace(getpid=lambda: 1, _exit=exits.append))
    monkeypatch.setattr(signal, "raise_signal", raised.append)
    monkeypatch.setattr(signals._Handlers, "restore", lambda handlers: None)  # a signal too many would end this process
    os.kill(os.getpid(), number)
    until(lambda: raised == [number])
    assert (states(manager), exits) == ({"closed"}, codes)
    signal.signal(number, signal.SIG_DFL)


def test_a_system_that_cannot_signal_a_thread_has_another_way(
    effects: Effects, manager: PoolManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows."""
    monkeypatch.delattr(signal, "pthread_kill")
    drain_on_signals(manager)
    signal.raise_signal(signal.SIGTERM)
    effects.wait()
    assert effects.seen == [("SIGTERM", True)]


def test_two_of_them_are_drained_one_after_the_other(effects: Effects, manager: PoolManager) -> None:
    other = Pool(FakeFactory())
    drain_on_signals(manager)
    drain_on_signals(other)
    signal.raise_signal(signal.SIGTERM)
    effects.wait()
    assert (states(manager), other.stats().state) == ({"closed"}, "closed")
    assert effects.seen == [("SIGTERM", True)]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"timeout": -1}, ValueError, "timeout must be at least 0"),
        ({"timeout": None}, TypeError, "timeout must be seconds"),
        ({"stop": 5}, TypeError, "stop must be callable or None, not 5"),
        ({"signals": [99999]}, ValueError, "signal number"),
        ({"signals": [signal.SIGTERM, "SIGINT"]}, TypeError, "int"),
        ({"signals": [signal.SIGTERM, signal.SIGKILL]}, OSError, "Invalid argument"),  # which none can handle
        ({"target": None}, TypeError, "target must be a Pool or a PoolManager, not NoneType"),
        ({"target": Pool.drain}, TypeError, "target must be a Pool or a PoolManager, not function"),
    ],
)
def test_what_makes_no_sense_is_refused_and_no_handler_is_installed(
    effects: Effects, manager: PoolManager, options: Any, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        drain_on_signals(**{"target": manager, **options})
    assert signal.getsignal(signal.SIGTERM) == effects.handler


def test_on_another_thread_and_beside_handlers_of_other_languages_it_is_refused(
    effects: Effects, manager: PoolManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[BaseException] = []

    def elsewhere() -> None:
        with pytest.raises(RuntimeError, match="only be installed on the main thread") as caught:
            drain_on_signals(manager)
        errors.append(caught.value)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join(10)
    assert len(errors) == 1
    monkeypatch.setattr(signal, "getsignal", lambda number: None)
    with pytest.raises(RuntimeError, match="the handler of SIGTERM is not Python's"):
        drain_on_signals(manager)


# -- in a process of its own --------------------------------------------------------------------------------------

COMMON = """
import os, signal, sys, threading, time
from pooling import PoolManager
from pooling.signals import drain_on_signals
from pooling.testing import FakeFactory
signal.alarm(30)
manager = PoolManager()
manager.add("a", FakeFactory())
lease = manager["a"].acquire()
"""


def killed(script: str, number: int) -> tuple[int, str, float]:
    """Run a script until it says "ready", send it a signal; its exit code, what it said then, and how long it took."""
    with subprocess.Popen(
        [sys.executable, "-c", COMMON + textwrap.dedent(script)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            start = time.monotonic()
            process.send_signal(number)
            said, _ = process.communicate(timeout=30)
            return process.returncode, said, time.monotonic() - start
        finally:
            process.kill()


WAITS_FOR_EVER = """
drain_on_signals(manager, timeout={timeout})
def release():
    time.sleep({held})
    print("released", flush=True)  # before, or the process may end in between
    lease.release()
threading.Thread(target=release, daemon=True).start()
print("ready", flush=True)
threading.Event().wait()
"""


def test_by_default_the_process_ends_by_the_signal_once_it_is_drained() -> None:
    code, said, _ = killed(WAITS_FOR_EVER.format(timeout=20, held=0.5), signal.SIGTERM)
    assert (code, said) == (-signal.SIGTERM, "released\n")


def test_the_first_process_of_a_container_ends_by_default_once_it_is_drained() -> None:
    if (
        shutil.which("unshare") is None
        or subprocess.run([*CONTAINER, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no namespaces for processes here")
    script = WAITS_FOR_EVER.format(timeout=20, held=0.5).removesuffix("threading.Event().wait()\n")
    script += "signal.raise_signal(signal.SIGTERM)\nthreading.Event().wait(20)\n"
    done = subprocess.run(
        [*CONTAINER, sys.executable, "-c", COMMON + script],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip  # one argument list
    assert (done.returncode, done.stdout) == (128 + signal.SIGTERM, "ready\nreleased\n")


def test_by_default_it_ends_by_a_signal_without_a_name_when_the_time_is_over() -> None:
    script = WAITS_FOR_EVER.format(timeout=f"0.5, signals=[{REAL_TIME}]", held=25)
    code, _, _ = killed(script, REAL_TIME)
    assert code == -REAL_TIME


def test_by_default_it_ends_by_the_signal_when_the_time_is_over() -> None:
    code, said, took = killed(WAITS_FOR_EVER.format(timeout=0.5, held=25), signal.SIGTERM)
    assert (code, said) == (-signal.SIGTERM, "")
    assert took >= 0.5


def test_an_interrupt_is_raised_in_the_main_thread_once_it_is_drained() -> None:
    script = """
    drain_on_signals(manager)
    threading.Timer(0.3, lease.release).start()
    print("ready", flush=True)
    try:
        time.sleep(25)
    except KeyboardInterrupt:
        print("interrupted", manager.stats()["a"].state)
    """
    code, said, took = killed(script, signal.SIGINT)
    assert (code, said) == (0, "interrupted closed\n")
    assert took < 20


def test_a_forked_child_drains_its_own_pools_and_the_parent_goes_on() -> None:
    run_python(
        COMMON
        + textwrap.dedent(
            """
            drain_on_signals(manager, timeout=10)
            read, write = os.pipe()
            pid = os.fork()
            if pid == 0:
                signal.alarm(20)
                mine = manager["a"].acquire(timeout=5)
                def release():
                    while manager["a"].stats().state != "draining":
                        time.sleep(0.01)
                    mine.release()
                    os.write(write, b"released")
                threading.Thread(target=release, daemon=True).start()
                os.write(write, b"ready")
                threading.Event().wait()
            assert os.read(read, 5) == b"ready"
            os.kill(pid, signal.SIGTERM)
            _, status = os.waitpid(pid, 0)
            assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM, status
            assert os.read(read, 8) == b"released"
            lease.release()
            manager["a"].acquire(timeout=0).release()
            manager.close()
            """
        ),
        options=LENIENT,
    )


def test_a_child_that_is_forked_while_its_parent_drains_ends_by_the_signal_too() -> None:
    """It took itself for one that drains already, with a thread that it did not have, and ended by no SIGTERM."""
    run_python(
        COMMON
        + textwrap.dedent(
            """
            drain_on_signals(manager, timeout=25)
            os.kill(os.getpid(), signal.SIGTERM)
            while manager["a"].stats().state != "draining":
                time.sleep(0.01)
            pid = os.fork()
            if pid == 0:
                signal.alarm(10)
                os.kill(os.getpid(), signal.SIGTERM)
                while True:
                    time.sleep(0.01)
            _, status = os.waitpid(pid, 0)
            assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM, status
            os._exit(0)
            """
        ),
        options=LENIENT,
    )


def test_what_a_child_inherits_of_a_drain_is_its_parents(effects: Effects, manager: PoolManager) -> None:
    handlers = signals._Handlers(manager, 5.0, None, {signal.SIGTERM: effects.handler})
    handlers._stage, handlers._number, handlers._pid = signals._Stage.DRAINING, signal.SIGTERM, -1
    signal.signal(signal.SIGTERM, handlers.handle)
    signal.raise_signal(signal.SIGTERM)
    effects.wait()
    assert handlers._pid == os.getpid()
