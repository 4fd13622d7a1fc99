"""SQLAlchemy on our pool: :class:`FairPool`, for ``create_engine(…, poolclass=FairPool)``."""

try:
    import sqlalchemy  # noqa: F401  # whether it is there
except ImportError as error:
    raise ImportError("this needs SQLAlchemy: pip install 'pooling[sqlalchemy]'", name="sqlalchemy") from error

from pooling.integrations.sqlalchemy._errors import ClosedError, FullError, NoConnectionError
from pooling.integrations.sqlalchemy._fair_pool import FairPool

__all__ = ["ClosedError", "FairPool", "FullError", "NoConnectionError"]
