"""How numbers and names are told to readers."""

from __future__ import annotations


def in_words(seconds: float) -> str:
    """A duration for readers: ``0.25 s``, ``12.3 s``, ``7200 s``."""
    # To a tenth of a millisecond: shorter ones would be told as 6.5e-05 s.
    return f"{round(seconds, 4):.3g} s" if seconds < 999.5 else f"{seconds:.0f} s"


def printable(text: str) -> str:
    """A name or text from elsewhere, in which everything that would begin a new line or steer a terminal is written
    as an escape."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
