"""How numbers are told to readers."""

from __future__ import annotations


def in_words(seconds: float) -> str:
    """A duration for readers: ``0.25 s``, ``12.3 s``, ``7200 s``."""
    return f"{seconds:.3g} s" if seconds < 999.5 else f"{seconds:.0f} s"
