"""Work on MongoDB, and the server's own count of this run's sockets."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import pymongo
from pymongo import errors

from pooling.backends import _mongo
from pooling.backends.mongodb import MongoFactory, Permit
from pooling.cli.stress._verdict import Verdict
from pooling.cli.stress.work._sessions import Sessions

# Written in transactions that are never committed, so it never exists for anybody else.
DATABASE, NOTES = "pooling_stress", "notes"
NO_TRANSACTIONS = {20, 263}  # IllegalOperation, OperationNotSupportedInTransaction: a server without a replica set
PATIENCE = 30.0  # seconds for one question


class PermitFactory(MongoFactory):
    """Leases yield the permit in place of the client, which is the same for all: who has what, the census can tell."""

    def view(self, permit: Permit) -> Any:
        return permit


class MongoWork:
    """Each permit has a mark of its own; which socket serves it, the driver decides."""

    errors: tuple[type[Exception], ...] = (errors.AutoReconnect,)

    def __init__(self) -> None:
        self._marks = itertools.count(1)
        self._known: dict[int, int] = {}

    def mark(self, connection: Permit) -> Any:
        mark = self._known[id(connection)] = next(self._marks)
        return mark

    def leftover(self, connection: Permit) -> str:
        return "" if self._known.get(id(connection)) else "a permit that was never opened"

    def ask(self, connection: Permit, number: int) -> tuple[int, Any, bool]:
        client, mark = connection.client, self._known[id(connection)]
        # With a timeout the driver tries a read again as often as it takes: broken sockets are others' affair.
        with pymongo.timeout(PATIENCE):
            (answer,) = client.admin.aggregate([{"$documents": [{"number": number, "mark": mark}]}])
            return answer["number"], answer["mark"], client[DATABASE][NOTES].find_one({}) is not None

    def soil(self, connection: Permit, number: int) -> None:
        with connection.client.start_session() as session, contextlib.suppress(_Enough):
            try:
                with session.start_transaction():
                    connection.client[DATABASE][NOTES].insert_one({"number": number}, session=session)
                    raise _Enough  # and nobody commits
            except errors.OperationFailure as error:
                if error.code not in NO_TRANSACTIONS:
                    raise

    def break_(self, connection: Permit) -> None:
        _mongo.snap(connection.client)
        connection.client.admin.command("ping")  # a command that the driver does not try twice
        raise errors.AutoReconnect("another user was given the broken socket, and PyMongo has spared him the error")

    def is_busy(self, error: Exception) -> bool:
        return isinstance(error, errors.PyMongoError) and error.has_error_label("TransientTransactionError")


class _Enough(Exception):
    """Ends a transaction without a commit."""


class Sockets(Sessions):
    """Counts this run's sockets by their application name. Those of the pool's monitors are beside the cap: the pool's
    own name is on the others only. After close() all have to go.

    What the server lists are addresses, and the census knows none: a socket that was closed a moment ago may still be
    listed beside the one that was opened in its place. So a socket counts while it is on two lists in a row.
    """

    def __init__(self, url: str, name: str) -> None:
        super().__init__()
        self._name = name
        self._before: set[str] = set()
        self._over = False
        self._client: pymongo.MongoClient[Any] = pymongo.MongoClient(
            url, appname=f"{name}-count", serverSelectionTimeoutMS=10_000
        )
        self._client.admin.command("ping")

    @staticmethod
    def can_be_told() -> bool:
        """Not before PyMongo 4.14, where the pool has no way to name its sockets: a count of none would hold whatever
        the pool did."""
        return hasattr(pymongo.MongoClient, "append_metadata")

    def present(self) -> list[Any]:
        drivers: dict[str, str] = {}
        for one in self._client.admin.command({"currentOp": 1, "$all": True})["inprog"]:
            told = one.get("clientMetadata", {})
            if told.get("application", {}).get("name") == self._name:
                drivers[one.get("client", "")] = told.get("driver", {}).get("name", "")
        if self._over:
            return list(drivers)
        before, self._before = self._before, {address for address, driver in drivers.items() if "pooling" in driver}
        return list(self._before & before)

    def finish(self, verdict: Verdict, patience: float) -> None:
        self._over = True
        super().finish(verdict, patience)

    def close(self) -> None:
        self._client.close()
