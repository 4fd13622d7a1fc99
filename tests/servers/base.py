"""What every server has in common: a directory, a port, a process, and an admin connection that counts."""

from __future__ import annotations

import atexit
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar
from urllib.parse import urlsplit

from tests.servers import launch
from tests.servers.certificates import Certificates

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11

HOST = "127.0.0.1"
ADMIN_NAME = "tests-admin"
START_TIMEOUT = 60.0
STOP_TIMEOUT = 15.0

Answer = TypeVar("Answer")


class ServerError(RuntimeError):
    """A server of the tests did not do as it was told."""


def free_port() -> int:
    """A port nobody listens on, below the range clients get theirs from.

    From that range a client could take the port while the server is down, or even connect to itself:
    TCP lets a socket whose source port happens to be its target do so.
    """
    for _ in range(1000):
        port = random.randint(15000, 32000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        return port
    raise ServerError("no free port on the loopback interface")


class Server(ABC):
    """One server. `stop`, `kill` and `restart` keep its data and its port; `close` removes it.

    With the variable of its kind set (and external=True), it stands for that server instead: it can be
    connected to and asked, not stopped, killed or frozen.
    """

    kind: ClassVar[str]
    variable: ClassVar[str | None] = None
    unprivileged: ClassVar[bool] = False
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, *, tls: bool = False, external: bool = True) -> None:
        self.external = os.environ.get(self.variable) if external and self.variable else None
        if self.external and tls:
            raise ServerError(f"TLS needs a server of its own: construct {self.kind} with external=False")
        self.tls = tls
        self.certificates: Certificates | None = None
        self.host, self.port = HOST, 0
        self._watchman: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._owner_pid = os.getpid()
        self._admin: Any = None
        self._admin_pid = 0
        self._admin_lock = threading.RLock()
        self._inherited: list[Any] = []

    # What a kind says about itself.

    @abstractmethod
    def url_at(self, host: str, port: int) -> str:
        """The URL by which the server is reached at another address, for instance a proxy's."""

    @abstractmethod
    def _prepare(self) -> None:
        """Fill the new directory."""

    @abstractmethod
    def _command(self) -> list[str]: ...

    @abstractmethod
    def _connect_admin(self) -> Any:
        """A connection for questions, which answers or raises within seconds."""

    @abstractmethod
    def _sessions(self, admin: Any, name: str | None) -> list[Any]:
        """What identifies each session at the server, without the admin's own."""

    @abstractmethod
    def _kill_session(self, admin: Any, session: Any) -> None: ...

    def _close_admin(self, admin: Any) -> None:
        admin.close()

    def _first_start(self, admin: Any) -> None:
        """Create the users and databases the tests use."""
        return

    # Life.

    @property
    def url(self) -> str:
        return self.external or self.url_at(self.host, self.port)

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    @property
    def running(self) -> bool:
        return self._process is not None

    @property
    def frozen(self) -> bool:
        return self._watchman is not None

    @property
    def folder(self) -> Path:
        if self._folder is None:
            raise ServerError(f"{self.kind} has not been started")
        return self._folder

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ServerError(f"{self.kind} is not running")
        return self._process.pid

    def start(self) -> Self:
        """Return once the server answers."""
        if self.external:
            parts = urlsplit(self.external)
            self.host, self.port = parts.hostname or HOST, parts.port or self.port
            self._ask(lambda admin: None)
            return self
        if self._process is not None:
            raise ServerError(f"{self.kind} is already running")
        new = self._folder is None
        if new:
            self._create()
        self._process = launch.launch(self._command(), self.folder, unprivileged=self.unprivileged)
        self._wait_until_ready()
        if new:
            self._ask(self._first_start)
        return self

    def stop(self) -> None:
        """Shut down in an orderly way, saying good-bye to clients where the protocol has a word for it."""
        self._end(self.stop_signal)

    def kill(self) -> None:
        """End at once, as by a crash: all of the server's processes, by SIGKILL."""
        self._end(signal.SIGKILL)

    def restart(self, *, fast: bool = False) -> None:
        """Stop (fast: kill) and start again, with the same data on the same port."""
        if fast:
            self.kill()
        else:
            self.stop()
        self.start()

    def freeze(self) -> None:
        """Hang: connections stay open and new ones are accepted by the kernel, but nothing answers."""
        self._own_only("freeze")
        if self._watchman is None:
            self._watchman = launch.freeze(self.pid)

    def thaw(self) -> None:
        self._own_only("thaw")
        if self._watchman is not None:
            launch.thaw(self.pid, self._watchman)
            self._watchman = None

    def close(self) -> None:
        """Stop, and remove the directory."""
        if self._owner_pid != os.getpid():
            return  # a forked child must not take its parent's server away
        if self._process is not None:
            self._end(signal.SIGKILL)
        self._forget_admin()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.close()

    # Sessions, as the server sees them.

    def session_count(self, name: str | None = None) -> int:
        """How many sessions the server has, without the one that counts.

        `name` counts only those of that application or user.
        """
        return len(self._ask(lambda admin: self._sessions(admin, name)))

    def wait_for_sessions(self, count: int, name: str | None = None, timeout: float = 5.0) -> None:
        """Wait until the server has exactly `count` sessions: a server notices a close a little later."""
        deadline = time.monotonic() + timeout
        while (seen := self.session_count(name)) != count:
            if time.monotonic() > deadline:
                raise ServerError(f"{self.kind} has {seen} sessions, not {count}, after {timeout} s")
            time.sleep(0.01)

    def kill_sessions(self, name: str | None = None) -> int:
        """End sessions from the server's side; return, once they are gone, how many there were."""
        doomed = self._ask(lambda admin: self._sessions(admin, name))
        for session in doomed:
            self._ask(lambda admin, session=session: self._kill_session(admin, session))  # type: ignore[misc]
        deadline = time.monotonic() + STOP_TIMEOUT
        while set(doomed) & set(self._ask(lambda admin: self._sessions(admin, None))):
            if time.monotonic() > deadline:
                raise ServerError(f"{self.kind} did not end its sessions")
            time.sleep(0.01)
        return len(doomed)

    # Inside.

    def _own_only(self, what: str) -> None:
        if self.external:
            raise ServerError(
                f"cannot {what} the server {self.variable} points at: "
                "a test that does needs a server of its own (the fixture own_server, or external=False)"
            )

    def _create(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix=f"tests-{self.kind}-"))
        atexit.register(_close_if_alive, weakref.ref(self))
        self.port = free_port()
        if self.tls:
            self.certificates = Certificates.issue(self._folder)
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                self._ask(lambda admin: None)
                return
            except Exception as error:
                ended = self._process is not None and self._process.poll() is not None
                if ended or time.monotonic() > deadline:
                    log = launch.log_tail(self.folder)
                    self._end(signal.SIGKILL)
                    raise ServerError(f"{self.kind} did not start: {error}\n{log}") from error
            time.sleep(0.01)

    def _end(self, number: signal.Signals) -> None:
        self._own_only("stop")
        self._forget_admin()
        if self._process is None:
            return
        self.thaw()
        process, self._process = self._process, None
        if number is not signal.SIGKILL:
            process.send_signal(number)
            try:
                process.wait(STOP_TIMEOUT)
                return
            except subprocess.TimeoutExpired:
                pass  # it is still serving somebody who does not leave
        launch.kill_all(process)

    def _ask(self, question: Callable[[Any], Answer]) -> Answer:
        """Ask over the admin connection, on a new one if the old one broke with the last restart."""
        if self.frozen:
            raise ServerError(f"{self.kind} is frozen: it cannot be asked before it is thawed")
        with self._admin_lock:
            if self._admin is not None and self._admin_pid == os.getpid():
                try:
                    return question(self._admin)
                except Exception:
                    self._forget_admin()
            elif self._admin is not None:
                self._inherited.append(self._admin)  # the parent's: neither used nor closed in a fork
            self._admin, self._admin_pid = self._connect_admin(), os.getpid()
            return question(self._admin)

    def _forget_admin(self) -> None:
        with self._admin_lock:
            admin, self._admin = self._admin, None
            if admin is None or self._admin_pid != os.getpid():
                return
            try:
                self._close_admin(admin)
            except Exception:  # it may be broken, which is why it goes
                pass


def _close_if_alive(reference: weakref.ref[Server]) -> None:
    server = reference()
    if server is not None:
        server.close()
