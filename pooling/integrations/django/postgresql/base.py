"""Django's PostgreSQL backend on our pool, in the place of psycopg_pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
from django.core.exceptions import ImproperlyConfigured
from django.db.backends.postgresql import base, creation
from django.db.backends.postgresql.psycopg_any import IsolationLevel
from psycopg import sql

from pooling.backends import ConnectArgs
from pooling.backends.postgres import PostgresFactory
from pooling.config import nearest
from pooling.integrations.django._creation import ClosesPools
from pooling.integrations.django._errors import NoConnection
from pooling.integrations.django._wrapper import Pooled
from pooling.pool import Pool

try:
    from psycopg_pool import PoolTimeout as _TheirTimeout
except ImportError:
    _Timeout = NoConnection
else:

    class _Timeout(NoConnection, _TheirTimeout):  # type: ignore[no-redef]
        """What those catch as well who come from Django's own pool."""


# psycopg_pool's names, as Django has them in OPTIONS["pool"], and ours.
_NAMES = {
    "name": "name", "min_size": "min_size", "max_size": "max_size", "timeout": "timeout", "max_waiting": "max_waiting",
    "max_lifetime": "max_lifetime", "max_idle": "idle_timeout", "reconnect_timeout": "fail_after",
    "num_workers": "max_connecting", "configure": "on_connect", "check": "check",
}  # fmt: skip  # a table


class _Factory(PostgresFactory):
    """One that may have been given its check, as psycopg_pool takes it: a function that raises."""

    def __init__(self, connect_args: ConnectArgs, check: Callable[[Any], object] | None) -> None:
        super().__init__("", connect_args)
        self.given = check

    def check(self, connection: Any, timeout: float) -> None:
        if self.given is None:
            super().check(connection, timeout)
        else:
            self.given(connection)


class _Pool(Pool[Any]):
    @property
    def _check(self) -> Any:
        """How connections are checked before they go out, if by a round trip: Django's tests look here."""
        factory: Any = self._factory
        return (factory.given or factory.check) if self._config.check == "ping" else None


class DatabaseCreation(ClosesPools, creation.DatabaseCreation):
    """Test databases, whose pools are closed before they are copied or dropped."""


class DatabaseWrapper(Pooled, base.DatabaseWrapper):
    creation_class = DatabaseCreation
    pool_class = _Pool
    timeout_class = _Timeout

    @property
    def pool(self) -> Pool[Any] | None:
        """What Django calls the pool; None where this alias has none."""
        return self.pooling

    def is_pooled(self) -> bool:
        return self._options().get("pool") is not False and super().is_pooled()

    def pool_options(self) -> dict[str, Any]:
        return {**self._their_options(), **super().pool_options()}

    def get_connection_params(self) -> dict[str, Any]:
        params = super().get_connection_params()
        params.pop("pool", None)  # which Django does from 5.1 on
        return params

    def make_factory(self, another: Callable[[], Any]) -> PostgresFactory:
        self._wanted_isolation()  # a wrong one is told here, to the caller

        def arguments() -> dict[str, Any]:
            wrapper = another()
            return {**wrapper.get_connection_params(), "autocommit": wrapper.settings_dict["AUTOCOMMIT"]}

        theirs = self._options().get("pool")
        check = theirs.get("check") if isinstance(theirs, dict) else None
        factory = _Factory(arguments, check if callable(check) else None)
        known = self.settings_dict
        factory.where = f"{known.get('HOST') or 'localhost'}:{known.get('PORT') or 5432}/{known.get('NAME') or ''}"
        return factory

    def set_up(self, connection: Any) -> None:
        if (level := self._wanted_isolation()) is not None:
            connection.isolation_level = level
        self._set_time_zone(connection)
        if role := self._options().get("assume_role"):
            connection.execute(sql.SQL("SET ROLE {}").format(sql.Literal(role)))

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        connection = super().get_new_connection(conn_params)
        if self._lease is not None:
            level = self._wanted_isolation()
            self.isolation_level = IsolationLevel.READ_COMMITTED if level is None else level
            if connection.isolation_level != level:
                connection.isolation_level = level  # as its last user did not leave it
        return connection

    def init_connection_state(self) -> None:
        super().init_connection_state()
        # The server reports the time zone by itself, so it costs nothing to see whether somebody has changed it.
        if self._lease is not None and self._set_time_zone(self.connection) and not self.get_autocommit():
            self.connection.commit()

    def ensure_timezone(self) -> bool:
        # The settings have changed, so that the next use builds another pool: this is for the connection in hand.
        return self.connection is not None and self._set_time_zone(self.connection)

    def is_usable(self) -> bool:
        # Django looks whether there is one from 5.1 on only.
        return self.connection is not None and super().is_usable()

    def silence(self, cursor: Any) -> bool:
        if isinstance(cursor, psycopg.ServerCursor):
            return cursor.closed  # to close one takes a round trip
        return super().silence(cursor)

    def _set_time_zone(self, connection: Any) -> bool:
        """Whether it had to be changed."""
        name = self.timezone_name
        if not name or connection.info.parameter_status("TimeZone") == name:
            return False
        connection.execute(self.ops.set_time_zone_sql(), [name])
        return True

    def _wanted_isolation(self) -> Any:
        given = self._options().get("isolation_level")
        if given is None:
            return None
        try:
            return IsolationLevel(given)
        except ValueError:
            raise ImproperlyConfigured(
                f"Invalid transaction isolation level {given} specified. Use one of the psycopg.IsolationLevel values."
            ) from None

    def _their_options(self) -> dict[str, Any]:
        """``OPTIONS["pool"]``, which is for psycopg_pool, in our words."""
        given = self._options().get("pool")
        if not isinstance(given, dict):
            return {}
        for name in given:
            if name not in _NAMES:
                raise ImproperlyConfigured(
                    f"{self._place('pool')}: {name!r} has no counterpart here{nearest(name, _NAMES)}. "
                    "The options of this pool stand in OPTIONS['pooling']."
                )
        options = {_NAMES[name]: value for name, value in given.items()}
        if options.get("max_size") is None and options.get("min_size"):
            options["max_size"] = options["min_size"]  # a pool of fixed size
        if "check" in options:
            options["check"] = "ping" if options["check"] else "peek"
        if options.get("max_waiting") == 0:
            options["max_waiting"] = None  # no limit
        return options
