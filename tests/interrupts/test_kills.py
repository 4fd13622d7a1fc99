"""What ends a wait or a use from outside: Ctrl-C, gevent's time limit and kill. Each in an interpreter of its own."""

from __future__ import annotations

import pytest

from tests.core.helpers import run_python

COMMON = """
    import gc, logging, os, signal, sys, threading, time
    logging.getLogger("pooling").setLevel("CRITICAL")
    from pooling import Pool
    from pooling.testing import FakeFactory

    factory = FakeFactory()
    pool = Pool(factory, max_size=4, timeout=10.0, nested=None)

    def all_can_be_leased():
        gc.collect()
        leases = [pool.acquire(timeout=10.0) for _ in range(4)]
        assert len({id(lease.connection) for lease in leases}) == 4
        for lease in leases:
            lease.release()
        assert factory.peak <= 4, factory.peak
        pool.close()
        assert factory.open == 0
"""


def test_ctrl_c_ends_a_wait_at_once_and_costs_no_slot() -> None:
    run_python(
        COMMON
        + """
    for lucky in range(20):
        held = [pool.acquire() for _ in range(4)]
        main = threading.main_thread().ident

        def interrupt():
            while not pool.stats().waiting:
                time.sleep(0.0005)
            if lucky % 2:
                held.pop().release()  # at the same moment as it is handed over
            signal.pthread_kill(main, signal.SIGINT)

        helper = threading.Thread(target=interrupt)
        helper.start()
        began = time.monotonic()
        try:
            pool.acquire(timeout=60.0)
            time.sleep(30)
        except KeyboardInterrupt:
            pass
        assert time.monotonic() - began < 20
        helper.join()
        while held:
            held.pop().release()
    all_can_be_leased()
    """,
        timeout=90.0,
    )


def test_ctrl_c_anywhere_in_a_busy_loop_costs_no_slot() -> None:
    run_python(
        COMMON
        + """
    armed, struck = [], 0

    def interrupt(*_):
        if armed:  # not while the last one is still being dealt with
            armed.clear()
            raise KeyboardInterrupt

    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0007)
    end = time.monotonic() + 60
    while struck < 2000 and time.monotonic() < end:
        try:
            armed.append(True)
            while True:
                with pool.acquire() as connection:
                    connection.dirty = not struck % 7
        except KeyboardInterrupt:
            struck += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    all_can_be_leased()
    """,
        timeout=90.0,
    )


GREEN = """
    from gevent import monkey
    monkey.patch_all()
    import gevent
"""


@pytest.mark.parametrize("way", ["kill", "timeout"])
def test_a_greenlet_that_is_ended_from_outside_costs_no_slot(way: str) -> None:
    pytest.importorskip("gevent", reason="it has no wheel for this Python")
    run_python(
        GREEN
        + COMMON
        + f"""
    import random
    chance = random.Random(7)
    way = {way!r}

    def user():
        while True:
            with pool.acquire(timeout=30.0):
                gevent.sleep(chance.random() / 500)

    def timed():
        while True:
            with gevent.Timeout(chance.random() / 100, False):
                user()

    greenlets = [gevent.spawn(user if way == "kill" else timed) for _ in range(12)]
    for _ in range(400):
        gevent.sleep(0.001)
        if way == "kill":
            number = chance.randrange(12)
            greenlets[number].kill()
            greenlets[number] = gevent.spawn(user)
    gevent.killall(greenlets)
    all_can_be_leased()
    """,
        timeout=90.0,
        options=("-W", "ignore"),
    )
