"""create_pool(): from a URL to a pool, and what it says where that cannot be."""

from __future__ import annotations

import re
import traceback
from functools import partial
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Any

import pytest

import pooling
from pooling.backends import schemes
from pooling.backends.dbapi import DbapiFactory
from pooling.backends.http import HttpFactory
from pooling.backends.mongodb import MongoFactory
from pooling.backends.mysql import MysqlFactory
from pooling.backends.postgres import PostgresFactory
from pooling.backends.redis import BlockingConnectionPool, ConnectionPool, RedisFactory
from pooling.backends.sqlite import SqliteFactory
from tests.backends.contract import run_python
from tests.docs.pages import ROOT


def test_nothing_is_opened_before_the_first_use(tmp_path: Path) -> None:
    with pooling.create_pool(f"sqlite:///{tmp_path}/new.db") as pool:
        assert not (tmp_path / "new.db").exists()
        with pool.acquire():
            assert (tmp_path / "new.db").exists()


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg", "POSTGRESQL"])
def test_a_pool_is_named_after_its_database_and_not_after_its_user(scheme: str) -> None:
    with pooling.create_pool(f"{scheme}://anna:hidden@db.example:5433/shop") as pool:
        assert pool.name == "db.example:5433/shop"
    with pooling.create_pool(f"{scheme}://db.example/shop", name="orders") as pool:
        assert pool.name == "orders"


def test_an_unknown_scheme_is_told_with_the_nearest_and_with_the_list() -> None:
    with pytest.raises(ValueError, match="unknown URL scheme 'postgre', did you mean 'postgres'") as caught:
        pooling.create_pool("postgre://anna:hidden@db/shop")
    assert all(scheme in str(caught.value) for scheme in schemes())
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "host=db password=hidden", "anna:hidden@db/shop", "://hidden", "", "a hidden://b",
        "'postgresql://anna:hidden@db/shop'", " hidden@x postgresql://db",
    ],
)  # fmt: skip  # a list
def test_what_is_no_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="must look like") as caught:
        pooling.create_pool(url)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("shop.db", "'shop.db' has no scheme, write 'sqlite:///shop.db'"),
        ("/var/shop.sqlite3", "write 'sqlite:////var/shop.sqlite3'"),
        (":memory:", "write 'sqlite://'"),
        ("sqlite:shop.db", "no '///' after 'sqlite:', write 'sqlite:///shop.db'"),
        ("sqlite:/var/shop.db", "write 'sqlite:////var/shop.db'"),
        ("sqlite:my shop", "write 'sqlite:///shop.db'"),
        ("postgres:localhost/x", "like 'postgres://host': it has no '//' after 'postgres:'"),
        ("Redis:/localhost", "like 'redis://host'"),
        ("", "it is empty"),
        (" \n", "it is empty"),
        ('"postgresql+psycopg://db/shop"', """it has '"' before its scheme"""),
        (" '\tredis://localhost", "before its scheme"),
        ("localhost:5432/x", "'postgresql://user@host/db' or 'sqlite:///shop.db': it has no scheme"),
    ],
)
def test_what_is_almost_a_url_is_told_with_what_was_meant(url: str, told: str) -> None:
    with pytest.raises(ValueError, match="must look like") as caught:
        pooling.create_pool(url)
    assert told in str(caught.value)


@pytest.mark.parametrize("scheme", ["psql", "pg", "pgsql"])
def test_other_names_of_postgresql_are_known(scheme: str) -> None:
    with pytest.raises(ValueError, match="did you mean 'postgresql'"):
        pooling.create_pool(f"{scheme}://db/shop")


