"""Pools as a configuration describes them: TOML and the environment become mappings, and those arguments."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from pooling.config import OPTIONS, from_text


class Variable:
    """The URL in an environment variable, as it is when it is asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self) -> str:
        try:
            return os.environ[self._name]
        except KeyError:
            raise ValueError(f"the environment variable {self._name} is not set") from None


def arguments(name: str, entry: object) -> tuple[Any, Any, dict[str, Any]]:
    """The URL, connect_args and options of a pool, from its entry in a mapping. Raises ValueError or TypeError."""
    given: dict[str, Any] = dict(entry) if isinstance(entry, Mapping) else {"url": entry}
    if ("url" in given) == ("url_env" in given):
        raise ValueError(f"pool {name!r}: give either url or url_env")
    url = given.pop("url") if "url" in given else _variable(name, given.pop("url_env"))
    connect_args = given.pop("connect_args", None)
    return url, connect_args, {option: from_text(option, value) for option, value in given.items()}


def _variable(pool: str, name: object) -> Variable:
    if not isinstance(name, str) or not name or "://" in name:  # not shown: it may be the URL, with its password
        raise ValueError(f"pool {pool!r}: url_env must be the name of the environment variable that has the URL")
    return Variable(name)


def from_toml(path: str | os.PathLike[str], table: str) -> Mapping[str, Any]:
    """The table of that dotted name. Raises OSError, ValueError or ImportError."""
    try:
        toml = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    except ImportError as error:
        raise ImportError("TOML files need tomli before Python 3.11: pip install 'pooling[toml]'") from error
    found: Any
    with open(path, "rb") as file:
        try:
            found = toml.load(file)
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)} is no TOML: {error}") from error
    for key in table.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    if not isinstance(found, dict):
        raise ValueError(f"{os.fspath(path)} has no table [{table}]")
    return found


def from_env(prefix: str, environ: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """What the variables with this prefix say about pools. Raises ValueError for one that is about none."""
    ours = {variable[len(prefix) :].lower(): variable for variable in sorted(environ) if variable.startswith(prefix)}
    described = {key[:-4]: {"url": environ[variable]} for key, variable in ours.items() if key.endswith("_url")}
    for key, variable in ours.items():
        # The longest name counts: ORDERS_MAX_SIZE may be about "orders", ORDERS_OLD_MAX_SIZE about "orders_old".
        name = max((name for name in described if key.startswith(f"{name}_")), key=len, default=None)
        if name is None:
            if f"_{key}".endswith(tuple(f"_{option}" for option in ("url", *OPTIONS))):
                known = ", ".join(described) or "none"
                raise ValueError(f"{variable} is about no pool: {prefix}…_URL is set for {known}")
        elif key != f"{name}_url":
            described[name][key[len(name) + 1 :]] = environ[variable]
    return described
