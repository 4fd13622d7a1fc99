"""Pools described by a dict, a TOML file, or the environment."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from pooling import Pool, PoolManager
from pooling.testing import FakeFactory

TOML = """
title = "shop"

[pools]
users = "sqlite://"

[pools.orders]
url = "sqlite:///{folder}/orders.db"
max_size = 5
timeout = 2.5
max_lifetime = "none"
check = "none"
connect_args = {{ cached_statements = 7 }}

[tool.shop.pools.cache]
url = "sqlite://"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "shop.toml"
    path.write_text(TOML.format(folder=tmp_path), encoding="utf-8")
    return path


def refusal(call: Any, *args: Any, **options: Any) -> str:
    with pytest.raises((TypeError, ValueError)) as caught:
        call(*args, **options)
    return f"{type(caught.value).__name__}: {caught.value}"


# -- a dict -------------------------------------------------------------------------------------------------------


def test_a_dict_has_urls_or_mappings() -> None:
    asked: list[None] = []

    def credentials() -> dict[str, Any]:
        asked.append(None)
        return {"cached_statements": 5}

    factory = FakeFactory()
    described = {
        "users": "sqlite://",
        "orders": {"url": "sqlite://", "max_size": 3, "connect_args": credentials},
        "fake": factory,
        "own": Pool(FakeFactory(), max_size=1),
    }
    with PoolManager.from_dict(described, max_size=4) as manager:
        assert list(manager) == list(described)
        assert [pool.config.max_size for pool in manager.values()] == [4, 3, 4, 1]
        for pool in manager.values():
            pool.acquire().release()
        assert len(asked) == 1
        assert factory.open == 1
    assert described["orders"] == {"url": "sqlite://", "max_size": 3, "connect_args": credentials}


def test_options_may_be_strings_as_configuration_files_have_them() -> None:
    options = {"name": "7", "max_size": "5", "timeout": "2.5", "max_lifetime": "none", "check": "None", "order": "fifo"}
    with PoolManager.from_dict({"a": {"url": "sqlite://", **options}}) as manager:
        config = manager["a"].config
    assert (config.max_size, config.timeout, config.max_lifetime, config.check) == (5, 2.5, None, None)
    assert (config.order, config.name) == ("fifo", "7")


