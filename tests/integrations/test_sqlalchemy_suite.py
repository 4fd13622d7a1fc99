"""SQLAlchemy's own tests of pools and engines, with FairPool in the place of QueuePool.

They run twice, with either pool, from the sources of the installed version, which the package registry has. What passes
with QueuePool passes with FairPool.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from tests.core.helpers import ROOT

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

POOLS = ["test/engine/test_pool.py", "test/engine/test_reconnect.py"]
ENGINES = ["test/engine", "test/dialect/test_suite.py", "test/orm/test_transaction.py", "test/orm/test_session.py"]
# They compare what is said with the name "QueuePool".
ABOUT_THE_NAME = "not test_memory_mode_pool_deprecated"


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SQLAlchemy's sources with its tests, of the version that is installed."""
    folder = tmp_path_factory.mktemp("sqlalchemy")
    wanted = f"sqlalchemy=={sqlalchemy.__version__}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "sqlalchemy", wanted]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    (unpacked,) = (path.parent for path in folder.glob("*/setup.cfg"))
    return unpacked


def run(sources: Path, tests: list[str], url: str, *plugins: str) -> dict[str, str]:
    """What became of each test."""
    report = sources / "report.xml"
    report.unlink(missing_ok=True)
    options = ["-p", "no:cacheprovider", "-p", "no:randomly", "--maxfail=1000", "--reruns=1", f"--junitxml={report}"]
    command = [sys.executable, "-m", "pytest", *plugins, *options, "-k", ABOUT_THE_NAME, "--dburi", url, *tests]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(sources / "lib"), str(ROOT)])}
    environment.pop("PYTEST_ADDOPTS", None)
    with (sources / "output.txt").open("w+") as output:
        done = subprocess.run(
            command, cwd=sources, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            timeout=1700, check=False,
        )  # fmt: skip  # one argument list
        output.seek(0)
        said = output.read()
    assert done.returncode in (0, 1), said  # all passed, or some failed
    assert ("QueuePool is pooling.integrations.sqlalchemy" in said) == bool(plugins), said
    found: dict[str, str] = {}
    for case in ET.parse(report).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}".replace("FairPool", "QueuePool")
        kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
        found[name] = min(kinds, default="passed")
    return found


def compare(sources: Path, tests: list[str], url: str) -> dict[str, str]:
    theirs = run(sources, tests, url)
    ours = run(sources, tests, url, "-p", "tests.integrations.sqlalchemy_in_place")
    worse = {name: became for name, became in ours.items() if became != theirs.get(name) and became != "passed"}
    assert worse == {}
    assert ours.keys() == theirs.keys()
    return ours


def test_sqlalchemys_tests_of_pools_pass(sources: Path) -> None:
    became = compare(sources, POOLS, f"sqlite:///{sources}/pools.db")
    assert list(became.values()).count("passed") > 150


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_sqlalchemys_tests_of_engines_pass(sources: Path, database: str, request: pytest.FixtureRequest) -> None:
    if database == "sqlite":
        url = f"sqlite:///{sources}/engines.db"
    else:
        start: Callable[..., Any] = request.getfixturevalue("own_server")
        server = start("postgres")
        url = prepared(server.url)
    became = compare(sources, ENGINES, url)
    assert list(became.values()).count("passed") > 1000


def prepared(url: str) -> str:
    """The database as SQLAlchemy's tests want it."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        for schema in ("test_schema", "test_schema_2"):
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")  # type: ignore[call-overload]  # fixed names
    return url.replace("postgresql://", "postgresql+psycopg://", 1)
