"""A connect that ends in time, whatever hangs: urllib3's timeout is for each address by itself, and not for names."""

from __future__ import annotations

import threading  # never "from threading import": gevent replaces what the module holds
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

from urllib3.exceptions import ConnectTimeoutError

from pooling._runtime.lock import new_lock
from pooling._runtime.offer import offer
from pooling._runtime.threads import THREADS

GRACE = 0.1  # seconds by which the driver's own timeout, which has the better message, goes first
# Seconds more for certificates to be loaded, once there is a socket: 60 ms of work, which the driver's timeout does not
# count, and for which a busy machine was seen to take 300.
WORK = 0.4


def connect_in_time(connection: Any, connect: Callable[[], object], seconds: float) -> None:
    """Have a worker call ``connect()``, and wait for it.

    Raises what it raised; ConnectTimeoutError, or TimeoutError where it hangs in the handshake, as urllib3's
    connect would by itself. Whoever comes too late is closed by the worker.
    """
    attempt = _Attempt(connection, connect)
    try:
        offer(THREADS.submit, attempt.run, attempt.run)
        in_time = attempt.ends(seconds + GRACE) or (connection.sock is not None and attempt.ends(WORK))
    except BaseException:
        attempt.give_up()
        raise
    if not in_time and attempt.give_up():
        if connection.sock is not None:
            raise TimeoutError("The handshake operation timed out")
        raise ConnectTimeoutError(
            connection, f"Connection to {connection.host} timed out. (connect timeout={seconds:g})"
        )
    if attempt.error is not None:
        try:
            raise attempt.error
        finally:
            attempt.error = None  # it holds this frame


class _Attempt:
    def __init__(self, connection: Any, connect: Callable[[], object]) -> None:
        # Not an event: an interrupt that strikes that on the way in or out is replaced by a RuntimeError. See bell.py.
        self._gate = threading.Lock()
        self._gate.acquire()
        self.error: BaseException | None = None
        self._connection, self._connect = connection, connect
        self._context = copy_context()  # what instruments a request looks there for it
        self._lock = new_lock()
        self._ended = self._forsaken = False

    def run(self) -> None:
        try:
            self._context.run(self._connect)
        except BaseException as error:
            self.error = error
        with self._lock:
            self._ended = True
        if self._forsaken:
            self._connection.close()
        self._gate.release()

    def ends(self, seconds: float) -> bool:
        """Whether it ends within that time. Not asked again once it has."""
        return self._gate.acquire(True, seconds)

    def give_up(self) -> bool:
        """Nobody waits any longer. False where it has ended in the last moment."""
        with self._lock:
            self._forsaken = not self._ended
        return self._forsaken
