"""A shop whose pool starves: a report holds connections for good, and the requests wait."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pooling import Pool, PoolError
from pooling.integrations.page import serve
from pooling.testing import FakeFactory


class Shop:
    """Requests that take some milliseconds each, and a report that never gives back."""

    def __init__(self) -> None:
        self.pool = Pool(FakeFactory(), name="orders", max_size=10, timeout=8.0, leak_after=30.0, nested=None)
        self.closing = threading.Event()

    def request(self) -> None:
        while not self.closing.is_set():
            try:
                with self.pool.acquire():
                    time.sleep(random.lognormvariate(-4.0, 0.8))
            except PoolError:
                pass
            self.closing.wait(random.random() * 0.25)

    def export_report(self) -> None:
        with self.pool.acquire():
            self.closing.wait()


@contextmanager
def starving() -> Iterator[str]:
    """The address of a page about a shop: 25 s of ordinary use, then the reports begin to take all connections."""
    shop = Shop()
    server = serve(shop.pool, port=0)
    threads: list[threading.Thread] = []

    def start(target: Callable[[], None], name: str) -> None:
        threads.append(threading.Thread(target=target, name=name, daemon=True))
        threads[-1].start()

    for number in range(24):
        start(shop.request, f"request-{number}")
    time.sleep(25)
    shop.pool.clear()
    for number in range(10):
        start(shop.export_report, f"report-{number}")
        time.sleep(1.5)
    time.sleep(8)
    yield server.url
    shop.closing.set()
    for thread in threads:
        thread.join(20)
    server.close()
    shop.pool.close()
