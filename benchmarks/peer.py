"""The one shape of everything that is measured."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from benchmarks.stubs import Server


class Peer(ABC):
    """One pool of ``size`` stub connections. Its adapter can be imported where its package is missing."""

    name: ClassVar[str]
    module: ClassVar[str] = ""
    """What has to be importable."""
    package: ClassVar[str] = ""
    """What has to be installed for that."""
    contends: ClassVar[bool] = True
    """Whether it takes part where callers wait."""
    bounded: ClassVar[bool] = True
    """Whether a wait can be given a limit."""

    @abstractmethod
    def __init__(self, server: Server, size: int, timeout: float = 60.0) -> None: ...

    @abstractmethod
    def acquire(self) -> Any:
        """A connection, or what stands for it; raises after ``timeout`` seconds where that is possible."""

    @abstractmethod
    def release(self, held: Any) -> None:
        """Give back what acquire() returned."""

    @abstractmethod
    def spin(self, cycles: int) -> None:
        """So many cycles as users write them. Each adapter has a loop of its own, because a shared one would add the
        same two calls to everybody and so flatter the slow."""

    def catch_up(self) -> None:  # noqa: B027  # most do all their work at once
        """Do what the cycles so far have left to be done later: it is a part of their price."""

    def cycles_in(self, seconds: float, clock: Callable[[], float]) -> int:
        """How many cycles take about so many seconds of that clock."""
        self.spin(200)  # the interpreter specialises its bytecode during the first of them
        began = clock()
        self.spin(200)
        return max(200, int(seconds / (clock() - began) * 200))

    def close(self) -> None:  # noqa: B027  # the simplest of them hold nothing
        """Let go of everything."""

    def warm(self, count: int) -> None:
        """Have ``count`` connections open and idle."""
        held = [self.acquire() for _ in range(count)]
        for one in held:
            self.release(one)
