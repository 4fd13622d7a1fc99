"""Django's test runner, with the project's tests and with Django's own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import NamedTuple

import django
import pytest

from tests.servers import MariaDB, Postgres, Redis

ROOT = Path(__file__).parents[2]
OURS, STOCK = "pooling.integrations.django", "django.db.backends"


@pytest.fixture
def urls(postgres: Postgres, mariadb: MariaDB, tmp_path: Path) -> dict[str, str]:
    return {"postgresql": postgres.url, "mysql": mariadb.url, "sqlite3": str(tmp_path / "site.db"), "memory": ""}


def run(command: list[str], folder: Path, timeout: float, **variables: str) -> str:
    """What a command says, whatever its exit code."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=timeout, check=False,
    )  # fmt: skip  # one argument list
    return done.stdout


@pytest.mark.parametrize(
    ("alias", "parallel", "given"),
    [
        ("postgresql", 1, {}), ("postgresql", 2, {}), ("mysql", 1, {}), ("sqlite", 1, {}), ("sqlite", 2, {}),
        ("postgresql", 1, {"SITE_MIRROR": "1"}), ("postgresql", 2, {"SITE_MIRROR": "1"}),
    ],
)  # fmt: skip  # a table
def test_the_test_runner_makes_its_databases_and_removes_them(
    alias: str, parallel: int, given: dict[str, str], urls: dict[str, str], tmp_path: Path, redis_server: Redis
) -> None:
    url = urls["sqlite3" if alias == "sqlite" else alias]
    command = [sys.executable, "-W", "error", "-m", "django", "test", "tests.integrations.django_project.checks"]
    said = run(
        [*command, "--noinput", f"--parallel={parallel}", "--settings=tests.integrations.django_project.settings"],
        ROOT, 120, SITE_DEFAULT=alias, SITE_REDIS=redis_server.url, **{f"SITE_{alias.upper()}": url}, **given,
    )  # fmt: skip  # one argument list
    assert "Found 6 test(s)" in said
    assert re.search(r"Ran [56] tests in .*\n\nOK", said), said  # Python 3.12.1 does not count what is skipped
    assert "Got an error" not in said
    assert "being accessed" not in said
    assert not list(tmp_path.glob("*.test*"))  # of SQLite


class Result(NamedTuple):
    ran: int
    failed: set[str]
    skipped: int

    @classmethod
    def read(cls, said: str) -> Result:
        ran = re.search(r"^Ran (\d+) tests", said, re.MULTILINE)
        assert ran is not None, said[-5000:]
        failed = set(re.findall(r"^(?:ERROR|FAIL|UNEXPECTED SUCCESS): (\S+ \(\S+\))", said, re.MULTILINE))
        skipped = re.search(r"skipped=(\d+)", said)
        return cls(int(ran[1]), failed, int(skipped[1]) if skipped else 0)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Django's own tests, which only its source distribution has."""
    folder = tmp_path_factory.mktemp("django-source")
    wanted = f"django=={django.__version__}"
    command = [sys.executable, "-m", "pip", "download", "--no-binary", ":all:", "--no-deps", "-d", str(folder), wanted]
    said = run(command, folder, 300)
    archives = list(folder.glob("*.tar.gz"))
    assert archives, said
    with tarfile.open(archives[0]) as archive:
        archive.extractall(folder, **({"filter": "data"} if sys.version_info >= (3, 12) else {}))
    return next(folder.glob("*/tests"))


def django_tests(suite: Path, labels: tuple[str, ...], kind: str, url: str, **variables: str) -> Result:
    settings = "--settings=tests.integrations.django_project.suite"
    said = run(
        [sys.executable, "runtests.py", settings, "--parallel=1", "--noinput", *labels],
        suite, 1500, SUITE_KIND="sqlite3" if kind == "memory" else kind, SUITE_URL=url, **variables,
    )  # fmt: skip  # one argument list
    return Result.read(said)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["postgresql", "mysql", "sqlite3", "memory"])
def test_djangos_own_tests_of_backends_pass_as_they_do_on_its_own(kind: str, suite: Path, urls: dict[str, str]) -> None:
    labels = ("backends", "transactions", "transaction_hooks", "select_for_update", "servers", "test_utils")
    ours = django_tests(suite, labels, kind, urls[kind], SITE_BACKENDS=OURS)
    stock = django_tests(suite, labels, kind, urls[kind], SITE_BACKENDS=STOCK)
    assert (ours.ran, ours.skipped) == (stock.ran, stock.skipped)
    assert ours.failed <= stock.failed
    assert not {name for name in ours.failed if "backends." in name or "transactions." in name}


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "pool",
    [
        "pooling.backends.redis.ConnectionPool",
        "pooling.backends.redis.BlockingConnectionPool",
        "pooling.integrations.django.cache.ConnectionPool",
        "pooling.integrations.django.cache.BlockingConnectionPool",
    ],
)
def test_djangos_own_tests_of_caches_pass_as_they_do_on_its_own(pool: str, suite: Path, redis_server: Redis) -> None:
    url = f"redis://{redis_server.host}:{redis_server.port}"  # without a number: the tests choose one
    ours = django_tests(suite, ("cache",), "memory", "", SITE_BACKENDS=OURS, SUITE_REDIS=url, SUITE_POOL=pool)
    stock = django_tests(suite, ("cache",), "memory", "", SITE_BACKENDS=STOCK, SUITE_REDIS=url)
    assert (ours.ran, ours.skipped) == (stock.ran, stock.skipped)
    assert ours.failed <= stock.failed
