"""A server that restarts, and one that is away for a while: what callers see of it, and what it sees of the pool."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from time import perf_counter, sleep
from typing import Any

import pooling
from benchmarks.peer import Peer
from benchmarks.peers import Ours, Psycopg, RedisBlocking, SQLAlchemy, installed
from benchmarks.rows import Family, Row, Settings, in_turn, row
from benchmarks.stubs import PsycopgStub, RedisStub, Server, Stub, StubFactory

CALLERS = 10
AWAY, AWAY_QUICK = 1.5, 0.15  # seconds
PATIENCE = 5.0  # seconds an acquire may take: longer than the server is away
LONGEST = 60.0  # seconds that a pool has to see that the server is back; what takes longer counts as that
REFUSAL = 0.001  # seconds that a refused connect takes
PAUSE = 0.01  # seconds a caller rests after an error, as one that serves requests would


class Fragile(Server):
    """A server that can go away, which breaks every connection there is."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.life = True, 0
        self.refused: list[float] = []
        self._lock, self._under_way, self.most = threading.Lock(), 0, 0

    def connect(self) -> None:
        super().connect()
        if self.up:
            return
        with self._lock:
            self.refused.append(perf_counter())
            self._under_way += 1
            self.most = max(self.most, self._under_way)
        sleep(REFUSAL)
        with self._lock:
            self._under_way -= 1
        raise ConnectionRefusedError("the server is away")

    def leave(self) -> None:
        self.up, self.life = False, self.life + 1


class Mortal(Stub):
    """A connection that dies with the life of the server that it was opened in."""

    server: Fragile

    def __init__(self, server: Fragile) -> None:
        Stub.__init__(self, server)  # not super(): PsycopgStub's wants a status
        self.life = server.life

    @property
    def dead(self) -> bool:
        return self.life != self.server.life

    def ping(self) -> None:
        if self.dead:
            raise ConnectionResetError("the server has closed the connection")


class MortalFactory(StubFactory):
    """As a database's: the peek sees the end of the stream, a check fails, and OSError means broken."""

    def connect(self, timeout: float) -> Stub:  # noqa: ARG002
        return Mortal(self.server)  # type: ignore[arg-type]

    def check(self, connection: Any, timeout: float) -> None:  # noqa: ARG002
        connection.ping()

    def is_alive(self, connection: Any) -> bool:
        return not connection.dead

    def is_broken(self, error: BaseException) -> bool:
        return isinstance(error, OSError)


class OursOut(Ours):
    """All options at their defaults. An error ends the lease as it would end a ``with``: a discard, which is the user's
    own decision, says nothing of the others."""

    def _factory(self, server: Server) -> pooling.Factory[Stub]:
        return MortalFactory(server)

    def ping(self, held: Any) -> None:
        held.connection.ping()

    def broken(self, held: Any, error: Exception) -> None:
        held.__exit__(type(error), error, error.__traceback__)


class AlchemyOut(SQLAlchemy):
    """Without pre_ping, its default. An error goes to ``_invalidate``, as the Engine does with a disconnect: every
    older connection is then replaced when it is taken. A bare pool would look worse than its users have it."""

    pre_ping = False

    def __init__(self, server: Server, size: int, timeout: float = 60.0) -> None:
        from sqlalchemy.pool import QueuePool
        from sqlalchemy.pool.base import _ConnDialect

        class Dialect(_ConnDialect):
            def _do_ping_w_event(self, connection: Any) -> bool:
                return not connection.dead

        make: Any = QueuePool
        self._pool = make(
            lambda: Mortal(server),  # type: ignore[arg-type]
            pool_size=size, max_overflow=0, timeout=timeout, pre_ping=self.pre_ping, dialect=Dialect(),
        )  # fmt: skip

    def ping(self, held: Any) -> None:
        held.dbapi_connection.ping()

    def broken(self, held: Any, error: Exception) -> None:
        pool: Any = self._pool
        pool._invalidate(held, error)
        held.close()


class AlchemyPing(AlchemyOut):
    """With pre_ping, as its documentation advises against restarts. The ping costs nothing here."""

    name = "SQLAlchemy QueuePool pre_ping"
    pre_ping = True


class PsycopgOut(Psycopg):
    """``check`` is set, as its documentation advises against restarts; its back-off and three workers are defaults."""

    name = "psycopg_pool check="

    def __init__(self, server: Server, size: int, timeout: float = 60.0) -> None:
        from psycopg.pq import TransactionStatus
        from psycopg_pool import ConnectionPool

        class Connection(Mortal, PsycopgStub):
            def __init__(self) -> None:
                Mortal.__init__(self, server)  # type: ignore[arg-type]
                self.pgconn = self
                self._pool: object = None

            @property
            def transaction_status(self) -> Any:
                return TransactionStatus.UNKNOWN if self.dead else TransactionStatus.IDLE

            @classmethod
            def connect(cls, conninfo: str, **_: object) -> Any:  # noqa: ARG003
                return cls()

        # It logs each refused connect, and what nobody has set up is printed.
        logging.getLogger("psycopg.pool").addHandler(logging.NullHandler())
        kind: Any = Connection
        self._pool = ConnectionPool(
            connection_class=kind, min_size=0, max_size=size, timeout=timeout, open=True, check=lambda held: held.ping()
        )

    def ping(self, held: Any) -> None:
        held.ping()

    def broken(self, held: Any, error: Exception) -> None:  # noqa: ARG002
        self._pool.putconn(held)


