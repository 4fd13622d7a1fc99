"""A TCP proxy that can be told to misbehave.

    with Proxy(server.address) as proxy:
        connect(proxy.host, proxy.port)
        proxy.delay = 0.2               # seconds by which every byte is late, in each direction
        proxy.mute = True               # a black hole: bytes vanish, connections stay
        proxy.cut_after(from_server=10) # hang up on a connection once the server has sent it 10 bytes more
        proxy.mute_after(from_server=1) # on new connections: the first byte of the server is its last
        proxy.reset_all()               # RST on every connection; proxy.links()[0].reset() for one
        proxy.on_accept = "reset"       # what new connections meet: "forward", "mute" or "reset"
        proxy.refuse()                  # nobody listens any more; proxy.accept() listens again
        proxy.retarget(other.address)   # for new connections
        proxy.arrivals, proxy.peak      # when connections came, and how many were open at once

One thread serves all connections. Other threads change a fault or end a connection under the lock, at once:
epoll, unlike a blocking recv, keeps no reference to a socket, so that close is what sends the RST.
"""

from __future__ import annotations

import collections
import select
import socket
import struct
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11

OnAccept = Literal["forward", "mute", "reset"]

_CHUNK = 65536
_BUFFER = 4 * _CHUNK
_LINGER_NOT = struct.pack("ii", 1, 0)  # close sends RST
_READ = select.EPOLLIN
_WRITE = select.EPOLLOUT
_GONE = select.EPOLLHUP | select.EPOLLERR


class _Flow:
    """One direction of a connection."""

    def __init__(self, source: socket.socket, target: socket.socket | None, budget: int | None) -> None:
        self.source, self.target, self.budget = source, target, budget
        self.pending: collections.deque[tuple[float, bytes]] = collections.deque()
        self.size = 0
        self.silent_after: int | None = None  # bytes after which the rest vanishes
        self.ended = False  # the source will send no more
        self.passed_on = False  # and the target has been told

    def push(self, data: bytes, due: float) -> None:
        self.pending.append((due, data))
        self.size += len(data)

    def send(self, now: float) -> None:
        """Forward what is due, as far as the target takes it."""
        while self.target is not None and self.pending and self.pending[0][0] <= now:
            due, data = self.pending.popleft()
            try:
                sent = self.target.send(data)
            except BlockingIOError:
                sent = 0
            self.size -= sent
            if sent < len(data):
                self.pending.appendleft((due, data[sent:]))
                return


