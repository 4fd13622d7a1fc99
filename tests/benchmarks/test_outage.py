"""The outage family runs, and every pool in it has its rows."""

from __future__ import annotations

import pytest

from benchmarks import outage
from benchmarks.peers import installed
from benchmarks.rows import Settings


def test_every_pool_has_each_figure_and_sees_the_server_again() -> None:
    rows = list(outage.run(Settings(1, True, lambda _: None)))
    figures = {"errors", "connects", "connects at once", "after the return"}
    here = installed(outage.KINDS)
    assert {(one.peer, one.figure) for one in rows} == {(name, figure) for name in here for figure in figures}
    assert all(one.value < 1000 * outage.LONGEST for one in rows)


def test_ours_is_told_of_what_broke_so_that_the_next_caller_sees_no_error() -> None:
    server, peer = outage._prepared(outage.OursOut)
    server.leave()
    server.up = True
    try:
        assert [outage._call(peer) for _ in range(outage.CALLERS)] == [False] + [True] * (outage.CALLERS - 1)
    finally:
        outage._ended(peer, server, {})


def test_a_pool_that_never_sees_the_server_again_has_a_figure_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outage, "LONGEST", 0.1)
    monkeypatch.setattr(outage, "_call", lambda peer: False)
    figures = outage.outage(outage.OursOut, 0.01)
    assert 100.0 <= figures["after the return"] < float("inf")
