"""Fakes for tests of pools and of code that uses them: a factory with gates, and a clock that is moved by hand.

A test with real time::

    factory = FakeFactory()
    pool = Pool(factory, max_size=2)
    factory.gates["connect"].error(ConnectionRefusedError())   # the next connects fail

A test in virtual time, where everything happens on one thread at a time, in the same order on every run::

    with ManualClock() as clock:
        factory = FakeFactory(clock)
        pool = Pool(factory, max_size=1, runtime=clock)
        lease = pool.acquire()                       # workers run while the test waits
        waiting = clock.spawn(pool.acquire, 5.0)     # an acquire that has to wait
        clock.advance(1.0)                           # one second passes
        lease.release()
        clock.advance(0)                             # let everybody act who can
        assert waiting.result() is not None
"""

from pooling.testing._fakes import FakeBroken, FakeConnection, FakeFactory, FakePermanent, Gate
from pooling.testing._manual_clock import Actor, ManualClock

__all__ = ["Actor", "FakeBroken", "FakeConnection", "FakeFactory", "FakePermanent", "Gate", "ManualClock"]
