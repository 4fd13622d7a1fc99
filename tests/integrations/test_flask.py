"""The Flask extension: which context has which lease, and when it ends."""

from __future__ import annotations

import gc
import io
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import flask
import pytest

import pooling
from pooling.integrations.flask import Pools
from pooling.testing import FakeBroken, FakeFactory
from tests.docs.pages import ROOT, bare, table
from tests.integrations.exchange import Exchange
from tests.waiting import until


class Site:
    """An application whose extension is on one pool of fakes."""

    def __init__(self, **config: Any) -> None:
        self.factory = FakeFactory()
        self.pool: pooling.Pool[Any] = pooling.Pool(self.factory, name="main", max_size=2, timeout=0.2)
        self.pools = Pools(pools=self.pool)
        self.app = flask.Flask("site")
        self.app.config.update(config)
        self.pools.init_app(self.app)

    @property
    def leased(self) -> int:
        return self.pool.stats().leased

    def get(self, view: Callable[[], Any], **options: Any) -> Any:
        """The answer of a view, by Flask's test client."""
        self.app.add_url_rule("/", "view", view, methods=["GET"])
        return self.app.test_client().get("/", **options)


@pytest.fixture
def site() -> Iterator[Site]:
    """At the end every lease that was taken has been given back, once."""
    site = Site()
    yield site
    gc.collect()
    stats = site.pool.stats()
    assert (stats.leased, stats.released) == (0, stats.acquired)
    assert "dropped" not in stats.closed, "a lease was lost and found"
    site.pool.close()


def test_a_request_has_one_lease_from_its_first_use_to_its_end(site: Site) -> None:
    def view() -> str:
        before = site.leased
        assert site.pools.connection() is site.pools.connection("default") is site.pools.lease().connection
        return f"{before} {site.leased}"

    answer = site.get(view)
    assert (answer.text, site.leased) == ("0 1", 0)
    assert site.pool.stats().acquired == 1


def test_a_request_that_asks_for_nothing_takes_nothing(site: Site) -> None:
    assert site.get(lambda: "x").text == "x"
    assert site.factory.opened == 0


def test_a_holder_is_shown_where_the_view_asked(site: Site) -> None:
    def view() -> str:
        site.pools.connection()
        return site.pool.holders()[0].where

    def within() -> str:
        with site.pools.transaction():
            return site.pool.holders()[0].where

    site.factory.commit = site.factory.begin  # type: ignore[method-assign]  # a fake has none
    site.app.add_url_rule("/within", view_func=within)
    assert site.get(view).text.endswith(" view")
    assert site.app.test_client().get("/within").text.endswith(" within")


@pytest.mark.parametrize("propagate", [True, False])
def test_a_view_that_raises_gives_back_and_a_broken_connection_is_closed(site: Site, propagate: bool) -> None:
    site.app.config["PROPAGATE_EXCEPTIONS"] = propagate

    def view() -> str:
        site.pools.connection()
        raise FakeBroken("gone")

    if propagate:
        with pytest.raises(FakeBroken):
            site.get(view)
    else:
        assert site.get(view).status_code == 500
    assert site.leased == 0
    until(lambda: site.pool.stats().closed == {"broken": 1})


def test_an_error_that_flask_answers_gives_back(site: Site) -> None:
    def view() -> str:
        site.pools.connection()
        flask.abort(404)

    assert site.get(view).status_code == 404
    assert (site.leased, site.pool.stats().idle) == (0, 1)


def test_a_redirect_that_is_raised_gives_back(site: Site) -> None:
    """A test client neither reads nor closes it."""

    def view() -> str:
        site.pools.connection()
        flask.abort(flask.redirect("/elsewhere"))

    assert (site.get(view).status_code, site.leased) == (302, 0)


# -- streams ---------------------------------------------------------------------------------------------------------


def rows(site: Site, seen: list[int]) -> Iterator[str]:
    for row in "abc":
        seen.append(site.leased)
        yield row


