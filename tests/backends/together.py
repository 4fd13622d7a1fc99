"""Several threads at once, none of which is waited for for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable

LONG = 60.0  # seconds: far more than anything takes that is waited for here


def together(count: int, call: Callable[[int], object]) -> None:
    """Call it on so many threads at once. Raises what the first of them has raised."""
    errors: list[BaseException] = []
    start = threading.Barrier(count)

    def run(number: int) -> None:
        try:
            start.wait(LONG)
            call(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert not any(thread.is_alive() for thread in threads)
    if errors:
        raise errors[0]
