"""Chance, for pauses and lifetimes that are not to fall together."""

from __future__ import annotations

import random

# Not the generator that programs seed: what they draw would depend on when a connection is opened. Nor one that is the
# pools' own: forked workers would have the same numbers.
_source = random.SystemRandom()


def chance() -> float:
    """A number from 0 to 1."""
    return _source.random()
