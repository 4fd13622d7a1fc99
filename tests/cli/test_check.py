"""What ``check`` says of real servers of every kind, and of those that are not there, refuse, or never answer."""

from __future__ import annotations

import argparse
import json
import socket
import socketserver
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from pooling import Pool
from pooling.cli import check
from pooling.testing import FakeFactory
from tests.docs.pages import ROOT, bare, table
from tests.servers.base import free_port

Main = Callable[..., tuple[int, str, str]]
CANARY = "c4n4ryGeheim"
NONE = "none: everything can be read on the way"


def checked(main: Main, url: str, *more: str) -> dict[str, Any]:
    code, out, err = main("check", url, "--json", *more)
    assert (code, err) == (0, ""), out + err
    told: dict[str, Any] = json.loads(out)
    assert (told["schema"], told["version"], told["works"], told["failure"]) == ("pooling-check", 1, True, None)
    for step in told["steps"]:
        assert 0 <= step["least"] <= step["seconds"] <= step["most"] < 30
    return told


def steps(told: dict[str, Any]) -> list[str]:
    return [step["name"] for step in told["steps"]]


ALL = ["connect", "round trip", "reset, transaction", "reset, session", "close"]
NO_RESET = ["connect", "round trip", "close"]


@pytest.mark.parametrize(
    ("fixture", "driver", "server", "expected"),
    [
        ("postgres", "psycopg 3.", "PostgreSQL 1", ALL),
        ("mariadb", "PyMySQL ", "MariaDB 1", ALL),
        ("redis_server", "redis-py ", "Redis ", ALL),
        ("mongodb", "PyMongo ", "MongoDB ", NO_RESET),
        ("http_server", "urllib3 ", "BaseHTTP/", NO_RESET),
    ],
)
def test_a_server_that_works_is_told_with_versions_and_times(
    fixture: str, driver: str, server: str, expected: list[str], main: Main, request: pytest.FixtureRequest
) -> None:
    told = checked(main, request.getfixturevalue(fixture).url)
    assert told["driver"].startswith(driver)
    assert told["server"].startswith(server)
    assert told["tls"] == NONE
    assert steps(told) == expected
    assert [step["times"] for step in told["steps"] if step["name"] == "round trip"] == [20]


@pytest.mark.parametrize("kind", ["postgres", "mariadb", "redis"])
def test_tls_is_told_with_its_version(kind: str, main: Main, own_server: Callable[..., Any]) -> None:
    assert checked(main, own_server(kind, tls=True).url, "--times", "1")["tls"].startswith("TLSv1.")


def test_tls_of_mongodb_is_told(main: Main, own_server: Callable[..., Any]) -> None:
    assert checked(main, own_server("mongodb", tls=True).url, "--times", "1")["tls"] == "yes"


