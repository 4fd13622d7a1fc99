"""A plugin of pytest for SQLAlchemy's own tests: FairPool in the place of QueuePool, wherever they look for it."""

from __future__ import annotations

import sqlalchemy
import sqlalchemy.pool
import sqlalchemy.pool.impl

from pooling.integrations.sqlalchemy import FairPool

for module in (sqlalchemy, sqlalchemy.pool, sqlalchemy.pool.impl):
    module.QueuePool = FairPool  # type: ignore[attr-defined,misc,assignment]


def pytest_report_header() -> str:
    return f"QueuePool is {sqlalchemy.pool.QueuePool.__module__}.{sqlalchemy.pool.QueuePool.__name__}"
