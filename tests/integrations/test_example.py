"""The example of docs/examples, run by the command that its page shows: under load, through restarts, to its end."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.backends.contract import in_threads
from tests.docs.pages import blocks
from tests.integrations.serving import ROOT, Serving
from tests.servers import Postgres
from tests.waiting import until

PAGE = ROOT / "docs" / "examples" / "notes.md"
CLIENTS = 64
NAMED = "application_name=notes"


class Notes(Serving):
    """The example, started as its page says."""

    def __init__(self, url: str | None = None) -> None:
        super().__init__("notes", "")
        self._url = url

    def _command(self) -> list[str]:
        (lines,) = (block.lines for block in blocks(PAGE) if "python docs/examples/notes.py" in block.lines)
        _, script = lines[0].split()
        more = [] if self._url is None else ["--database", self._url]
        python = ["env", f"PYTHONPATH={ROOT}", sys.executable, "-W", "error"]
        return [*python, str(ROOT / script), "--port", str(self.port), *more]

    def put(self, name: str, text: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        try:
            connection.request("PUT", f"/notes/{name}", text.encode())
            with connection.getresponse() as response:
                return response.status, response.read()
        finally:
            connection.close()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; the exit code."""
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(60)


Start = Callable[..., Notes]


@pytest.fixture
def start() -> Iterator[Start]:
    running: list[Notes] = []

    def begin(url: str | None = None) -> Notes:
        running.append(Notes(url))
        running[-1].start()
        return running[-1]

    yield begin
    for notes in running:
        print(notes.log[-6000:])  # shown where the test has failed
        notes.close()


def client(notes: Notes, number: int, turns: Iterator[int]) -> int:
    """One client, that writes and reads what it wrote; how many notes it has written. Every answer has to be right."""
    written = 0
    for turn in turns:
        name, text = f"{number:02}-{turn:04}", f"text of {number}, {turn}: ä\n"
        assert notes.put(name, text) == (204, b"")
        written += 1
        assert notes.get(f"/notes/{name}", timeout=60) == (200, text.encode())
        if turn % 8 == number % 8:
            status, body = notes.get("/notes", timeout=60)
            names = body.decode().splitlines()
            assert (status, name in names, names) == (200, True, sorted(set(names)))
            status, body = notes.get("/pools/pools.json", timeout=60)
            assert (status, len(json.loads(body)["pools"])) == (200, 1)
    return written


def load(notes: Notes, turns: Callable[[], Iterator[int]]) -> int:
    """64 clients at once; how many notes they have written."""
    written: list[int] = []
    in_threads(CLIENTS, lambda number: written.append(client(notes, number, turns())))
    return sum(written)


def test_64_clients_on_sqlite_see_no_error(start: Start) -> None:
    notes = start()
    assert load(notes, lambda: iter(range(4))) == 4 * CLIENTS
    with sqlite3.connect(notes.folder / "notes.db") as connection:
        assert connection.execute("SELECT count(*), count(DISTINCT text) FROM note").fetchone() == (256, 256)
    connection.close()
    assert "Traceback" not in notes.log


@pytest.mark.parametrize("fast", [False, True], ids=["stop", "crash"])
def test_64_clients_see_no_error_while_the_database_restarts(start: Start, own_server: Any, fast: bool) -> None:
    database: Postgres = own_server("postgres")
    notes = start(f"{database.url}?{NAMED}")
    over = threading.Event()

    def turns() -> Iterator[int]:
        turn = 0
        while turn < 2 or not over.is_set():
            yield turn
            turn += 1

    def restart(_: int) -> None:
        try:
            until(lambda: count(database) > CLIENTS // 2, seconds=60)
            database.restart(fast=fast)
            seen = count(database)
            until(lambda: count(database) > seen, seconds=60)  # it goes on
        finally:
            over.set()

    written: list[int] = []
    in_threads(2, lambda job: restart(job) if job else written.append(load(notes, turns)))
    with psycopg.connect(database.url) as connection:
        query = "SELECT count(*), count(DISTINCT text), count(DISTINCT name) FROM note"
        assert connection.execute(query).fetchone() == (written[0],) * 3
    assert "Traceback" not in notes.log


def count(database: Postgres) -> int:
    with psycopg.connect(database.url) as connection:
        row = connection.execute("SELECT count(*) FROM note").fetchone()
        assert row is not None
        return int(row[0])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_what_is_under_way_is_answered_before_it_ends(start: Start, postgres: Postgres, number: signal.Signals) -> None:
    notes = start(f"{postgres.url}?{NAMED}")
    answers: list[Any] = []
    with psycopg.connect(postgres.url) as blocker:
        blocker.execute("TRUNCATE note")
        writers = [
            threading.Thread(target=lambda name=name: answers.append(notes.put(f"{name}", "x"))) for name in range(8)
        ]
        for writer in writers:
            writer.start()
        until(lambda: waiting(postgres) == 8)
        ending = threading.Thread(target=lambda: answers.append(notes.end(number)))
        ending.start()
        until(lambda: refuses(notes))
        blocker.commit()
    for thread in (*writers, ending):
        thread.join(60)
    assert sorted(map(str, answers)) == ["(204, b'')"] * 8 + [str(-number if number == signal.SIGTERM else 0)] or (
        answers
    )
    postgres.wait_for_sessions(0, "notes", timeout=30.0)
    assert "Traceback" not in notes.log


def waiting(postgres: Postgres) -> int:
    with psycopg.connect(postgres.url) as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'notes' AND wait_event_type = 'Lock'"
        row = connection.execute(query).fetchone()
        assert row is not None
        return int(row[0])


def refuses(notes: Notes) -> bool:
    try:
        notes.get("/health")
    except OSError:
        return True
    return False


def test_it_answers_what_it_does_not_like(start: Start) -> None:
    notes = start()
    assert notes.get("/health") == (204, b"")
    assert notes.get("/notes/none")[0] == 404
    assert notes.get("/nothing")[0] == 404
    assert notes.put("", "x")[0] == 405
    assert notes.put("nul", "\0")[0] == 400
    assert notes.put("long", "x" * 65537)[0] == 413
    assert notes.put("again", "1")[0] == notes.put("again", "2")[0] == 204
    assert notes.get("/notes/again") == (200, b"2")
    status, body = notes.get("/pools/")
    assert (status, b"<html" in body) == (200, True)


@pytest.mark.parametrize("taken", [True, False])
def test_a_port_that_cannot_be_had_is_one_line(tmp_path: Path, taken: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1] if taken else 70000
        program = [sys.executable, str(PAGE.with_suffix(".py")), "--port", str(port)]
        done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"notes: nobody can be served at --port {port}: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_for_a_minute_of_restarts_nobody_sees_an_error(start: Start, own_server: Any) -> None:
    database: Postgres = own_server("postgres")
    notes = start(f"{database.url}?{NAMED}")
    until = time.monotonic() + 60

    def turns() -> Iterator[int]:
        turn = 0
        while time.monotonic() < until:
            yield turn
            turn += 1

    def restarts(_: int) -> None:
        for turn in range(8):
            time.sleep(5)
            database.restart(fast=bool(turn % 2))

    written: list[int] = []
    in_threads(2, lambda job: restarts(job) if job else written.append(load(notes, turns)))
    assert count(database) == written[0]
