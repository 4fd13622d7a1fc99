"""The options of a pool: validated once, frozen, each with its default and its unit."""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypedDict, get_args

from pooling._lazy import refuse_lazy
from pooling.factory import ResetMode

Check = Literal["peek", "ping"]
Nested = Literal["warn", "raise"]
Workers = Literal["threads", "inline"]
Order = Literal["lifo", "fifo"]
Connected = Callable[[Any], object]
Backoff = Callable[[int], float]


class Options(TypedDict, total=False):
    """The keyword arguments of :class:`pooling.Pool`, for type checkers; :class:`Config` explains them."""

    name: str | None
    min_size: int
    max_size: int | None
    max_idle: int | None
    timeout: float | None
    max_waiting: int | None
    idle_timeout: float | None
    max_lifetime: float | None
    max_uses: int | None
    check: Check | None
    check_after: float
    keepalive: float | None
    max_connecting: int
    connect_timeout: float
    fail_after: float | None
    backoff: Backoff | None
    nested: Nested | None
    workers: Workers
    reset: ResetMode | None
    leak_after: float | None
    order: Order
    on_connect: Connected | None


@dataclass(frozen=True)
class Config:
    """Every option of a pool. All times are seconds; ``None`` switches a limit off.

    Raises ValueError for a value out of range or two that contradict each other, TypeError for one of
    the wrong type; :meth:`of` raises TypeError for an unknown name and says which is the nearest.
    """

    name: str | None = None
    """What the pool is called in errors, logs, metrics; None: ``pool-1``, ``pool-2`` …"""
    min_size: int = 0
    """Connections kept open from the first use on."""
    max_size: int | None = 10
    """Connections open at most, those being opened and closed included; None: no cap."""
    max_idle: int | None = None
    """Idle connections kept at most; a connection beyond it is closed when it comes back."""
    timeout: float | None = 30.0
    """Seconds an acquire may take in all; 0: an idle connection or PoolTimeout at once; None: for ever."""
    max_waiting: int | None = None
    """Callers that may wait at once; one more gets QueueFull. Who waits for a worker alone does not count."""
    idle_timeout: float | None = 600.0
    """Seconds after which an unused connection is closed, down to min_size."""
    max_lifetime: float | None = 3600.0
    """Seconds after which a connection is replaced, up to 10 % earlier by jitter, never later."""
    max_uses: int | None = None
    """Leases after which a connection is replaced."""
    check: Check | None = "peek"
    """What an acquire does with a connection unused for check_after seconds: ``"peek"`` looks at its
    socket and sends nothing, ``"ping"`` has a worker make a round trip, None does nothing."""
    check_after: float = 1.0
    """Seconds of disuse after which check applies."""
    keepalive: float | None = None
    """Seconds of disuse after which a worker makes a round trip on an idle connection."""
    max_connecting: int = 8
    """Connections being opened at the same time at most; opening starts with one and doubles."""
    connect_timeout: float = 10.0
    """Seconds one connect, check, reset or close may take; longer is hung: see "The life of a connection"."""
    fail_after: float | None = 5.0
    """Seconds of failing connects after which waiters fail at once; None: they wait their time out."""
    backoff: Backoff | None = field(default=None, repr=False)
    """The pause in seconds before connect attempt ``n + 1``, given ``n`` failures in a row;
    None: ``min(0.05 * n, 2.0)``, shortened by up to 10 % at random (ioredis's shape)."""
    nested: Nested | None = "warn"
    """What to do when every connection is held by a thread that waits for another one: ``"warn"`` in the log,
    ``"raise"`` PoolTimeout in the last of them, or nothing (None). It is noticed within 0.1 s."""
    workers: Workers = "threads"
    """Who does the driver's I/O: the pool's worker threads, or the calling thread (``"inline"``)."""
    reset: ResetMode | None = "transaction"
    """What a returned connection is cleaned of: an open transaction, the whole session, nothing."""
    leak_after: float | None = None
    """Seconds after which a lease that is still held is reported with its call site."""
    order: Order = "lifo"
    """Which idle connection goes out first: the one used last (lifo) or longest ago (fifo)."""
    on_connect: Connected | None = field(default=None, repr=False)  # a partial's repr would show what it is bound to
    """Called with each new connection, on a worker, before its first lease; if it raises, the connect failed."""

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Config:
        """The options as a Config. Raises TypeError with the nearest name for one that does not exist."""
        for name in options:
            if name not in OPTIONS:
                drivers = ": it is the driver's, for the URL or connect_args"
                hint = drivers if name in _DRIVERS else nearest(name, OPTIONS)
                raise TypeError(f"unknown option {name!r}{hint}")
        return cls(**options)

    def __post_init__(self) -> None:
        for name, least in _COUNTS.items():
            count(name, getattr(self, name), least, optional=name in _OPTIONAL)
        for name, positive in _SECONDS.items():
            seconds(name, getattr(self, name), positive=positive, optional=name in _OPTIONAL)
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {_listed(allowed)}, not {getattr(self, name)!r}")
        for name in ("backoff", "on_connect"):
            if getattr(self, name) is not None and not callable(getattr(self, name)):
                raise TypeError(f"{name} must be callable or None, not {getattr(self, name)!r}")
            refuse_lazy(name, getattr(self, name))
        if self.name is not None and not isinstance(self.name, str):
            raise TypeError(f"name must be a string or None, not {self.name!r}")
        if self.max_size is not None and self.min_size > self.max_size:
            raise ValueError(f"min_size ({self.min_size}) is greater than max_size ({self.max_size})")
        if self.max_idle is not None and self.max_idle < self.min_size:
            raise ValueError(f"max_idle ({self.max_idle}) is less than min_size ({self.min_size})")


