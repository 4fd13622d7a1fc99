"""Ten thousand schedules with fixed seeds, and planted faults that they have to find."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pooling
from tests.schedules.explorer import explore

ROOT = Path(__file__).parents[2]
# Seeds that find a fault that was there once: 460, a connection that came back in the moment of close() and stayed
# open. (A seed is another schedule where lines have come or gone: test_a_planted_fault_is_found shows that.)
FOUND = [460]


def test_no_schedule_of_those_that_once_found_a_fault_finds_one() -> None:
    assert {seed: wrong for seed in FOUND for wrong in explore(1, seed).values()} == {}


@pytest.mark.timeout(900)
def test_no_schedule_breaks_a_promise() -> None:
    explore_in_two(int(os.environ.get("POOLING_SCHEDULES", "10000")))


def start(root: Path, count: int, first: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.schedules.explorer", str(count), str(first)]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True)


@pytest.mark.soak
@pytest.mark.timeout(36_000)
def test_no_schedule_of_a_million_breaks_a_promise() -> None:
    explore_in_two(1_000_000, 10_000)


def explore_in_two(count: int, first: int = 0) -> None:
    """Half of them in each of two processes: the actors of one take turns anyway."""
    half = count // 2
    runs = [start(ROOT, half, seed) for seed in (first, first + half)]
    assert [run.communicate()[0] for run in runs] == ["", ""]
    assert [run.returncode for run in runs] == [0, 0]


FAULTS = {
    "a release does not look after its append whether it may be plain": (
        "lease.py",
        "for _ in roster.plain_releases:",
        "for _ in (None,):",
    ),
    "a joining caller looks at idle and takes the plain path away afterwards": (
        "_ledger/ledger.py",
        "        self.roster.plain_releases, self.plain[0] = NONE, False\n        if waiter.turn",
        "        if waiter.turn",
    ),
    "a closed pool keeps what comes back in the last moment": (
        "_ledger/settling.py",
        "        if roster.idle and (self.phase is CLOSED or",
        "        if roster.idle and (",
    ),
    "waiters are served last come, first": (
        "_ledger/queue.py",
        "first = next(iter(self.lane), None)",
        "first = next(reversed(self.lane), None)",
    ),
    "a connection is taken by two steps": (
        "pool.py",
        "                token = take()\n",
        "                token = self._idle[-1]\n                self._idle.remove(token)\n",
    ),
    "a slot is freed before its connection is closed": (
        "_ledger/roster.py",
        "        self.doomed.append(token)",
        "        self.doomed.append(token)\n        self.entries.pop(token.entry, None)",
    ),
    "a token is put back twice": (
        "_ledger/moves.py",
        "            self.roster.idle.append(token)",
        "            self.roster.idle.extend([token, token])",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault: str, tmp_path: Path) -> None:
    name, code, broken = FAULTS[fault]
    shutil.copytree(Path(pooling.__file__).parent, tmp_path / "pooling", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests" / "schedules", tmp_path / "tests" / "schedules")
    (tmp_path / "tests" / "__init__.py").touch()
    path = tmp_path / "pooling" / name
    source = path.read_text()
    assert code in source, "the fault has nowhere to be planted"
    path.write_text(source.replace(code, broken))
    for first in range(250, 3250, 250):  # from where the known seeds are
        run = start(tmp_path, 250, first)
        try:
            run.communicate(timeout=60)
        except subprocess.TimeoutExpired:  # everybody waits, or runs, for ever: that is found as well
            run.kill()
            run.communicate()
        if run.returncode:
            return
    pytest.fail(f"3,000 schedules did not find that {fault}")
