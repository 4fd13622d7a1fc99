"""A network that fails now and then, in front of the server of a stress run.

Calm and trouble take turns; both are drawn from the run's seed. Trouble is shorter than the pool's own patience
(``fail_after``, ``connect_timeout``), and calm long enough for a connect: what lasts longer is an outage, and then to
fail is what a pool has promised.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pooling.cli.stress._proxy import Proxy

CALM = 1.0, 0.5  # seconds between two troubles: at least, and the mean of what is added
LONGEST = 1.5  # seconds of one trouble


class Trouble(Enum):
    """What the network does; the value is its name in the report."""

    CUT = "cut"  # some connections end, by a reset or in order
    TEAR = "torn"  # connections end in the middle of an answer
    DELAY = "delayed"  # every byte is late
    FREEZE = "frozen"  # a black hole: bytes vanish, then the connections are reset
    REFUSE = "refused"  # nobody listens; what is open stays
    RESTART = "restarted"  # everything is reset, and nobody listens for a while


class Chaos(threading.Thread):
    """Makes trouble until :meth:`end`, which leaves a healthy network behind."""

    def __init__(self, proxy: Proxy, seed: int) -> None:
        super().__init__(name="chaos", daemon=True)
        self.counts: Counter[str] = Counter()
        self._proxy = proxy
        self._dice = random.Random(f"{seed}:chaos")
        self._over = threading.Event()

    def run(self) -> None:
        least, more = CALM
        while not self._over.wait(least + min(self._dice.expovariate(1 / more), 4 * more)):
            trouble = self._dice.choice(list(Trouble))
            self.counts[trouble.value] += 1
            self._begin(trouble)
            self._over.wait(self._dice.uniform(0.05, LONGEST))
            self._heal(trouble)

    def end(self) -> None:
        """The network is well from now on."""
        self._over.set()
        if self.ident is not None:
            self.join()

    def _begin(self, trouble: Trouble) -> None:
        proxy, dice = self._proxy, self._dice
        if trouble is Trouble.CUT:
            for link in proxy.links():
                if dice.random() < 0.5:
                    link.reset() if dice.random() < 0.5 else link.cut()
        elif trouble is Trouble.TEAR:
            proxy.cut_after(from_server=dice.randrange(200))
        elif trouble is Trouble.DELAY:
            proxy.delay = dice.uniform(0.01, 0.2)
        elif trouble is Trouble.FREEZE:
            proxy.mute = True
        else:
            proxy.refuse()
            if trouble is Trouble.RESTART:
                proxy.reset_all()

    def _heal(self, trouble: Trouble) -> None:
        proxy = self._proxy
        if trouble is Trouble.TEAR:
            proxy.cut_after()
        elif trouble is Trouble.DELAY:
            proxy.delay = 0.0
        elif trouble is Trouble.FREEZE:
            proxy.mute = False
            proxy.reset_all()  # they have lost bytes: nobody would ever get an answer on them
        else:
            proxy.accept()
