"""What the creation of test databases has to add where there are pools."""

from __future__ import annotations

from typing import Any

from django.db import connections
from django.db.backends.base.creation import BaseDatabaseCreation


class ClosesPools(BaseDatabaseCreation):
    """Closes the pools of a database before that is copied or removed, as Django's own creation does for PostgreSQL;
    stands before Django's creation for the database."""

    def _clone_test_db(self, *args: Any, **kwargs: Any) -> None:
        self.connection.close()
        self._close_pools()
        super()._clone_test_db(*args, **kwargs)

    def _destroy_test_db(self, *args: Any, **kwargs: Any) -> None:
        self._close_pools()
        super()._destroy_test_db(*args, **kwargs)

    def _close_pools(self) -> None:
        """Those of its mirrors too, and of whatever else is an alias of the same database: the server neither copies
        nor removes one that anybody is connected to."""
        self.connection.close_pool()
        name = self.connection.settings_dict["NAME"]
        for other in connections.all():
            close_pool = getattr(other, "close_pool", None)
            if close_pool is not None and other.settings_dict["NAME"] == name:
                close_pool()