OPTIONS = tuple(field.name for field in fields(Config))
"""The names of all options."""


# What other pools call it.
_ELSEWHERE = {
    "max_size": "max_connections", "max_connections": "max_size",
    "pool_size": "max_size", "max_overflow": "max_size", "maxsize": "max_size", "max": "max_size", "size": "max_size",
    "maxconn": "max_size", "maxconnections": "max_size", "connectionLimit": "max_size", "maxPoolSize": "max_size",
    "maxSockets": "max_size",
    "minconn": "min_size", "min_connections": "min_size", "minsize": "min_size", "min": "min_size",
    "mincached": "min_size", "minPoolSize": "min_size", "maxcached": "max_idle",
    "pool_timeout": "timeout", "acquire_timeout": "timeout", "wait_timeout": "timeout", "checkout_timeout": "timeout",
    "acquireTimeout": "timeout", "acquireTimeoutMillis": "timeout",
    "connectionTimeout": "timeout", "connectionTimeoutMillis": "timeout", "waitQueueTimeoutMS": "timeout",
    "blocking": "max_waiting", "waitForConnections": "max_waiting",
    "pool_recycle": "max_lifetime", "recycle": "max_lifetime", "max_age": "max_lifetime",
    "max_idle_time": "idle_timeout", "max_inactive_connection_lifetime": "idle_timeout",
    "maxIdleTimeMS": "idle_timeout",
    "maxusage": "max_uses", "queueLimit": "max_waiting", "reconnect_timeout": "fail_after",
    "pool_pre_ping": "check", "pre_ping": "check", "testOnBorrow": "check", "connectionTestQuery": "check",
    "health_check_interval": "keepalive",
    "pool_reset_on_return": "reset", "pool_use_lifo": "order", "fifo": "order", "scheduling": "order",
    "configure": "on_connect", "init": "on_connect", "setup": "on_connect", "setsession": "on_connect",
    "connectionInitSql": "on_connect", "leakDetectionThreshold": "leak_after",
    "maxConnecting": "max_connecting", "num_workers": "max_connecting",
}  # fmt: skip  # a table
_DRIVERS = {
    "host", "port", "user", "username", "password", "passwd", "database", "dbname", "db", "charset", "autocommit",
    "ssl", "sslmode", "row_factory",
}  # fmt: skip  # a list
_COUNTS = {"min_size": 0, "max_size": 1, "max_idle": 0, "max_waiting": 0, "max_uses": 1, "max_connecting": 1}
# name → whether it must be greater than 0 (True) or may be 0 as well (False)
_SECONDS = {
    "timeout": False,
    "idle_timeout": True,
    "max_lifetime": True,
    "check_after": False,
    "keepalive": True,
    "connect_timeout": True,
    "fail_after": False,
    "leak_after": True,
}
_OPTIONAL = {
    "max_size", "max_idle", "max_waiting", "max_uses",
    "timeout", "idle_timeout", "max_lifetime", "keepalive", "fail_after", "leak_after",
}  # fmt: skip  # one row of counts, one of times
_CHOICES: dict[str, tuple[str | None, ...]] = {
    "check": (*get_args(Check), None),
    "nested": (*get_args(Nested), None),
    "workers": get_args(Workers),
    "reset": (*get_args(ResetMode), None),
    "order": get_args(Order),
}


def nearest(name: str, known: Iterable[str]) -> str:
    """``", did you mean 'max_size'?"`` for the known name of the same meaning or most like this one, or nothing."""
    known = list(known)
    if name in _ELSEWHERE and _ELSEWHERE[name] in known:
        return f", did you mean {_ELSEWHERE[name]!r}?"
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else ""


def from_text(option: str, value: Any) -> Any:
    """What an option stands for that may be a string, as in a URL, TOML or the environment: these have no None."""
    if not isinstance(value, str) or option == "name":
        return value
    for number in (int, float):
        try:
            return number(value)
        except ValueError:
            continue
    return None if value.lower() == "none" else value


_PLAIN = (float, int)


def seconds(name: str, value: object, *, positive: bool = False, optional: bool = True) -> None:
    """Raise TypeError or ValueError unless the value is a time in seconds."""
    if (value is None and optional) or (type(value) in _PLAIN and 0 < value < 1e9):  # type: ignore[operator]  # a number
        return  # what callers give at every acquire
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be seconds as a number{' or None' if optional else ''}, not {value!r}")
    if _too_large(value):
        raise ValueError(f"{name} must be a number of seconds, not one of {len(str(value))} digits")
    if math.isnan(value) or value < 0 or (positive and value == 0):
        raise ValueError(f"{name} must be {'greater than' if positive else 'at least'} 0 seconds, not {value!r}")


def offset(name: str, value: object) -> None:
    """Raise TypeError or ValueError unless the value is a number of seconds, of either sign."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be seconds as a number, not {value!r}")
    if _too_large(value) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number of seconds, not {value!r}")


def _too_large(value: float) -> bool:
    """Whether a number is an int that no float can be."""
    return isinstance(value, int) and abs(value) > sys.float_info.max


def count(name: str, value: object, least: int, *, optional: bool = False) -> None:
    """Raise TypeError or ValueError unless the value is a whole number, ``least`` or more."""
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number{' or None' if optional else ''}, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")


def _listed(allowed: tuple[str | None, ...]) -> str:
    return ", ".join(repr(choice) for choice in allowed)
