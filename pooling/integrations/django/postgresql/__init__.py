"""``ENGINE`` for PostgreSQL, by psycopg 3."""

from __future__ import annotations

import pooling.backends.postgres  # noqa: F401  # before Django asks for the driver: its error names the extra
