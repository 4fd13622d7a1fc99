"""What the ledger has others do: its orders to workers.

They lie in the ledger's outbox until somebody takes them, beside waiters to be woken, listeners and notices.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from pooling._ledger.entry import Stage, Token


class Job(NamedTuple):
    """Work for a worker, with the token of the entry it is about."""

    token: Token[Any]
    stage: Stage
    timeout: float
    epoch: int
    thorough: bool = False
    """Whether a check makes a round trip; else it is a look at the socket."""


class Stuck(NamedTuple):
    """A connection whose job was written off: what the job is blocked in is to be made to fail."""

    connection: Any
