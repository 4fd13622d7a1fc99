"""The Flask extension on databases: what is committed, what is rolled back, and pools from the configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flask
import psycopg
import pytest

import pooling
from pooling.integrations.flask import Pools
from tests.integrations.exchange import Exchange
from tests.servers import Postgres


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Callable[..., tuple[flask.Flask, Pools]]]:
    """shop(**config): an application on an SQLite database with a table, entry."""
    made: list[tuple[flask.Flask, Pools]] = []

    def build(**config: Any) -> tuple[flask.Flask, Pools]:
        app, pools = flask.Flask("shop"), Pools()
        app.config["POOLING_URL"] = f"sqlite:///{tmp_path}/shop.db"
        app.config.update(config)
        pools.init_app(app)
        with pools.pools(app)["default"].transaction() as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS entry (amount INTEGER CHECK (amount < 100))")
        made.append((app, pools))
        return app, pools

    yield build
    for app, pools in made:
        stats = pools.pools(app)["default"].stats()
        assert (stats.leased, stats.released) == (0, stats.acquired)
        pools.close(app)


def amounts(app: flask.Flask, pools: Pools) -> list[int]:
    with pools.pools(app)["default"].acquire() as connection:
        return [row[0] for row in connection.execute("SELECT amount FROM entry ORDER BY amount")]


def test_a_lease_never_commits(shop: Any) -> None:
    app, pools = shop()
    with app.app_context():
        pools.connection().execute("INSERT INTO entry VALUES (1)")
    assert amounts(app, pools) == []
    with app.app_context():
        with pools.transaction() as connection:
            connection.execute("INSERT INTO entry VALUES (2)")
        with pytest.raises(ValueError, match="no"), pools.transaction() as connection:
            connection.execute("INSERT INTO entry VALUES (3)")
            raise ValueError("no")
    assert amounts(app, pools) == [2]


@pytest.mark.parametrize(
    ("path", "status", "kept"),
    [
        ("/200", 200, [7]),
        ("/302", 302, [7]),
        ("/400", 400, []),
        ("/404", 404, []),
        ("/500", 500, []),
        ("/raise", 500, []),
    ],
)
def test_with_transactions_the_status_decides(shop: Any, path: str, status: int, kept: list[int]) -> None:
    app, pools = shop(POOLING_TRANSACTION=True)

    @app.get("/<wanted>")
    def view(wanted: str) -> Any:
        pools.connection().execute("INSERT INTO entry VALUES (7)")
        if wanted == "raise":
            raise ZeroDivisionError
        if wanted == "404":
            flask.abort(404)
        return "done", int(wanted)

    assert app.test_client().get(path).status_code == status
    assert amounts(app, pools) == kept


def test_the_answer_waits_for_the_commit_and_tells_of_its_failure(shop: Any) -> None:
    app, pools = shop(
        POOLING_TRANSACTION=True, POOLING_OPTIONS={"on_connect": lambda new: new.execute("PRAGMA foreign_keys = ON")}
    )
    with pools.pools(app)["default"].transaction() as connection:
        connection.execute("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
        connection.execute("CREATE TABLE child (parent INTEGER REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)")
    order: list[Any] = []

    @app.get("/")
    def view() -> str:
        pools.connection().execute("INSERT INTO entry VALUES (1)")
        return "done"

    @app.get("/orphan")
    def orphan() -> str:
        pools.connection().execute("INSERT INTO child VALUES (1)")
        return "done"

    exchange = Exchange(app, strict=False)
    order.append(amounts(app, pools))  # before the first block is asked for
    exchange.run()
    assert order == [[1]]
    answer = app.test_client().get("/orphan")
    assert answer.status_code == 500
    with pools.pools(app)["default"].acquire() as connection:
        assert connection.execute("SELECT count(*) FROM child").fetchone() == (0,)


def test_where_one_commit_fails_those_after_it_are_not_made_whatever_an_error_handler_answers(
    shop: Any, tmp_path: Path
) -> None:
    app, pools = shop(
        POOLING_TRANSACTION=True,
        POOLING_OPTIONS={"on_connect": lambda new: new.execute("PRAGMA foreign_keys = ON")},
        POOLING_POOLS={"log": f"sqlite:///{tmp_path}/log.db"},
    )
    with pools.pools(app)["default"].transaction() as connection:
        connection.execute("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
        connection.execute("CREATE TABLE child (parent INTEGER REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)")
    with pools.pools(app)["log"].transaction() as connection:
        connection.execute("CREATE TABLE line (text)")

    @app.get("/")
    def orphan() -> str:
        pools.connection().execute("INSERT INTO child VALUES (1)")
        pools.connection("log").execute("INSERT INTO line VALUES ('a child was born')")
        return "done"

    @app.errorhandler(500)
    def soothe(error: Exception) -> tuple[str, int]:
        return "do not worry", 200

    assert app.test_client().get("/").text == "do not worry"
    with pools.pools(app)["log"].acquire() as connection:
        assert connection.execute("SELECT count(*) FROM line").fetchone() == (0,)


def test_on_postgresql_too_the_status_decides_and_a_failed_statement_is_never_committed(postgres: Postgres) -> None:
    app, pools = flask.Flask("shop"), Pools()
    app.config.update(POOLING_URL=postgres.url, POOLING_TRANSACTION=True, POOLING_OPTIONS={"max_size": 1})
    pools.init_app(app)

    @app.get("/<int:status>/<kind>")
    def view(status: int, kind: str) -> Any:
        connection = pools.connection()
        connection.execute("INSERT INTO shop_entry VALUES (1)")
        if kind == "failed":
            with pytest.raises(psycopg.errors.UndefinedTable):
                connection.execute("SELECT * FROM nowhere")
        if kind == "broken":
            connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        if kind == "streamed":
            return (str(row[0]) for row in connection.execute("SELECT count(*) FROM shop_entry")), status
        return "done", status

    with app.app_context():
        pools.connection().execute("DROP TABLE IF EXISTS shop_entry")
        pools.connection().execute("CREATE TABLE shop_entry (amount INTEGER)")
    client = app.test_client()
    asked = {"200/plain": 200, "409/plain": 409, "200/failed": 500, "200/broken": 500, "201/plain": 201}
    for path, status in asked.items():
        assert client.get(f"/{path}").status_code == status
    assert client.get("/200/streamed").text == "3"
    with app.app_context():
        assert pools.connection().execute("SELECT count(*) FROM shop_entry").fetchone() == (3,)
        pools.connection().execute("DROP TABLE shop_entry")
    pools.close(app)


def test_a_context_without_a_request_commits_unless_it_fails(shop: Any) -> None:
    app, pools = shop(POOLING_TRANSACTION=["default"])
    with app.app_context():
        pools.connection().execute("INSERT INTO entry VALUES (1)")
        with pytest.raises(pooling.PoolError, match="a transaction is open already"), pools.transaction():
            pass
    with pytest.raises(KeyError), app.app_context():
        pools.connection().execute("INSERT INTO entry VALUES (2)")
        raise KeyError
    assert amounts(app, pools) == [1]


def test_a_pool_that_is_added_to_the_given_manager_later_has_transactions_too(tmp_path: Path) -> None:
    with pooling.PoolManager() as manager:
        app = flask.Flask("shop")
        app.config["POOLING_TRANSACTION"] = True
        pools = Pools(app, manager)
        manager.add("default", f"sqlite:///{tmp_path}/shop.db")
        with app.app_context():
            pools.connection().execute("CREATE TABLE entry (amount INTEGER)")
            pools.connection().execute("INSERT INTO entry VALUES (1)")
        assert amounts(app, pools) == [1]


@pytest.mark.parametrize("used_before", [True, False])
def test_what_comes_after_the_answer_is_rolled_back_unless_it_commits_by_itself(shop: Any, used_before: bool) -> None:
    app, pools = shop(POOLING_TRANSACTION=True)

    @app.get("/<wanted>")
    def view(wanted: str) -> flask.Response:
        def body() -> Iterator[str]:
            pools.connection().execute("INSERT INTO entry VALUES (1)")
            yield "sent"
            if wanted == "by-itself":
                pools.release()
                with pools.transaction() as connection:
                    connection.execute("INSERT INTO entry VALUES (2)")

        if used_before:
            pools.connection()
        return flask.Response(flask.stream_with_context(body()))

    @app.teardown_request
    def teardown(error: BaseException | None) -> None:
        if not used_before:
            pools.connection().execute("INSERT INTO entry VALUES (3)")

    with app.test_client().get("/rolled-back") as response:
        assert response.text == "sent"
    assert amounts(app, pools) == []
    if not used_before:
        with app.test_client().get("/by-itself") as response:
            assert response.text == "sent"
        assert amounts(app, pools) == [2]


def test_what_was_released_early_is_rolled_back(shop: Any) -> None:
    app, pools = shop(POOLING_TRANSACTION=True)
    with app.app_context():
        pools.connection().execute("INSERT INTO entry VALUES (1)")
        pools.release()
        pools.connection().execute("INSERT INTO entry VALUES (2)")
    assert amounts(app, pools) == [2]


def test_several_pools_come_from_the_configuration(shop: Any, tmp_path: Path) -> None:
    other = f"sqlite:///{tmp_path}/other.db"
    app, pools = shop(
        POOLING_OPTIONS={"max_size": 3},
        POOLING_POOLS={"log": other, "audit": {"url": other, "max_size": 1}},
    )
    with app.app_context():
        found = pools.pools()
        assert [(name, pool.name, pool.stats().max_size) for name, pool in found.items()] == [
            ("log", "log", 10), ("audit", "audit", 1), ("default", "default", 3),
        ]  # fmt: skip  # a table
        assert pools.connection() is not pools.connection("log")
        with pytest.raises(LookupError, match=r"no pool is called 'lag', did you mean 'log'\?"):
            pools.connection("lag")
