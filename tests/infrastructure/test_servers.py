"""The servers of the tests do what the tests rely on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest

from tests.infrastructure.clients import NAME, client, session_name
from tests.servers import (
    KINDS,
    HAProxy,
    MariaDB,
    PgBouncer,
    Postgres,
    Server,
    ServerError,
    ServerMissing,
)
from tests.servers.binaries import Program
from tests.servers.install import install
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]

OwnServer = Callable[..., Any]


@pytest.fixture(params=sorted(KINDS))
def server(request: pytest.FixtureRequest, own_server: OwnServer) -> Server:
    made: Server = own_server(request.param)
    return made


def test_sessions_are_counted_at_the_server_without_the_one_that_counts(server: Server) -> None:
    assert server.session_count() == 0
    with client(server):
        assert server.session_count() >= 1
        # Not at once: a client of MongoDB's may open one more in between.
        until(lambda: server.session_count(session_name(server)) == server.session_count())
        assert server.session_count("somebody else") == 0
    server.wait_for_sessions(0)


def test_killed_sessions_are_gone_and_their_clients_notice(server: Server) -> None:
    with client(server) as use:
        if server.kind == "mongodb" and os.geteuid() != 0:
            with pytest.raises(ServerError, match="needs root"):
                server.kill_sessions()
            return
        assert server.kill_sessions(session_name(server)) >= 1
        if server.kind not in {"http", "mongodb"}:  # whose clients open a new connection by themselves
            with pytest.raises(Exception):  # noqa: B017 - each driver has an error of its own
                use()
    assert server.session_count("nobody") == 0


def test_a_frozen_server_hangs_and_goes_on_after_thawing(server: Server) -> None:
    server.freeze()
    with pytest.raises(ServerError, match="frozen"):
        server.session_count()
    server.thaw()
    with client(server) as use:
        use()


@pytest.mark.parametrize("fast", [False, True])
def test_a_restart_keeps_the_port_and_ends_the_sessions(server: Server, fast: bool) -> None:
    port = server.port
    with client(server):
        server.restart(fast=fast)
        assert server.port == port
    server.wait_for_sessions(0)
    with client(server) as use:
        use()


def test_a_stopped_server_refuses_and_comes_back_with_its_data(own_server: OwnServer) -> None:
    server = own_server("postgres")
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept (n int)")
    server.stop()
    with pytest.raises(psycopg.OperationalError, match="refused"):
        psycopg.connect(server.url)
    server.start()
    with psycopg.connect(server.url) as connection:
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)


@pytest.mark.parametrize("kind", ["postgres", "mariadb", "redis", "http"])
def test_a_server_speaks_tls(own_server: OwnServer, kind: str) -> None:
    server = own_server(kind, tls=True)
    with client(server) as use:
        use()
        assert server.session_count(session_name(server)) == 1


def test_a_wrong_password_is_refused(postgres: Postgres, mariadb: MariaDB) -> None:
    with psycopg.connect(postgres.guarded_url):
        pass
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(postgres.guarded_url.replace("secret", "wrong"))
    with pytest.raises(pymysql.OperationalError, match="Access denied"):
        pymysql.connect(**mariadb.params | {"password": "wrong"})


def test_pgbouncer_stands_before_postgres(own_server: OwnServer) -> None:
    with PgBouncer(own_server("postgres")) as bouncer:
        assert bouncer.session_count() == 0
        with client(bouncer) as use:
            assert bouncer.session_count(NAME) == 1
            assert bouncer.kill_sessions() == 1
            with pytest.raises(psycopg.OperationalError):
                use()
        bouncer.restart()
        with client(bouncer):
            assert bouncer.upstream.session_count() == 1


def test_haproxy_sends_to_the_upstream_that_is_enabled(own_server: OwnServer) -> None:
    first, second = own_server("postgres"), own_server("postgres")
    with HAProxy({"first": first.address, "second": second.address}) as balancer:
        url = first.url_at(*balancer.address)
        with psycopg.connect(url), psycopg.connect(url):
            assert (balancer.session_count("first"), balancer.session_count("second")) == (2, 0)
            balancer.disable("first")
            with psycopg.connect(url):
                assert second.session_count() == 1
            assert balancer.kill_sessions("first") == 2
        first.wait_for_sessions(0)


def test_a_server_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    script = "from tests.servers import *; s = Postgres(external=False).start(); s.freeze(); print(s.pid)"
    program = [sys.executable, "-c", script + "; print(s.folder, flush=True); import time; time.sleep(60)"]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    pid, folder = int(process.stdout.readline()), Path(process.stdout.readline().strip())
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 10
    while _runs(pid) or _processes_in(folder):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    subprocess.run(["rm", "-rf", str(folder)], check=True)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _processes_in(folder: Path) -> list[str]:
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        try:
            where = os.readlink(link)
        except OSError:
            continue
        if where.startswith(str(folder)):
            found.append(link.parent.name)
    return found


def test_a_missing_server_is_said_in_one_line_that_helps() -> None:
    program = Program("no-such-server", "no-such-package", "POOLING_TEST_X_URL")
    with pytest.raises(ServerMissing) as raised:
        program.path()
    message = str(raised.value)
    assert "\n" not in message
    for part in ("no-such-server is missing", "apt-get install no-such-package", "POOLING_TEST_X_URL"):
        assert part in message


def test_a_server_of_ones_own_is_used_and_left_alone(own_server: OwnServer, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = own_server("redis")
    monkeypatch.setenv("POOLING_TEST_REDIS_URL", mine.url)
    with KINDS["redis"]() as server:
        assert (server.url, server.address) == (mine.url, mine.address)
        with client(server):
            assert server.session_count(NAME) == 1
        for act in (server.stop, server.kill, server.restart, server.freeze):
            with pytest.raises(ServerError, match="POOLING_TEST_REDIS_URL"):
                act()
    with client(mine):
        pass


def test_installing_what_is_there_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert install() == 0
    assert capsys.readouterr().out == "servers: all there\n"
