"""A slot of the pool with its connection, and the one token that stands for the right to use it.

Ownership. The pool holds every entry strongly. Each entry has exactly one *token*; whoever holds the token
owns the connection: the deque of idle ones, a lease, a waiter it was handed to, a worker's job. Nobody
keeps a second reference, so when an owner is lost (an exception between two lines, a dropped lease, a killed
greenlet), its token dies, and a weak reference reports it by a callback that is a C method: no line of Python
runs, so nothing can interrupt the report. The ledger then closes the connection and frees the slot. Ownership is
never inferred from an entry being "neither here nor there".
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from enum import Enum
from types import CodeType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from pooling.stats import CloseReason

if TYPE_CHECKING:
    from pooling._ledger.queue import Waiter
    from pooling._ledger.roster import Roster

T = TypeVar("T")


class Stage(Enum):
    """What is going on with an entry."""

    OPEN = "open"  # idle or leased: which of the two, only the place of its token tells
    CONNECTING = "connect"
    CHECKING = "check"
    RESETTING = "reset"
    CLOSING = "close"


class Token(Generic[T]):
    """The right to use one entry's connection."""

    __slots__ = ("__weakref__", "entry")

    def __init__(self, entry: Entry[T]) -> None:
        self.entry = entry


class TokenRef(weakref.ref["Token[Any]"]):
    """A weak reference to a token that still knows the entry when the token is gone."""

    __slots__ = ("entry",)
    entry: Entry[Any]


class Entry(Generic[T]):
    """One slot. While its token is held by a lease, the lease's thread alone writes to the entry, so
    use count and times need no lock."""

    __slots__ = (
        "allowance", "began", "checked_at", "claimant", "code", "connection", "epoch", "expires_at", "id",
        "identity", "instruction", "keep", "line", "opened_at", "plain_until", "reason", "refs", "reported", "roster",
        "since", "stage", "thread", "uses", "view",
    )  # fmt: skip  # a table, not a story

    def __init__(self, number: int, now: float, epoch: int, roster: Roster[T]) -> None:
        self.id = number
        self.roster = roster  # where its token goes back to, also in a forked child
        self.connection: T | None = None
        self.view: T = None  # type: ignore[assignment]  # what a lease yields; set before there is one
        self.identity = 0
        self.stage = Stage.CONNECTING
        self.epoch = epoch  # everything was well with it when this epoch began
        self.opened_at = self.checked_at = now
        self.since = now  # idle since, or leased since
        self.expires_at = now
        # Before that it may simply be taken from the idle ones, and a clean one be put back among them. It is when it
        # expires; -inf where the ledger is to see it: it is of an old epoch, at its last use, or somebody listens.
        self.plain_until = -math.inf
        self.began, self.allowance = now, 0.0  # the job under way: when it began, how long it may take
        self.uses = 0  # counted where max_uses asks for it; the plain path does not
        self.keep = math.inf  # seconds it may stay unused, where the other side has said so
        self.line = math.inf  # where its line on the agenda stands: when it is looked at again
        self.reason: CloseReason | None = None  # why it is being closed
        self.reported = -math.inf  # since when it was leased as leak_after reported it
        self.claimant: Waiter[T] | None = None  # whom the connection is for, whoever waits (a lease's refresh)
        # Who has it: the thread (0 while nobody has), and the code object and instruction of its acquire, never the
        # frame, which would keep the caller's variables alive.
        self.thread = 0
        self.code: CodeType | None = None
        self.instruction = 0
        self.refs: tuple[object, TokenRef] | None = None

    def mint(self, lost: Callable[[Any], None], wake: Callable[[Any], None]) -> Token[T]:
        """A new token; ``lost`` and then ``wake`` are called, from C, when it dies.

        The entry learns of the token by the last statement: an exception before it leaves the old
        state, one after it kills a token that is watched already.
        """
        token = Token(self)
        waking = weakref.ref(token, wake)  # callbacks run last made first: it is reported, then woken
        ref = TokenRef(token, lost)
        ref.entry = self
        self.refs = (waking, ref)
        return token

    def owned_by(self, token: Token[T]) -> bool:
        """Whether this is the entry's token, and was never reported as dead. One can be that and yet come back: of a
        cycle of garbage the weak references are told of the end before the destructors run."""
        return self.refs is not None and self.refs[1]() is token

    def empty(self) -> None:
        """Let go of the connection."""
        self.connection = self.view = None  # type: ignore[assignment]

    def hold(self) -> Hold:
        """Who has it, cheaply: names and lines are looked up by whoever reads it."""
        return Hold(self.thread, self.since, self.code, self.instruction)


class Hold(NamedTuple):
    """A holder as it can be copied under the lock."""

    thread: int
    since: float
    code: CodeType | None
    instruction: int
