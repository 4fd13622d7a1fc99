"""Bringing the servers onto a Debian or Ubuntu machine, and nothing but their programs."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.servers.binaries import PROGRAMS, missing, mongodb_command

_POLICY = Path("/usr/sbin/policy-rc.d")
_NO_CLUSTER = Path("/etc/postgresql-common/createcluster.d/pooling-tests.conf")


def install() -> int:
    """Return an exit status. Does nothing, fast, where nothing is missing."""
    _say_about_mongodb()
    wanted = [program for program in PROGRAMS if not (program.variable and os.environ.get(program.variable))]
    absent = [program for program in wanted if program.find() is None]
    if not absent:
        print("servers: all there")
        return 0
    packages = sorted({program.package for program in absent})
    if shutil.which("apt-get") is None:
        for program in absent:
            print(missing(program.name, f"your system's package of {program.package}", program.variable))
        return 1
    if os.geteuid() != 0:
        return _as_root(packages)
    print(f"servers: installing {', '.join(packages)}", flush=True)
    status = _apt_get(packages)
    left = [program.name for program in absent if program.find() is None]
    print(f"servers: could not install {', '.join(left)}" if left else "servers: installed")
    return status or bool(left)


def _say_about_mongodb() -> None:
    if os.environ.get("POOLING_TEST_MONGODB_URL"):
        return
    try:
        mongodb_command()
    except RuntimeError as error:
        print(error)


def _as_root(packages: list[str]) -> int:
    if shutil.which("sudo") is None:
        print(f"servers: missing {', '.join(packages)}; run as root: apt-get install {' '.join(packages)}")
        return 1
    print("servers: asking sudo", flush=True)
    return subprocess.run(["sudo", sys.executable, "-m", "tests.servers", "install"], check=False).returncode


def _apt_get(packages: list[str]) -> int:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    commands = [
        ["apt-get", "update", "-q"],
        ["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages],
    ]
    with _nothing_started(), tempfile.TemporaryFile("w+", errors="replace") as log:
        for command in commands:
            done = subprocess.run(command, env=environment, stdout=log, stderr=log, check=False)
            # An update that fails may be one mirror of several; whether it mattered, the install will say.
            if done.returncode != 0 and command[1] == "install":
                log.seek(0)
                print(f"servers: {' '.join(command)} failed:\n{log.read()[-3000:]}")
                return done.returncode
    return 0


@contextlib.contextmanager
def _nothing_started() -> Iterator[None]:
    """Keep packages from starting their services and PostgreSQL's from creating a cluster.

    Both switches are taken away again; what the machine's owner has set is left as it is.
    """
    no_services = _file(_POLICY, "#!/bin/sh\nexit 101\n", 0o755)
    no_cluster = _file(_NO_CLUSTER, "create_main_cluster = false\n", 0o644)
    with no_services, no_cluster:
        yield


@contextlib.contextmanager
def _file(path: Path, text: str, mode: int) -> Iterator[None]:
    if path.exists():
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
