"""Numbers as people read them."""

from __future__ import annotations


def span(seconds: float) -> str:
    """A time in two digits or whole units: ``540 µs``, ``35 ms``, ``4.2 s``, ``12 s``, ``3 min 20 s``."""
    if seconds < 0.0009995:
        return "0 ms" if seconds < 0.0000005 else f"{seconds * 1e6:.0f} µs"
    if seconds < 0.00995:
        return f"{seconds * 1000:.1f} ms".replace(".0", "")
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s".replace(".0", "")
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return _two(whole, 60, "min", "s")
    return _two(whole // 60, 60, "h", "min")


def _two(whole: int, unit: int, large: str, small: str) -> str:
    rest = whole % unit
    return f"{whole // unit} {large}" + (f" {rest} {small}" if rest else "")


def count(number: int, one: str, many: str | None = None) -> str:
    """``1 timeout``, ``2 timeouts``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def place(where: str) -> str:
    """A call site without the folders that everybody knows: ``file:line function`` with one folder in front."""
    return "/".join(where.replace("\\", "/").split("/")[-2:])
