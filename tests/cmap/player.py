"""Plays a scenario on a real pool in virtual time.

Steps are separated by semicolons. ``acquire a`` takes a lease and calls it a; ``1: acquire a`` has thread 1 do that,
beside the others. ``1 has one``, ``1 waits``, ``1 fails KIND [STAGE]``: how it stands with thread 1.
``open``, ``opened``, ``attempts``, ``connecting N``: what the factory counts; ``never open N``, ``never connecting N``:
what it has not seen at any moment. The rest is as it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

import pooling
from pooling._clock import DEFAULT
from pooling.testing import Actor, FakeConnection, FakeFactory, ManualClock
from tests.cmap.scenarios import Scenario

REFUSED = ConnectionRefusedError("nobody listens")


class Watched(FakeFactory):
    """Notes when a connect begins and ends: of that the pool has no event."""

    def __init__(self, clock: ManualClock, seen: list[str]) -> None:
        super().__init__(clock)
        self._seen = seen
        self.most = 0

    def connect(self, timeout: float) -> FakeConnection:
        self._seen.append("connecting")
        self.most = max(self.most, self.gates["connect"].inside + 1)
        connection = super().connect(timeout)
        self._seen.append("connected")
        return connection


class Player:
    """One scenario's pool, threads and leases."""

    def __init__(self, scenario: Scenario, clock: ManualClock) -> None:
        self._scenario = scenario
        self._clock = clock
        self._seen: list[str] = []
        self._factory = Watched(clock, self._seen)
        self._pool: pooling.Pool[FakeConnection] = pooling.Pool(self._factory, runtime=clock, **scenario.options)
        self._pool.subscribe(lambda event: self._seen.append(line(event)))
        self._leases: dict[str, pooling.Lease[FakeConnection]] = {}
        self._threads: dict[str, tuple[Actor, str]] = {}

    def play(self) -> None:
        """Every step, and then the comparison. Raises AssertionError."""
        for step in parts(self._scenario.steps):
            self._do(step)
            self._clock.advance(0)  # let everybody act who can
        kinds = self._scenario.watch.split()
        happened = [event for event in self._seen if event.split()[0] in kinds]
        assert happened == [*parts(self._scenario.happens)]

    def _do(self, step: str) -> None:
        match step.split():
            case [thread, _, name, *rest] if thread.endswith(":"):
                timeout = float(rest[1]) if rest else DEFAULT
                self._threads[thread[:-1]] = self._clock.spawn(self._pool.acquire, timeout), name
            case ["acquire", name]:
                self._leases[name] = self._pool.acquire()
            case ["release", name]:
                self._leases.pop(name).release()
            case ["warm", "up"]:
                self._pool.warm_up()
            case ["clear", "and", "interrupt"]:
                self._pool.clear(interrupt=True)
            case [("clear" | "close" | "suspend" | "resume") as order]:
                getattr(self._pool, order)()
            case ["wait", seconds]:
                self._clock.advance(float(seconds))
            case ["connects", *how]:
                self._connects(how)
            case words:
                self._look(words)

    def _look(self, words: list[str]) -> None:
        match words:
            case [thread, *outcome] if thread in self._threads:
                self._thread(thread, outcome)
            case ["acquire", "fails", kind]:
                fails(kind, self._pool.acquire)
            case ["warm", "up", "fails", kind]:
                fails(kind, self._pool.warm_up)
            case ["option", name, value]:
                assert getattr(self._pool.config, name) == float(value)
            case ["never", "open", count]:
                assert self._factory.peak < int(count)
            case ["never", "connecting", count]:
                assert self._factory.most < int(count)
            case [number, count]:
                assert self._number(number) == int(count), words

    def _connects(self, how: list[str]) -> None:
        gate = self._factory.gates["connect"]
        match how:
            case ["take", seconds]:
                gate.slow(float(seconds))
            case ["fail"]:
                gate.error(REFUSED)
            case ["work"]:
                gate.ok()

    def _thread(self, thread: str, outcome: list[str]) -> None:
        actor, name = self._threads[thread]
        match outcome:
            case ["has", "one"]:
                self._leases[name] = actor.result()
            case ["waits"]:
                assert not actor.done
            case ["fails", kind, *stage]:
                fails(kind, actor.result, *stage)

    def _number(self, name: str) -> int:
        gate = self._factory.gates["connect"]
        factory = self._factory
        return {"open": factory.open, "opened": factory.opened, "attempts": gate.calls, "connecting": gate.inside}[name]

    def end(self) -> None:
        """Give everything back; nothing may be left open."""
        self._factory.gates["connect"].ok()
        self._clock.advance(0)
        for actor, _ in self._threads.values():
            if actor.done:
                try:
                    actor.result().release()
                except (pooling.PoolError, AttributeError):
                    pass  # it has failed, or its lease is among the others
        for lease in self._leases.values():
            lease.release()
        self._pool.close()
        assert self._factory.open == 0


def parts(text: str) -> Iterator[str]:
    """What stands between semicolons."""
    return (" ".join(part.split()) for part in text.split(";") if part.strip())


def line(event: pooling.PoolEvent) -> str:
    """An event in one line: its kind, its connection, and its reason where that is not said already."""
    reason = event.reason if event.kind in ("close", "state", "error") else None
    return " ".join(str(word) for word in (event.kind, event.connection_id, reason) if word is not None)


def fails(kind: str, call: Callable[[], object], *stage: str) -> None:
    with pytest.raises(pooling.PoolError) as caught:
        call()
    assert type(caught.value).__name__ == kind
    assert not stage or getattr(caught.value, "stage", "") == stage[0]
