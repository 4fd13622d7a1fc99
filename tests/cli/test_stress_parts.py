"""The parts of the stress run by themselves: plans, the order watch, faults, the progress line."""

from __future__ import annotations

import gc
import io
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from itertools import islice

import pytest
from rich.console import Console

from pooling.cli.stress._faults import ARMED, IN_A_ROW, Faults, InjectedRefusal
from pooling.cli.stress._options import StressOptions
from pooling.cli.stress._order import Attempt, OrderWatch
from pooling.cli.stress._plan import Ending, plans
from pooling.cli.stress._progress import EVERY, ProgressLine
from pooling.cli.stress._result import Progress
from pooling.cli.stress._verdict import EVIDENCE_KEPT, Invariant, Verdict

MIXED = StressOptions(seed=3, dirty=0.2, lost=0.1, faults=0.2)


def test_the_same_seed_plans_the_same_uses() -> None:
    assert list(islice(plans(MIXED, 1), 500)) == list(islice(plans(MIXED, 1), 500))


def test_threads_and_seeds_differ() -> None:
    first = list(islice(plans(MIXED, 1), 50))
    assert first != list(islice(plans(MIXED, 2), 50))
    assert first != list(islice(plans(StressOptions(seed=4, dirty=0.2, lost=0.1, faults=0.2), 1), 50))


def test_another_hold_time_leaves_the_other_draws_as_they_were() -> None:
    longer = StressOptions(seed=3, dirty=0.2, lost=0.1, faults=0.2, hold=1.0)
    endings = [[plan.ending for plan in islice(plans(options, 1), 500)] for options in (MIXED, longer)]
    assert endings[0] == endings[1]


def test_shares_are_kept() -> None:
    counts = Counter(plan.ending for plan in islice(plans(MIXED, 1), 10_000))
    assert 1_800 < counts[Ending.DIRTY] < 2_200
    assert 850 < counts[Ending.LOST] < 1_150
    assert all(counts[each] > 350 for each in (Ending.BREAK, Ending.DISCARD, Ending.REFUSE, Ending.SLOW))
    assert 4_700 < counts[Ending.CLEAN] < 5_300


def _attempt(user: str, *, called: int, seen: int, served: int, free_since: int) -> Attempt:
    attempt = Attempt(user)
    attempt.called, attempt.seen, attempt.served, attempt.free_since = called, seen, served, free_since
    return attempt


# A was seen waiting at 20; the connection it got became free at 50, and it noticed at 90.
A = {"called": 10, "seen": 20, "served": 90, "free_since": 50}


@pytest.mark.parametrize(
    ("came", "served", "overtaken"),
    [
        (30, 40, True),
        (15, 40, False),  # it may have come first: A was not yet seen
        (30, 60, False),  # A may have been served by then, without having noticed
        (30, 95, False),
    ],
)
def test_only_what_is_certain_counts_as_overtaking(came: int, served: int, overtaken: bool) -> None:
    verdict = Verdict()
    watch = OrderWatch(verdict)
    watch.served(_attempt("B", called=came, seen=0, served=served, free_since=0), 0)
    watch.served(_attempt("A", **A), A["free_since"])
    watch.look()
    watch.look()
    assert watch.watched == 1
    assert verdict.count(Invariant.ORDER) == overtaken


def test_a_thread_is_seen_waiting_only_inside_its_acquire() -> None:
    watch, bell, asleep, attempts = OrderWatch(Verdict()), threading.Condition(), threading.Event(), []

    def user() -> None:
        attempts.append(watch.begin("user"))
        with bell:
            asleep.set()
            bell.wait(10)
        watch.end(attempts[0])

    thread = threading.Thread(target=user)
    thread.start()
    asleep.wait(10)
    with bell:  # only to be had once the other has let go of it, inside its wait
        watch.look()
        assert attempts[0].seen >= attempts[0].called
        assert watch.waiting == 1
        bell.notify()
    thread.join()
    assert watch.waiting == 0


@pytest.mark.parametrize("collects", [True, False])
def test_no_garbage_is_collected_while_the_interpreter_lists_its_threads(
    collects: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    monkeypatch.setattr(sys, "_current_frames", lambda: seen.append(gc.isenabled()) or {})
    before = gc.isenabled()
    (gc.enable if collects else gc.disable)()
    try:
        watch = OrderWatch(Verdict())
        watch.begin("user")
        watch.look()
        assert gc.isenabled() is collects
    finally:
        (gc.enable if before else gc.disable)()
    assert seen == [False]


def test_refusals_never_become_an_outage() -> None:
    faults, outcomes = Faults(), []
    for _ in range(50):
        for _ in range(2 * ARMED):
            faults.arm(Ending.REFUSE)
        try:
            faults.strike()
            outcomes.append("connected")
        except InjectedRefusal:
            outcomes.append("refused")
    assert outcomes[: IN_A_ROW + 1] == ["refused"] * IN_A_ROW + ["connected"]
    assert faults.refused == outcomes.count("refused")
    faults.disarm()
    faults.strike()


def test_evidence_is_kept_for_the_first_and_counted_for_all() -> None:
    verdict = Verdict()
    assert verdict.held
    for n in range(100):
        verdict.broke(Invariant.SIZE, f"number {n}")
    assert not verdict.held
    assert verdict.count(Invariant.SIZE) == 100
    assert len(verdict.evidence(Invariant.SIZE)) == EVIDENCE_KEPT
    assert verdict.evidence(Invariant.SIZE)[0].endswith("number 0")


def _ticks() -> Iterator[Progress]:
    for tenth in range(1, 121):
        yield Progress(tenth / 10, 12.0, tenth * 100, 8, 20, 3, (Invariant.ORDER,))


def test_a_terminal_sees_a_live_line() -> None:
    screen = io.StringIO()
    with ProgressLine(Console(file=screen, force_terminal=True, width=100, _environ={"TERM": "xterm"})) as line:
        for progress in _ticks():
            line.show(progress)
    assert "\x1b[2K" in screen.getvalue()
    assert "order BROKEN" in screen.getvalue()


def test_elsewhere_a_plain_line_comes_now_and_then() -> None:
    file = io.StringIO()
    with ProgressLine(Console(file=file, width=80)) as line:
        for progress in _ticks():
            line.show(progress)
    lines = file.getvalue().splitlines()
    assert len(lines) == int(12 / EVERY)
    assert lines[0] == "5.0 of 12 s: 5,000 uses, 1,000 a second, 8 open, 20 waiting, 3 errors, order BROKEN"
