"""Writing to the log. What a line reaches is a user's code: a handler may raise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def write(log: Callable[..., object], text: str, *args: object, **options: Any) -> None:
    """Have a line written. A handler that raises harms no acquire and no upkeep."""
    try:
        log(text, *args, **options)
    except Exception:
        pass  # there is nobody to tell: what would be told with is what has failed
