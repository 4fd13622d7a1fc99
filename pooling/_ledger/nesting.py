"""Threads that starve each other: each connection is held by one that waits for another, so none can come back."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Any

from pooling._ledger.entry import Entry, Hold
from pooling._ledger.queue import Waiter

SOON = 0.05  # seconds after which waiting threads are suspected of starving each other


class Nesting:
    """When to look for them, and who they are.

    Looked for a little after somebody came to wait, or a slot was given up while somebody did: by nothing else can it
    begin; and only if nobody was served since: who was, will give his connection back. Only a snapshot of who acquired
    is known: a lease that was handed to another thread counts for the one that acquired it.
    """

    def __init__(self, mode: str | None) -> None:
        self.mode = mode  # what to do about them; None: nobody looks
        self.look_at = math.inf
        self.handed = 0  # how often a waiter was served
        self._handed_before = 0  # what it was when somebody came to wait
        self._told: tuple[Hold, ...] = ()  # those who were found last

    def suspect(self, now: float) -> float:
        """Somebody waits. Returns when to look whether that can end."""
        self.look_at, self._handed_before = now + SOON, self.handed
        return self.look_at

    def is_over(self) -> bool:
        """The time has come. Whether nobody was served meanwhile."""
        self.look_at = math.inf
        return self.handed == self._handed_before

    def starving(self, entries: Collection[Entry[Any]], waiters: Iterable[Waiter[Any]]) -> list[Waiter[Any]]:
        """Those who wait with the connections of all these entries; empty where one of those may come back."""
        by_thread = {waiter.thread: waiter for waiter in waiters}
        if any(entry.thread not in by_thread for entry in entries):
            return []
        return [by_thread[entry.thread] for entry in entries]

    def news(self, entries: Iterable[Entry[Any]]) -> tuple[Hold, ...]:
        """Who holds what nobody will give back. Empty where that was said: more callers may come, and change
        nothing."""
        found = tuple(entry.hold() for entry in entries)
        if found == self._told:
            return ()
        self._told = found
        return found
