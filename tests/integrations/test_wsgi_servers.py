"""The WSGI middleware under real servers: leases end once, are never shared, and workers may come and go."""

from __future__ import annotations

import http.client
import itertools
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.backends.contract import in_threads
from tests.integrations.serving import COMMANDS, FORKING, THREADED, Serving
from tests.servers import Postgres
from tests.waiting import until

APPLICATION = "tests.integrations.wsgi_application:application"
CONTENT = bytes(range(256)) * 2000
_names = itertools.count(1)

Start = Callable[..., tuple[Serving, str]]


@pytest.fixture
def start(postgres: Postgres, tmp_path: Path) -> Iterator[Start]:
    """start("waitress"): the application under that server, and the name of its sessions at PostgreSQL. When the server
    has ended there are none."""
    running: list[tuple[Serving, str]] = []
    (tmp_path / "content").write_bytes(CONTENT)

    def begin(name: str, **variables: str) -> tuple[Serving, str]:
        marked = f"wsgi-{os.getpid()}-{next(_names)}"
        url = f"{postgres.url}{'&' if '?' in postgres.url else '?'}application_name={marked}"
        serving = Serving(
            name, APPLICATION, APPLICATION_URL=url, APPLICATION_FILE=str(tmp_path / "content"), **variables
        )
        running.append((serving, marked))
        return serving.start(), marked

    yield begin
    for serving, marked in running:
        serving.close()
        postgres.wait_for_sessions(0, marked, timeout=30.0)


def at_rest(serving: Serving, workers: int = 1) -> dict[int, dict[str, Any]]:
    """Wait until no request is under way; each lease has ended once then. The numbers of each worker."""
    seen: dict[int, dict[str, Any]] = {}

    def look(_: int) -> None:
        stats = serving.stats()
        seen[stats["pid"]] = stats

    def rests() -> bool:
        in_threads(4 * workers, look)
        return len(seen) >= workers and not any(stats["leased"] for stats in seen.values())

    until(rests, seconds=60)
    for stats in seen.values():
        assert stats["released"] == stats["acquired"], stats
        assert "dropped" not in stats["closed"], serving.log
        assert stats["shared"] == 0, stats
        assert stats["files"][1] == 0, "a file was wrapped"
    return seen


def load(serving: Serving, clients: int, rounds: int) -> Counter[str]:
    """Many clients at once, with every kind of request. What came back, counted."""
    seen: Counter[str] = Counter()
    kinds = ["/ask", "/stream?rows=3", "/nothing", "/file", "/fail", "/stream?rows=2&fail=1", "abandon"]

    def client(number: int) -> None:
        for turn in range(rounds):
            kind = kinds[(number + turn) % len(kinds)]
            if kind == "abandon":
                serving.abandon("/stream?rows=100")
            elif "fail" in kind:
                failed(serving, kind)
            else:
                status, body = serving.get(kind, timeout=60)
                assert status == 200, (kind, body)
                assert len(body) == {"/stream?rows=3": 3 * 65536, "/file": len(CONTENT)}.get(kind, len(body))
            seen[kind] += 1

    in_threads(clients, client)
    return seen


def failed(serving: Serving, path: str) -> None:
    """The client is told, by the status or by an answer that ends too early: each server does it in its own way."""
    try:
        status, body = serving.get(path)
    except (OSError, http.client.HTTPException):
        return
    assert status == 500 or len(body) <= 2 * 65536, (status, len(body))


def refused(serving: Serving) -> None:
    """A pool that is too small for its clients: some are served, the others told to come again."""
    seen: Counter[int] = Counter()

    def both() -> bool:
        in_threads(12, lambda _: seen.update([serving.get("/ask?pool=tight&sleep=0.3", timeout=60)[0]]))
        return set(seen) == {200, 503}

    until(both, seconds=60)


@pytest.mark.parametrize("name", THREADED)
def test_leases_end_once_whatever_becomes_of_the_request(start: Start, name: str, postgres: Postgres) -> None:
    serving, marked = start(name)
    workers = 2 if name in FORKING else 1
    assert load(serving, clients=8, rounds=7).total() == 56
    refused(serving)
    assert serving.get("/ask", method="HEAD") == (200, b"")
    stats = at_rest(serving, workers)
    assert sum(one["files"][0] for one in stats.values()) == 8
    assert 1 <= postgres.session_count(marked) <= 5 * workers


