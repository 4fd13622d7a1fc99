"""Chance, for pauses and lifetimes that are not to fall together."""

from __future__ import annotations

import random

chance = random.SystemRandom().random
"""A number from 0 to 1, from the system. Not from the generator that programs seed: what they draw would depend on when
a connection was opened. Nor from one of the pools' own: forked workers would have the same numbers."""