@pytest.mark.parametrize("scheme", ["postgresql", "postgres+psycopg", "mysql", "redis", "rediss", "mongodb", "http"])
@pytest.mark.parametrize(
    "place",
    ["anna:p@hidden/w@db/1", "anna:hidden/w@db/1", "anna:12/hidden@db/1", "anna:p@hidden?w@db", "12/hid?x@db/1?a=b"],
)
def test_a_password_that_ends_too_early_is_refused_and_not_taken_for_a_host(scheme: str, place: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be read|is an origin") as caught:
        pooling.create_pool(f"{scheme}://{place}")
    assert "hid" not in str(caught.value)
    assert "percent-encode" in str(caught.value) or scheme == "http"


@pytest.mark.parametrize(
    "make",
    [
        PostgresFactory, RedisFactory, MongoFactory, MysqlFactory,
        ConnectionPool.from_url, BlockingConnectionPool.from_url,
    ],
)  # fmt: skip  # a list
@pytest.mark.parametrize("place", ["anna:12/hidden@db", ":12/hidden@db/1", "anna:hidden/w@db/1"])
def test_nor_is_it_by_what_is_made_without_create_pool(make: Any, place: str) -> None:
    scheme = next(word for word in ("postgres", "redis", "mongodb", "mysql") if word in make.__module__)
    with pytest.raises(ValueError, match="percent-encode") as caught:
        make(f"{scheme}://{place}")
    assert "hid" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["postgresql://anna:my hidden@db/shop?sslmode=require", "postgresql://anna:p?hidden/shop"]
)
def test_nor_is_it_by_the_error_before_which_a_traceback_shows_too(url: str) -> None:
    """libpq's own repeats what it cannot read."""
    with pytest.raises(ValueError, match="cannot be read") as caught:
        pooling.create_pool(url)
    assert "hidden" not in "".join(traceback.format_exception(caught.value)).replace(url, "")


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("postgresql://anna:p#1?2@db/shop", "db:5432/shop"),  # which libpq reads
        ("postgresql://db/shop?user=anna@azure", "db:5432/shop"),
        ("postgresql://anna%40azure:p%2Fw%40x@db/a%40b", "db:5432/a@b"),
        ("mysql://anna@azure:p@w@db/shop", "db:3306/shop"),
        ("redis://:p@w@db/1", "db:6379/1"),
        ("mongodb://anna:p%40w@db/?appname=a@b/c", "db:27017/"),
        ("sqlite:///a@b/shop@home.db", "shop@home.db"),
    ],
)
def test_only_what_comes_after_the_last_at_sign_is_in_the_name(url: str, name: str) -> None:
    with pooling.create_pool(url) as pool:
        assert pool.name == name


@pytest.mark.parametrize("connect_args", [5, "hidden", [("timeout", 1)], {"hidden"}])
def test_connect_args_that_can_be_none_are_refused_at_once(connect_args: Any) -> None:
    with pytest.raises(TypeError, match=f"must be a mapping .* not {type(connect_args).__name__}$") as caught:
        pooling.create_pool("sqlite://", connect_args)
    assert "hidden" not in str(caught.value)


FACTORIES: list[Any] = [
    PostgresFactory, MysqlFactory, MongoFactory, RedisFactory, HttpFactory, SqliteFactory, partial(DbapiFactory, print)
]  # fmt: skip  # a list


@pytest.mark.parametrize("factory", FACTORIES, ids=lambda factory: getattr(factory, "__name__", "DbapiFactory"))
@pytest.mark.parametrize("connect_args", [5, "hidden", [("timeout", 1)], {"hidden"}])
def test_so_they_are_where_a_factory_is_made_by_hand(factory: Any, connect_args: Any) -> None:
    given = () if isinstance(factory, partial) else ("http://db.example",)
    with pytest.raises(TypeError, match="connect_args must be a mapping of the driver's arguments") as caught:
        factory(*given, connect_args=connect_args)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("factory", FACTORIES[:5], ids=lambda factory: factory.__name__)
def test_a_factory_that_gets_a_variable_that_is_not_set_says_so(factory: Any) -> None:
    with pytest.raises(TypeError, match=r"^url must be a string, not NoneType$"):
        factory(None)


@pytest.mark.parametrize("answer", [None, "hidden", [("timeout", 1)]])
def test_a_function_that_returns_no_connect_args_is_told_so(answer: Any) -> None:
    said = f"must return a mapping .* not {type(answer).__name__} "
    with (
        pooling.create_pool("mysql://localhost:1/none", lambda: answer) as pool,
        pytest.raises(pooling.ConnectError, match=said) as caught,
    ):
        pool.acquire(5.0)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("url", [None, b"sqlite://", Path("x.db")])
def test_a_url_is_a_string(url: Any) -> None:
    with pytest.raises(TypeError, match="url must be a string"):
        pooling.create_pool(url)


def test_an_unknown_option_is_told_with_the_nearest() -> None:
    options: dict[str, Any] = {"max_sise": 3}
    with pytest.raises(TypeError, match="unknown option 'max_sise', did you mean 'max_size'"):
        pooling.create_pool("sqlite://", **options)


