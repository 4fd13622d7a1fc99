"""Connections that are traced.

An agent that traces queries stands in the place of a driver's connect function, and puts a proxy around what that
returns. The pool keeps the connection within: what it asks of a type or an attribute is not the proxy's to answer, and
what it does by itself is no user's query. Its users get the proxy.
"""

from __future__ import annotations

from typing import Any, TypeVar

from pooling._driver import within
from pooling.factory import Factory

T = TypeVar("T")

_PROXY = "_pooling_proxy"


class TracedFactory(Factory[T]):
    """A factory whose ``connect`` returns what :func:`noted` has seen."""

    def view(self, connection: T) -> Any:
        # Taken away from it: the two would keep each other.
        return getattr(connection, "__dict__", {}).pop(_PROXY, connection)


def noted(made: Any) -> Any:
    """The connection within what a connect function has made; what stands around it is noted for its users."""
    connection = within(made)
    if connection is not made and hasattr(connection, "__dict__"):
        vars(connection)[_PROXY] = made
    return connection
