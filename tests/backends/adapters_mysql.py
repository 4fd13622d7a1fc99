"""What the contract suite has to know of MySQL and MariaDB."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pymysql
from pymysql.constants import FIELD_TYPE, SERVER_STATUS

from tests.backends.adapters import ConnectArgs, Dirt, Remote
from tests.servers import MariaDB


def rows(connection: Any, statement: str, *values: Any) -> Any:
    with connection.cursor(pymysql.cursors.Cursor) as cursor:
        cursor.execute(statement, values or None)
        return cursor.fetchall()


def one(connection: Any, statement: str, *values: Any) -> Any:
    return rows(connection, statement, *values)[0][0]


def in_transaction(connection: Any) -> bool:
    """As the server says."""
    if "MariaDB" in connection.server_version:
        return bool(one(connection, "SELECT @@in_transaction"))
    rows(connection, "DO 1")
    return bool(connection.server_status & SERVER_STATUS.SERVER_STATUS_IN_TRANS)


class MySQL(Remote):
    """The sessions of one test are those in a database of its own."""

    fixture = "mariadb"
    secret = "s3cret-not-to-be-seen"
    errors = (pymysql.OperationalError, pymysql.InterfaceError)
    server: MariaDB

    def __init__(self, server: Any, folder: Path) -> None:
        super().__init__(server, folder)
        self.name = f"contract_{secrets.token_hex(4)}"
        server.order(f"CREATE DATABASE {self.name}")
        self._stack.callback(server.order, f"DROP DATABASE {self.name}")
        server.order(f"CREATE TABLE {self.name}.notes (token bigint PRIMARY KEY) ENGINE=InnoDB")

    @property
    def url(self) -> str:
        return self.server.url

    def marked(self, connect_args: ConnectArgs) -> ConnectArgs:
        def args() -> Mapping[str, Any]:
            further = connect_args() if callable(connect_args) else connect_args
            return {"init_command": f"USE {self.name}", **(further or {})}

        return args

    def ask(self, connection: Any, token: int) -> int:
        return one(connection, "SELECT %s", token)

    def session(self, connection: Any) -> Any:
        return connection.thread_id()

    def write(self, connection: Any, token: int) -> None:
        rows(connection, f"INSERT INTO {self.name}.notes VALUES (%s)", token)

    def written(self, connection: Any, token: int) -> bool:
        return bool(rows(connection, f"SELECT 1 FROM {self.name}.notes WHERE token = %s", token))

    def mistake(self, connection: Any) -> None:
        rows(connection, "SELECT nothing FROM nowhere")

    def nap(self, connection: Any) -> None:
        session = self.session(connection)
        try:
            rows(connection, "SELECT SLEEP(30)")
        finally:
            self.kill(session)  # the server looks after its client every five seconds only

    def set_up(self, connection: Any) -> None:
        rows(connection, "SET time_zone = '+09:00'")
        connection.autocommit(True)

    def is_set_up(self, connection: Any) -> bool:
        return connection.get_autocommit() and rows(connection, "SELECT @@autocommit, @@time_zone") == ((1, "+09:00"),)

    def dirt(self, mode: str) -> Mapping[str, Dirt]:
        def fail(connection: Any) -> None:
            with contextlib.suppress(pymysql.IntegrityError):
                rows(connection, f"INSERT INTO {self.name}.notes VALUES (-2), (-2)")

        def autocommit(connection: Any) -> bool:
            return one(connection, "SELECT @@autocommit") == 1 or in_transaction(connection)

        transaction = {
            "an open transaction": Dirt(
                lambda c: self.write(c, -1), lambda c: in_transaction(c) or self.written(c, -1)
            ),
            "a transaction that has read": Dirt(lambda c: self.written(c, -1), in_transaction),
            "a transaction that has failed": Dirt(fail, in_transaction),
            "autocommit": Dirt(lambda c: c.autocommit(True), autocommit),
            "autocommit by hand": Dirt(lambda c: rows(c, "SET autocommit = 1"), autocommit),
            "autocommit and BEGIN": Dirt(lambda c: (c.autocommit(True), c.begin()), autocommit),
        }
        return transaction if mode == "transaction" else transaction | self._session_dirt()

    def _session_dirt(self) -> Mapping[str, Dirt]:
        def said(statement: str, question: str, answer: Any) -> Dirt:
            return Dirt(lambda c: rows(c, statement), lambda c: one(c, question) == answer)

        def attribute(name: str, value: Any) -> Dirt:
            return Dirt(lambda c: setattr(c, name, value), lambda c: getattr(c, name) is value)

        def works(statement: str) -> Callable[[Any], bool]:
            def there(connection: Any) -> bool:
                try:
                    rows(connection, statement)
                except pymysql.MySQLError:
                    return False
                return True

            return there

        return {
            "a session variable": said("SET lock_wait_timeout = 77", "SELECT @@lock_wait_timeout", 77),
            "a user variable": said("SET @mine = 7", "SELECT @mine", 7),
            "sql_mode": said("SET sql_mode = 'ANSI'", "SELECT @@sql_mode LIKE '%ANSI%'", 1),
            "a named lock": said("SELECT GET_LOCK('mine', 1)", "SELECT IS_USED_LOCK('mine') = CONNECTION_ID()", 1),
            "another database": said("USE information_schema", "SELECT DATABASE()", "information_schema"),
            "a temporary table": Dirt(
                lambda c: rows(c, f"CREATE TEMPORARY TABLE {self.name}.mine (x int)"),
                works(f"SELECT 1 FROM {self.name}.mine"),
            ),
            "a prepared statement": Dirt(lambda c: rows(c, "PREPARE mine FROM 'SELECT 1'"), works("EXECUTE mine")),
            "a character set": Dirt(
                lambda c: c.set_character_set("latin1"),
                lambda c: c.encoding != "utf8" or one(c, "SELECT @@character_set_client") != "utf8mb4",
            ),
            "an isolation level": Dirt(
                lambda c: rows(c, "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE"),
                lambda c: "SERIALIZABLE" in str(rows(c, "SHOW VARIABLES LIKE 't%%_isolation'")),
            ),
            "cursorclass": attribute("cursorclass", pymysql.cursors.DictCursor),
            "use_unicode": attribute("use_unicode", False),
            "a decoder": Dirt(
                lambda c: c.decoders.update({FIELD_TYPE.VAR_STRING: str.upper}),
                lambda c: one(c, "SELECT 'loud'") == "LOUD",
            ),
        }

    def count(self) -> int:
        return self.server.order("SELECT COUNT(*) FROM information_schema.processlist WHERE db = %s", self.name)[0][0]

    def kill(self, session: Any) -> None:
        with contextlib.suppress(pymysql.OperationalError):  # it has left by itself
            self.server.order("KILL %s", session)
        while self.server.order("SELECT 1 FROM information_schema.processlist WHERE id = %s", session):
            pass

    def permanent(self) -> Mapping[str, str]:
        parts = urlsplit(self.url)
        user, _, rest = parts.netloc.partition(":")
        wrong = urlunsplit(parts._replace(netloc=f"{user}:{self.secret}@{rest.rpartition('@')[2]}"))
        return {
            "wrong password": wrong,
            "unknown user": wrong.replace(user, "nobody-of-ours"),
            "unknown database": urlunsplit(parts._replace(path="/nowhere")),
            "an unknown character set": f"{wrong}?charset=klingon",
            "no TLS there": f"{wrong}?ssl_mode=REQUIRED",
            "a missing certificate": f"{wrong}?ssl_ca=/nowhere/ca.pem",
        }
