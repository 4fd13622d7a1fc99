"""The pool's bookkeeping, and nothing else: no lock, no clock, no thread, no I/O.

Everything here runs under the pool's lock, except the two ends of ``idle`` (see "The plain path" in pool.py). A
transition is called once for each thing that callers and workers report; ``settle()`` then decides what follows. What
is to be done outside the lock (a job for a worker, a waiter's failure to tell, a line to log) is put into ``outbox``;
it stays there until somebody takes it, so an exception between deciding and doing loses nothing.

One class, in four files, each of which builds on the one before: :class:`~moves.Moves`, the state and its single steps;
:class:`~upkeep.Upkeep`, what time brings; :class:`~settling.Settling`, what follows; :class:`~ledger.Ledger`, what is
reported. The other files have its nouns.

Invariants, after every settle():
 1. Each entry has one token, alive in exactly one place: idle, suspects, doomed, a job, a waiter, or a lease.
 2. len(entries) <= max_size, unless a resize made it smaller: a slot is freed after its connection is closed.
 3. Nobody waits while a connection is idle, unless the pool is suspended.
 4. Waiters are served in the order of their keys; each is served, failed or gone once.
 5. Before a connection goes out its epoch (for the plain path plain_until, -inf in an old one) and its last use are
    looked at: nothing older than the last break or clear() is handed to anybody unchecked.
 6. Connects under way (late ones not counted) <= max_connecting, and <= 1 while the server is down.
 7. plain[0] is true, and roster.plain_releases has any, only if nobody waits, nobody listens, and every clean release
    may simply be put back. (The first is wiped by a fork, the second is cheaper, and runs out in time for a settle().)
"""
