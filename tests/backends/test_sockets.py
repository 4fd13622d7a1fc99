"""Looks at sockets: what an idle connection may show, and what its end looks like."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import trustme

from pooling.backends import _sockets
from tests.core.helpers import run_python

Look = Callable[[socket.socket], bool]


def look_of_http(connection: socket.socket) -> bool:
    from pooling.backends.http._connection import SecureConnection, is_open

    held = SecureConnection("server")
    held.sock = connection
    return is_open(held)


@pytest.fixture(params=[_sockets.looks_open, look_of_http])
def look(request: pytest.FixtureRequest) -> Look:
    found: Look = request.param
    return found


@pytest.fixture
def plain() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def tls(plain: tuple[socket.socket, socket.socket]) -> Iterator[tuple[ssl.SSLSocket, ssl.SSLSocket]]:
    """A client that has not read since the handshake, and its server."""
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.issue_cert("server").configure_cert(server)
    authority.configure_trust(client)
    accepted: list[ssl.SSLSocket] = []
    thread = threading.Thread(target=lambda: accepted.append(server.wrap_socket(plain[1], server_side=True)))
    thread.start()
    ours = client.wrap_socket(plain[0], server_hostname="server")
    thread.join()
    with ours, accepted[0] as theirs:
        yield ours, theirs


def test_silence_is_no_end(look: Look, plain: tuple[socket.socket, socket.socket]) -> None:
    assert look(plain[0])


def test_data_that_nobody_asked_for_is_an_end(look: Look, plain: tuple[socket.socket, socket.socket]) -> None:
    plain[1].send(b"goodbye")
    assert not look(plain[0])


@pytest.mark.parametrize("side", [0, 1])
def test_a_closed_socket_is_an_end(look: Look, plain: tuple[socket.socket, socket.socket], side: int) -> None:
    plain[side].close()
    assert not look(plain[0])


def test_session_tickets_are_taken_in(look: Look, tls: tuple[ssl.SSLSocket, ssl.SSLSocket]) -> None:
    ours, theirs = tls
    ours.settimeout(7.0)
    time.sleep(0.02)
    assert ours.version() == "TLSv1.3"
    assert _sockets.readable(ours.fileno())
    assert look(ours)
    assert not _sockets.readable(ours.fileno())
    assert ours.gettimeout() == 7.0
    theirs.send(b"hello")
    assert ours.recv(5) == b"hello"


@pytest.mark.parametrize("end", ["data", "notice", "cut"])
def test_an_end_is_seen_through_tls(look: Look, tls: tuple[ssl.SSLSocket, ssl.SSLSocket], end: str) -> None:
    ours, theirs = tls
    assert look(ours)
    if end == "data":
        theirs.send(b"goodbye")
    elif end == "cut":
        socket.socket.shutdown(theirs, socket.SHUT_RDWR)
    else:
        theirs.settimeout(0.01)
        with contextlib.suppress(TimeoutError):
            theirs.unwrap()  # which would wait for our own notice
    assert not look(ours)
    assert not look(ours)


def test_what_was_decrypted_and_not_read_is_an_end(look: Look, tls: tuple[ssl.SSLSocket, ssl.SSLSocket]) -> None:
    ours, theirs = tls
    theirs.send(b"an answer and another one")  # one record, which is decrypted as a whole
    assert ours.recv(9) == b"an answer"
    assert not _sockets.readable(ours.fileno())
    assert not look(ours)


def test_to_shut_down_what_is_no_socket_does_nothing_and_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver may talk to its server over a pipe."""
    reading, writing = os.pipe()
    twins: list[int] = []
    duplicate, close = os.dup, os.close

    def dup(fd: int) -> int:
        twins.append(duplicate(fd))
        return twins[-1]

    def close_twin(fd: int) -> None:
        close(fd)
        twins.remove(fd)

    with monkeypatch.context() as watched, open(reading, "rb") as end, open(writing, "wb") as other_end:
        watched.setattr(os, "dup", dup)
        watched.setattr(os, "close", close_twin)
        _sockets.shut_down(reading)
        assert twins == []
        other_end.write(b"x")
        other_end.flush()
        assert end.read(1) == b"x"


NO_DESCRIPTOR_LEFT = """
    import os, resource, socket
    from pooling._runtime.fork import keep_inherited, once_back
    from pooling.backends import _sockets

    reading, writing = os.pipe()
    ours, theirs = socket.socketpair()
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    try:
        while True:
            os.dup(reading)
    except OSError:
        pass
"""


def test_where_no_descriptor_is_left_who_is_blocked_on_a_socket_is_interrupted_all_the_same() -> None:
    """A lease's discard(), and the pool itself, left the driver's call where it was."""
    run_python(
        NO_DESCRIPTOR_LEFT
        + """
    _sockets.shut_down(ours.fileno())
    assert theirs.recv(1) == b""
    ours.getsockname()  # it is not closed
    _sockets.shut_down(reading)  # what is no socket
    os.write(writing, b"x")
    assert os.read(reading, 1) == b"x"
    ours.close()
    theirs.close()
    """
    )


def test_where_no_descriptor_is_left_a_child_lets_go_of_what_it_has_inherited() -> None:
    """Each of its parent's connections was an error in the log instead, and led to the server for as long as the child
    lived."""
    run_python(
        NO_DESCRIPTOR_LEFT
        + """
    number = ours.fileno()
    assert _sockets.let_go(number)
    assert os.stat(os.devnull).st_rdev == os.fstat(number).st_rdev and not os.get_inheritable(number)
    assert theirs.recv(1) == b""
    keep_inherited(reading)
    assert not once_back(print)
    ours.close()
    theirs.close()
    """
    )


def test_where_nothing_can_be_opened_an_inherited_number_is_not_given_up(
    plain: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else might get it, and the driver close that."""
    monkeypatch.setattr(os, "devnull", "/there/is/no/such/file")

    def refuse() -> None:
        raise PermissionError

    monkeypatch.setattr(os, "pipe", refuse)
    with pytest.raises(PermissionError):
        _sockets.let_go(plain[0].fileno())
    assert _sockets.looks_open(plain[0])


def test_what_is_closed_already_cannot_be_shut_down(plain: tuple[socket.socket, socket.socket]) -> None:
    number = plain[0].fileno()
    plain[0].close()
    _sockets.shut_down(number)


def test_what_looking_a_name_up_imports_is_there_before_anybody_forks() -> None:
    """A child that was forked while its parent's first connect was under way hung in its own, and in every other."""
    run_python(
        """
        import sys
        import pooling.backends.dbapi
        assert "encodings.idna" in sys.modules
        """
    )


@pytest.mark.parametrize("device", [os.devnull, "/nowhere/null"])
def test_a_descriptor_leads_nowhere_also_where_there_is_no_null_device(
    monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    """A child may have changed its root before it comes to the pool."""
    monkeypatch.setattr(os, "devnull", device)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert _sockets.let_go(ours.fileno())
        assert os.read(ours.fileno(), 1) == b""
        assert theirs.recv(1) == b""  # nobody else has it
        assert not os.get_inheritable(ours.fileno())
