"""The benchmarks on real servers: that they measure each peer, and name what they can not measure."""

from __future__ import annotations

import threading

import pytest

from benchmarks import arrivals, servers
from benchmarks.bars import judge
from benchmarks.rows import OURS, Settings
from tests.servers import ServerMissing

QUICK = Settings(1, True, lambda _: None)


def test_every_peer_of_a_server_gets_its_figures() -> None:
    rows = list(servers.measure("Redis", QUICK))
    peers = [subject.name for subject in servers.SERVERS["Redis"][1]]
    for figure in ("throughput", "wait and use p99", "least/most"):
        found = {one.peer: one.value for one in rows if one.figure == figure}
        assert list(found) == peers
        assert found[OURS] > 0
    assert not [one for one in rows if one.figure in {"missing", "threads that failed"}]
    figures = [f"{figure} to redis BlockingConnectionPool" for figure in ("throughput", "p99")]
    assert [verdict.row.figure for verdict in judge(rows)] == [*figures, "least/most"]


def test_a_pool_in_anothers_place_stands_beside_the_one_it_replaces() -> None:
    rows = [*servers.measure("PostgreSQL, SQLAlchemy's engine", QUICK), *servers.measure("Redis", QUICK)]
    assert not [one for one in rows if one.figure in {"missing", "threads that failed"}]
    for figure in ("throughput", "p99"):
        assert {(one.peer, one.figure) for one in rows if one.figure.startswith(f"{figure} to ")} == {
            (OURS, f"{figure} to SQLAlchemy QueuePool"),
            (OURS, f"{figure} to SQLAlchemy QueuePool, in order"),
            (OURS, f"{figure} to redis BlockingConnectionPool"),
            (f"{OURS}, drop-in", f"{figure} to redis BlockingConnectionPool"),
        }


def test_a_missing_server_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(kind: str) -> None:
        raise ServerMissing(f"{kind} is missing: install it")

    monkeypatch.setattr(servers, "_start", start)
    rows = list(servers.run(QUICK))
    assert len(rows) == len(servers.SERVERS)
    assert {one.figure for one in rows} == {"missing"}
    assert rows[0].unit == "Postgres is missing: install it"


def test_what_the_tests_servers_need_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(kind: str) -> None:
        raise ImportError("No module named 'trustme'")

    monkeypatch.setattr(servers, "_start", start)
    (row,) = servers.measure("Redis", QUICK)
    assert row.unit == "No module named 'trustme'; pip install --group test -e \".[all]\""


def test_a_missing_peer_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    name, subjects = servers.SERVERS["Redis"]
    absent = subjects[0]._replace(name="another", module="no_such_module")
    monkeypatch.setitem(servers.SERVERS, "Redis", (name, (absent, subjects[-1])))
    rows = list(servers.measure("Redis", QUICK))
    assert [(one.peer, one.unit) for one in rows if one.figure == "missing"] == [
        ("another", "No module named 'no_such_module'")
    ]
    assert {one.peer for one in rows if one.figure == "throughput"} == {OURS}


def test_requests_that_come_at_a_rate_are_served_by_every_peer() -> None:
    rows = list(arrivals.measure("Redis", QUICK))
    peers = [subject.name for subject in servers.SERVERS["Redis"][1]]
    for share in arrivals.SHARES:
        for figure in ("served p50", "served p99", "served max"):
            found = {one.peer: one.value for one in rows if (one.figure, one.at) == (figure, share)}
            assert list(found) == peers
            assert all(found.values())
    assert {verdict.row.figure for verdict in judge(rows)} == {"p99 to redis BlockingConnectionPool"}


def test_a_request_counts_from_when_it_came() -> None:
    """All threads are kept busy for longer than the next requests need to come: these have waited by then."""
    held = threading.Lock()

    def use() -> None:
        with held:
            pass

    held.acquire()
    threading.Timer(arrivals.LEAD + 0.25, held.release).start()
    waits = arrivals._arrive(use, 200.0, 0.3, seed=1)
    assert 40 <= len(waits) <= 80
    assert waits[-1] >= 200.0
    assert waits[len(waits) // 2] >= 50.0


def test_a_request_that_fails_ends_the_family() -> None:
    with pytest.raises(RuntimeError, match="a request failed"):
        arrivals._arrive(lambda: 1 / 0, 100.0, 0.1, seed=1)
