"""What the contract suite has to know of Redis."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import redis

from tests.backends.adapters import ConnectArgs, Dirt, Remote
from tests.servers import Redis as Server
from tests.servers.base import ADMIN_NAME


class Redis(Remote):
    """The sessions of one test are those with its name, and databases 3 and 4 are its playground."""

    fixture = "redis_server"
    secret = "s3cret-not-to-be-seen"
    errors = (redis.ConnectionError,)
    transactions = False
    server: Server

    def __init__(self, server: Any, folder: Path) -> None:
        super().__init__(server, folder)
        self.name = f"contract-{secrets.token_hex(4)}"
        self.admin = redis.Redis.from_url(
            server.url, client_name=ADMIN_NAME, single_connection_client=True, decode_responses=True
        )
        self._stack.callback(self.admin.close)

    @property
    def url(self) -> str:
        return self.server.url

    def marked(self, connect_args: ConnectArgs) -> ConnectArgs:
        def args() -> Mapping[str, Any]:
            further = connect_args() if callable(connect_args) else connect_args
            return {"client_name": self.name, **(further or {})}

        return args

    def ask(self, connection: Any, token: int) -> int:
        return int(connection.echo(token))

    def session(self, connection: Any) -> Any:
        return connection.client_id()

    def write(self, connection: Any, token: int) -> None:
        connection.sadd(self.name, token)

    def written(self, connection: Any, token: int) -> bool:
        return bool(connection.sismember(self.name, token))

    def mistake(self, connection: Any) -> None:
        connection.execute_command("NOTHING", "nowhere")

    def nap(self, connection: Any) -> None:
        connection.blpop(f"{self.name}-nothing", timeout=30)

    def set_up(self, connection: Any) -> None:
        connection.execute_command("SELECT", 3)
        connection.execute_command("CLIENT", "NO-EVICT", "ON")

    def is_set_up(self, connection: Any) -> bool:
        info = connection.client_info()
        return info["db"] == 3 and "e" in info["flags"]

    def dirt(self, mode: str) -> Mapping[str, Dirt]:
        def sends(*command: Any) -> Callable[[Any], None]:
            def make(connection: Any) -> None:
                connection.execute_command(*command)

            return make

        def watch(connection: Any) -> None:
            connection.execute_command("WATCH", self.name)
            self.admin.set(self.name, time.monotonic())

        def flag(letter: str) -> Callable[[Any], bool]:
            return lambda _: any(letter in client["flags"] for client in self.clients())

        return {
            "WATCH": Dirt(watch, flag("d")),
            "MULTI": Dirt(sends("MULTI"), flag("x")),
            "WATCH and MULTI": Dirt(lambda c: (watch(c), sends("multi")(c)), flag("d")),
            "SELECT": Dirt(sends("SELECT", 4), lambda c: c.client_info()["db"] != 0),
            "select in a pipeline": Dirt(
                lambda c: c.pipeline(transaction=False).execute_command("select 4").execute(),
                lambda c: c.client_info()["db"] != 0,
            ),
            "the name": Dirt(
                sends("CLIENT SETNAME", f"{self.name}-other"), lambda c: _text(c.client_getname()) != self.name
            ),
            "tracking": Dirt(sends("CLIENT TRACKING", "ON"), flag("t")),
            "no eviction": Dirt(sends("CLIENT", "NO-EVICT", "ON"), flag("e")),
            "another user": Dirt(sends("AUTH", "guarded", "secret"), lambda c: _text(c.acl_whoami()) != "default"),
        }

    def clients(self) -> list[Any]:
        return [client for client in self.admin.client_list() if client["name"].startswith(self.name)]

    def count(self) -> int:
        return len(self.clients())

    def kill(self, session: Any) -> None:
        self.admin.client_kill_filter(_id=session)
        until = time.monotonic() + 5.0
        while any(client["id"] == str(session) for client in self.clients()):
            assert time.monotonic() < until
            time.sleep(0.002)

    def permanent(self) -> Mapping[str, str]:
        parts = urlsplit(self.url)
        wrong = urlunsplit(parts._replace(netloc=f"guarded:{self.secret}@{parts.netloc.rpartition('@')[2]}"))
        return {"wrong password": wrong, "unknown database": urlunsplit(parts._replace(path="/9999"))}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
