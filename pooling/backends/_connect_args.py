"""What a user adds to the arguments of a driver's connect."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pooling._ledger.outage import describe
from pooling.errors import ConnectArgsError

if TYPE_CHECKING:
    from pooling.factory import Factory

ConnectArgs = Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None
"""Further arguments for the driver's connect: a mapping, or a callable asked anew for every connection, so that
passwords can rotate."""


def check_connect_args(connect_args: ConnectArgs) -> None:
    """Raise TypeError now for what would fail at the first connect."""
    if connect_args is not None and not callable(connect_args) and not isinstance(connect_args, Mapping):
        raise TypeError(
            "connect_args must be a mapping of the driver's arguments, or a function that returns one, "
            f"not {type(connect_args).__name__}"
        )


def asked(connect_args: ConnectArgs, factory: Factory[Any] | None = None) -> dict[str, Any]:
    """The arguments for one connect."""
    if not callable(connect_args):
        return dict(connect_args or {})
    try:
        answer = connect_args()
    except ConnectArgsError:
        raise  # it has asked another one itself
    except Exception as error:
        raise ConnectArgsError(f"connect_args raised {describe(error)}") from error
    if not isinstance(answer, Mapping):
        raise TypeError(f"connect_args must return a mapping of the driver's arguments, not {type(answer).__name__}")
    args = dict(answer)
    if factory is not None:
        factory._answered(args)
    return args
