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
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy

from tests.core.helpers import ROOT
from tests.servers import Postgres

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

SQLITE = ["test/engine", "test/dialect/test_suite.py", "test/orm/test_transaction.py", "test/orm/test_session.py"]
POSTGRESQL = ["test/engine"]
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
            timeout=560, check=False,
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


@pytest.fixture(scope="session")
def theirs() -> dict[str, dict[str, str]]:
    """What became of the tests with SQLAlchemy's own pool, by database. A test of its own has it found out: pytest's
    own patience is with each test."""
    return {}


@pytest.fixture(scope="session")
def urls(sources: Path) -> Iterator[dict[str, str]]:
    """A database of each kind, as SQLAlchemy's tests want it."""
    with Postgres(external=False) as server:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("CREATE SCHEMA test_schema")
            connection.execute("CREATE SCHEMA test_schema_2")
        yield {
            "sqlite": f"sqlite:///{sources}/data.db",
            "postgresql": server.url.replace("postgresql://", "postgresql+psycopg://", 1),
        }


@pytest.mark.parametrize(("database", "tests"), [("sqlite", SQLITE), ("postgresql", POSTGRESQL)])
@pytest.mark.parametrize("fair", [False, True], ids=["QueuePool", "FairPool"])
def test_what_passes_with_queue_pool_passes_with_fair_pool(
    sources: Path, urls: dict[str, str], theirs: dict[str, dict[str, str]], database: str, tests: list[str], fair: bool
) -> None:
    if database not in theirs:
        theirs[database] = run(sources, tests, urls[database])
    known = theirs[database]
    assert list(known.values()).count("passed") > 850
    if fair:
        ours = run(sources, tests, urls[database], "-p", "tests.integrations.sqlalchemy_in_place")
        assert {name: became for name, became in ours.items() if became not in ("passed", known.get(name))} == {}
        assert ours.keys() == known.keys()
