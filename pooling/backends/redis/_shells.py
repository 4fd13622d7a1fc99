"""The connections of a pool in the place of redis-py's, as the pool underneath sees them.

A connection object of redis-py outlives its socket: it is put back disconnected, and connects again. Callers of the
driver's pools count on finding it there. So the object is a *shell*, kept and used again, and what the pool opens,
checks and closes is one :class:`Session` of it.

Ownership. The shells that nobody uses are held by the pool that callers see. One that is in use is held by its user
alone, and itself holds the lease: when the user drops it, the lease is as lost as any that is dropped, and the slot
comes back. Not at once: in redis-py a dropped connection counts as in use, so it does here for GRACE. Sessions refer to
their shells weakly, so that nothing the process keeps alive keeps a dropped pool's connections open.

A shell is one of three things:

=====  =============  =========================  ==================================================
state  who holds it   where it stands            session
=====  =============  =========================  ==================================================
spare  the pool       ``_kept`` and ``_spare``   none; connected again by whoever opens the next
idle   the pool       ``_kept``                  one, idle or at work in the pool underneath
lent   its user       ``_used``, by a reference  one, leased: the lease is an attribute of the shell
=====  =============  =========================  ==================================================
"""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import redis
from redis.exceptions import ConnectionError  # noqa: A004  # redis-py's name

from pooling._chance import chance
from pooling._clock import monotonic
from pooling._ledger.outage import gap
from pooling._secrets import attributes, found
from pooling.backends.redis import _connection, _errors
from pooling.backends.redis._factory import Bound, renew
from pooling.factory import ResetMode
from pooling.lease import Lease, give_up

GRACE = 0.5  # seconds
_LEASE = "_pooling_lease"


class Session:
    """What a shell is from one connect to the next disconnect."""

    __slots__ = ("__weakref__", "ended", "home", "shell")

    def __init__(self, shell: Any, home: Shells) -> None:
        self.shell: Callable[[], Any] = _reference(shell)
        self.home: Callable[[], Shells | None] = weakref.ref(home)
        self.ended = False


class Shells:
    """The connection objects of one pool in one process."""

    def __init__(self, make: Callable[[], Callable[[], Any] | None]) -> None:
        self._make = make  # a weak reference to the method
        self._kept: dict[int, Any] = {}  # by identity: all that are not in use
        self._used: dict[int, Callable[[], Any]] = {}
        self._spare: deque[Any] = deque()  # those without a session

    def fetch(self) -> Any:
        """One that has no session: an old one or a new one."""
        try:
            return self._spare.pop()
        except IndexError:
            make = self._make()
            if make is None:
                raise ConnectionError("the pool is gone") from None
            shell = make()
            self._kept[id(shell)] = shell
            return shell

    def spare(self, shell: Any) -> None:
        """It has no session any more, and nobody uses it."""
        self._used.pop(id(shell), None)  # where an exception has struck once it was lent
        self._kept[id(shell)] = shell
        self._spare.append(shell)

    def lend(self, shell: Any, lease: Lease[Any]) -> None:
        """From now on it belongs to its user."""
        # First: kept here with its lease, where an exception strikes in between, it would keep that for ever.
        self._kept.pop(id(shell), None)
        _attach(shell, lease)
        self._used[id(shell)] = _reference(shell, _Drop(lease, _connection.socket_of(shell)))

    def take_back(self, shell: Any, pool: Any) -> Lease[Any] | None:
        """The lease of one that a user brings back; None where it is not one that ``pool`` has lent."""
        reference = self._used.get(id(shell))
        lease = getattr(shell, _LEASE, None)
        if reference is None or reference() is not shell or not isinstance(lease, Lease) or lease._pool is not pool:
            return None
        taken: list[Lease[Any]] = []
        try:
            # Of two that release at once, one gets it. In one call, which C makes: struck between a pop and what is
            # done with its result, nobody would have the lease but the reference that waits for the end of the shell.
            taken.extend(map(vars(shell).pop, (_LEASE,)))
            # In this order for the same reason: each of the two can have the lease.
            self._used.pop(id(shell), None)
            self._kept[id(shell)] = shell
            return taken[0]
        except (KeyError, TypeError):
            return None
        except BaseException:
            give_up(taken[0] if taken else None)
            raise

    def forget(self, shell: Any, session: Any) -> None:
        """Have it not come back when its session is closed."""
        session.home = _nothing
        self._kept.pop(id(shell), None)

    @staticmethod
    def close_stale(shell: Any, owner: Any) -> None:
        """Close a connection that was lent before its pool was reset."""
        lease: Any = getattr(shell, _LEASE, None)
        factory = lease._pool._factory if isinstance(lease, Lease) else None
        if isinstance(factory, ShellFactory) and factory.belongs_to(owner) and shell.pid == owner.pid:
            vars(shell).pop(_LEASE, None)
            shell.disconnect()
            lease.discard()

    def free(self) -> list[Any]:
        used = self._used.copy()
        return [shell for number, shell in self._kept.copy().items() if used.get(number, _nothing)() is not shell]

    def used(self) -> list[Any]:
        found = []
        for number, reference in self._used.copy().items():
            shell = reference()
            if shell is not None:
                found.append(shell)
            elif self._used.get(number) is reference:
                self._used.pop(number, None)  # it was dropped
        return found

    def spares(self) -> list[Any]:
        return list(self._spare.copy())

    def adopt(self, shell: Any, *, used: bool) -> None:
        """Count one in that was made elsewhere: redis-py's pools let their lists be written to."""
        if used:
            self._used[id(shell)] = lambda: shell
        else:
            self.spare(shell)