@pytest.mark.parametrize("contextual", [True, False], ids=["stream_with_context", "plain"])
def test_a_stream_keeps_the_views_lease_to_its_end(site: Site, contextual: bool) -> None:
    seen: list[int] = []

    def view() -> Any:
        site.pools.connection()
        body = rows(site, seen)
        return flask.Response(flask.stream_with_context(body) if contextual else body)

    answer = site.get(view)
    assert site.leased == 1
    assert answer.text == "abc"  # read, and not closed: what tests do
    assert (seen, site.leased) == ([1, 1, 1], 0)
    assert site.pool.stats().acquired == 1


def test_within_a_stream_the_context_has_the_same_connection(site: Site) -> None:
    def view() -> Any:
        first = site.pools.connection()

        @flask.stream_with_context
        def body() -> Iterator[str]:
            yield str(site.pools.connection() is first)
            yield str(site.pools.connection() is first)

        return flask.Response(body())

    assert site.get(view).text == "TrueTrue"
    assert site.pool.stats().acquired == 1


def test_a_lease_that_is_taken_within_a_stream_ends_with_it(site: Site) -> None:
    def view() -> Any:
        @flask.stream_with_context
        def body() -> Iterator[str]:
            yield str(site.leased)
            site.pools.connection()
            yield str(site.leased)

        return flask.Response(body())

    assert site.get(view).text == "01"
    assert (site.leased, site.pool.stats().acquired) == (0, 1)


def test_a_stream_that_an_error_has_taken_the_place_of_keeps_nothing(site: Site) -> None:
    app = flask.Flask("failing")

    @app.after_request  # which was registered first and so comes last
    def fail(response: flask.Response) -> flask.Response:
        if response.status_code == 200:
            raise ValueError("after the view")
        return response

    pools = Pools(app, site.pool)

    @app.get("/")
    def view() -> Iterator[str]:
        pools.connection()
        return iter(["never sent"])

    assert app.test_client().get("/").status_code == 500


def test_a_stream_that_an_error_lets_nobody_send_keeps_nothing(site: Site) -> None:
    site.app.config.update(PROPAGATE_EXCEPTIONS=True, SECRET_KEY="of no use")

    def view() -> Iterator[str]:
        site.pools.connection()
        flask.session["unsaved"] = object()  # what cannot be saved fails after the last of the after_request functions
        return iter(["never sent"])

    with pytest.raises(TypeError, match="not JSON serializable") as kept:
        site.get(view)
    assert site.leased == 0, kept


@pytest.mark.parametrize("contextual", [True, False], ids=["stream_with_context", "plain"])
@pytest.mark.parametrize("ending", ["close", "error"])
def test_a_stream_that_is_cut_short_gives_back(site: Site, contextual: bool, ending: str) -> None:
    """A client that goes away, and a body that fails, as a server sees them."""

    def body() -> Iterator[str]:
        yield "a"
        if ending == "error":
            raise FakeBroken("gone")
        yield "b"

    def view() -> Any:
        site.pools.connection()
        return flask.Response(flask.stream_with_context(body()) if contextual else body())

    site.app.add_url_rule("/", view_func=view)
    exchange = Exchange(site.app, strict=False)
    assert (exchange.next(), site.leased) == (b"a", 1)
    if ending == "error":
        with pytest.raises(FakeBroken):
            exchange.next()
    exchange.close()
    assert site.leased == 0
    until(lambda: site.pool.stats().closed == ({"broken": 1} if ending == "error" else {}))


def test_a_file_does_not_keep_the_lease_while_it_is_sent(site: Site) -> None:
    def view() -> Any:
        site.pools.connection()
        return flask.send_file(io.BytesIO(b"content"), mimetype="text/plain")

    with site.get(view) as answer:
        assert (site.leased, answer.text) == (0, "content")


