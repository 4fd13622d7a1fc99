"""Django in this process, once: its settings are global."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.db import connections

ALIASES = ("postgresql", "mysql", "sqlite")


def set_up(postgresql: str, mysql: str, redis: str, folder: Path) -> None:
    """Configure Django for these servers and a file in the folder, and make the tables."""
    if settings.configured:
        return
    os.environ |= {
        "SITE_POSTGRESQL": postgresql,
        "SITE_MYSQL": mysql,
        "SITE_SQLITE": str(folder / "site.db"),
        "SITE_REDIS": redis,
    }
    from tests.integrations.django_project import settings as ours

    # Not by DJANGO_SETTINGS_MODULE, by which Django changes the time zone of the whole process.
    settings.configure(**{name: getattr(ours, name) for name in dir(ours) if name.isupper()})
    django.setup()


def make_tables(alias: str) -> None:
    from tests.integrations.django_project.models import Item

    connection: Any = connections[alias]
    with connection.schema_editor() as editor:
        if Item._meta.db_table in connection.introspection.table_names():
            editor.delete_model(Item)
        editor.create_model(Item)
    connection.close()