class ShellFactory(_errors.Opinions[Session]):
    """How the pool underneath opens, checks, resets and closes. Its owner is the pool that callers see."""

    def __init__(self, owner: Callable[[], Any]) -> None:
        self._owner = owner  # a weak reference
        self.tried = 0.0  # seconds that the last connect that failed has taken, with the retries of its connection

    def connect(self, timeout: float) -> Session:
        shells = self._shells()
        if shells is None:
            raise ConnectionError("the pool is gone")
        shell, began = shells.fetch(), monotonic()
        tracker = _connection.tracker(shell)
        try:
            if tracker is not None:
                tracker.setup = ()
                if tracker.is_connected:  # what has struck its connect or close left it so, in the middle of anything
                    shell.disconnect()
            _connection.connect(shell, timeout)
            if tracker is not None:
                tracker.recorded = ()
            return Session(shell, shells)
        except BaseException:
            self.tried = monotonic() - began
            shells.spare(shell)
            raise

    def pause(self, failures: int) -> float:
        """The default ``backoff`` of a pool, but never as long as a try with retries takes: callers wait as long as
        that, and each is to have one that begins meanwhile."""
        return min(gap(failures, chance()), max(0.05, self.tried / 2))

    def for_shells(self, on_connect: Callable[[Any], object]) -> Callable[[Session], object]:
        """What a user wants done with each new connection, which it gets as a client."""
        owner = self._owner  # its arguments lead back to it: kept here, they would keep it for ever

        def begin(session: Session) -> None:
            pool = owner()
            if pool is None:
                raise ConnectionError("the pool is gone")
            on_connect(redis.Redis(connection_pool=Bound(session.shell(), pool.connection_kwargs)))  # type: ignore[arg-type]

        return begin

    def close(self, session: Session) -> None:
        shell, shells = session.shell(), self._shells()
        if session.ended or shell is None:
            return
        session.ended = True
        try:
            shell.disconnect()
        finally:
            _connection.forget_handler(shell)
            if shells is not None and session.home() is shells:  # else it is from before a reset
                shells.spare(shell)

    def check(self, session: Session, timeout: float) -> None:
        shell = session.shell()
        if _connection.awaits_login(shell):
            shell.re_auth()
        else:
            _connection.ping(shell, timeout)

    def reset(self, session: Session, mode: ResetMode) -> None:
        shell = session.shell()
        tracker = _connection.tracker(shell)
        if tracker is None:
            return
        renew(tracker, shell)
        if mode == "session":
            tracker.setup = ()  # on_connect comes again
        if not tracker._connect_callbacks:
            tracker.clean(thoroughly=mode == "session")
        elif mode == "session" or tracker.marks:
            # They do on each connect what the handshake does not know of: the driver's cache has the server track keys.
            shell.disconnect()
            shell.connect()
        if mode == "session":
            tracker.recorded = ()

    def remember(self, session: Session) -> None:
        tracker = _connection.tracker(session.shell())
        if tracker is not None:
            tracker.setup, tracker.recorded = tracker.recorded or (), None
            tracker.marks = frozenset()

    def is_alive(self, session: Session) -> bool:
        shell, owner = session.shell(), self._owner()
        if shell is None or session.ended or owner is None:
            return False
        if _connection.tracker(shell) is None:
            return _connection.is_open(shell)
        return _connection.is_alive(shell, chatty=owner.expects_news())

    def is_clean(self, session: Session) -> bool:
        tracker = _connection.tracker(session.shell())
        return tracker is None or not (tracker.marks or tracker.pending)

    def interrupt(self, session: Session) -> None:
        _connection.interrupt(session.shell())

    def abandon(self, session: Session) -> None:
        shell = session.shell()
        if shell is not None:
            _connection.let_go(shell)

    def is_broken(self, error: BaseException) -> bool:
        return super().is_broken(error) or isinstance(error, OSError)

    def belongs_to(self, owner: Any) -> bool:
        return self._owner() is owner

    def _shells(self) -> Shells | None:
        owner = self._owner()
        return None if owner is None or owner.pid != os.getpid() else owner.shells

    def secrets(self) -> Iterable[str]:
        return found(attributes(self._owner()))

    def __repr__(self) -> str:
        return "ShellFactory()"


def _reference(shell: Any, lost: Callable[[Any], object] | None = None) -> Callable[[], Any]:
    """A weak reference; a strong one to what cannot be referred to weakly."""
    try:
        return weakref.ref(shell, lost)
    except TypeError:
        return lambda: shell


def _nothing() -> None:
    return None


class _Drop:
    """Called by the garbage collector when a user has dropped a connection. It may outlive that with the dead weak
    reference it belongs to, and keeps nothing then.

    It keeps the socket until then. A connection of redis-py is in a cycle with its handlers of notifications, and what
    is collected in a cycle is finalized in any order: the socket must not come before the connection that closes it.
    """

    __slots__ = ("_lease", "_socket")

    def __init__(self, lease: Lease[Any], socket: object) -> None:
        self._lease: Lease[Any] | None = lease
        self._socket: object = socket

    def __call__(self, _: object) -> None:
        lease, self._lease, self._socket = self._lease, None, None
        if lease is not None:
            pool: Any = lease._pool
            pool.lost.append((pool._now() + GRACE, lease))
            pool._runtime.poke(None)


def _attach(shell: Any, lease: Lease[Any]) -> None:
    try:
        vars(shell)[_LEASE] = lease
    except TypeError:  # a class with __slots__ and no place for it
        raise TypeError(f"{type(shell).__name__} has __slots__: a connection class needs a __dict__") from None