@pytest.mark.parametrize(
    ("described", "said"),
    [
        ({"a": {"max_size": 3}}, "ValueError: pool 'a': give either url or url_env"),
        ({"a": {"url": "sqlite://", "url_env": "X"}}, "ValueError: pool 'a': give either url or url_env"),
        ({"a": {"url": "sqlite://", "max_sise": 3}}, "TypeError: pool 'a': unknown option 'max_sise', did you mean"),
        ({"a": {"url": "sqlite://", "max_size": "many"}}, "TypeError: pool 'a': max_size must be a whole number"),
        ({"a": "postgresql//h"}, "ValueError: pool 'a': url must look like"),
        ({"a": None}, "TypeError: pool 'a': it must be made of a URL"),
        ({"a": {"url": None}}, "TypeError: pool 'a': it must be made of a URL"),
        ({"a": {"url_env": 3}}, "ValueError: pool 'a': url_env must be the name of the environment variable"),
        ({"a": {"url_env": ""}}, "ValueError: pool 'a': url_env must be the name of the environment variable"),
        ("postgresql://anna:hidden@h/d", "TypeError: pools must be described by a mapping"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_pools_name(described: Any, said: str) -> None:
    text = refusal(PoolManager.from_dict, described)
    assert text.startswith(said)


def test_a_secret_stays_out_of_a_refusal() -> None:
    url = "postgresql://anna:hidden@h/d"
    assert "hidden" not in refusal(PoolManager.from_dict, url)
    assert "hidden" not in refusal(PoolManager.from_dict, {"a": {"url": url.encode()}})
    assert "hidden" not in refusal(PoolManager.from_dict, {"a": {"url_env": url}})


def test_a_url_may_be_in_a_variable_which_is_read_when_the_pool_is_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("ORDERS_DB", raising=False)
    with PoolManager.from_dict({"orders": {"url_env": "ORDERS_DB", "max_size": 2}}) as manager:
        with pytest.raises(ValueError, match=r"^pool 'orders': the environment variable ORDERS_DB is not set$"):
            manager["orders"]
        monkeypatch.setenv("ORDERS_DB", f"sqlite:///{tmp_path}/orders.db")
        manager["orders"].acquire().release()
        assert (tmp_path / "orders.db").exists()
        assert manager["orders"].config.max_size == 2


# -- a TOML file --------------------------------------------------------------------------------------------------


def test_a_toml_file_has_a_table_of_pools(file: Path, tmp_path: Path) -> None:
    with PoolManager.from_toml(file, max_size=2) as manager:
        assert list(manager) == ["users", "orders"]
        config = manager["orders"].config
        assert (config.max_size, config.timeout, config.max_lifetime, config.check) == (5, 2.5, None, None)
        assert manager["users"].config.max_size == 2
        manager["orders"].acquire().release()
        assert (tmp_path / "orders.db").exists()


def test_the_table_may_be_another_one(file: Path) -> None:
    with PoolManager.from_toml(str(file), table="tool.shop.pools") as manager:
        assert list(manager) == ["cache"]


@pytest.mark.parametrize("table", ["nothing", "tool.nothing", "title", "pools.users", "pools.orders.url.x", ""])
def test_a_table_that_is_not_there_is_told(file: Path, table: str) -> None:
    assert refusal(PoolManager.from_toml, file, table) == f"ValueError: {file} has no table [{table}]"


def test_a_file_that_is_no_toml_is_told(file: Path, tmp_path: Path) -> None:
    file.write_text("[pools\n", encoding="utf-8")
    assert f"{file} is no TOML: " in refusal(PoolManager.from_toml, file)
    with pytest.raises(FileNotFoundError):
        PoolManager.from_toml(tmp_path / "nowhere.toml")


def test_without_a_library_for_toml_the_extra_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tomllib" if sys.version_info >= (3, 11) else "tomli", None)
    with pytest.raises(ImportError, match=r"pip install 'pooling\[toml\]'"):
        PoolManager.from_toml(file)


# -- the environment ----------------------------------------------------------------------------------------------


def test_variables_describe_pools_and_their_options() -> None:
    environ = {
        "POOLING_ORDERS_URL": "sqlite://",
        "POOLING_ORDERS_MAX_SIZE": "5",
        "POOLING_ORDERS_IDLE_TIMEOUT": "none",
        "POOLING_ORDERS_OLD_URL": "sqlite://",
        "POOLING_ORDERS_OLD_MAX_SIZE": "6",
        "POOLING_SERVICE_HOST": "10.0.0.1",  # what Kubernetes adds for a service of that name
        "HOME": "/root",
    }
    with PoolManager.from_env(environ=environ, timeout=3.0) as manager:
        assert sorted(manager) == ["orders", "orders_old"]
        orders, old = manager["orders"].config, manager["orders_old"].config
    assert (orders.max_size, orders.idle_timeout, orders.timeout) == (5, None, 3.0)
    assert (old.max_size, old.idle_timeout) == (6, 600.0)


def test_the_prefix_may_be_another_one_and_the_variables_are_those_of_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SHOP_DB_URL", "sqlite://")
    with PoolManager.from_env("SHOP_") as manager:
        assert list(manager) == ["db"]
        manager["db"].acquire().release()
    assert "SHOP_DB_URL" in os.environ


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"POOLING_A_URL": "sqlite://", "POOLING_A_MAX_SISE": "5"}, "TypeError: pool 'a': unknown option 'max_sise'"),
        ({"POOLING_A_URL": "sqlite://", "POOLING_A_TIMEOUT": "-1"}, "ValueError: pool 'a': timeout must be at least 0"),
        ({"POOLING_A_URL": "nonsense"}, "ValueError: pool 'a': url must look like"),
        (
            {"POOLING_A_URL": "sqlite://", "POOLING_B_MAX_SIZE": "5"},
            "ValueError: POOLING_B_MAX_SIZE is about no pool: POOLING_…_URL is set for a",
        ),
        ({"POOLING_MAX_SIZE": "5"}, "ValueError: POOLING_MAX_SIZE is about no pool: POOLING_…_URL is set for none"),
        ({"POOLING_URL": "sqlite://"}, "ValueError: POOLING_URL is about no pool"),
    ],
)
def test_a_variable_that_makes_no_sense_is_named(environ: dict[str, str], said: str) -> None:
    assert refusal(PoolManager.from_env, environ=environ).startswith(said)