class RedisOut(RedisBlocking):
    """Its own look at the socket before each use stays on. Retries belong to its client, not to the pool."""

    def _build(self, server: Server, size: int, timeout: float) -> Any:
        from redis import BlockingConnectionPool

        class Connection(RedisStub):
            life = 0

            def connect(self) -> None:
                if not self._connected:
                    server.connect()
                    self._connected, self.life = True, server.life  # type: ignore[attr-defined]

            def can_read(self) -> bool:
                self.ping()
                return False

            def ping(self) -> None:
                if self.life != server.life:  # type: ignore[attr-defined]
                    raise ConnectionResetError("the server has closed the connection")

        build: Any = BlockingConnectionPool
        return build(connection_class=Connection, max_connections=size, timeout=timeout, server=server)

    def ping(self, held: Any) -> None:
        held.ping()

    def broken(self, held: Any, error: Exception) -> None:  # noqa: ARG002
        held.disconnect()
        self._pool.release(held)


KINDS: tuple[type[Any], ...] = (AlchemyOut, AlchemyPing, PsycopgOut, RedisOut, OursOut)


def run(settings: Settings) -> Iterator[Row]:
    kinds = installed(KINDS)
    scenarios = [
        ("restart, just used", restart, {"errors": "errors"}),
        ("outage", outage, {"connects": "1/s", "connects at once": "connects", "after the return": "ms"}),
    ]
    if not settings.quick:
        scenarios.insert(0, ("restart", restart_at_rest, {"errors": "errors"}))
    for scenario, measure, units in scenarios:
        samples: dict[str, list[dict[str, float]]] = {name: [] for name in kinds}
        for number, names in enumerate(in_turn(list(kinds), settings.rounds), 1):
            for name in names:
                settings.say(f"{scenario}: round {number}, {name}")
                samples[name].append(measure(kinds[name], AWAY_QUICK if settings.quick else AWAY))
        for figure, unit in units.items():
            for name, found in samples.items():
                yield row(scenario, name, figure, unit, [one[figure] for one in found])


def restart_at_rest(kind: type[Any], away: float) -> dict[str, float]:
    """The same after more than a second of rest: ours has a look at a connection that was not used for that long."""
    return restart(kind, away, rest=1.2)


def restart(kind: type[Any], away: float, rest: float = 0.0) -> dict[str, float]:  # noqa: ARG001  # it is back at once
    """10 idle connections, all broken by a restart, then one call of each of 10 threads at the same moment."""
    server, peer = _prepared(kind)
    sleep(rest)
    server.leave()
    server.up = True
    errors = sum(not good for good in _calls(peer))
    return _ended(peer, server, {"errors": errors})


def outage(kind: type[Any], away: float) -> dict[str, float]:
    """The server is away while 10 threads go on calling; each rests for 10 ms after an error."""
    server, peer = _prepared(kind)
    returned, served = [float("inf")], threading.Event()
    first: list[float] = []

    def caller() -> None:
        while not served.is_set():
            if _call(peer) and perf_counter() >= returned[0]:
                first.append(perf_counter())
                served.set()
            else:
                sleep(PAUSE)

    server.leave()
    threads = [threading.Thread(target=caller, daemon=True) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    sleep(away)
    server.up = True
    returned[0] = perf_counter()
    served.wait(LONGEST)
    gave_up = perf_counter()
    served.set()  # who has not seen it again is not going to
    for thread in threads:
        thread.join(10.0)
    late = 1000 * (min(first, default=gave_up) - returned[0])
    refused = len(server.refused)
    return _ended(peer, server, {"connects": refused / away, "connects at once": server.most, "after the return": late})


def _call(peer: Any) -> bool:
    try:
        held = peer.acquire()
    except Exception:
        return False  # each pool raises an error of its own
    try:
        peer.ping(held)
    except OSError as error:
        peer.broken(held, error)
        return False
    peer.release(held)
    return True


def _calls(peer: Any) -> list[bool]:
    done: list[bool] = []
    gate = threading.Barrier(CALLERS)

    def caller() -> None:
        gate.wait()
        done.append(_call(peer))

    threads = [threading.Thread(target=caller, daemon=True) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30.0)
    return done + [False] * (CALLERS - len(done))


def _prepared(kind: type[Any]) -> tuple[Fragile, Any]:
    server = Fragile()
    peer = kind(server, CALLERS, PATIENCE)
    peer.warm(CALLERS)
    sleep(0.05)  # workers report after the caller has its connection
    return server, peer


def _ended(peer: Peer, server: Fragile, figures: dict[str, float]) -> dict[str, float]:
    server.end()
    peer.close()
    return figures


FAMILY = Family("outage", "a restart, an outage and the recovery", run, plots=("errors", "after the return"))
