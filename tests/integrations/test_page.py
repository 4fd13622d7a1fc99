"""The page as a WSGI application: paths, headers, orders, which pools it is about, and its thread."""

from __future__ import annotations

import gc
import json
import re
import threading
from collections.abc import Callable, Iterator
from importlib.resources import files
from typing import Any

import pytest

from pooling import Pool, PoolManager, create_pool
from pooling.integrations.page import Page
from pooling.testing import FakeFactory
from tests.core.helpers import run_python
from tests.integrations.page_client import call, order
from tests.waiting import until

TOKEN = "a token"
ASSETS = ("/", "/page.css", "/page.js", "/charts.js", "/icon.svg")


@pytest.fixture
def pool() -> Iterator[Pool[Any]]:
    with Pool(FakeFactory(), name="main", max_size=3) as pool:
        yield pool


@pytest.fixture
def show() -> Iterator[Callable[..., Page]]:
    """show(pools, token=…): a page that is closed at the end."""
    pages: list[Page] = []

    def make(*args: Any, **options: Any) -> Page:
        pages.append(Page(*args, **options))
        return pages[-1]

    yield make
    for page in pages:
        page.close()


Show = Callable[..., Page]


def names(page: Page) -> list[str]:
    return [pool["name"] for pool in call(page, "/pools.json").json["pools"]]


def eyes() -> int:
    return sum(thread.name == "pooling-page" for thread in threading.enumerate())


# -- paths and headers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*ASSETS, "/pools.json", "/nothing", "/actions"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_every_answer_keeps_a_browser_strict(path: str, method: str, pool: Pool[Any], show: Show) -> None:
    answer = call(show(pool), path, method=method)
    policy = {part.split()[0]: part.split()[1:] for part in answer.headers["Content-Security-Policy"].split("; ")}
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == ["'none'"]
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == ["'self'"]
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"
    assert not any(name.startswith("Access-Control") for name in answer.headers), "another site may read it"
    if method == "HEAD":
        assert answer.body == b""


@pytest.mark.parametrize("path", ASSETS)
def test_what_a_browser_needs_is_there_and_nothing_comes_from_elsewhere(path: str, pool: Pool[Any], show: Show) -> None:
    text = call(show(pool), path).body.decode()
    text = text.replace("http://www.w3.org/2000/svg", "")  # a name, never loaded
    assert not re.search(r"https?:|//[a-z]", text.replace("// ", "")), "an address"
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", text), "inline script or style"
    assert not re.search(r"innerHTML\s*=|insertAdjacentHTML|document\.write|\beval\(", text), "markup made of text"


def test_the_files_of_the_page_are_all_served() -> None:
    from pooling.integrations.page import _app

    there = {file.name for file in (files("pooling.integrations.page") / "assets").iterdir()}
    assert there == {name for name, _ in _app._ASSETS.values()}


def test_other_paths_and_methods_are_refused(pool: Pool[Any], show: Show) -> None:
    page = show(pool)
    assert call(page, "/../page.css").status == call(page, "/assets/page.css").status == 404
    assert call(page, "/", method="POST").headers["Allow"] == "GET, HEAD"
    answer = call(page, "/actions")
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")


@pytest.mark.parametrize(
    ("script", "place"),
    [("", "/"), ("/admin/pools", "/admin/pools/"), ("//evil.example", "/evil.example/"), ("/a b", "/a%20b/")],
)
def test_without_a_slash_at_the_end_it_leads_to_itself_with_one(
    script: str, place: str, pool: Pool[Any], show: Show
) -> None:
    answer = call(show(pool), "", SCRIPT_NAME=script)
    assert (answer.status, answer.headers["Location"]) == (308, place)


@pytest.mark.parametrize("query", ["since=x", "since=-1", "since=9999999999999999999", "since=²", "run=%ff&since=1"])
def test_a_query_that_makes_no_sense_is_no_query(query: str, pool: Pool[Any], show: Show) -> None:
    page = show(pool)
    call(page, "/pools.json")
    answer = call(page, "/pools.json", QUERY_STRING=query)
    assert answer.status == 200
    assert answer.json["pools"][0]["history"]["rows"]


def test_samples_that_are_known_already_are_left_out_if_the_query_says_so(pool: Pool[Any], show: Show) -> None:
    page = show(pool)
    first = call(page, "/pools.json").json
    known = f"run={first['run']}&since={first['tick']}"
    for query, expected in (("", True), (known, False), (f"since={first['tick']}", True)):
        rows = call(page, "/pools.json", QUERY_STRING=query).json["pools"][0]["history"]["rows"]
        assert (first["tick"] in [row[0] for row in rows]) is expected, query


