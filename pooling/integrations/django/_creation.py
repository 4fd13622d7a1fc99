"""What the creation of test databases has to add where there are pools."""

from __future__ import annotations

from typing import Any

from django.db.backends.base.creation import BaseDatabaseCreation


class ClosesPools(BaseDatabaseCreation):
    """Closes the alias's pool before its database is copied or removed, as Django's own creation does for PostgreSQL;
    stands before Django's creation for the database."""

    def _clone_test_db(self, *args: Any, **kwargs: Any) -> None:
        self.connection.close()
        self.connection.close_pool()
        super()._clone_test_db(*args, **kwargs)

    def _destroy_test_db(self, *args: Any, **kwargs: Any) -> None:
        self.connection.close_pool()
        super()._destroy_test_db(*args, **kwargs)
