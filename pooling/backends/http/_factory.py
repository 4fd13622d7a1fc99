"""The factory of connections to one origin, and the pool of raw connections."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable
from http.client import CannotSendRequest, HTTPException, ResponseNotReady
from typing import TYPE_CHECKING, Any

import urllib3.connectionpool
from urllib3.connection import HTTPConnection
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    LocationValueError,
    NewConnectionError,
    ProtocolError,
    SSLError,
)
from urllib3.util import Timeout, parse_url
from urllib3.util.ssl_match_hostname import CertificateError

from pooling._clock import monotonic
from pooling._secrets import attributes, found
from pooling.backends import ConnectArgs, _sockets, asked, check_connect_args, check_text
from pooling.backends.http._connection import Connection, SecureConnection, is_fit, is_idle, is_open
from pooling.errors import PoolError
from pooling.factory import Factory, ResetMode
from pooling.pool import Pool

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pooling.config import Options

DRAINED = 65536  # bytes of a forgotten response that are read to save its connection
DRAIN_TIME = 1.0  # seconds that this may take
_KINDS = {"http": Connection, "https": SecureConnection}
_MISTAKES = (CannotSendRequest, ResponseNotReady)  # of the user: the connection has not seen them


class HttpFactory(Factory[Any]):
    """Connected ``urllib3.connection.HTTPConnection`` or ``HTTPSConnection`` objects to one origin.

    ``connect_args`` is what :class:`urllib3.HTTPConnectionPool` or :class:`urllib3.HTTPSConnectionPool` take:
    ``timeout`` for requests, ``socket_options``, ``source_address``, ``ca_certs``, ``cert_file``, ``ssl_context`` …
    Certificates are checked as urllib3 does.

    Raises ValueError for a URL that is none of an origin.
    """

    def __init__(self, url: str, connect_args: ConnectArgs = None) -> None:
        check_text(url)
        check_connect_args(connect_args)
        self.origin = _origin(url)
        self._connect_args = connect_args

    def connect(self, timeout: float) -> Any:
        maker = urllib3.connectionpool.connection_from_url(self.origin, **asked(self._connect_args, self))
        maker.ConnectionCls = _KINDS[self.origin.partition(":")[0]]
        connection: Any = maker._new_conn()
        wanted = maker.timeout.connect_timeout
        connection.timeout = timeout if not isinstance(wanted, (int, float)) else min(wanted, timeout)
        try:
            connection.connect()
        except BaseException:
            connection.close()
            raise
        connection.timeout = Timeout.resolve_default_timeout(maker.timeout.read_timeout)
        return connection

    def close(self, connection: Any) -> None:
        if not is_idle(connection):
            self.interrupt(connection)  # a thread may still be reading, and keep the socket open
        connection.auto_open = 0  # else it would connect anew, beside the pool, for who still has it
        connection.close()

    def reset(self, connection: Any, mode: ResetMode) -> None:
        timeout = connection.timeout
        _drain(connection)
        connection.timeout = timeout
        if mode == "session":
            connection.timeout, connection.auto_open, connection.debuglevel = connection.defaults

    def is_alive(self, connection: Any) -> bool:
        return is_fit(connection)

    def is_clean(self, connection: Any) -> bool:
        return connection.sock is not None and is_idle(connection)

    def remember(self, connection: Any) -> None:
        connection.defaults = (connection.timeout, connection.auto_open, connection.debuglevel)

    def interrupt(self, connection: Any) -> None:
        descriptor = _descriptor(connection)
        if descriptor >= 0:
            _sockets.shut_down(descriptor)

    def abandon(self, connection: Any) -> None:
        descriptor = _descriptor(connection)
        if descriptor < 0:
            return
        if _sockets.let_go(descriptor):
            connection.close()
        else:
            _sockets.disown(connection.sock)

    def abandon_in_use(self, connection: Any) -> None:
        super().abandon(connection)
        descriptor = _descriptor(connection)
        if descriptor >= 0 and not _sockets.let_go(descriptor):
            _sockets.disown(connection.sock)

    def begin(self, connection: Any) -> None:
        raise PoolError("HTTP has no transactions: use acquire()")

    def is_broken(self, error: BaseException) -> bool:
        if isinstance(error, (*_MISTAKES, TimeoutError)) or never_sent(error):
            return False
        return isinstance(error, (OSError, HTTPException, ProtocolError, SSLError))

    def is_permanent(self, error: BaseException) -> bool:
        if isinstance(error, (LocationValueError, TypeError, ValueError)) and not isinstance(error, ssl.SSLError):
            return True  # the arguments
        return isinstance(error, (ssl.SSLCertVerificationError, CertificateError)) or (
            isinstance(error, SSLError) and "certificate" in str(error).lower()
        )

    def is_retryable(self, error: BaseException) -> bool:
        return never_sent(error)

    def __repr__(self) -> str:
        return f"HttpFactory({self.origin!r})"


class ShellFactory(HttpFactory):
    """The factory under urllib3's own pools: ``make`` is their ``_new_conn``, ``prepare`` what connects.

    urllib3 connects when it sends, so what a request needs is a *shell*: a connection object that need not be
    connected. While anybody is in :attr:`requests`, shells are made. It may happen that somebody who wants a
    connection gets such a shell: it connects by itself with the first request.
    """

    def __init__(
        self, url: str, make: Callable[[], Any], prepare: Callable[[Any, float], None], owner: Callable[[], Any]
    ) -> None:
        super().__init__(url)
        self._owner = owner  # a weak reference to urllib3's pool
        # One for each that waits: add and discard are atomic. Not a count: an exception can strike on either side of
        # its going up, and who takes it down again would not know whose it was.
        self.requests: set[object] = set()
        self._make, self._prepare = make, prepare

    def connect(self, timeout: float) -> Any:
        connection = self._make()
        if not self.requests:
            try:
                self._prepare(connection, timeout)
            except BaseException:
                connection.close()
                raise
        return connection

    def reset(self, connection: Any, mode: ResetMode) -> None:
        """Nothing: what is not clean, the next request closes."""

    def is_alive(self, connection: Any) -> bool:
        if connection.sock is not None and not is_open(connection):
            connection.close()  # and it is a shell again
        return True

    def is_clean(self, connection: Any) -> bool:
        return True

    def remember(self, connection: Any) -> None:
        """Nothing."""

    def secrets(self) -> Iterable[str]:
        return found(attributes(self._owner()))


def create(url: str, connect_args: ConnectArgs = None, **options: Unpack[Options]) -> Pool[HTTPConnection]:
    """A pool of raw connections to the origin of ``http://host:port`` or ``https://host:port``.

    A server may hang up on an idle connection at any time, so each one is looked at before it goes out:
    ``check_after`` is 0 here unless it is given.
    """
    factory = HttpFactory(url, connect_args)
    options.setdefault("name", factory.origin)
    options.setdefault("check_after", 0.0)
    return Pool(factory, **options)


def never_sent(error: BaseException) -> bool:
    """Whether a request cannot have reached the server: there was no connection to send it on."""
    return isinstance(error, (ConnectTimeoutError, NewConnectionError))


def _origin(url: str) -> str:
    try:
        parts = parse_url(url)
    except HTTPError:
        parts = parse_url("")
    scheme = (parts.scheme or "").partition("+")[0]
    if scheme not in _KINDS or not parts.host or parts.auth or parts.path not in (None, "/") or parts.query:
        raise ValueError("an HTTP pool's URL is an origin: http://host:port or https://host:port, and no more")
    return f"{scheme}://{parts.host}:{parts.port or (443 if scheme == 'https' else 80)}"


def _descriptor(connection: Any) -> int:
    try:
        return int(connection.sock.fileno())
    except (AttributeError, OSError, ValueError):
        return -1  # not connected


def _drain(connection: Any) -> None:
    """Read a response that nobody has read, if it is small and there."""
    if connection.sock is None:
        raise PoolError("the connection was closed by its user, or by the server after its last response")
    if is_idle(connection):
        return
    _refuse_spoilt(connection)
    until = monotonic() + DRAIN_TIME
    connection.timeout = DRAIN_TIME
    response, asked = connection._HTTPConnection__response, None
    if response is None:
        options = connection._response_options
        if options is not None:  # which has urllib3 read all of it, however much there is
            connection._response_options = options._replace(preload_content=False)
        # Raises where no request was sent to its end. Kept: its destructor would close what is not read yet.
        asked = connection.getresponse()
        response = connection._HTTPConnection__response
    elif response.isclosed():
        # By an error or an interrupt in the middle of it, or after its release_conn(): its rest is still to come.
        raise PoolError("a response was given up before its end")
    if response is not None:
        _read_rest(connection, response, until)
    if asked is not None:
        asked.release_conn()
    else:
        connection._put_conn(connection)
    _refuse_spoilt(connection)
    if not is_idle(connection) or connection.sock is None:
        raise PoolError("a response was not read to its end")


def _read_rest(connection: Any, response: Any, until: float) -> None:
    """Read on to the end, or as far as the limits are. By read1(): read() would wait for all of it, and give each part
    of it a time of its own."""
    left = DRAINED
    while left > 0 and connection.sock is not None and not response.isclosed():
        connection.sock.settimeout(max(until - monotonic(), 0.001))
        piece = response.read1(left)
        left -= len(piece)
        if not piece:
            if response.length:
                raise ProtocolError("the server has hung up in the middle of a response")
            response.read(0)  # where the length is known, this alone notes the end
            return


def _refuse_spoilt(connection: Any) -> None:
    if connection.spoilt:
        raise PoolError("the server waits for the rest of a request's body, or has left HTTP (101, CONNECT)")