def test_a_pool_that_cannot_be_told_about_is_an_error_500_that_says_nothing_and_a_word_in_the_log(
    pool: Pool[Any], show: Show, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    page = show(pool)
    monkeypatch.setattr(Pool, "holders", lambda self: 1 / 0)
    answer = call(page, "/pools.json")
    assert answer.status == 500
    assert b"Zero" not in answer.body
    assert "ZeroDivisionError" in caplog.text


# -- orders -----------------------------------------------------------------------------------------------------


def test_without_a_token_the_page_only_reads(pool: Pool[Any], show: Show) -> None:
    page = show(pool)
    assert call(page, "/pools.json").json["actions"] is False
    for token in (None, "", "x"):
        answer = order(page, token, pool="main", action="suspend")
        assert (answer.status, answer.json) == (403, {"error": "this page only reads: it was given no token"})
    assert pool.stats().state == "up"


@pytest.mark.parametrize("token", [None, "", "a toke", "a token ", "A TOKEN", "\xff"])
def test_a_wrong_token_changes_nothing(token: str | None, pool: Pool[Any], show: Show) -> None:
    page = show(pool, token=TOKEN)
    assert call(page, "/pools.json").json["actions"] is True
    answer = order(page, token, pool="main", action="suspend")
    assert (answer.status, answer.json) == (401, {"error": "the token is wrong"})
    assert pool.stats().state == "up"


def test_with_the_token_orders_are_carried_out(pool: Pool[Any], show: Show) -> None:
    page = show(pool, token=TOKEN)
    with pool.acquire() as first:
        pass
    assert order(page, pool="main", action="clear").json == {"done": "cleared"}
    with pool.acquire() as second:
        assert second is not first
        assert order(page, pool="main", action="clear", interrupt=True).status == 200
        assert second.interrupted
    assert order(page, pool="main", action="suspend").json == {"done": "suspended"}
    assert pool.stats().state == "suspended"
    assert order(page, pool="main", action="resume").json == {"done": "resumed"}
    assert pool.stats().state == "up"
    assert order(page, pool="main", action="resize", max_size=7).json == {"done": "resized to 0 to 7 connections"}
    assert order(page, pool="main", action="resize", min_size=2, max_size=None).status == 200
    assert (pool.config.min_size, pool.config.max_size) == (2, None)
    assert order(page, pool="main", action="resize", min_size=1).status == 200
    assert (pool.config.min_size, pool.config.max_size) == (1, None)


def test_orders_are_logged(pool: Pool[Any], show: Show, caplog: pytest.LogCaptureFixture) -> None:
    order(show(pool, token=TOKEN), pool="main", action="suspend")
    assert caplog.messages == ["pool 'main': suspended, by order of the page"]


@pytest.mark.parametrize(
    ("what", "status", "error"),
    [
        ({"action": "clear"}, 404, "there is no pool of that name"),
        ({"pool": "other", "action": "clear"}, 404, "there is no pool of that name"),
        ({"pool": ["main"], "action": "clear"}, 404, "there is no pool of that name"),
        ({"pool": "main"}, 400, "action must be one of clear, suspend, resume, resize"),
        ({"pool": "main", "action": "close"}, 400, "action must be one of clear, suspend, resume, resize"),
        ({"pool": "main", "action": ["clear"]}, 400, "action must be one of clear, suspend, resume, resize"),
        ({"pool": "main", "action": "clear", "interrupt": "no"}, 400, "interrupt must be true or false"),
        ({"pool": "main", "action": "resize"}, 400, "resize needs min_size, max_size, or both"),
        ({"pool": "main", "action": "resize", "max_size": 0}, 400, "max_size must be at least 1, not 0"),
        ({"pool": "main", "action": "resize", "min_size": 9}, 400, "min_size (9) is greater than max_size (3)"),
        ({"pool": "main", "action": "resize", "max_size": "9"}, 400, "max_size must be a whole number"),
    ],
)
def test_an_order_that_makes_no_sense_is_refused_in_one_line(
    what: dict[str, Any], status: int, error: str, pool: Pool[Any], show: Show
) -> None:
    answer = order(show(pool, token=TOKEN), **what)
    assert answer.status == status
    assert answer.json["error"].startswith(error)
    assert (pool.config.min_size, pool.config.max_size, pool.stats().state) == (0, 3, "up")


@pytest.mark.parametrize(
    ("body", "environ", "status"),
    [
        (b'{"pool": "main", "action": "suspend"}', {"CONTENT_TYPE": "text/plain"}, 415),
        (b"pool=main&action=suspend", {"CONTENT_TYPE": "application/x-www-form-urlencoded"}, 415),
        (b"{" + b" " * 5000, {}, 413),
        (b"{", {"CONTENT_LENGTH": "99999999999"}, 413),
        (b"{", {}, 400),
        (b"[]", {}, 400),
        (b"[" * 4096, {}, 400),
        (b"\xff\xfe", {}, 400),
    ],
)
def test_what_is_no_order_is_refused(
    body: bytes, environ: dict[str, str], status: int, pool: Pool[Any], show: Show
) -> None:
    environ = {"CONTENT_TYPE": "application/json", "HTTP_X_POOLING_TOKEN": TOKEN, **environ}
    assert call(show(pool, token=TOKEN), "/actions", method="POST", body=body, **environ).status == status
    assert pool.stats().state == "up"


@pytest.mark.parametrize(
    ("token", "error"), [("", ValueError), ("  ", ValueError), ("ключ", ValueError), (7, TypeError)]
)
def test_a_token_that_cannot_be_one_is_refused(token: Any, error: type[Exception], pool: Pool[Any]) -> None:
    with pytest.raises(error, match="token must"):
        Page(pool, token=token)


# -- which pools ------------------------------------------------------------------------------------------------


def test_a_page_is_about_one_pool_or_several_or_those_of_a_mapping(pool: Pool[Any], show: Show) -> None:
    with Pool(FakeFactory(), name="main") as other:
        assert names(show(pool)) == ["main"]
        assert names(show([pool, other])) == ["main", "main#2"]
        assert names(show({"reads": pool, "writes": other})) == ["reads", "writes"]
        mapping = {"one": pool}
        page = show(mapping)
        assert names(page) == ["one"]
        mapping["two"] = other
        assert names(page) == ["one", "two"]
        del mapping["one"]
        assert names(page) == ["two"]


def test_the_pools_of_a_drop_in_are_those_underneath(pool: Pool[Any], show: Show) -> None:
    class DropIn:
        pooling: Any = pool

    drop_in = DropIn()
    assert names(show(drop_in)) == ["main"]
    drop_in.pooling = {"https://one.example:443": pool}
    assert names(show(drop_in)) == ["https://one.example:443"]
    with Pool(FakeFactory(), name="cache") as cache:
        assert names(show([drop_in, cache])) == ["https://one.example:443", "cache"]
        assert names(show({"web": drop_in, "cache": cache})) == ["web https://one.example:443", "cache"]


def test_a_function_is_asked_anew_and_a_pool_is_shown_once(pool: Pool[Any], show: Show) -> None:
    pools: list[Any] = []
    page = show(lambda: pools)
    assert names(page) == []
    pools += [pool, pool, {"again": pool}]
    assert names(page) == ["main"]


def test_the_pools_of_a_manager_are_shown(show: Show) -> None:
    with PoolManager() as manager:
        manager.add("orders", FakeFactory())
        manager.add("other", FakeFactory())
        page = show(manager)
        assert names(page) == ["orders", "other"]
    assert names(page) == ["orders", "other"]  # closed, and said to be
    assert {pool["state"] for pool in call(page, "/pools.json").json["pools"]} == {"closed"}


def test_a_pool_that_a_mapping_cannot_give_harms_nobody(pool: Pool[Any], show: Show) -> None:
    class Lazy(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            if name == "broken":
                raise ImportError("its driver is missing")
            return super().__getitem__(name)

    assert names(show(Lazy(broken=None, fine=pool))) == ["fine"]


@pytest.mark.parametrize("pools", [None, "postgresql://me:geheim@localhost/db", 7, [1, 2], Pool])
def test_what_has_no_pools_is_refused(pools: Any) -> None:
    with pytest.raises(TypeError, match=r"^this needs a Pool, a PoolManager, .*, not \w+$") as refused:
        Page(pools)
    assert "geheim" not in str(refused.value)


def test_a_page_keeps_no_pool_alive(show: Show) -> None:
    dropped = Pool(FakeFactory(), name="dropped")  # never used: one that was says so when it is dropped
    page = show([dropped])
    assert names(page) == ["dropped"]
    del dropped
    until(lambda: gc.collect() is not None and names(page) == [])  # its thread may look at it right now


def test_nothing_secret_is_on_the_page(show: Show) -> None:
    canary = "c4n4ry-Geheim"

    def connect_args() -> dict[str, Any]:
        return {"password": canary}

    class Setup:
        def __init__(self, password: str) -> None:
            self.password = password

        def __call__(self, connection: Any) -> None: ...

        def __repr__(self) -> str:
            return f"Setup({self.password})"

    postgres = create_pool(
        f"postgresql://me:{canary}@127.0.0.1:1/db?application_name={canary}",
        connect_args=connect_args, on_connect=Setup(canary), timeout=0.5, fail_after=0.0,
    )  # fmt: skip  # one argument list
    with postgres:
        page = show(postgres, token=canary)
        with pytest.raises(Exception, match="cannot connect"):
            postgres.acquire()
        order(page, "wrong", pool=postgres.name, action="clear")
        text = call(page, "/pools.json").body.decode()
    assert '"last_error":{' in text
    assert canary not in text


# -- its thread -------------------------------------------------------------------------------------------------


def test_nothing_runs_before_the_first_request_and_one_thread_from_then_on(pool: Pool[Any], show: Show) -> None:
    before = eyes()
    page = show(pool)
    assert eyes() == before
    for _ in range(3):
        call(page, "/pools.json")
    assert eyes() == before + 1
    until(lambda: len(call(page, "/pools.json").json["pools"][0]["history"]["rows"]) >= 3)
    page.close()
    assert eyes() == before
    assert call(page, "/pools.json").status == 200
    assert eyes() == before


def test_the_thread_ends_with_the_page(pool: Pool[Any]) -> None:
    before = eyes()
    with Page(pool) as page:
        assert eyes() == before + 1
    assert eyes() == before
    page = Page(pool)
    page.start()
    assert eyes() == before + 1
    here = page._watch._here()
    until(lambda: here.tick > 1)  # it has looked by itself, and may have kept what it looked at
    del page
    until(lambda: gc.collect() is not None and eyes() == before)


def test_where_its_thread_cannot_run_each_request_is_a_look(pool: Pool[Any], show: Show) -> None:
    """As under uWSGI without threads."""
    page = show(pool)
    call(page)
    page._watch._here().ending.put(None)
    until(lambda: not page._watch._here().thread.is_alive())  # type: ignore[union-attr]
    for number in (2, 3):
        page._watch._here().looked_at -= 10.0
        rows = call(page, "/pools.json").json["pools"][0]["history"]["rows"]
        assert [row[0] for row in rows] == list(range(1, number + 1))
    assert call(page, "/pools.json").json["tick"] == 3


def test_a_forked_child_looks_with_its_own_eyes_at_its_own_pools() -> None:
    told = run_python(
        """
        import os, threading, warnings
        from pooling import Pool
        from pooling.integrations.page import Page
        from pooling.testing import FakeFactory
        from tests.integrations.page_client import call

        def look():
            return call(page, "/pools.json").json

        pool = Pool(FakeFactory(), name="main", max_size=3)
        page = Page(pool)
        with pool.acquire():
            before = look()
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 and later warn of a fork beside threads
        with page._watch._here().lock:  # as a thread of the parent may hold it just then
            child = os.fork()
        if not child:
            with pool.acquire():
                told = look()
            assert told["pid"] == os.getpid() != before["pid"]
            assert told["run"] != before["run"], "the parent's past is not the child's"
            assert told["pools"][0]["now"]["leased"] == 1
            assert [thread.name for thread in threading.enumerate()].count("pooling-page") == 1
            page.close()
            pool.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        after = look()
        assert (after["pid"], after["run"]) == (before["pid"], before["run"])
        page.close()
        pool.close()
        print("done")
        """
    )
    assert told == "done\n"


def test_an_interpreter_ends_though_a_page_is_open() -> None:
    run_python(
        """
        from pooling import Pool
        from pooling.integrations import page
        from pooling.testing import FakeFactory
        pool = Pool(FakeFactory())
        page.Page(pool).start()
        page.serve(pool, port=0)
        """
    )


def test_the_document_can_be_read_from_many_threads_under_load(pool: Pool[Any], show: Show) -> None:
    page, stop = show(pool, token=TOKEN), threading.Event()
    failed: list[object] = []

    def use() -> None:
        while not stop.is_set():
            with pool.acquire():
                pass

    def look() -> None:
        for _ in range(50):
            told = call(page, "/pools.json").json["pools"][0]
            now = told["now"]
            size = now["idle"] + now["leased"] + now["connecting"] + now["busy"] + now["closing"]
            if now["size"] != size:
                failed.append(now)

    users = [threading.Thread(target=use) for _ in range(6)]
    readers = [threading.Thread(target=look) for _ in range(3)]
    for thread in users + readers:
        thread.start()
    for thread in readers:
        thread.join(60)
    stop.set()
    for thread in users:
        thread.join(60)
    assert not failed
    assert not any(thread.is_alive() for thread in users + readers)


def test_the_schema_is_named(pool: Pool[Any], show: Show) -> None:
    told = json.loads(call(show(pool), "/pools.json").body)
    assert (told["schema"], told["version"]) == ("pooling-page", 1)
