"""A place for one connection, which is what the pool underneath lends to SQLAlchemy, and the factory of places."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pooling._driver import within
from pooling._runtime.fork import keep_inherited
from pooling._secrets import found
from pooling.errors import PoolError
from pooling.factory import Factory, ResetMode
from pooling.integrations.sqlalchemy import _wire

if TYPE_CHECKING:
    from pooling.integrations.sqlalchemy._fair_pool import FairPool


class Place:
    """A slot of the pool, for one of SQLAlchemy's records.

    The record of an idle place is kept by the :class:`FairPool`: records refer to their pool, so with a reference from
    here no pool that is forgotten would ever go. What is here can be closed without it.
    """

    __slots__ = ("__weakref__", "clean", "connection", "dialect", "live", "mode", "record")

    def __init__(self) -> None:
        self.live = False  # whether it has a connection, as far as the pool's numbers go
        self.clean = False  # whether SQLAlchemy has brought it back, which resets by itself
        self.connection: Any = None  # the driver's, while SQLAlchemy does not have it
        self.dialect: Any = None  # what closes it
        self.mode = _wire.Mode()  # what a reset goes back to
        self.record: weakref.ref[Any] | None = None  # while SQLAlchemy has it

    def lend(self, record: Any) -> None:
        """SQLAlchemy has it from now on."""
        self.record, self.connection = weakref.ref(record), None

    def keep(self, connection: Any, dialect: Any) -> None:
        """The pool has it from now on."""
        self.connection, self.dialect, self.record = connection, dialect, None

    def note(self) -> None:
        """Somebody may have the connection from the pool itself, of whom SQLAlchemy knows nothing."""
        self.mode = _wire.mode(_driver(self))

    def borrower(self) -> Any:
        """The record, while SQLAlchemy has it."""
        return None if self.record is None else self.record()


class PlaceFactory(Factory[Place]):
    """What the pool underneath does about connections by itself: it opens those of ``min_size``, checks and closes idle
    ones. All else SQLAlchemy does, on the thread of its caller."""

    def __init__(self, owner: weakref.ref[FairPool]) -> None:
        self._owner = owner

    def connect(self, timeout: float) -> Place:  # noqa: ARG002  # the driver's own holds, from connect_args
        place, owner = Place(), self._owner()
        if owner is None:
            raise PoolError("the pool is gone")
        owner.fill(place)
        place.live = True
        return place

    def close(self, place: Place) -> None:
        owner = self._owner()
        record = None if owner is None else owner.records.pop(place, None)
        connection, place.connection = place.connection, None
        if record is not None:
            record.close()
        elif connection is not None:
            place.dialect.do_close(connection)

    def view(self, place: Place) -> Any:
        return place.connection

    def check(self, place: Place, timeout: float) -> None:
        if place.connection is None:
            return  # whoever gets it connects
        ping = getattr(place.dialect, "do_ping", None)
        if ping is None:  # a pool without an engine
            super().check(place, timeout)
        elif not _wire.pings(_driver(place), timeout):
            with _wire.in_time(_driver(place), timeout):
                ping(place.connection)
                place.dialect.do_rollback(place.connection)

    def reset(self, place: Place, mode: ResetMode) -> None:  # noqa: ARG002  # SQLAlchemy has one of its own
        """End what one who had the connection from the pool itself has left open, whatever ``reset_on_return`` says:
        that is for those who have it from SQLAlchemy."""
        driver = _driver(place)
        _wire.refuse_busy(driver)
        place.dialect.do_rollback(place.connection)
        if getattr(place.dialect, "skip_autocommit_rollback", False):  # it has skipped what was begun by hand, too
            place.connection.rollback()
        _wire.restore(driver, place.mode)

    def remember(self, place: Place) -> None:
        place.note()

    def is_alive(self, place: Place) -> bool:
        return place.connection is None or _wire.looks_alive(_driver(place))

    def is_clean(self, place: Place) -> bool:
        return place.clean

    def is_broken(self, error: BaseException) -> bool:
        owner = self._owner()
        return owner is not None and owner.is_disconnect(error)

    def interrupt(self, place: Place) -> None:
        record = place.borrower()
        connection = place.connection if record is None else record.driver_connection
        if connection is not None:
            _wire.interrupt(within(connection))

    def abandon(self, place: Place) -> None:
        owner = self._owner()
        record = None if owner is None else owner.records.pop(place, None)
        keep_inherited(place, record)
        if place.connection is not None:
            _wire.abandon(_driver(place))

    def abandon_in_use(self, place: Place) -> None:
        record = place.borrower()
        if record is None:
            self.abandon(place)
            return
        # Whoever ends the parent's transaction in the child shall find no connection to end it on.
        connection, record.dbapi_connection = record.driver_connection, None
        fairy = record.fairy_ref and record.fairy_ref()
        if fairy is not None:
            fairy.dbapi_connection = None
        if connection is not None:
            keep_inherited(record, connection)
            _wire.abandon(within(connection))

    def begin(self, place: Place) -> None:  # noqa: ARG002  # never
        raise PoolError("transactions are the engine's: use engine.begin()")

    def secrets(self) -> Iterator[str]:
        owner = self._owner()
        if owner is not None:
            yield from found(owner._creator)


def _driver(place: Place) -> Any:
    return within(place.dialect.get_driver_connection(place.connection))