def test_the_answer_to_head_gives_back(site: Site) -> None:
    def view() -> Any:
        site.pools.connection()
        return flask.Response(rows(site, []))

    site.app.add_url_rule("/", view_func=view)
    exchange = Exchange(site.app, method="HEAD", strict=False)
    assert (exchange.run(), site.leased) == (b"", 0)


# -- contexts without a request --------------------------------------------------------------------------------------


def test_a_command_has_a_lease_of_its_context(site: Site) -> None:
    @site.app.cli.command("count")
    def count() -> None:
        site.pools.connection()
        print(site.leased)

    done = site.app.test_cli_runner().invoke(args=["count"])
    assert (done.exit_code, done.output, site.leased) == (0, "1\n", 0)


def test_each_context_has_its_own_lease(site: Site) -> None:
    with site.app.app_context():
        outer = site.pools.connection()
        with site.app.app_context():
            assert site.pools.connection() is not outer
            assert site.leased == 2
        assert site.leased == 1
        assert site.pools.connection() is outer
    assert site.leased == 0


def test_an_application_may_have_a_class_of_its_own_for_g(site: Site) -> None:
    class Globals:
        """Without the methods of Flask's own."""

    site.app.app_ctx_globals_class = Globals  # type: ignore[assignment]

    def view() -> str:
        assert site.pools.connection() is site.pools.connection()
        return str(site.leased)

    site.app.add_url_rule("/nothing", "nothing", lambda: str(site.leased))
    assert (site.get(view).text, site.leased) == ("1", 0)
    assert site.app.test_client().get("/nothing").text == "0"


def test_outside_of_a_context_flask_says_what_is_missing(site: Site) -> None:
    with pytest.raises(RuntimeError, match="Working outside of application context"):
        site.pools.connection()


def test_an_application_without_the_extension_says_so(site: Site) -> None:
    with flask.Flask("other").app_context(), pytest.raises(pooling.PoolError, match=r"call init_app\(\) with it first"):
        site.pools.connection()


def test_leases_may_be_given_back_early_and_taken_anew(site: Site) -> None:
    with site.app.app_context():
        site.pools.connection()
        site.pools.release()
        assert site.leased == 0
        site.pools.connection()
        site.pools.lease().discard()
        assert site.pools.connection() is site.factory.connections[-1]


# -- 503 -------------------------------------------------------------------------------------------------------------


def test_no_connection_is_503_with_retry_after_where_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    site = Site(POOLING_TIMEOUT=0.05, POOLING_RETRY_AFTER=1.5)
    with site.pool, site.pool.acquire(), site.pool.acquire():
        answer = site.get(site.pools.connection)
        (record,) = [record for record in caplog.records if record.name == "site"]
        assert record.getMessage().startswith("503: no connection from pool 'main' within ")
        assert "\n" not in record.getMessage()
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
        assert answer.mimetype == "text/plain"


def test_no_connection_is_an_error_like_any_other_where_not_asked_for() -> None:
    site = Site(POOLING_TIMEOUT=0, PROPAGATE_EXCEPTIONS=True)
    with site.pool, site.pool.acquire(), site.pool.acquire(), pytest.raises(pooling.PoolTimeout):
        site.get(site.pools.connection)


# -- applications and their configuration ------------------------------------------------------------------------------


def test_one_extension_serves_several_applications() -> None:
    pools = Pools()
    apps = [flask.Flask(name) for name in ("one", "two")]
    for app in apps:
        app.config["POOLING_URL"] = "sqlite://"
        pools.init_app(app)
    one, two = (pools.pools(app)["default"] for app in apps)
    with apps[0].app_context():
        pools.connection()
        assert (one.stats().leased, two.stats().leased) == (1, 0)
    for app in apps:
        pools.close(app)


