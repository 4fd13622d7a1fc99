"""Django's MySQL backend on our pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pymysql
from django.db import IntegrityError
from django.db.backends.mysql import base, creation, schema
from django.db.backends.utils import typecast_time
from pymysql.constants import FIELD_TYPE
from pymysql.converters import conversions

from pooling.backends._mysql_connection import Connection
from pooling.backends.mysql import MysqlFactory, with_ssl_mode
from pooling.integrations.django._creation import ClosesPools
from pooling.integrations.django._wrapper import Pooled


class _Literal(bytes):
    """A literal as mysqlclient gives it: bytes. In a statement it stands as it is."""

    def __str__(self) -> str:
        return self.decode("ascii")


class DatabaseSchemaEditor(schema.DatabaseSchemaEditor):
    def quote_value(self, value: Any) -> Any:
        if isinstance(value, bytes) and value.isascii():
            return _Literal(super().quote_value(value.decode("ascii")).encode("ascii"))
        quoted = super().quote_value(value)
        return _Literal(quoted.encode("ascii")) if isinstance(value, bool) else quoted


class DatabaseCreation(ClosesPools, creation.DatabaseCreation):
    """Test databases, whose pools are closed before they are copied or dropped."""


class CursorWrapper(base.CursorWrapper):
    """Django's, for the errors of PyMySQL whatever else is installed."""

    def execute(self, query: Any, args: Any = None) -> Any:
        try:
            return self.cursor.execute(query, args)
        except pymysql.OperationalError as error:
            self._tell_apart(error)
            raise

    def executemany(self, query: Any, args: Any) -> Any:
        try:
            return self.cursor.executemany(query, args)
        except pymysql.OperationalError as error:
            self._tell_apart(error)
            raise

    def _tell_apart(self, error: pymysql.OperationalError) -> None:
        if error.args and error.args[0] in self.codes_for_integrityerror:
            raise IntegrityError(*error.args) from error


class DatabaseWrapper(Pooled, base.DatabaseWrapper):
    Database = pymysql
    SchemaEditorClass = DatabaseSchemaEditor
    creation_class = DatabaseCreation

    def get_connection_params(self) -> dict[str, Any]:
        return {**super().get_connection_params(), "conv": {**conversions, FIELD_TYPE.TIME: typecast_time}}

    def open(self, conn_params: dict[str, Any]) -> Any:
        # Ours verifies the name by the system's authorities too, where ssl_mode asks for that.
        connect = pymysql.connect if conn_params.get("ssl_mode") is None else Connection
        return connect(**with_ssl_mode(conn_params))

    def make_factory(self, another: Callable[[], Any]) -> MysqlFactory:
        def arguments() -> dict[str, Any]:
            wrapper = another()
            return {**wrapper.get_connection_params(), "autocommit": wrapper.settings_dict["AUTOCOMMIT"]}

        factory = MysqlFactory("mysql://", arguments)
        known = self.settings_dict
        factory.where = f"{known.get('HOST') or 'localhost'}:{known.get('PORT') or 3306}/{known.get('NAME') or ''}"
        return factory

    def set_up(self, connection: Any) -> None:
        self.get_connection_params()  # which finds out the isolation level
        with connection.cursor() as cursor:
            # Django asks the server first, on every connection's behalf, whether it is on.
            cursor.execute("SET sql_auto_is_null = 0")
            if self.isolation_level:
                cursor.execute(f"SET SESSION TRANSACTION ISOLATION LEVEL {self.isolation_level.upper()}")

    def create_cursor(self, name: str | None = None) -> Any:  # noqa: ARG002  # MySQL has no named ones
        return self._remembered(CursorWrapper(self.connection.cursor()))

    def is_usable(self) -> bool:
        if self.connection is None:
            return False
        try:
            self.connection.ping(reconnect=False)
        except pymysql.Error:
            return False
        return True
