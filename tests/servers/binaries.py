"""Where the servers' programs are, and what to tell somebody who does not have them."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


class ServerMissing(RuntimeError):
    """A server the tests need is not on this machine. Never a reason to skip."""


@dataclass(frozen=True)
class Program:
    """A program, the distribution's package that holds it, and what can stand in for it."""

    name: str
    package: str
    variable: str | None = None

    def path(self) -> str:
        found = self.find()
        if found is None:
            raise ServerMissing(missing(self.name, f"apt-get install {self.package}", self.variable))
        return found

    def find(self) -> str | None:
        return shutil.which(self.name, path=os.pathsep.join(_folders()))


def missing(what: str, command: str, variable: str | None) -> str:
    advice = f"{what} is missing: run `python -m tests.servers install` (or `{command}`)"
    return f"{advice}, or point {variable} at a server of your own" if variable else advice


def _folders() -> Iterator[str]:
    yield from os.environ.get("PATH", os.defpath).split(os.pathsep)
    # Debian keeps daemons out of a user's PATH, and PostgreSQL out of everybody's.
    yield from ("/usr/local/sbin", "/usr/sbin", "/sbin")
    yield from (str(folder) for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version))


def _version(folder: Path) -> int:
    """Newest first."""
    name = folder.parent.name
    return -int(name) if name.isdigit() else 0


POSTGRES = Program("postgres", "postgresql", "POOLING_TEST_POSTGRES_URL")
MARIADB = Program("mariadbd", "mariadb-server", "POOLING_TEST_MYSQL_URL")
MARIADB_INSTALL = Program("mariadb-install-db", "mariadb-server", "POOLING_TEST_MYSQL_URL")
REDIS = Program("redis-server", "redis-server", "POOLING_TEST_REDIS_URL")
PGBOUNCER = Program("pgbouncer", "pgbouncer")
HAPROXY = Program("haproxy", "haproxy")
SS = Program("ss", "iproute2")
CHROMIUM = Program("chromium", "chromium")

PROGRAMS = (POSTGRES, MARIADB, MARIADB_INSTALL, REDIS, PGBOUNCER, HAPROXY, SS, CHROMIUM)


def mongodb_command() -> list[str]:
    """The MongoDB-speaking server comes from PyPI, so it lives beside the interpreter."""
    if importlib.util.find_spec("secantus") is None:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise ServerMissing(
            f"secantusdb is missing (Python {version}): run `pip install secantusdb` on a Python it has "
            "a wheel for, or point POOLING_TEST_MONGODB_URL at a server of your own"
        )
    return [sys.executable, "-m", "secantus"]
