"""What the contract suite has to know of MongoDB: see adapters.py.

A lease yields the one client of its pool. A session here is one of the client's sockets, told by the address
from which the server sees it come: the one that the client's next operation takes.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from pymongo import errors

from tests.backends.adapters import ConnectArgs, Dirt, Remote
from tests.servers import MongoDB as Server


class MongoDB(Remote):
    fixture = "mongodb"
    secret = "s3cret-not-to-be-seen"
    errors = (errors.AutoReconnect, errors.InvalidOperation)
    transactions = False  # they belong to sessions of PyMongo's: test_mongodb.py
    server: Server
    elsewhere: ClassVar[Mapping[str, str]] = {
        "test_a_session_killed_in_use_costs_that_connection_and_the_others_are_looked_at": (
            "after a network error PyMongo closes all sockets to that server: test_mongodb.py shows what that means"
        ),
        "test_clear_with_interrupt_ends_what_runs": "a client's operations cannot be told apart by lease",
        "test_a_lease_that_another_thread_discards_ends_what_runs_and_frees_its_slot": "nor can they here",
        "test_a_connection_that_hangs_is_given_up_by_a_check": (
            "the first connection is a monitor's: test_mongodb.py has the same with all of them"
        ),
    }

    def __init__(self, server: Any, folder: Path) -> None:
        super().__init__(server, folder)
        self.name = f"contract-{secrets.token_hex(4)}"

    @property
    def url(self) -> str:
        return self.server.url

    def marked(self, connect_args: ConnectArgs) -> ConnectArgs:
        def args() -> Mapping[str, Any]:
            further = connect_args() if callable(connect_args) else connect_args
            # Without PyMongo's own retries, which would keep most of the errors from the user.
            return {"appname": self.name, "retryReads": False, "retryWrites": False, **(further or {})}

        return args

    def ask(self, connection: Any, token: int) -> int:
        ((answer,),) = [one.values() for one in connection.admin.aggregate([{"$documents": [{"token": token}]}])]
        return answer

    def session(self, connection: Any) -> Any:
        return connection.admin.command("whatsmyuri")["you"]

    def sessions(self, connections: Sequence[Any]) -> list[Any]:
        found = self.addresses()
        assert len(found) == len(connections)
        return found

    def write(self, connection: Any, token: int) -> None:
        connection.contract.notes.insert_one({"name": self.name, "token": token})

    def written(self, connection: Any, token: int) -> bool:
        return connection.contract.notes.find_one({"name": self.name, "token": token}) is not None

    def end(self, connection: Any) -> None:
        pass

    def mistake(self, connection: Any) -> None:
        connection.admin.command("no such command")

    def nap(self, connection: Any) -> None:
        raise NotImplementedError

    def set_up(self, connection: Any) -> None:
        connection.contract.settings.replace_one({"_id": self.name}, {"set_up": True}, upsert=True)

    def is_set_up(self, connection: Any) -> bool:
        return connection.contract.settings.find_one({"_id": self.name}) is not None

    def dirt(self, mode: str) -> Mapping[str, Dirt]:
        return {}  # nothing of a user's stays on a client

    def count(self) -> int:
        return len(self.addresses())

    def addresses(self, *, monitors: bool = False) -> list[str]:
        """Where the sockets for operations come from, or those of the monitors: the pool's name is on the first."""
        running = self.server.ask(lambda admin: admin.admin.command({"currentOp": 1, "$all": True}))["inprog"]
        mine = {
            one["client"]: one["clientMetadata"]["driver"]["name"]
            for one in running
            if one.get("clientMetadata", {}).get("application", {}).get("name") == self.name
        }
        return [address for address, driver in mine.items() if ("pooling" in driver) is not monitors]

    def kill(self, session: Any) -> None:
        self.server.kill_session(session)
        until = time.monotonic() + 5.0
        while session in self.addresses():
            assert time.monotonic() < until, f"{session} is still there"
            time.sleep(0.002)

    def permanent(self) -> Mapping[str, str]:
        host = urlsplit(self.url).netloc.rpartition("@")[2]
        return {"wrong password": f"mongodb://nobody:{self.secret}@{host}/?directConnection=true&authSource=admin"}
