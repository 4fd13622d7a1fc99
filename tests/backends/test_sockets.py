"""Looks at sockets: what an idle connection may show, and what its end looks like."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator

import pytest
import trustme

from pooling.backends import _sockets


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


def test_silence_is_no_end(plain: tuple[socket.socket, socket.socket]) -> None:
    assert _sockets.looks_open(plain[0])


def test_data_that_nobody_asked_for_is_an_end(plain: tuple[socket.socket, socket.socket]) -> None:
    plain[1].send(b"goodbye")
    assert not _sockets.looks_open(plain[0])


@pytest.mark.parametrize("side", [0, 1])
def test_a_closed_socket_is_an_end(plain: tuple[socket.socket, socket.socket], side: int) -> None:
    plain[side].close()
    assert not _sockets.looks_open(plain[0])


def test_session_tickets_are_taken_in(tls: tuple[ssl.SSLSocket, ssl.SSLSocket]) -> None:
    ours, theirs = tls
    ours.settimeout(7.0)
    time.sleep(0.02)
    assert ours.version() == "TLSv1.3"
    assert _sockets.readable(ours.fileno())
    assert _sockets.looks_open(ours)
    assert not _sockets.readable(ours.fileno())
    assert ours.gettimeout() == 7.0
    theirs.send(b"hello")
    assert ours.recv(5) == b"hello"


@pytest.mark.parametrize("end", ["data", "notice", "cut"])
def test_an_end_is_seen_through_tls(tls: tuple[ssl.SSLSocket, ssl.SSLSocket], end: str) -> None:
    ours, theirs = tls
    assert _sockets.looks_open(ours)
    if end == "data":
        theirs.send(b"goodbye")
    elif end == "cut":
        socket.socket.shutdown(theirs, socket.SHUT_RDWR)
    else:
        theirs.settimeout(0.01)
        with contextlib.suppress(TimeoutError):
            theirs.unwrap()  # which would wait for our own notice
    assert not _sockets.looks_open(ours)
    assert not _sockets.looks_open(ours)
