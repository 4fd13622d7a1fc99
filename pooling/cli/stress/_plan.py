"""What each thread does, use by use, drawn from the seed before anything happens.

The same seed gives every thread the same uses in the same order, whatever the pool does. How many of them it gets
through, and how the threads interleave, is up to the scheduler.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from pooling.cli.stress._options import StressOptions


class Ending(Enum):
    """How a use gives its connection back."""

    CLEAN = "clean"
    DIRTY = "dirty"  # in the middle of a transaction
    LOST = "lost"  # the lease is dropped
    BREAK = "break"  # the connection breaks under its user
    DISCARD = "discard"
    REFUSE = "refuse"  # a discard, and the connect that follows fails
    SLOW = "slow"  # a discard, and the connect that follows takes long


FAULTS = (Ending.BREAK, Ending.DISCARD, Ending.REFUSE, Ending.SLOW)


class Plan(NamedTuple):
    """One use."""

    ending: Ending
    number: int
    """What the server is asked to echo."""
    think: float
    hold: float


def plans(options: StressOptions, thread: int) -> Iterator[Plan]:
    """The uses of one thread, without end."""
    dice = random.Random(f"{options.seed}:{thread}")
    while True:
        yield Plan(_ending(options, dice), dice.getrandbits(48), _time(options.think, dice), _time(options.hold, dice))


def _ending(options: StressOptions, dice: random.Random) -> Ending:
    roll, fault = dice.random(), dice.choice(FAULTS)
    if roll < options.dirty:
        return Ending.DIRTY
    if roll < options.dirty + options.lost:
        return Ending.LOST
    return fault if roll < options.dirty + options.lost + options.faults else Ending.CLEAN


def _time(mean: float, dice: random.Random) -> float:
    # Drawn even where it is not used, so that changing one option leaves the others' draws as they were. Capped,
    # so that one extreme draw does not outlast a short run.
    drawn = dice.expovariate(1.0)
    return min(drawn, 5.0) * mean
