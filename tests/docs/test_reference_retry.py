"""The pages on retry and PoolManager are complete: held against the code."""

from __future__ import annotations

import inspect
import re

import pooling
from pooling import Pool, PoolManager, retry, signals
from pooling.backends import dbapi, mysql, postgres
from tests.docs.pages import ROOT, bare, table

REFERENCE = ROOT / "docs" / "reference"


def test_every_option_of_a_retry_is_listed_with_its_default() -> None:
    listed = {bare(row[0]): bare(row[1]) for row in table(REFERENCE / "retry.md", "option")}
    for function, before in ((retry.Retrying.__init__, ("self", "pool")), (Pool.run, ("self", "fn", "args"))):
        parameters = inspect.signature(function).parameters
        assert tuple(parameters)[: len(before)] == before
        assert list(parameters)[len(before) :] == list(listed)
        for name, text in listed.items():
            assert text in ("the pool's", repr(parameters[name].default)), name


def test_every_name_of_the_module_is_listed() -> None:
    assert sorted(bare(row[0]) for row in table(REFERENCE / "retry.md", "name")) == sorted(retry.__all__)


def test_the_codes_of_the_backends_are_those_of_the_page() -> None:
    rows = {row[0]: row[1:] for row in table(REFERENCE / "retry.md", "backend")}
    assert set(re.findall(r"\b\w{5}\b", rows["PostgreSQL"][0])) - {"SQLSTATE"} == postgres._NOTHING_DONE
    numbers = set(map(int, re.findall(r"\d+", rows["MySQL, MariaDB"][0])))
    assert numbers == mysql._NOTHING_DONE | mysql._READ_ONLY | {mysql._OPTION_PREVENTS, mysql._UNKNOWN_COMMAND}
    assert set(map(int, re.findall(r"\d+", rows["MySQL, MariaDB"][1]))) <= mysql._LOST
    assert all(code in rows["any DB-API driver"][0] for code in dbapi._ROLLED_BACK)


def test_every_member_of_a_manager_is_listed() -> None:
    listed = set()
    for row in table(REFERENCE / "manager.md", "member"):
        listed |= set(re.findall(r"`(\w+)[(`]", row[0]))
    own = {name for name in vars(PoolManager) if not name.startswith("_")}
    assert own <= listed
    assert listed - own <= {"get", "items", "keys", "values", "len", "iter"}


def test_the_members_of_a_manager_have_the_parameters_of_the_page() -> None:
    for row in table(REFERENCE / "manager.md", "member"):
        for name, arguments in re.findall(r"`(\w+)\(([^)]*)\)`", row[0]):
            if name in ("len", "iter"):
                continue
            parameters = list(inspect.signature(getattr(PoolManager, name)).parameters)
            assert ", ".join(name for name in parameters if name != "self") == arguments


def test_every_argument_of_the_handlers_is_listed() -> None:
    parameters = inspect.signature(signals.drain_on_signals).parameters
    assert [bare(row[0]) for row in table(REFERENCE / "manager.md", "argument")] == list(parameters)
    assert parameters["timeout"].default == 20.0


def test_the_manager_is_public() -> None:
    assert pooling.PoolManager is PoolManager
