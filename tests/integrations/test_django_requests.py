"""Requests to a Django site: in this process one by one, and under real servers many at once."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.cache import caches
from django.core.handlers.wsgi import WSGIHandler
from django.db import OperationalError, connections
from django.db.backends.signals import connection_created

from pooling.integrations.django import cache, close_all
from tests.backends.contract import in_threads
from tests.integrations.django_project.setting_up import make_tables, set_up
from tests.integrations.exchange import Exchange
from tests.integrations.serving import Serving
from tests.servers import MariaDB, Postgres, Redis
from tests.waiting import until

APPLICATION = "tests.integrations.django_project.wsgi:application"
_names = itertools.count(1)

Start = Callable[..., tuple[Serving, str]]


@pytest.fixture(scope="module", autouse=True)
def project(
    postgres: Postgres, mariadb: MariaDB, redis_server: Redis, tmp_path_factory: pytest.TempPathFactory
) -> None:
    set_up(postgres.url, mariadb.url, redis_server.url, tmp_path_factory.mktemp("django"))


@pytest.fixture(autouse=True)
def items() -> Iterator[Any]:
    """The items of the shop, in PostgreSQL; "tea" is one of them."""
    from tests.integrations.django_project.models import Item

    make_tables("postgresql")
    for name in ("tea", "rice", "salt", "soap", "rope"):
        Item.objects.using("postgresql").create(name=name)
    connections.close_all()
    yield Item.objects.using("postgresql")
    connections.close_all()
    close_all()


@pytest.fixture
def start(postgres: Postgres, redis_server: Redis) -> Iterator[Start]:
    """start("gunicorn-gthread"): the site under that server, and the name of its sessions at PostgreSQL. When the
    server has ended there are none."""
    running: list[tuple[Serving, str]] = []

    def begin(name: str, **variables: str) -> tuple[Serving, str]:
        marked = f"django-{os.getpid()}-{next(_names)}"
        options = {"application_name": marked, "pooling": {"max_size": 4}}
        settings = {
            "SITE_POSTGRESQL": postgres.url,
            "SITE_REDIS": redis_server.url,
            "SITE_DEFAULT": "postgresql",
            "SITE_OPTIONS": json.dumps(options),
        }
        serving = Serving(name, APPLICATION, **{**settings, **variables})
        running.append((serving, marked))
        return serving.start(), marked

    yield begin
    for serving, marked in running:
        print(serving.log)  # which pytest shows with a failure
        serving.close()
        postgres.wait_for_sessions(0, marked)


def at_rest(serving: Serving, workers: int = 1) -> list[dict[str, Any]]:
    """The numbers of each worker, once nothing but the asking request itself is under way."""
    seen: dict[int, dict[str, Any]] = {}

    def look() -> bool:
        stats = serving.stats()
        seen[stats["pid"]] = stats
        return len(seen) >= workers and not any(stats["leased"] for stats in seen.values())

    until(look, seconds=60)
    return list(seen.values())


@pytest.mark.parametrize("server", ["gunicorn-gthread", "gunicorn-gevent", "waitress"])
def test_many_requests_share_a_few_sessions_and_none_at_the_same_time(
    server: str, start: Start, postgres: Postgres, items: Any
) -> None:
    serving, marked = start(server)
    statuses: list[int] = []

    def visit(number: int) -> None:
        paths = ("/buy", "/fail", "/stream", "/buy", "/nothing", "/buy")
        statuses.extend(serving.get(path)[0] for path in paths)

    in_threads(12, visit)
    (stats,) = at_rest(serving)
    assert sorted(statuses) == [200] * 60 + [500] * 12
    assert items.get(name="tea").stock == 36
    assert stats["shared"] == 0
    assert stats["acquired"] == stats["released"] == 60  # "/nothing" and "/stats" take none
    assert postgres.session_count(marked) <= 4


@pytest.mark.parametrize("server", ["gunicorn-preload", "uwsgi"])
def test_workers_leave_what_the_master_has_opened_alone(server: str, start: Start, items: Any) -> None:
    serving, _ = start(server, SITE_WARM="1")

    def visit(number: int) -> None:
        for path in ("/buy", "/stream"):
            assert serving.get(path)[0] == 200, serving.log

    in_threads(8, visit)
    workers = at_rest(serving, 2)
    assert [stats["shared"] for stats in workers] == [0, 0]
    assert items.get(name="tea").stock == 8


def test_a_client_that_goes_away_gives_its_connection_back(start: Start, items: Any) -> None:
    serving, _ = start("gunicorn-gthread")
    items.bulk_create(items.model(name=f"{number:05}" + "x" * 40) for number in range(20000))
    for _ in range(3):
        serving.abandon("/stream")
    (stats,) = at_rest(serving)
    assert stats["shared"] == 0
    assert serving.get("/buy")[0] == 200


# -- in this process ----------------------------------------------------------------------------------


def test_the_connection_lasts_until_the_response_is_closed(items: Any) -> None:
    connection: Any = connections["postgresql"]
    handler = WSGIHandler()
    exchange = Exchange(handler, PATH_INFO="/nothing", strict=False)
    items.count()
    assert connection.pooling.stats().leased == 1
    exchange.run()
    assert connection.pooling.stats().leased == 0
    Exchange(handler, PATH_INFO="/nothing", strict=False).run()  # closes nothing twice
    assert connection.pooling.stats().released == connection.pooling.stats().acquired


def test_where_django_asks_for_itself_its_own_line_is_shown(items: Any) -> None:
    connection: Any = connections["postgresql"]
    met: list[str] = []

    def note(**details: Any) -> None:
        met.append(connection.pooling.holders()[0].where)

    connection_created.connect(note)
    try:
        Exchange(WSGIHandler(), PATH_INFO="/by-django", strict=False).run()
    finally:
        connection_created.disconnect(note)
    assert len(met) == 1
    assert "generic/list.py" in met[0]


# -- the Redis cache ----------------------------------------------------------------------------------


def test_all_threads_have_one_pool_for_the_cache(redis_server: Redis) -> None:
    pools: set[int] = set()

    def use(number: int) -> None:
        for turn in range(20):
            caches["default"].set(f"key-{number}", turn)
            assert caches["default"].get(f"key-{number}") == turn
        client: Any = caches["default"]
        pools.add(id(client._cache._get_connection_pool(write=True)))

    in_threads(8, use)
    client: Any = caches["default"]
    pool = client._cache._get_connection_pool(write=True)
    assert pools == {id(pool)}
    assert pool.pooling.stats().opened <= pool.max_connections == 2
    assert pool.pooling.stats().leased == 0


def test_other_options_are_another_pool(redis_server: Redis) -> None:
    for kind in (cache.ConnectionPool, cache.BlockingConnectionPool):
        first = kind.from_url(redis_server.url, max_connections=3)
        assert kind.from_url(redis_server.url, max_connections=3) is first
        assert kind.from_url(redis_server.url, max_connections=4) is not first
        assert type(first) is kind


@pytest.mark.parametrize("kind", ["ConnectionPool", "BlockingConnectionPool"])
def test_the_pools_of_the_redis_backend_do_as_well(kind: str, redis_server: Redis) -> None:
    from django.core.cache.backends.redis import RedisCache

    known: Any = RedisCache(redis_server.url, {"OPTIONS": {"pool_class": f"pooling.backends.redis.{kind}"}})
    known.set_many({"one": 1, "two": [2]}, 60)
    assert known.get_many(["one", "two", "three"]) == {"one": 1, "two": [2]}
    assert (known.incr("one"), known.add("one", 5), known.delete("two")) == (2, False, True)
    pool = known._cache._get_connection_pool(write=True)
    assert (pool.pooling.stats().opened, pool.pooling.stats().leased) == (1, 0)
    pool.disconnect()


def test_an_error_of_the_database_is_one_that_django_knows(items: Any) -> None:
    connection: Any = connections["postgresql"]
    connection.pooling.close()
    with pytest.raises(OperationalError, match="closed"):
        items.count()
