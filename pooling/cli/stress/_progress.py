"""The line that lives while a run is on: on a terminal it is redrawn, elsewhere a plain one is printed now and then."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from pooling.cli.stress._result import Progress

if TYPE_CHECKING:
    from rich.console import Console
    from typing_extensions import Self

EVERY = 5.0  # seconds between two plain lines


class ProgressLine:
    """Entered before the run, left after it; :meth:`show` is called from one thread, about ten times a second."""

    def __init__(self, console: Console) -> None:
        from rich.live import Live  # here, so that the command can say by itself that rich is missing

        self._console = console
        self._next = EVERY
        self._live = None
        if console.is_terminal and not console.is_dumb_terminal:
            # No thread of its own: it would take its share of the run, and show() comes often enough.
            self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, progress: Progress) -> None:
        from rich.text import Text

        line = Text(_line(progress), style="red" if progress.broken else "")
        if self._live is not None:
            line.no_wrap, line.overflow = True, "ellipsis"
            self._live.update(line, refresh=True)
        elif progress.elapsed >= self._next:
            self._next += EVERY
            self._console.print(line, soft_wrap=True)


def _line(progress: Progress) -> str:
    speed = progress.uses / progress.elapsed if progress.elapsed else 0.0
    line = (
        f"{progress.elapsed:.1f} of {progress.duration:g} s: {progress.uses:,} uses, {speed:,.0f} a second, "
        f"{progress.open} open, {progress.waiting} waiting, {progress.errors} errors"
    )
    return line + "".join(f", {each.value} BROKEN" for each in progress.broken)