@pytest.mark.parametrize("name", FORKING)
def test_a_worker_forked_from_a_used_pool_has_sessions_of_its_own(start: Start, name: str, postgres: Postgres) -> None:
    serving, marked = start(name, APPLICATION_WARM="1")
    answers: set[int] = set()
    workers: set[int] = set()

    def client(_: int) -> None:
        answers.add(int(serving.get("/ask?sleep=0.01")[1]))
        stats = serving.stats()
        workers.add(stats["pid"])
        assert stats["pid"] != stats["master"]
        assert stats["inherited"][0] not in answers

    def both() -> bool:
        in_threads(16, client)
        return len(workers) == 2

    until(both, seconds=60)
    at_rest(serving, workers=2)
    # The session that was opened before the fork is the master's still, and the workers have left it alone.
    (master,) = serving.stats()["inherited"]
    assert master in {row for (row,) in sessions(postgres, marked)}


@pytest.mark.parametrize("name", ["gunicorn-gthread", "gunicorn-gevent", "gunicorn-preload", "uwsgi"])
def test_a_worker_that_is_killed_leaves_nothing_behind(start: Start, name: str, postgres: Postgres) -> None:
    serving, marked = start(name)
    doomed = serving.stats()["pid"]
    outcomes: Counter[Any] = Counter()

    def client(number: int) -> None:
        if number == 0:
            until(lambda: postgres.session_count(marked) > 0)
            os.kill(doomed, signal.SIGKILL)
            return
        try:
            outcomes[serving.get("/ask?sleep=0.5")[0]] += 1
        except Exception as error:  # its request was in that worker
            outcomes[type(error).__name__] += 1

    in_threads(5, client)

    def answers() -> bool:
        try:
            return serving.get("/ask")[0] == 200 and serving.stats()["pid"] != doomed
        except OSError:
            return False

    until(answers, seconds=60)
    load(serving, clients=4, rounds=4)
    at_rest(serving)
    assert postgres.session_count(marked) <= 10  # two workers with both of their pools full


def sessions(postgres: Postgres, marked: str) -> list[Any]:
    import psycopg

    with psycopg.connect(postgres.url) as connection:
        query = "SELECT pid FROM pg_stat_activity WHERE application_name = %s"
        return connection.execute(query, [marked]).fetchall()


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", list(COMMANDS))
def test_under_lasting_load_nothing_is_lost(start: Start, name: str, postgres: Postgres) -> None:
    serving, marked = start(name)
    for _ in range(10):
        load(serving, clients=32, rounds=21)
    at_rest(serving, 2 if name in FORKING else 1)
    assert postgres.session_count(marked) <= 10


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [name for name in COMMANDS if name.startswith(("gunicorn", "uwsgi"))])
def test_workers_that_are_killed_under_load_leave_nothing_behind(start: Start, name: str, postgres: Postgres) -> None:
    serving, marked = start(name)
    over = threading.Event()
    answered: Counter[str] = Counter()

    def client(number: int) -> None:
        while not over.is_set():
            kind = ["/ask", "/stream?rows=3", "/file"][number % 3]
            try:
                status, body = serving.get(kind, timeout=60)
            except (OSError, http.client.HTTPException):
                continue  # its worker was killed
            assert status in {200, 503}
            if status == 200 and len(body) != {"/stream?rows=3": 3 * 65536, "/file": len(CONTENT)}.get(kind, len(body)):
                continue  # the same, in the midst of the answer
            answered[kind] += 1

    def killer(_: int) -> None:
        try:
            for _ in range(12):
                time.sleep(0.5)
                try:
                    os.kill(serving.stats()["pid"], signal.SIGKILL)
                except (OSError, http.client.HTTPException):
                    continue  # it was gone already
        finally:
            over.set()

    in_threads(17, lambda number: client(number) if number else killer(number))
    assert len(answered) == 3, answered
    until(lambda: answers_again(serving), seconds=60)
    at_rest(serving, 2 if name in FORKING else 1)
    # What the killed ones had is gone: no more than two workers with both of their pools full.
    until(lambda: postgres.session_count(marked) <= 10)


def answers_again(serving: Serving) -> bool:
    try:
        return serving.get("/ask")[0] == 200
    except (OSError, http.client.HTTPException):
        return False