def test_tls_of_http_is_told(main: Main, own_server: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    server = own_server("http", tls=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(server.certificates.authority))
    assert checked(main, server.url, "--times", "1")["tls"].startswith("TLSv1.")


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A database with a name that a URI would have to escape."""
    path = tmp_path / "my shop%20#1.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE item (name)")
    return path


@pytest.mark.parametrize("query", ["", "?wal=1", "?timeout=2&uri=0", "?isolation_level=", "URI", "URI&mode=ro"])
def test_an_sqlite_file_needs_no_server_and_stays_as_it_is(query: str, main: Main, shop: Path) -> None:
    url = f"sqlite:///{quote(str(shop))}{query}"
    if query.startswith("URI"):
        url = f"sqlite:///{quote(shop.as_uri())}?uri=1{query[3:]}"
    before = shop.read_bytes()
    told = checked(main, url)
    assert query.startswith("URI") or told["target"] == str(shop)
    assert told["server"].startswith("SQLite 3.")
    assert told["server"].endswith("journal mode delete")
    assert steps(told) == ALL
    assert shop.read_bytes() == before
    assert list(shop.parent.iterdir()) == [shop]


def test_a_relative_path_is_told_as_it_was_given(main: Main, shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shop.parent)
    assert checked(main, f"sqlite:///{quote(shop.name)}", "--times", "1")["target"] == shop.name


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:/x?vfs=memdb&uri=1"])
def test_a_database_in_memory_is_there_when_it_is_asked_for(url: str, main: Main) -> None:
    assert steps(checked(main, url, "--times", "1")) == ALL


def test_people_get_lines_that_end_with_works(main: Main) -> None:
    code, out, err = main("check", "sqlite://", "--times", "3")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[-1] == "works"
    assert [line[:20].rstrip() for line in lines[:-1]] == ["target", "driver", "server", "TLS", *ALL]
    assert "   3 times: " in out


def test_a_backend_of_somebody_else_s_is_checked_by_what_its_factory_has(
    main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    factory = FakeFactory()
    monkeypatch.setattr("pooling.cli._command.create_pool", lambda *_: Pool(factory))
    told = checked(main, "gopher://localhost")
    assert (told["driver"], told["server"], told["tls"]) == ("pooling", None, None)
    assert steps(told) == ["connect", "round trip", "reset, transaction", "close"]
    assert (factory.opened, factory.open) == (1, 0)


def test_one_connection_is_opened_and_closed_again(main: Main, own_server: Callable[..., Any]) -> None:
    server = own_server("redis")
    before = server.session_count()
    checked(main, server.url)
    server.wait_for_sessions(before, timeout=20)


# -- what does not work -----------------------------------------------------------------------------------------


def failed(main: Main, url: str, *more: str) -> str:
    """The one line on stderr."""
    code, out, err = main("check", url, *more)
    assert code == 1, out
    assert "works" not in out
    (line,) = err.splitlines()
    assert line.startswith("pooling check: ")
    return line.removeprefix("pooling check: ")


@pytest.mark.parametrize("scheme", ["postgresql", "mysql", "redis", "mongodb"])
def test_nobody_there_is_exit_code_1_and_one_line_without_the_password(scheme: str, main: Main) -> None:
    port = free_port()
    line = failed(main, f"{scheme}://me:{CANARY}@127.0.0.1:{port}/", "--timeout", "5")
    assert line.startswith(f"connect to 127.0.0.1:{port}/")
    assert " failed after " in line
    assert "refused" in line
    assert "trying again would not help" not in line
    assert CANARY not in line


@pytest.mark.parametrize("command", ["check", "stress"])
def test_what_a_server_says_gives_the_terminal_no_orders(command: str, main: Main) -> None:
    class Grumbling(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while self.request.recv(65536):
                self.wfile.write(b"-ERR \x1b[31mred\x07\xc2\x9b2J\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Grumbling) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        code, out, err = main(command, f"redis://127.0.0.1:{server.server_address[1]}/0")
        server.shutdown()
        thread.join(30)
    assert code == 1
    assert r"\x1b[31mred\x07\x9b2J" in err
    assert not {"\x1b", "\x07", "\x9b"} & {*out, *err}


def test_a_wrong_password_is_told_as_what_stays_wrong(main: Main, postgres: Any) -> None:
    line = failed(main, postgres.guarded_url.replace(":", f":{CANARY}", 2).replace(f":{CANARY}//", "://", 1))
    assert "password authentication failed" in line
    assert line.endswith("(trying again would not help)")
    assert CANARY not in line


def test_the_document_of_a_failure_names_the_step(main: Main) -> None:
    code, out, _ = main("check", "sqlite:////nowhere/at/all.db", "--json")
    told = json.loads(out)
    assert (code, told["works"], told["steps"]) == (1, False, [])
    assert told["failure"]["step"] == "connect"
    assert told["failure"]["error"].startswith("OperationalError: unable to open database file")


def test_an_sqlite_file_that_is_not_there_is_a_failure_and_is_not_created(main: Main, tmp_path: Path) -> None:
    line = failed(main, f"sqlite:///{tmp_path}/typo.db")
    assert line.startswith(f"connect to {tmp_path}/typo.db failed after ")
    assert "there is no such file: a pool would create it, this command changes nothing" in line
    failed(main, f"sqlite:///file:{tmp_path}/typo.db?uri=1")
    assert not list(tmp_path.iterdir())
    assert "there is no such directory, and a pool creates none" in failed(main, f"sqlite:///{tmp_path}/no/typo.db")


@contextmanager
def silent() -> Iterator[int]:
    """A port where somebody listens and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


@pytest.mark.parametrize("scheme", ["postgresql", "mysql", "redis", "mongodb", "https"])
def test_a_server_that_never_answers_is_given_up_in_time(scheme: str, main: Main) -> None:
    with silent() as port:
        started = time.monotonic()
        line = failed(main, f"{scheme}://127.0.0.1:{port}", "--timeout", "0.7")
        assert time.monotonic() - started < 15
    assert line.startswith("connect to ")


def test_a_server_that_falls_silent_later_is_given_up_in_time(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    factory = FakeFactory()
    factory.gates["check"].never()
    monkeypatch.setattr("pooling.cli._command.create_pool", lambda *_: Pool(factory))
    try:
        line = failed(main, "gopher://localhost", "--timeout", "0.3")
    finally:
        factory.gates["check"].ok()
    assert line.startswith("round trip failed after ")
    assert line.endswith(": no answer within 300 ms")
    assert factory.connections[0].interrupted
    assert factory.open == 0


@pytest.mark.parametrize("step", ["check", "reset", "close"])
def test_a_step_that_fails_is_named_and_the_connection_is_closed(
    step: str, main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    factory = FakeFactory()
    factory.gates[step].error(ConnectionResetError(f"gone, password={CANARY}"))
    monkeypatch.setattr("pooling.cli._command.create_pool", lambda *_: Pool(factory))
    line = failed(main, "gopher://localhost")
    named = {"check": "round trip", "reset": "reset", "close": "close"}[step]
    assert line.startswith(f"{named} failed after ")
    assert line.endswith(": ConnectionResetError: gone, password=***")
    if step != "close":
        assert factory.open == 0


def test_ctrl_c_is_one_line_and_closes_what_was_opened(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    factory = FakeFactory()

    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pooling.cli._command.create_pool", lambda *_: Pool(factory))
    monkeypatch.setattr(factory, "check", interrupt)
    code, out, err = main("check", "gopher://localhost")
    assert (code, out, err) == (130, "", "pooling check: interrupted\n")
    assert factory.open == 0


# -- bad arguments ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        ([], "the following arguments are required: URL"),
        (["gopher://localhost"], "unknown URL scheme 'gopher'"),
        (["no-url"], "'postgresql://user@host/db'"),
        (["sqlite://host/file.db"], "an SQLite URL has no host"),
        (["sqlite://", "--timeout", "0"], "--timeout must be a finite time, greater than 0"),
        (["sqlite://", "--timeout", "nan"], "--timeout must be a finite time, greater than 0"),
        (
            ["sqlite://", "--timeout", "1e10"],
            "--timeout must be a finite time, greater than 0 and a week at most, not 1e+10",
        ),
        (["sqlite://", "--times", "0"], "--times must be at least 1, not 0"),
        (["sqlite://", "--times", "x"], "invalid int value: 'x'"),
        (["--tiemout", "3", "sqlite://"], "pooling check: there is no option --tiemout, did you mean --timeout?"),
        (["sqlite://", f"--password={CANARY}"], "pooling check: there is no option --password (see"),
        (["sqlite://", f"postgresql://me:{CANARY}@host/db"], "unrecognized arguments: postgresql://me:***@host/db"),
        ([f"postgresql://me:{CANARY}@[::1/db"], "cannot be read"),
        ([f"mysql://me:{CANARY}@host/a/b/c"], "cannot be read"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_arguments_are_told_in_one_line_with_exit_code_2(argv: list[str], told: str, main: Main) -> None:
    code, out, err = main("check", *argv)
    assert (code, out) == (2, "")
    assert told in err
    assert CANARY not in err
    assert len(err.splitlines()) == 1


def test_without_the_driver_the_extra_is_named(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pooling.backends.postgres", raising=False)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    code, _, err = main("check", f"postgresql://me:{CANARY}@localhost/db")
    assert code == 2
    assert "pooling[postgres]" in err
    assert CANARY not in err


def test_rich_is_not_needed(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    assert main("check", "sqlite://", "--times", "1")[0] == 0


def test_no_thread_is_left(main: Main) -> None:
    main("check", "sqlite://", "--times", "1")
    assert not [thread for thread in threading.enumerate() if thread.name == "pooling-check"]


# -- the reference ----------------------------------------------------------------------------------------------


def test_the_reference_lists_options_lines_and_fields_as_they_are(main: Main) -> None:
    page = ROOT / "docs" / "reference" / "check.md"
    parser = argparse.ArgumentParser(add_help=False)
    check.configure(parser)
    options = {
        action.option_strings[0]: "" if action.nargs == 0 else str(int(action.default))
        for action in parser._actions
        if action.option_strings
    }
    assert {bare(row[0]): bare(row[1]) for row in table(page, "option")} == options
    told = checked(main, "sqlite://", "--times", "1")
    assert [bare(row[0]) for row in table(page, "line")] == ["target", "driver", "server", "TLS", *ALL]
    named = {name for row in table(page, "field") for name in bare(row[0]).replace("`", "").split(", ")}
    assert named | {"schema", "version"} == set(told)
