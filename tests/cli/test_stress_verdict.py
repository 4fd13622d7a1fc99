"""A pool that breaks a promise is found out, one that keeps them all is not accused."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pooling import Pool
from pooling.cli.stress._plan import Ending
from pooling.cli.stress._user import User
from tests.cli import tiny_pool
from tests.core.helpers import ROOT
from tests.servers import Postgres

Main = Callable[..., tuple[int, str, str]]
Stressing = Callable[[Any], None]
# Nothing that a tiny pool has no answer to: it knows dirty returns, not lost leases and faults.
PLAIN = (
    "stress",
    "--duration",
    "0.5",
    "--threads",
    "12",
    "--max-size",
    "3",
    "--lost",
    "0",
    "--faults",
    "0",
    "--dirty",
    "0.1",
)
EVERYTHING = ("--dirty", "0.1", "--lost", "0.05", "--faults", "0.1")


@pytest.mark.parametrize(
    ("broken", "invariant"),
    [
        (tiny_pool.OpensTooMany, "size"),
        (tiny_pool.ServesTheLastFirst, "order"),
        (tiny_pool.LetsNewcomersBarge, "order"),
        (tiny_pool.MixesUpSessions, "results"),
        (tiny_pool.LeavesTransactionsOpen, "results"),
        (tiny_pool.CommitsForItsUsers, "results"),
        (tiny_pool.ForgetsOneAtClose, "accounted"),
        (tiny_pool.LosesASlot, "accounted"),
        (tiny_pool.RaisesSomething, "errors"),
        (tiny_pool.TimesOutEarly, "errors"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_broken_pool_ends_with_exit_code_1_and_the_invariant_s_name(
    broken: type, invariant: str, main: Main, stressing: Stressing, tmp_path: Path
) -> None:
    stressing(broken)
    # Some of them leave the database locked: users shall not wait for it any longer than they have to.
    code, out, _ = main(*PLAIN, f"sqlite:///{tmp_path}/stress.db?timeout=0.1")
    assert code == 1
    check_broken(out, invariant)


def check_broken(out: str, invariant: str) -> None:
    *evidence, last = out.strip().splitlines()
    assert last.startswith("BROKEN after")
    assert invariant in last
    assert any(line.startswith(f"{invariant}: ") for line in evidence)


def test_a_pool_that_gives_one_connection_to_two_is_found_out(tmp_path: Path) -> None:
    """In a process of its own: SQLite does not always survive two threads on one connection."""
    code = (
        "import sys\n"
        "from pooling.cli import main\n"
        "from pooling.cli.stress import _harness\n"
        "from tests.cli.tiny_pool import GivesOneToTwo\n"
        "run = _harness.run\n"
        "_harness.run = lambda options, **rest: run(options, make_pool=GivesOneToTwo, **rest)\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", code, *PLAIN, f"sqlite:///{tmp_path}/stress.db?timeout=0.1"]
    for _ in range(20):
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        if run.returncode >= 0:  # else it was killed by a signal, before it could tell
            break
    assert run.returncode == 1, run.stderr
    check_broken(run.stdout, "one user")


def test_a_correct_pool_of_another_make_holds(main: Main, stressing: Stressing) -> None:
    stressing(tiny_pool.TinyPool)
    code, out, _ = main(*PLAIN)
    assert (code, out.strip().splitlines()[-1].split(":")[0].split()[0]) == (0, "HELD"), out


def test_a_lost_lease_that_is_garbage_in_the_end_is_no_lost_slot(
    main: Main, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As PyMongo's errors leave it: they keep the frames that they have passed, in a cycle."""
    work, knots = User._work, threading.Semaphore(1)

    def tied(self: User, connection: Any, attempt: Any, plan: Any) -> None:
        work(self, connection, attempt, plan)
        if plan.ending is Ending.LOST and knots.acquire(blocking=False):
            knot: list[Any] = [sys._getframe(1)]  # which has the lease
            knot.append(knot)

    monkeypatch.setattr(User, "_work", tied)
    gc.disable()
    try:
        code, out, _ = main(*PLAIN, f"sqlite:///{tmp_path}/stress.db", "--lost", "0.2")
    finally:
        gc.enable()
    assert not knots.acquire(blocking=False), "no lease was lost"
    assert code == 0, out


def test_everything_at_once_holds(main: Main) -> None:
    code, out, err = main("stress", "--duration", "3", *EVERYTHING)
    assert code == 0, out
    assert err == ""
    for word in ("dirty", "lost", "break", "discard", "refuse", "slow", "injected break"):
        assert word in out


def test_a_correct_pool_is_not_accused_on_a_crowded_processor(main: Main, crowd: None) -> None:
    code, out, _ = main("stress", "--duration", "1.5", "--think", "0", "--hold", "0", *EVERYTHING)
    assert code == 0, out


def test_postgresql_holds_and_the_server_agrees(main: Main, postgres: Postgres) -> None:
    code, out, _ = main("stress", postgres.url, "--duration", "1.5", *EVERYTHING)
    assert code == 0, out
    assert "sessions, by the server" in out


def test_a_session_that_only_the_server_knows_of_is_found(main: Main, stressing: Stressing, postgres: Postgres) -> None:
    stressing(tiny_pool.HasAnotherSession)
    code, out, _ = main(*PLAIN, postgres.url)
    assert code == 1
    assert out.strip().splitlines()[-1].split(": ")[1].startswith("server")


def test_a_run_in_which_nobody_was_served_proves_nothing(main: Main, stressing: Stressing) -> None:
    stressing(lambda factory, **options: _suspended(Pool(factory, **options)))
    code, out, _ = main("stress", "--duration", "0.2", "--timeout", "0.1", "--threads", "2")
    assert code == 1
    assert "not one use in the whole run" in out


def _suspended(pool: Pool[Any]) -> Pool[Any]:
    pool.suspend()
    return pool


@pytest.fixture
def crowd() -> Iterator[None]:
    """Threads that take all the processor they can get."""
    over = threading.Event()

    def spin() -> None:
        while not over.is_set():
            sum(range(1000))

    threads = [threading.Thread(target=spin) for _ in range(4)]
    for thread in threads:
        thread.start()
    yield
    over.set()
    for thread in threads:
        thread.join()
