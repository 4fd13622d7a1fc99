"""The DATABASES of the project."""

from __future__ import annotations

import json
import os
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

BACKENDS = os.environ.get("SITE_BACKENDS", "pooling.integrations.django")


def database(kind: str, url: str, **options: Any) -> dict[str, Any]:
    """The settings for one database, given by its URL, or by its path for SQLite."""
    parts = urlsplit(url)
    given = dict(parse_qsl(parts.query))
    known: dict[str, Any] = {"ENGINE": f"{BACKENDS}.{kind}", "OPTIONS": {**given, **options}}
    if kind == "sqlite3":
        return {**known, "NAME": url, "TEST": {"NAME": url and f"{url}.test"}}
    return {
        **known,
        "HOST": parts.hostname,
        "PORT": str(parts.port),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "NAME": parts.path.lstrip("/"),
    }


def databases() -> dict[str, dict[str, Any]]:
    options = json.loads(os.environ.get("SITE_OPTIONS", "{}"))
    found = {
        alias: database(kind, os.environ[variable], **options)
        for alias, kind, variable in (
            ("postgresql", "postgresql", "SITE_POSTGRESQL"),
            ("mysql", "mysql", "SITE_MYSQL"),
            ("sqlite", "sqlite3", "SITE_SQLITE"),
        )
        if variable in os.environ
    }
    default = os.environ.get("SITE_DEFAULT")
    return {"default": found.pop(default) if default else {}, **found}