def test_an_application_that_is_dropped_closes_its_own_pools_and_no_others() -> None:
    with pooling.create_pool("sqlite://") as given:
        app, other = flask.Flask("own"), flask.Flask("other")
        app.config["POOLING_URL"] = "sqlite://"
        pools = Pools(app)
        Pools(other, given)
        with app.app_context():
            pools.connection()
        own, gone = pools.pools(app)["default"], weakref.ref(app)
        del app, other, pools
        gc.collect()
        assert gone() is None
        assert "closed" in repr(own)
        given.acquire().release()


def test_pools_of_a_manager_that_was_given_outlive_the_application() -> None:
    with pooling.PoolManager() as manager:
        manager.add("main", FakeFactory())
        app = flask.Flask("other")
        pools = Pools(app, manager)
        with app.app_context():
            pools.connection()
        gone = weakref.ref(app)
        del app, pools
        gc.collect()
        assert gone() is None
        manager["main"].acquire().release()


def test_the_pools_are_closed_where_that_is_asked_for_whoever_has_made_them(site: Site) -> None:
    site.pools.close(site.app)
    with site.app.app_context(), pytest.raises(pooling.PoolClosed):
        site.pools.connection()
    own = flask.Flask("own")
    own.config["POOLING_URL"] = "sqlite://"
    pools = Pools(own)
    with own.app_context():
        pools.connection()
        pools.close()
        pools.release()
        with pytest.raises(pooling.PoolClosed):
            pools.connection()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "no pool is configured: set POOLING_URL"),
        (
            {"POOLING_URL": "sqlite://", "POOLING_OPTIONS": "{max_size: 8}"},
            "POOLING_OPTIONS must be a dict .*, not str",
        ),
        ({"POOLING_POOLS": ["sqlite://"]}, "POOLING_POOLS must be a dict .* or None, not list"),
        ({"POOLING_URL": "gopher://host"}, "unknown URL scheme 'gopher'"),
        ({"POOLING_URL": "sqlite://", "POOLING_OPTIONS": {"max_sise": 1}}, "did you mean 'max_size'"),
        ({"POOLING_POOLS": {"log": {"max_size": 1}}}, "pool 'log': give either url or url_env"),
        ({"POOLING_URL": "sqlite://", "POOLING_TIMEOUT": "1"}, "POOLING_TIMEOUT must be seconds"),
        ({"POOLING_URL": "sqlite://", "POOLING_RETRY_AFTER": -1}, "POOLING_RETRY_AFTER must be at least 0"),
        ({"POOLING_URL": "sqlite://", "POOLING_TRANSACTION": "default"}, "POOLING_TRANSACTION must be True, False, or"),
        ({"POOLING_URL": "sqlite://", "POOLING_TRANSACTION": ["log"]}, "POOLING_TRANSACTION names 'log'"),
    ],
)
def test_a_wrong_configuration_is_refused_in_one_line(config: dict[str, Any], message: str) -> None:
    app = flask.Flask("wrong")
    app.config.update(config)
    with pytest.raises((TypeError, ValueError), match=message):
        Pools(app)
    assert "pooling" not in app.extensions


def test_a_second_extension_is_refused() -> None:
    app = flask.Flask("twice")
    with pooling.create_pool("sqlite://") as pool:
        Pools(app, pool)
        with pytest.raises(RuntimeError, match="has its pools already"):
            Pools(app, pool)


def test_the_page_lists_every_member_and_every_key() -> None:
    page = ROOT / "docs" / "how-to" / "use-flask.md"
    listed = [bare(row[0]).partition("(")[0] for row in table(page, "member of `Pools`")]
    assert sorted([*listed, "init_app"]) == sorted(name for name in vars(Pools) if not name.startswith("_"))
    app = flask.Flask("keys")
    with pooling.create_pool("sqlite://") as pool:
        Pools(app, pool)
    keys = [bare(row[0]) for row in table(page, "key")]
    assert sorted(keys) == sorted(key for key in app.config if key.startswith("POOLING_"))
