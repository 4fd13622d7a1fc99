"""The gate: the tests of this directory reach every line and every branch of the core.

They are run once more, in a process of their own under coverage, without those that measure by the wall clock or
reach no code of the core. A line that no test can reach is deleted, or argued for in the code that has it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.core.helpers import ROOT

CORE = (
    "pool", "lease", "config", "stats", "events", "errors", "factory", "retry", "manager", "signals", "_chance",
    "_clock", "_configuration", "_dispatch", "_driver", "_elsewhere", "_finalizer", "_holders", "_hooks", "_inspection",
    "_lazy", "_ledger", "_log", "_report", "_runtime", "_traces", "_waiting", "_words",
)  # fmt: skip  # a table
# They look at pools from outside, and have branches for races and for strange objects that tests cannot bring about.
OBSERVERS = {"monitor", "_changes", "_periodic", "_secrets", "_sources"}
INSIDE = "POOLING_TEST_COVERAGE"
LEFT_OUT = ("coverage", "deadlines_in_real_time", "fairness", "layers", "typing")


def test_every_module_of_the_core_is_gated() -> None:
    others = {"__init__", "__main__", "testing", "backends", "cli", "integrations"}
    package = ROOT / "pooling"
    there = {
        path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    } - others
    assert there - others == set(CORE) | OBSERVERS


@pytest.mark.skipif(INSIDE in os.environ, reason="this is the run that is measured")
@pytest.mark.skipif(sys.gettrace() is not None, reason="somebody measures already")
@pytest.mark.timeout(600)
def test_branch_coverage_of_the_core_is_100_percent(tmp_path: Path) -> None:
    pytest.importorskip("coverage", minversion="7.10", reason="it measures subprocesses from then on")
    environment = {**os.environ, INSIDE: "1", "COVERAGE_FILE": str(tmp_path / "data")}

    def coverage(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "coverage", *arguments],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=environment,
            check=False,
        )

    left_out = [f"--ignore=tests/core/test_{name}.py" for name in LEFT_OUT]
    # Threads alone: watching greenlets as well, coverage can hang in a weak reference's callback.
    # A signal that strikes inside coverage's own lock waits for it for ever: that test is not for measuring.
    left_out.append(
        "--deselect=tests/core/test_reentrancy.py::test_signals_that_release_while_the_pool_works_lose_nothing"
    )
    run = coverage(
        "run", "--concurrency=thread", "-m", "pytest", "tests/core", "-q", "-p", "no:cacheprovider", *left_out
    )
    # 1: a test failed under the slow tracer. Whether it passes, the ordinary run says; here its lines count.
    assert run.returncode in (0, 1), run.stdout[-5000:] + run.stderr[-2000:]
    assert coverage("combine", "-q").returncode == 0
    files = [f"pooling/{name}{ending}" for name in CORE for ending in (".py", "/*.py")]
    report = coverage("report", "--fail-under=100", f"--include={','.join(files)}")
    assert report.returncode == 0, report.stdout + report.stderr
