"""Which DB-API driver something comes from, and what of it is the driver's."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


def module_of(thing: Any) -> ModuleType | None:
    """The DB-API module that a function or class comes from: its own, or a package around that."""
    name = getattr(thing, "__module__", None) or type(thing).__module__
    parts = str(name).lstrip("_").split(".")  # _sqlite3 is a part of sqlite3
    for length in range(len(parts), 0, -1):
        module = sys.modules.get(".".join(parts[:length]))
        if hasattr(module, "threadsafety") and hasattr(module, "Error"):
            return module
    return None


def within(connection: Any) -> Any:
    """The driver's own connection, where an agent that traces queries has put a proxy around it."""
    # A proxy of wrapt, which all of them use, says that it is what it stands around. Others may have a __wrapped__ as
    # well: a class on which functools.wraps() has left one, and whatever has each attribute that it is asked for.
    while type(connection) is not connection.__class__ and hasattr(connection, "__wrapped__"):
        connection = connection.__wrapped__
    return connection
