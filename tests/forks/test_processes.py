"""A process forks while it has pools on every backend: os.fork, and multiprocessing on top of it.

Counted at the servers: the child has sessions of its own, and neither its life nor any kind of end costs the
parent one.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.backends.adapters import Adapter
from tests.core.helpers import ROOT
from tests.forks.conftest import Census
from tests.forks.pools import VARIABLE, describe

WAIT = 60.0  # seconds for an answer
ENDINGS = ["sys.exit", "os._exit", "pool.close", "kill", "exec", "subprocess"]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


class Parent:
    """process.py, and a line to it."""

    def __init__(self, backends: dict[str, Adapter], log: Path, *options: str) -> None:
        self._log = log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, *options, "-m", "tests.forks.process"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, cwd=ROOT, text=True, bufsize=1,
                env={**os.environ, "PYTHONPATH": str(ROOT), VARIABLE: describe(backends)},
            )  # fmt: skip  # one argument list

    def ask(self, order: str) -> Any:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(f"{order}\n")
        ready, _, _ = select.select([stdout], [], [], WAIT)
        line = stdout.readline() if ready else ""
        assert line, f"no answer to {order!r}: {self.said}"
        return json.loads(line)

    @property
    def said(self) -> str:
        return self._log.read_text()

    def end(self) -> int:
        """Let it close its pools and end."""
        self._process.communicate(timeout=WAIT)
        return self._process.returncode

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate(timeout=WAIT)


@pytest.fixture
def parent(backends: dict[str, Adapter], tmp_path: Path) -> Iterator[Parent]:
    # PyMongo has threads of its own, of which os.fork warns from Python 3.12 on.
    one = Parent(backends, tmp_path / "parent.log", "-W", "error", "-W", "ignore:This process:DeprecationWarning")
    try:
        yield one
    finally:
        one.kill()


def shared(mine: dict[str, list[str]], others: dict[str, list[str]]) -> dict[str, set[str]]:
    """The sessions that two processes have both used."""
    both = {kind: {*mine[kind]} & {*others[kind]} for kind in mine}
    return {kind: sessions for kind, sessions in both.items() if sessions}


@pytest.mark.parametrize("way", ["os.fork", "multiprocessing.Process"])
def test_a_child_has_sessions_of_its_own_and_its_end_costs_the_parent_none(
    parent: Parent, census: Census, way: str
) -> None:
    mine = parent.ask("use")
    before = census.take()
    assert all(before.values()), before
    for ending in ENDINGS:
        first, second = parent.ask(f"fork {way}")
        assert not shared(mine, first)
        assert not shared(mine, second)
        during = census.take()
        for kind in before:  # beside the parent's, and of those no one less
            assert before[kind] < during[kind] <= 2 * before[kind], (ending, kind, before, during)
        assert parent.ask(f"end {ending}") == (-9 if ending == "kill" else 0), parent.said
        census.expect(before)
        assert parent.ask("use") == mine, ending
    assert census.take() == before
    assert parent.end() == 0, parent.said
    assert parent.said == ""


def test_a_pool_of_processes_works_on_the_pools_of_its_parent(parent: Parent, census: Census) -> None:
    mine = parent.ask("use")
    before = census.take()
    for sessions in parent.ask("fork multiprocessing.Pool"):
        assert not shared(mine, sessions)
    census.expect(before)
    assert parent.ask("use") == mine
    assert parent.end() == 0, parent.said
    assert parent.said == ""


def test_a_fork_in_the_middle_of_traffic_harms_nobody(parent: Parent, census: Census) -> None:
    """Other threads may be anywhere at that moment, inside the pools' locks too, and the child has none of them."""
    mine = parent.ask("use")
    parent.ask("traffic")
    for _ in range(6):
        first, second = parent.ask("fork os.fork")
        assert not shared(mine, first)
        assert not shared(mine, second)
        assert parent.ask("end os._exit") == 0, parent.said
    counts = parent.ask("quiet")
    assert len(counts) == len(mine), parent.said
    assert min(counts) > 0
    parent.ask("use")
    assert parent.end() == 0, parent.said
    assert parent.said == ""


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the warning came with 3.12")
def test_forking_pools_that_are_quiet_warns_of_nothing(backends: dict[str, Adapter], tmp_path: Path) -> None:
    del backends["mongodb"]  # PyMongo has threads of its own
    parent = Parent(backends, tmp_path / "parent.log", "-W", "always::DeprecationWarning")
    try:
        parent.ask("patience")  # on a busy machine a thread may need more than 50 ms to end
        for _ in range(10):
            parent.ask("use")
            parent.ask("fork os.fork")
            assert parent.ask("end os._exit") == 0, parent.said
        assert parent.end() == 0
        assert parent.said == ""
    finally:
        parent.kill()
