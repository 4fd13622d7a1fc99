"""What a socket shows without a byte being sent, and the ways to end one or let go of it, on every system."""

from __future__ import annotations

import codecs
import errno
import os
import select
import socket
from typing import Any

from pooling._runtime.fork import keep_inherited

# Python imports this when the first name is looked up. A process that is forked in that moment has a child in which no
# name ever is: the lock of the module belongs to a thread that the child does not have.
codecs.lookup("idna")


def readable(fd: int) -> bool:
    """Whether something can be read now. Never blocks."""
    return wait_readable(fd, 0)


def wait_readable(fd: int, seconds: float) -> bool:
    """Wait until something can be read: data, the end, or an error. False where nothing came in time. Raises OSError or
    ValueError for a descriptor that is closed."""
    seconds = max(0.0, seconds)
    if not hasattr(select, "poll"):  # Windows
        return bool(select.select([fd], [], [], seconds)[0])
    poll = select.poll()  # looked up now: gevent replaces what the module holds
    poll.register(fd, select.POLLIN)
    events = poll.poll(seconds * 1000)
    if events and events[0][1] & select.POLLNVAL:
        raise OSError(f"descriptor {fd} is closed")
    return bool(events)


def shut_down(fd: int) -> None:
    """End both directions, so that whoever is blocked on the socket fails; the descriptor stays valid."""
    try:
        try:
            twin = os.dup(fd)
        except OSError as error:
            if error.errno not in _NONE_LEFT:
                raise
            _shut_down_itself(fd)
            return
        try:
            copy = socket.socket(fileno=twin)
        except OSError:
            os.close(twin)  # what is no socket leaves it open
            raise
        with copy:
            copy.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it is closed already, or a pipe


_NONE_LEFT = (errno.EMFILE, errno.ENFILE)  # no descriptor


def _shut_down_itself(fd: int) -> None:
    """Without a twin, which whatever strikes here may close."""
    borrowed = socket.socket(fileno=fd)
    try:
        borrowed.shutdown(socket.SHUT_RDWR)
    finally:
        borrowed.detach()


def let_go(fd: int) -> bool:
    """In a forked child: point the descriptor at nothing. The parent's socket is not touched, and the number
    stays taken, so that a late destructor of the driver cannot hit somebody else's descriptor.

    False, and nothing is done, where it is not what was inherited any more: who becomes a daemon closes every
    descriptor, and the number may be a log's or a listener's by now. The driver must not close it then.
    """
    if fd in _inherited and _target(fd) != _inherited[fd]:
        return False
    try:
        nothing = _nothing()
    except OSError as error:
        if error.errno not in _NONE_LEFT:
            raise
        os.close(fd)
        nothing = os.open(os.devnull, os.O_RDWR)  # there is this one number for it
    if nothing != fd:
        try:
            os.dup2(nothing, fd, inheritable=False)
        finally:
            os.close(nothing)
    return True


def _nothing() -> int:
    """A descriptor that leads nowhere: in a child with another root, where there is no null device, to a pipe that has
    ended."""
    try:
        return os.open(os.devnull, os.O_RDWR)
    except OSError as error:
        if error.errno in _NONE_LEFT:
            raise
        nothing, other_end = os.pipe()
        os.close(other_end)
        return nothing


def disown(connection: Any) -> None:
    """Where :func:`let_go` was False: take the number away from the socket, so that nobody who has that closes it, be
    it a client or a response that dies. What is no socket itself, as TLS within TLS, is kept for ever."""
    try:
        connection.detach()
    except AttributeError:
        keep_inherited(connection)


_inherited: dict[int, tuple[int, int] | None] = {}
"""What the descriptors led to when this process was forked; empty where no hook of Python's ran, or nobody can list
them."""


def _target(fd: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _look_at_inherited() -> None:
    _inherited.clear()
    try:
        numbers = os.listdir("/dev/fd")  # takes 0.2 ms for a hundred
    except OSError:
        return
    _inherited.update((int(number), _target(int(number))) for number in numbers)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_look_at_inherited)


def looks_open(connection: socket.socket) -> bool:
    """Whether the socket of an idle connection, plain or TLS, shows no sign of its end: nobody has sent anything
    unasked, except messages of TLS itself, which are taken in. Never blocks."""
    tls = hasattr(connection, "pending")
    try:
        if readable(connection.fileno()):
            return tls and _wants_more(connection)
        return not (tls and connection.pending())  # type: ignore[attr-defined]  # a TLS socket's
    except (OSError, ValueError):  # closed
        return False


def _wants_more(connection: socket.socket) -> bool:
    """Whether what has come is nothing for the user of a TLS connection."""
    import ssl

    timeout = connection.gettimeout()
    connection.settimeout(0)
    try:
        connection.recv(1)
    except ssl.SSLWantReadError:
        return True
    finally:
        connection.settimeout(timeout)
    socket.socket.shutdown(connection, socket.SHUT_RDWR)  # what was read cannot be read again: the end has to stay
    return False


def keep_alive(delay: float) -> list[tuple[int, int, int]]:
    """The options of a TCP socket that have the kernel probe the other side after ``delay`` seconds of silence; 0:
    never."""
    on = (socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(delay > 0))
    names = [name for name in ("TCP_KEEPIDLE", "TCP_KEEPALIVE") if delay and hasattr(socket, name)]  # the latter: macOS
    return [on, *((socket.IPPROTO_TCP, getattr(socket, name), max(1, round(delay))) for name in names)]
