"""What a pool says about itself: the snapshot and the holders, taken under its lock, and the text of a timeout."""

from __future__ import annotations

import heapq
import math
from typing import Any, NamedTuple

from pooling._holders import named, thread_names
from pooling._ledger.entry import Hold, Stage
from pooling._ledger.ledger import Ledger
from pooling._ledger.phase import Phase
from pooling._ledger.queue import Waiter
from pooling._words import in_words
from pooling.errors import PoolTimeout, TimeoutStage
from pooling.stats import Counts, PoolStats, Waiting


def snapshot(ledger: Ledger[Any], now: float) -> PoolStats:
    """The numbers of this moment."""
    roster, tally, outage = ledger.roster, ledger.tally, ledger.outage
    connecting, closing = len(roster.at[Stage.CONNECTING]), len(roster.at[Stage.CLOSING]) + len(roster.doomed)
    busy = len(roster.at[Stage.CHECKING]) + len(roster.at[Stage.RESETTING])
    # Callers on the plain path write without the lock: when a lease begins its entry's thread, and when it ends that
    # and then the sample. So the samples are counted first and the threads after them: what ends in between is missed
    # this time, and nothing is counted twice. What was told before is true still, so no counter ever goes down.
    use, size = tally.uses.snapshot(), len(roster.entries)
    leased = sum(entry.thread != 0 and entry.stage is Stage.OPEN for entry in roster.entries)
    tally.released = max(tally.released, use.count, tally.acquired - leased)
    tally.acquired = tally.released + leased
    head = ledger.queue.head()
    waits = tally.waits.snapshot()
    return PoolStats(
        name=ledger.name,
        at=now,
        state=outage.state if ledger.phase is Phase.RUNNING else ledger.phase.value,
        size=size,
        idle=size - leased - connecting - busy - closing,
        leased=leased,
        connecting=connecting,
        busy=busy,
        closing=closing,
        hung=len(roster.hung),
        waiting=len(ledger.queue),
        oldest_wait=max(0.0, now - head.started) if head else 0.0,
        min_size=ledger.min_size,
        max_size=None if ledger.max_size == math.inf else int(ledger.max_size),
        acquired=tally.acquired,
        released=tally.released,
        opened=tally.opened,
        closed=Counts(tally.closed),
        timeouts=tally.timeouts,
        errors=sum(tally.errors.values()),
        errors_by=Counts(tally.errors),
        max_idle=None if ledger.max_idle == math.inf else int(ledger.max_idle),
        leaks=tally.leaks,
        events_lost=tally.lost + sum(outlet.lost for outlet in tally.outlets),
        wait=tally.waits.snapshot(zeros=tally.acquired - waits.count),
        use=use,
        connect=tally.connects.snapshot(),
        last_error=outage.told if outage.error else None,
        last_error_age=now - outage.error_at if outage.error else None,
    )


def holds(ledger: Ledger[Any]) -> list[Hold]:
    """Who holds the connections."""
    return [entry.hold() for entry in ledger.roster.entries if entry.thread]


def queue(ledger: Ledger[Any], most: int) -> list[Hold]:
    """Who waits, in the order of service. Written like holders, for they are told in the same way."""
    return [Hold(waiter.thread, waiter.started, waiter.code, waiter.instruction) for waiter in ledger.queue.first(most)]


def waiting(holds: list[Hold], now: float) -> tuple[Waiting, ...]:
    """Those who wait with their threads' names and the places of their acquires, in the order given. Called without
    the lock."""
    names = thread_names()
    return tuple(Waiting(*named([hold], now, names)[0]) for hold in holds)


class Moment(NamedTuple):
    """What a timeout tells, as it was under the lock. Many callers can time out at once: nothing is formatted
    there."""

    stats: PoolStats
    holds: list[Hold]
    stage: TimeoutStage
    cause: BaseException | None


def moment(ledger: Ledger[Any], now: float, stage: TimeoutStage | None = None) -> Moment:
    return Moment(snapshot(ledger, now), holds(ledger), stage or _stage(ledger), ledger.outage.error)


def timed_out(then: Moment, waiter: Waiter[Any]) -> PoolTimeout:
    """A timeout that explains itself. Called without the lock."""
    stats, names = then.stats, thread_names()
    numbers = (
        f"{stats.leased} in use, {stats.idle} idle, {stats.connecting} connecting, {stats.busy} busy, "
        f"{stats.closing} closing of at most {stats.max_size or 'any number'}; {stats.waiting} others waiting"
    ) + (f", the longest for {in_words(stats.oldest_wait)}" if stats.waiting else "")
    waited = stats.at - waiter.started
    lines = [f"no connection from pool {stats.name!r} within {in_words(waited)} ({_WHY[then.stage]}): {numbers}"]
    longest = heapq.nsmallest(3, then.holds, key=lambda hold: hold.since)
    lines += [f"  held by {holder}" for holder in named(longest, stats.at, names)]
    if stats.leaks:
        lines.append(f"  leases that leaked so far: {stats.leaks}")
    if stats.hung:
        lines.append(f"  calls of the driver that never came back: {stats.hung}")
    if stats.last_error and stats.last_error_age is not None:
        lines.append(f"  last connect error, {in_words(stats.last_error_age)} ago: {stats.last_error}")
    error = PoolTimeout(
        "\n".join(lines), stage=then.stage, stats=stats, holders=lambda: named(then.holds, stats.at, names)
    )
    error.__cause__ = then.cause
    return error


_WHY: dict[TimeoutStage, str] = {
    "queue": "all in use",
    "connect": "one is being opened",
    "check": "one is being checked",
    "reset": "one is being reset",
    "close": "one is being closed",
    "backoff": "the server cannot be reached",
    "hung": "as many calls of the driver hang as there may be connections",
    "suspended": "the pool is suspended",
    "nested": "each is held by a thread that waits for another one, so none would ever come back",
}


def _stage(ledger: Ledger[Any]) -> TimeoutStage:
    """What the head of the queue is waiting for."""
    if ledger.phase is Phase.SUSPENDED:
        return "suspended"
    for stage in (Stage.CONNECTING, Stage.CHECKING, Stage.RESETTING):
        if ledger.roster.at[stage]:
            return stage.value  # type: ignore[no-any-return]  # mypy loses it in the loop
    if ledger.outage and len(ledger.roster.entries) < ledger.max_size:
        return "backoff"
    if ledger.roster.at[Stage.CLOSING]:
        return "close"
    return "hung" if ledger.roster.hung and len(ledger.roster.entries) < ledger.max_size else "queue"
