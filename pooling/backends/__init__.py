"""One module a backend, and what they have in common."""

from pooling.backends._connect_args import ConnectArgs, asked, check_connect_args
from pooling.backends._url import (
    GROUP,
    check_text,
    check_user,
    create_pool,
    on_or_off,
    read_option,
    scheme_of,
    schemes,
    unknown_option,
)
from pooling.errors import ConnectArgsError

__all__ = [
    "GROUP",
    "ConnectArgs",
    "ConnectArgsError",
    "asked",
    "check_connect_args",
    "check_text",
    "check_user",
    "create_pool",
    "on_or_off",
    "read_option",
    "scheme_of",
    "schemes",
    "unknown_option",
]
