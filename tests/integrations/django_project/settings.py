"""The settings, by environment variables: SITE_POSTGRESQL, SITE_MYSQL and SITE_SQLITE name the databases, each an alias
of that name; SITE_DEFAULT says which of them is "default" instead. With SITE_MIRROR that one has a second alias."""

from __future__ import annotations

import os

from tests.integrations.django_project.databases import databases

DATABASES = databases()
if "SITE_MIRROR" in os.environ:
    DATABASES["mirror"] = {**DATABASES["default"], "TEST": {"MIRROR": "default"}}
INSTALLED_APPS = ["tests.integrations.django_project"]
ROOT_URLCONF = "tests.integrations.django_project.urls"
SECRET_KEY = "of no use"
ALLOWED_HOSTS = ["*"]
STATIC_URL = "static/"
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LOGGING_CONFIG = None
if "SITE_REDIS" in os.environ:
    CACHES = {
        "default": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": os.environ["SITE_REDIS"],
            "OPTIONS": {
                "pool_class": "pooling.integrations.django.cache.BlockingConnectionPool",
                "max_connections": 2,
                "timeout": 30,
            },
        }
    }