class Link:
    """One connection through the proxy."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket | None) -> None:
        self._proxy = proxy
        self.client, self.server = client, server
        self.mute = server is None
        from_client, from_server = proxy.budgets
        self.flows = [_Flow(client, server, from_client)]
        if server is not None:
            self.flows.append(_Flow(server, client, from_server))

    def reset(self) -> None:
        """RST to both ends."""
        self._proxy._end(self, reset=True)

    def cut(self) -> None:
        """Hang up on both ends."""
        self._proxy._end(self, reset=False)

    def sockets(self) -> list[socket.socket]:
        return [self.client] if self.server is None else [self.client, self.server]


class Proxy:
    def __init__(self, upstream: tuple[str, int]) -> None:
        self.upstream = upstream
        self.delay = 0.0
        self.mute = False
        self.on_accept: OnAccept = "forward"
        self.budgets: tuple[int | None, int | None] = (None, None)
        self.bytes_from_client = 0
        self.bytes_from_server = 0
        self.arrivals: list[float] = []
        self.peak = 0
        self._silent_after: int | None = None
        self._lock = threading.RLock()
        self._links: dict[int, Link] = {}
        self._masks: dict[int, int | None] = {}  # what epoll looks for; None: it looks no more
        self._closing = False
        self._epoll = select.epoll()
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._epoll.register(self._wake_in.fileno(), _READ)
        self._listener: socket.socket | None = None
        self.host, self.port = "127.0.0.1", 0
        self.accept()
        self._thread = threading.Thread(target=self._run, name=f"proxy-{self.port}", daemon=True)
        self._thread.start()

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    @property
    def accepted(self) -> int:
        """Connections that have come so far, whatever they met."""
        return len(self.arrivals)

    @property
    def open(self) -> int:
        return len(self.links())

    def links(self) -> list[Link]:
        """The open connections, oldest first."""
        with self._lock:
            return list(dict.fromkeys(self._links.values()))

    def cut_after(self, *, from_client: int | None = None, from_server: int | None = None) -> None:
        """Hang up on each connection, present or new, after so many bytes more. Without numbers: never."""
        with self._lock:
            self.budgets = (from_client, from_server)
            for link in self.links():
                for flow, budget in zip(link.flows, self.budgets, strict=False):
                    flow.budget = budget

    def mute_after(self, *, from_server: int | None) -> None:
        """On new connections what the server sends vanishes after so many bytes. None: never."""
        self._silent_after = from_server

    def reset_all(self) -> None:
        for link in self.links():
            link.reset()

    def cut_all(self) -> None:
        for link in self.links():
            link.cut()

    def retarget(self, upstream: tuple[str, int]) -> None:
        self.upstream = upstream

    def refuse(self) -> None:
        """Listen no more: connecting is refused. Open connections stay."""
        with self._lock:
            if self._listener is not None:
                self._epoll.unregister(self._listener.fileno())
                self._listener.close()
                self._listener = None

    def accept(self) -> None:
        """Listen again, on the same port."""
        with self._lock:
            if self._listener is None:
                self._listener = socket.create_server((self.host, self.port), backlog=512)
                self._listener.setblocking(False)
                self.port = self._listener.getsockname()[1]
                self._epoll.register(self._listener.fileno(), _READ)

    def wait_for_open(self, count: int, timeout: float = 5.0) -> None:
        deadline = time.monotonic() + timeout
        while self.open != count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the proxy has {self.open} connections, not {count}, after {timeout} s")
            time.sleep(0.005)

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        self._wake()
        self._thread.join()
        self.refuse()
        self.cut_all()
        self._epoll.close()
        self._wake_in.close()
        self._wake_out.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wake(self) -> None:
        self._wake_out.send(b"x")

    def _run(self) -> None:
        while not self._closing:
            events = self._epoll.poll(self._next_due())
            with self._lock:
                for number, event in events:
                    self._handle(number, event)
                for link in self.links():
                    self._advance(link)

    def _next_due(self) -> float | None:
        with self._lock:
            late = [flow.pending[0][0] for link in self.links() for flow in link.flows if flow.pending]
            ended = any(flow.ended and not flow.passed_on for link in self.links() for flow in link.flows)
        now = time.monotonic()
        # Data that is due waits for its target to be writable, which epoll will say. An end that is
        # held back waits for a fault to be lifted, which nothing says.
        due = [max(when - now, 0.001) for when in late if when > now] + [0.02] * ended
        return min(due, default=None)

    def _handle(self, number: int, event: int) -> None:
        if number == self._wake_in.fileno():
            self._wake_in.recv(_CHUNK)
        elif self._listener is not None and number == self._listener.fileno():
            self._welcome()
        elif number in self._links:
            link = self._links[number]
            flow = next(flow for flow in link.flows if flow.source.fileno() == number)
            try:
                if event & (_READ | _GONE):
                    self._receive(link, flow, event)
            except BlockingIOError:
                pass
            except OSError:
                link.reset()

    def _welcome(self) -> None:
        assert self._listener is not None
        try:
            client, _ = self._listener.accept()
        except OSError:
            return  # it left before we came
        self.arrivals.append(time.monotonic())
        if self.on_accept == "reset":
            _close(client, reset=True)
            return
        server = None
        if self.on_accept == "forward":
            server = socket.socket()
            server.setblocking(False)
            server.connect_ex(self.upstream)  # whether it worked, the first event on it says
        link = Link(self, client, server)
        for one in link.sockets():
            one.setblocking(False)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._links[one.fileno()] = link
            self._masks[one.fileno()] = 0
            self._epoll.register(one.fileno(), 0)
        if link.server is not None:
            link.flows[1].silent_after = self._silent_after
        self.peak = max(self.peak, self.open)

    def _receive(self, link: Link, flow: _Flow, event: int) -> None:
        if flow.ended:
            if event & select.EPOLLERR:
                link.reset()
            elif event & select.EPOLLHUP:
                # Over in both directions, which epoll would go on saying while what it sent last is
                # still on its way to the other end.
                self._ignore(flow.source)
            return
        data = flow.source.recv(_CHUNK)
        if not data:
            flow.ended = True
            return
        if flow.source is link.client:
            self.bytes_from_client += len(data)
        else:
            self.bytes_from_server += len(data)
        if flow.budget is not None:
            data = data[: flow.budget]
            flow.budget -= len(data)
        if flow.silent_after is not None:
            data = data[: flow.silent_after]
            flow.silent_after -= len(data)
        if not (self.mute or link.mute):
            flow.push(data, time.monotonic() + self.delay)

    def _advance(self, link: Link) -> None:
        """Send what is due, pass an end on, end what is over, and say what epoll should look for."""
        if link.client.fileno() < 0:
            return
        now = time.monotonic()
        try:
            for flow in link.flows:
                flow.send(now)
                silent = self.mute or link.mute
                if flow.ended and not (flow.passed_on or flow.pending or silent):
                    flow.passed_on = True
                    if flow.target is not None:
                        flow.target.shutdown(socket.SHUT_WR)
        except OSError:
            link.reset()
            return
        forsaken = link.server is None and link.flows[0].ended
        spent = any(flow.budget == 0 and not flow.pending for flow in link.flows)
        if forsaken or spent or all(flow.passed_on for flow in link.flows):
            link.cut()
            return
        self._arm(link, now)

    def _arm(self, link: Link, now: float) -> None:
        for one in link.sockets():
            mask = 0
            for flow in link.flows:
                if flow.source is one and not flow.ended and flow.size < _BUFFER:
                    mask |= _READ
                if flow.target is one and flow.pending and flow.pending[0][0] <= now:
                    mask |= _WRITE
            known = self._masks[one.fileno()]
            if known is not None and mask != known:
                self._masks[one.fileno()] = mask
                self._epoll.modify(one.fileno(), mask)

    def _ignore(self, one: socket.socket) -> None:
        if self._masks[one.fileno()] is not None:
            self._masks[one.fileno()] = None
            self._epoll.unregister(one.fileno())

    def _end(self, link: Link, *, reset: bool) -> None:
        with self._lock:
            for one in link.sockets():
                if one.fileno() >= 0:
                    self._ignore(one)
                    del self._links[one.fileno()], self._masks[one.fileno()]
                    _close(one, reset=reset)


def _close(one: socket.socket, *, reset: bool) -> None:
    if reset:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
    else:
        try:
            one.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # not connected any more
    one.close()