@pytest.mark.parametrize(
    ("missing", "scheme", "extra"),
    [("psycopg", "postgresql", "postgres"), ("redis", "redis", "redis"), ("redis.himport", "redis", "redis")],
)
def test_a_driver_that_is_missing_or_too_old_is_told_with_the_extra_that_brings_it(
    missing: str, scheme: str, extra: str
) -> None:
    script = """
        import sys
        missing, scheme = sys.argv[1:]
        sys.modules[missing] = None  # what makes an import fail
        import pooling
        try:
            pooling.create_pool(f"{scheme}://db/shop")
        except ImportError as error:
            print(error)
    """
    assert f"pip install 'pooling[{extra}]'" in run_python(script, missing, scheme)


@pytest.mark.parametrize(
    "url", ["sqlite:///shop.db?", "mysql://db?", "postgresql://db?", "redis://db?", "mongodb://db/?"]
)
@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("max_size=5", r"'max_size' is an option of the pool and not of .*: create_pool\(url, max_size=…\)$"),
        ("keepalive=5", r"'keepalive' is an option of the pool .*: create_pool\(url, keepalive=…\)$"),
        ("pool_size=5", "'pool_size'.*, did you mean 'max_size'"),
        ("max_connections=5", "'max_connections'.*, did you mean 'max_size'"),
        ("zzz=5", "'zzz'( in the .* URL)?( [(]known: .*)?$"),
    ],
)
def test_an_option_in_a_url_that_is_the_pools_is_told_with_its_place(url: str, option: str, told: str) -> None:
    with pytest.raises(TypeError, match=told):
        pooling.create_pool(url + option)


def test_a_urllib3_that_is_too_old_is_told_with_the_extra_that_brings_another() -> None:
    script = """
        import sys
        from types import ModuleType
        sys.modules["urllib3"] = old = ModuleType("urllib3")
        old.__version__ = "1.26.20"
        import pooling
        try:
            pooling.create_pool("http://localhost")
        except ImportError as error:
            print(error)
    """
    assert run_python(script) == "HTTP needs urllib3 2 or later, this is 1.26.20: pip install 'pooling[http]'\n"


@pytest.mark.parametrize(
    ("older", "url", "told"),
    [
        (
            "pymongo.version, pymongo.version_tuple = '4.0.2', (4, 0, 2)",
            "mongodb://localhost",
            "MongoDB needs PyMongo 4.6 or later: pip install 'pooling[mongodb]'\nthis is PyMongo 4.0.2\n",
        ),
        (
            "pymysql.VERSION = (1, 0, 2, None)",
            "mysql://localhost",
            "MySQL and MariaDB need PyMySQL 1.1 or later: pip install 'pooling[mysql]'\nthis is PyMySQL 1.0.2\n",
        ),
    ],
    ids=["pymongo", "pymysql"],
)
def test_a_driver_that_is_too_old_is_told_with_the_extra_that_brings_another(older: str, url: str, told: str) -> None:
    script = f"""
        import pymongo, pymysql
        {older}
        import pooling
        try:
            pooling.create_pool("{url}")
        except ImportError as error:
            print(error, error.__cause__, sep="\\n")
    """
    assert run_python(script) == told


@pytest.mark.parametrize("extra", ["http", "requests"])
def test_an_extra_brings_a_urllib3_that_is_new_enough(extra: str) -> None:
    """requests would leave an older one where it is."""
    (needs,) = re.findall(rf"^{extra} = \[(.*)\]", (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    assert '"urllib3>=2"' in needs


def test_another_package_adds_a_scheme_by_an_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "elsewhere-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[pooling.backends]\nelsewhere = elsewhere_pool:create\n")
    (tmp_path / "elsewhere_pool.py").write_text(
        "import pooling\n"
        "def create(url, connect_args=None, **options):\n"
        "    return pooling.Pool(lambda: open(connect_args['path']), name=url, **options)\n"
    )
    (tmp_path / "text").write_text("hello")
    monkeypatch.syspath_prepend(tmp_path)

    assert "elsewhere" in schemes()
    pool = pooling.create_pool("elsewhere://there", connect_args={"path": tmp_path / "text"}, max_size=2)
    with pool, pool.acquire() as file:
        assert file.read() == "hello"
        assert pool.name == "elsewhere://there"


def test_what_packs_a_program_finds_every_backend(tmp_path: Path) -> None:
    """It looks for imports in the code, as the standard library's ModuleFinder does."""
    root = Path(pooling.__file__).parent
    script = tmp_path / "program.py"
    script.write_text("import pooling")
    finder = ModuleFinder([str(root.parent)])
    finder.run_script(str(script))
    backends = {path.stem for path in root.joinpath("backends").glob("[!_]*")}
    assert {"sqlite", "redis"} < backends
    assert {f"pooling.backends.{backend}" for backend in backends - {"dbapi"}} <= finder.modules.keys()
