"""The public names are typed as users see them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.core.helpers import ROOT


def test_the_public_names_pass_mypy_strict_and_mistakes_do_not() -> None:
    """tests/typing/api.py: each mistake in it is marked, and a mark that is not needed is an error as well."""
    pytest.importorskip("mypy")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--warn-unused-ignores", "tests/typing/api.py"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["Success: no issues found in 1 source file"]), (
        done.stdout + done.stderr
    )


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "pooling" / "py.typed").exists()
