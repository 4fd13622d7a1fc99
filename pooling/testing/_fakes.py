"""A factory of connections that are none, with a gate at each of its hooks."""

from __future__ import annotations

import threading
from typing import Any, Literal

from pooling.factory import Factory, ResetMode
from pooling.testing._manual_clock import Actor, ManualClock


class Gate:
    """What a hook of a fake does when it is called: pass (the default), raise, take its time, or never come back."""

    def __init__(self, clock: ManualClock | None = None) -> None:
        self._clock = clock
        self.mode: Literal["ok", "error", "slow", "never"] = "ok"
        self._error: BaseException | None = None
        self._delay = 0.0
        self._opened = threading.Event()
        self._stuck: list[Actor] = []
        self.calls = 0
        self.inside = 0

    def ok(self) -> None:
        """Let everybody pass, those stuck inside as well."""
        self.mode = "ok"
        self._opened.set()
        stuck, self._stuck = self._stuck, []
        for actor in stuck:
            actor.wake()

    def error(self, error: BaseException) -> None:
        """Raise this at every call."""
        self.mode, self._error = "error", error

    def slow(self, seconds: float) -> None:
        """Take this long at every call."""
        self.mode, self._delay = "slow", seconds

    def never(self) -> None:
        """Do not come back until :meth:`ok`."""
        self.mode = "never"
        self._opened = threading.Event()

    def enter(self, *_: Any) -> None:
        """What the hook calls."""
        self.calls += 1
        self.inside += 1
        try:
            if self.mode == "error" and self._error is not None:
                raise self._error.with_traceback(None)  # else it would grow by each raise
            if self.mode == "slow":
                self._sleep(self._delay)
            elif self.mode == "never":
                self._stick()
        finally:
            self.inside -= 1

    def __repr__(self) -> str:
        return f"<Gate {self.mode}: {self.calls} calls, {self.inside} inside>"

    def _sleep(self, seconds: float) -> None:
        if self._clock is not None:
            self._clock.sleep(seconds)
        else:
            threading.Event().wait(seconds)

    def _stick(self) -> None:
        opened = self._opened
        if self._clock is None:
            opened.wait()
        else:
            while not opened.is_set():
                self._stuck.append(self._clock.current)
                self._clock.block(None)


class FakeBroken(ConnectionError):
    """An error that :class:`FakeFactory` calls broken."""


class FakePermanent(Exception):
    """A connect error that :class:`FakeFactory` calls permanent."""


class FakeConnection:
    """A connection that remembers what was done with it. Set ``dirty`` or ``dead`` to make it so."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.dirty = False
        self.dead = False
        self.interrupted = False
        self.resets = 0
        self.checks = 0
        self.closed = False

    def __repr__(self) -> str:
        state = [word for word in ("dirty", "dead", "closed") if getattr(self, word)]
        return f"<FakeConnection {self.number}{' ' if state else ''}{', '.join(state)}>"


class FakeFactory(Factory[FakeConnection]):
    """A factory of :class:`FakeConnection`, with a :class:`Gate` for each hook: ``gates["connect"]``, ``check``,
    ``reset``, ``close``. ``connections`` has every one it made; ``open`` and ``peak`` count those not closed."""

    def __init__(self, clock: ManualClock | None = None) -> None:
        self.gates = {hook: Gate(clock) for hook in ("connect", "check", "reset", "close")}
        self.connections: list[FakeConnection] = []
        self.opened = self.closed = self.peak = 0
        self._lock = threading.Lock()

    @property
    def open(self) -> int:
        """Connections open now."""
        return self.opened - self.closed

    def connect(self, timeout: float) -> FakeConnection:
        self.gates["connect"].enter()
        with self._lock:
            self.opened += 1
            self.peak = max(self.peak, self.open)
            connection = FakeConnection(self.opened)
            self.connections.append(connection)
        return connection

    def close(self, connection: FakeConnection) -> None:
        try:
            self.gates["close"].enter()
        finally:  # a close that raises leaves nothing open either
            with self._lock:
                if not connection.closed:
                    connection.closed = True
                    self.closed += 1

    def check(self, connection: FakeConnection, timeout: float) -> None:
        self.gates["check"].enter()
        connection.checks += 1
        if connection.dead or connection.closed:
            raise FakeBroken("the connection is dead")

    def reset(self, connection: FakeConnection, mode: ResetMode) -> None:
        self.gates["reset"].enter()
        if connection.dead:
            raise FakeBroken("the connection is dead")
        connection.resets += 1
        connection.dirty = False

    def is_alive(self, connection: FakeConnection) -> bool:
        return not connection.dead and not connection.closed

    def is_clean(self, connection: FakeConnection) -> bool:
        return not connection.dirty

    def interrupt(self, connection: FakeConnection) -> None:
        connection.interrupted = True

    def begin(self, connection: FakeConnection) -> None:
        connection.dirty = True

    def commit(self, connection: FakeConnection) -> None:
        connection.dirty = False

    def rollback(self, connection: FakeConnection) -> None:
        connection.dirty = False

    def is_broken(self, error: BaseException) -> bool:
        return isinstance(error, FakeBroken)

    def is_permanent(self, error: BaseException) -> bool:
        return isinstance(error, FakePermanent)
