"""Django's SQLite backend on our pool.

A database in memory is not pooled: each of its connections is a database of its own, or keeps a shared one alive.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db.backends.sqlite3 import base, creation
from django.db.backends.sqlite3._functions import register as register_functions

from pooling.backends.sqlite import SqliteFactory
from pooling.integrations.django._creation import ClosesPools
from pooling.integrations.django._wrapper import Pooled


class DatabaseCreation(ClosesPools, creation.DatabaseCreation):
    """Test databases, whose pools are closed before their files go."""


class DatabaseWrapper(Pooled, base.DatabaseWrapper):
    creation_class = DatabaseCreation

    def is_pooled(self) -> bool:
        return bool(self.settings_dict.get("NAME")) and not self.is_in_memory_db() and super().is_pooled()

    def make_factory(self, another: Callable[[], Any]) -> SqliteFactory:
        def arguments() -> dict[str, Any]:
            return {name: value for name, value in another().get_connection_params().items() if name != "database"}

        # wal=False: in which mode the file is, Django leaves to OPTIONS["init_command"].
        return SqliteFactory(str(self.settings_dict["NAME"]), arguments, wal=False)

    def set_up(self, connection: Any) -> None:
        self.get_connection_params()  # which takes the init_command apart, from Django 5.1 on
        register_functions(connection)
        own = getattr(self, "init_commands", ())
        for statement in ("PRAGMA foreign_keys = ON", "PRAGMA legacy_alter_table = OFF", *own):
            connection.execute(statement.strip())
        connection.isolation_level = None if self.settings_dict["AUTOCOMMIT"] else ""
