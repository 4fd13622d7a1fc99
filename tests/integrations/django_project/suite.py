"""The settings for Django's own test-suite, on its backends or on ours (SITE_BACKENDS)."""

from __future__ import annotations

import os
from typing import Any

from tests.integrations.django_project.databases import BACKENDS, database

KIND = os.environ["SUITE_KIND"]
URL = os.environ["SUITE_URL"]

if KIND == "mysql" and BACKENDS == "django.db.backends":
    import pymysql

    pymysql.install_as_MySQLdb()


def _named(name: str) -> dict[str, Any]:
    """A database of which the suite makes a test database."""
    known = database(KIND, URL and f"{URL}-{name}" if KIND == "sqlite3" else URL)
    if KIND == "mysql":
        known["TEST"] = {"CHARSET": "utf8mb4"}
    if KIND != "sqlite3":
        known["NAME"] = f"{BACKENDS.partition('.')[0]}_{name}"
    return known


DATABASES = {name: _named(name) for name in ("default", "other")}
SECRET_KEY = "of no use"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
if "SUITE_REDIS" in os.environ:
    POOL = os.environ.get("SUITE_POOL")
    CACHES = {
        "default": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": os.environ["SUITE_REDIS"],
            "OPTIONS": {"pool_class": POOL} if POOL else {},
        }
    }
