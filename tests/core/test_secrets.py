"""A password is nowhere to be seen: a canary goes through everything that a pool prints."""

from __future__ import annotations

import json
import logging
import pickle
import sqlite3
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from prometheus_client import CollectorRegistry, generate_latest

import pooling
from pooling import ConnectError, Factory, Pool, PoolTimeout, create_pool
from pooling._secrets import Concealed, attributes, conceal, found, hide
from pooling.backends.dbapi import DbapiFactory
from pooling.integrations.logging import log_events
from pooling.integrations.prometheus import PoolCollector
from pooling.testing import FakeBroken, FakeConnection, FakeFactory, ManualClock
from tests.core.conftest import Make
from tests.core.helpers import outcome

CANARY = "Tweety/öä@7 %41'\"\\$&"
WRITTEN = (
    CANARY, quote(CANARY), quote(CANARY, safe=""), quote_plus(CANARY), repr(CANARY)[1:-1], json.dumps(CANARY)[1:-1],
    repr(CANARY.encode())[2:-1], "Tweety",
)  # fmt: skip  # a list
NOBODY = "127.0.0.1:1"  # where nothing listens


def everything_in(error: BaseException) -> str:
    """All that can be read of an error and of what it is chained to."""
    texts = ["".join(traceback.TracebackException.from_exception(error, capture_locals=True).format(chain=True))]
    link: BaseException | None = error
    while link is not None:
        texts += [str(link), repr(link), repr(vars(link)), repr(link.args)]
        link = link.__cause__ or link.__context__
    return "\n".join(texts)


def assert_hidden(*texts: str) -> None:
    for text in texts:
        for form in WRITTEN:
            assert form not in text, text


# -- the two nets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", WRITTEN[:-1])
def test_a_known_secret_is_hidden_in_whatever_way_it_is_written(form: str) -> None:
    assert hide(f"no luck with {form}!", [CANARY]) == "no luck with ***!"
    assert hide(f"no luck with {form}!", [quote(CANARY, safe="")]) == "no luck with ***!"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at postgresql://bob:pw@db/x now", "at postgresql://bob:***@db/x now"),
        ("at redis://:p@w/d@db:1/0", "at redis://:***@db:1/0"),
        ("at http://host:8080/a@b", "at http://host:8080/a@b"),
        ("at http://[::1]:80/ and mail a:b@c", "at http://[::1]:80/ and mail a:b@c"),
        ("host=db password=pw user=bob", "host=db password=*** user=bob"),
        ("password='p w' user=bob", "password=*** user=bob"),
        (r"password='p\'w' user=bob", "password=*** user=bob"),
        ("?sslpassword=pw&x=1", "?sslpassword=***&x=1"),
        ("{'user': 'bob', 'passwd': 'pw'}", "{'user': 'bob', 'passwd': ***}"),
        ('{"api_key": "pw"}', '{"api_key": ***}'),
        ("Access denied for user 'bob'@'db' (using password: YES)", None),
        ('password authentication failed for user "bob"', None),
        ("WRONGPASS invalid username-password pair or user is disabled.", None),
    ],
)
def test_what_reads_like_a_secret_is_hidden_and_nothing_else(text: str, shown: str | None) -> None:
    assert hide(text) == (text if shown is None else shown)
    assert hide(hide(text)) == hide(text)


@pytest.mark.parametrize("key", ["passwd", "password", "passphrase", "pwd", "secret", "token", "apikey", "api_key"])
def test_each_name_of_a_secret_is_known_however_it_is_spelled(key: str) -> None:
    """Looked for twice: a text without any of these is not searched for what they name."""
    for spelled in (key, key.upper(), key.title()):
        assert hide(f"x {spelled}=hunter2 y") == f"x {spelled}=*** y"
        assert hide(f"{{'{spelled}': 'hunter2'}}") == f"{{'{spelled}': ***}}"


def test_a_short_secret_is_hidden_where_it_is_a_word() -> None:
    assert hide("a cat has a 'a'", ["a"]) == "*** cat has *** '***'"
    assert hide("nothing", ["", "no"]) == "nothing"


def test_secrets_are_found_by_name_in_urls_and_in_what_functions_are_bound_to() -> None:
    def connect(host: str, user: str, password: str) -> None: ...

    def closed_over(password: str) -> Callable[[], str]:
        return lambda: password

    for holder in (
        {"host": "h", "password": "pw"},
        {"headers": {"Authorization": "Bearer pw"}},
        {"options": [{"auth_token": b"pw"}]},
        {"proxy": "http://bob:pw@proxy:3128"},
        "host=h password=pw",
        "postgresql://bob:pw@h/d?connect_timeout=2",
        partial(connect, "h", "bob", "pw"),
        partial(connect, password="pw"),
        closed_over("pw"),
        partial(closed_over("pw")),
        lambda: "postgresql://bob:pw@h/d",
        {"auth": "bob:pw"},
    ):
        assert "pw" in set(found(holder)), holder
    assert not list(found({"host": "h", "user": "bob", "passfile": "/etc/pw", "port": 5432}))
    assert not list(found("http://h:8080/x"))


def test_what_stands_openly_beside_it_is_no_secret() -> None:
    """The image postgres: its user, password and database have one name. Who could not log in is to be read."""
    assert not list(found("postgresql://postgres:postgres@h/postgres"))
    assert not list(found({"user": "root", "password": "root"}))
    assert not list(found({"user": "root", "password": "password"}))


@pytest.mark.parametrize(
    "text", ["no password=pw", "it's 'password=pw'", 'password="pw"', "password=pw\nat h", "password=pw;"]
)
def test_an_error_that_ends_with_a_secret_keeps_its_type(text: str) -> None:
    """In its repr a quote came after the stars, which read like a password of its own."""
    error = OSError(text)
    assert conceal(error) is error
    assert "pw" not in repr(error)


def test_an_error_is_cleaned_with_all_that_hangs_on_it() -> None:
    class Stubborn(Exception):
        def __str__(self) -> str:
            return f"again {CANARY}"

    error = OSError(2, f"no {CANARY}", f"/run/{CANARY}")
    error.__cause__ = Stubborn()
    error.__cause__.__cause__ = KeyError({"dsn": [CANARY.encode()]})
    error.__context__ = error
    error.note = f"a note on {CANARY}"  # type: ignore[attr-defined]
    error.answer = f"no {CANARY}".encode()  # type: ignore[attr-defined]
    inner = ValueError(CANARY)
    error.inner = inner  # type: ignore[attr-defined]
    cleaned = conceal(error, [CANARY])
    assert cleaned is error
    assert isinstance(cleaned.__cause__, Concealed)
    assert str(cleaned.__cause__) == "Stubborn: again ***"
    assert_hidden(everything_in(cleaned), str(inner))
    assert (error.filename, error.answer) == ("/run/***", b"no ***")  # type: ignore[attr-defined]


@pytest.mark.parametrize("link", ["__cause__", "__context__"])
def test_what_an_error_came_from_is_cleaned_however_it_is_linked(link: str) -> None:
    error = OSError("no luck")
    setattr(error, link, ValueError(CANARY))
    setattr(getattr(error, link), link, KeyError(CANARY))
    shown = error.__suppress_context__
    assert conceal(error, [CANARY]) is error
    assert_hidden(everything_in(error))
    assert isinstance(getattr(getattr(error, link), link), KeyError)
    assert error.__suppress_context__ is shown


@pytest.mark.skipif(sys.version_info < (3, 11), reason="groups and notes came with Python 3.11")
def test_groups_and_notes_are_cleaned_as_well() -> None:
    error = ValueError("no luck")
    error.add_note(f"with {CANARY}")  # type: ignore[attr-defined,unused-ignore]
    group = ExceptionGroup("two", [error, OSError(CANARY)])  # type: ignore[name-defined,unused-ignore]  # noqa: F821
    assert conceal(group, [CANARY]) is group
    assert_hidden("".join(traceback.format_exception(group)), *map(repr, group.exceptions))


def test_an_error_that_shows_a_secret_only_to_those_who_look_closely_is_none_any_more() -> None:
    class Close(Exception):
        def __repr__(self) -> str:
            return f"Close({CANARY})"

    assert repr(conceal(Close("no luck"), [CANARY])) == "Concealed('Close: no luck')"


def test_an_error_without_a_secret_is_left_as_it_is() -> None:
    arguments = ({"a": ["b", 1]}, b"\xff", None)
    error = ValueError(*arguments)
    assert conceal(error, [CANARY]) is error
    assert all(left is right for left, right in zip(error.args, arguments, strict=True))


def test_long_texts_and_large_factories_take_no_time() -> None:
    """Nothing here is worse than linear: what a driver hangs on its errors may be large."""
    began = time.process_time()
    for text in ("a" * 1_000_000, "password" * 3_000, "://" * 3_000, "://x:" * 3_000, "'password': '" * 3_000):
        hide(text, [CANARY])
    assert len(list(found({"password": "pw", "cache": list(map(str, range(1_000_000)))}))) == 1
    assert time.process_time() - began < 10


def test_attributes_are_those_of_slots_as_well() -> None:
    class Slotted:
        __slots__ = ("password", "unset")

        def __init__(self) -> None:
            self.password = "pw"

    class Single(Slotted):
        __slots__ = "token"  # noqa: PLC0205  # a string is one name

        def __init__(self) -> None:
            super().__init__()
            self.token = "tk"

    assert attributes(Slotted()) == {"password": "pw"}
    assert attributes(Single()) == {"password": "pw", "token": "tk"}


# -- a pool ---------------------------------------------------------------------------------------------


class Chatty(FakeFactory):
    """A factory whose driver shows the password in whatever goes wrong."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.password = CANARY

    def break_down(self, *hooks: str) -> None:
        for hook in hooks:
            error = OSError(f"{hook}: postgresql://bob:{quote(CANARY, safe='')}@h/d")
            error.__cause__ = ValueError(CANARY, {"password": CANARY})
            self.gates[hook].error(error)

    def is_clean(self, connection: FakeConnection) -> bool:
        if connection.dirty == "very":
            raise ValueError(CANARY)
        return super().is_clean(connection)


@pytest.fixture
def printed(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """What a test has got to print; the log comes to it, tracebacks included, and at the end nothing shows a secret."""
    caplog.set_level(logging.DEBUG)
    texts: list[str] = []
    yield texts
    assert texts
    assert_hidden(*texts, caplog.text)


def test_nothing_that_a_pool_prints_shows_a_secret(
    clock: ManualClock, make: Make, printed: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    factory = Chatty(clock)
    pool = make(factory=factory, max_size=1, fail_after=2, check="ping", leak_after=1)
    heard: list[Any] = []
    pool.subscribe(heard.append)
    lease = pool.acquire()
    factory.break_down("connect", "check", "reset", "close")
    lease.connection.dirty = True
    lease.release()  # a reset and a close that fail
    clock.advance(0)
    timeout = outcome(pool.acquire, 1)
    assert isinstance(timeout, PoolTimeout)
    clock.advance(5)
    refused = outcome(pool.acquire, 5)
    assert isinstance(refused, ConnectError)
    assert refused.__cause__ is not None
    printed += [everything_in(timeout), everything_in(refused), repr(pool), repr(pool.stats()), repr(heard)]
    printed += [everything_in(pickle.loads(pickle.dumps(timeout))), repr(timeout.stats)]
    printed += [everything_in(event.error) for event in heard if event.error]
    for gate in factory.gates.values():
        gate.ok()
    clock.advance(10)
    lease = pool.acquire(20)
    lease.connection.dirty = "very"
    lease.release()
    clock.advance(0)
    factory.gates["check"].error(OSError(CANARY))
    pool.acquire().release()
    clock.advance(5)
    outcome(pool.acquire, 1)
    clock.advance(0)
    assert {event.reason for event in heard if event.kind == "error"} >= {"connect", "reset", "close", "check"}
    printed += [repr(heard), *(everything_in(event.error) for event in heard if event.error), repr(pool.config)]
    assert "closing a connection failed" in caplog.text
    assert "judging a returned connection failed" in caplog.text


def test_no_report_page_or_metric_shows_a_secret(clock: ManualClock, make: Make, printed: list[str]) -> None:
    """Everything beside the pool itself that speaks of it, while connects fail and after a use that has broken."""
    from tests.integrations.page_client import Looking

    factory = Chatty(clock)
    pool = make(factory=factory, name="shop", max_size=1, fail_after=2, on_connect=partial(_fine, password=CANARY))
    page = Looking(clock, pool)
    log_events(pool)
    with pooling.PoolMonitor(pool, interval=1, runtime=clock, style="json") as monitor:
        with pytest.raises(FakeBroken), pool.acquire():
            raise FakeBroken(f"the user's own: postgresql://bob:{quote(CANARY, safe='')}@h/d")
        factory.break_down("connect")
        for _ in range(4):
            printed.append(str(outcome(pool.acquire, 1)))
            page.passes(1)
            printed += [json.dumps(page.document()), *map(str, monitor.report())]
    registry = CollectorRegistry()
    registry.register(PoolCollector(pool))
    printed += [generate_latest(registry).decode(), repr(pool.config), repr(pool.holders()), str(monitor.report())]
    assert "***" in printed[0]
    for gate in factory.gates.values():
        gate.ok()


def _fine(connection: Any, *, password: str) -> None: ...


def test_a_factory_whose_secrets_raise_is_told_of_and_nothing_more(
    clock: ManualClock, make: Make, printed: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    class Wrong(Chatty):
        def secrets(self) -> Iterator[str]:
            raise ValueError(CANARY)

    factory = Wrong(clock)
    factory.gates["connect"].error(OSError("plain"))
    error = outcome(make(factory=factory, fail_after=0).acquire, 1)
    printed.append(str(error))
    assert "OSError: plain" in str(error)
    assert caplog.messages[0].endswith("Wrong.secrets() raised")


def test_a_factory_may_name_its_secrets(clock: ManualClock, make: Make) -> None:
    class Own(FakeFactory):
        def secrets(self) -> list[str]:
            return ["the way we say it"]

    factory = Own(clock)
    factory.gates["connect"].error(OSError("that is the way we say it here"))
    assert "OSError: that is *** here" in str(outcome(make(factory=factory, fail_after=0).acquire, 1))


def test_a_permanent_error_is_told_by_its_text_before_that_is_cleaned(clock: ManualClock, make: Make) -> None:
    class Picky(FakeFactory):
        password = "wrong password"

        def is_permanent(self, error: BaseException) -> bool:
            return "wrong password" in str(error)

    factory = Picky(clock)
    factory.password = "wrong password"
    factory.gates["connect"].error(OSError("the wrong password"))
    before = clock.now()
    assert "OSError: the ***" in str(outcome(make(factory=factory).acquire, 30))
    assert clock.now() == before


def test_a_callable_that_shows_its_url_is_caught(clock: ManualClock, make: Make, printed: list[str]) -> None:
    """Nothing can be asked of it: what reads like a password is one."""

    def connect() -> Any:
        raise OSError(f"could not connect to postgresql://bob:{quote(CANARY, safe='')}@h/d, password='{CANARY}'")

    bound = partial(_fail_with, "h", CANARY)
    printed += [everything_in(outcome(make(factory=each, fail_after=0).acquire, 1)) for each in (connect, bound)]


def _fail_with(host: str, password: str) -> Any:
    raise OSError(f"{host} did not like {password}")


# -- backends -------------------------------------------------------------------------------------------

URLS = {
    "postgres": f"postgresql://bob:{quote(CANARY, safe='')}@{NOBODY}/shop",
    "postgres-bare": f"postgresql://bob:{CANARY}@{NOBODY}/shop",
    "postgres-query": f"postgresql://{NOBODY}/shop?user=bob&password={quote(CANARY, safe='')}",
    "postgres-nonsense": f"postgresql://bob:{quote(CANARY, safe='')}@{NOBODY}/shop?nonsense=1",
    "mysql": f"mysql://bob:{quote(CANARY, safe='')}@{NOBODY}/shop",
    "mysql-bare": f"mysql://bob:{CANARY}@{NOBODY}/shop",
    "mysql-nonsense": f"mysql://bob:{quote(CANARY, safe='')}@{NOBODY}/shop?nonsense=1",
    "redis": f"redis://bob:{quote(CANARY, safe='')}@{NOBODY}/0",
    "redis-bare": f"redis://bob:{CANARY}@{NOBODY}/0",
    "redis-query": f"redis://{NOBODY}/0?password={quote(CANARY, safe='')}",
    "redis-nonsense": f"redis://bob:{quote(CANARY, safe='')}@{NOBODY}/0?nonsense=1",
    "mongodb": f"mongodb://bob:{quote(CANARY, safe='')}@{NOBODY}/shop?serverSelectionTimeoutMS=200",
    "mongodb-bare": f"mongodb://bob:{CANARY}@{NOBODY}/shop",
    "mongodb-nonsense": f"mongodb://bob:{quote(CANARY, safe='')}@{NOBODY}/shop?maxPoolSize=x",
    "http": f"http://bob:{quote(CANARY, safe='')}@{NOBODY}/",
    "sqlite": f"sqlite://bob:{quote(CANARY, safe='')}@h/shop.db",
    "unknown": f"oracle://bob:{quote(CANARY, safe='')}@{NOBODY}/shop",
    "no-scheme": f"host=h password={CANARY}",
    "no-scheme-either": f"bob:{CANARY}@{NOBODY}",
}


@pytest.mark.parametrize("url", URLS.values(), ids=URLS)
def test_a_password_in_a_url_is_shown_by_nothing(url: str, printed: list[str]) -> None:
    try:
        pool = create_pool(url, fail_after=0.0, timeout=10.0)
    except Exception as error:
        printed += [str(error), repr(error)]
        return
    with pool:
        error = outcome(pool.acquire)
        assert isinstance(error, ConnectError)
        printed += [str(error), repr(error), str(error.__cause__), repr(error.__cause__), repr(pool), pool.name]
        printed += [repr(pool.stats()), repr(pool._factory), repr(pool.config)]


@pytest.mark.parametrize("scheme", ["postgresql", "mysql", "redis", "mongodb", "http"])
@pytest.mark.parametrize("rotating", [False, True], ids=["given", "asked"])
def test_a_password_among_the_connect_arguments_is_known(
    scheme: str, rotating: bool, monkeypatch: pytest.MonkeyPatch, printed: list[str]
) -> None:
    """Whatever a driver makes of its arguments: here each says them all."""
    given: dict[str, Any] = {"password": CANARY}
    if scheme == "http":
        given = {"headers": {"Authorization": f"Bearer {CANARY}"}}
    pool = create_pool(f"{scheme}://{NOBODY}", connect_args=(lambda: given) if rotating else given, fail_after=0.0)
    factory = pool._factory
    real = factory.connect

    def connect(timeout: float) -> Any:
        try:
            real(0.5)
        except Exception as error:
            raise OSError(f"could not connect with {CANARY}: {given}") from error

    monkeypatch.setattr(factory, "connect", connect)
    with pool:
        error = outcome(pool.acquire, 10.0)
        assert isinstance(error, ConnectError)
        assert "could not connect with ***" in str(error)
        printed += [str(error), everything_in(error.__cause__ or error), repr(pool.stats())]


@pytest.mark.parametrize("server", ["postgres", "mariadb", "redis_server"])
def test_a_password_that_a_real_server_refuses_is_shown_by_nothing(
    server: str, request: pytest.FixtureRequest, printed: list[str]
) -> None:
    """Those that trust everybody show nothing of it either."""
    scheme, _, place = request.getfixturevalue(server).url.partition("://")
    where = place.rpartition("@")[2]
    for url, arguments in (
        (f"{scheme}://bob:{quote(CANARY, safe='')}@{where}", None),
        (f"{scheme}://{where}", {"username" if scheme == "redis" else "user": "bob", "password": CANARY}),
    ):
        with create_pool(url, connect_args=arguments, fail_after=0.0, timeout=20.0) as pool:
            result = outcome(pool.acquire)
            if isinstance(result, BaseException):
                printed += [str(result), repr(result), everything_in(result.__cause__ or result)]
            else:
                result.release()
            printed += [repr(pool), pool.name, repr(pool.stats()), repr(pool._factory)]


class Driver(ModuleType):
    """A DB-API driver that shows what it was called with."""

    threadsafety = 1
    Error = sqlite3.Error
    OperationalError = sqlite3.OperationalError

    def connect(self, host: str, user: str, password: str, **more: object) -> Any:
        raise sqlite3.OperationalError(f"{user} at {host}: {password} {more}")


@pytest.mark.parametrize(
    ("args", "connect_args"),
    [
        (("h", "bob", CANARY), None),
        (("h", "bob"), {"password": CANARY}),
        (("h", "bob", "x"), {"auth": ("bob", CANARY)}),
        (("h", "bob", f"host=h password='{CANARY}'"), None),
    ],
)
def test_a_password_among_a_drivers_positional_arguments_is_known(
    args: tuple[str, ...], connect_args: Any, printed: list[str]
) -> None:
    driver = Driver("driver")
    factory = DbapiFactory(driver.connect, args, connect_args, module=driver)
    with Pool(factory, fail_after=0.0) as pool:
        error = outcome(pool.acquire, 10.0)
        assert isinstance(error, ConnectError)
        assert "***" in str(error)
        printed += [str(error), everything_in(error.__cause__ or error), repr(factory)]


def test_passwords_that_rotate_are_not_kept_for_ever() -> None:
    numbers = iter(range(1000))
    factory = DbapiFactory(
        Driver("driver").connect, ("h", "bob"), lambda: {"password": f"password-{next(numbers)}"}, module=Driver("d")
    )
    for _ in range(100):
        assert isinstance(outcome(factory.connect, 1.0), sqlite3.OperationalError)
    known = list(factory.secrets())
    assert "password-99" in known
    assert len(known) == pooling.factory.ANSWERS


def test_the_pools_in_the_place_of_the_drivers_know_what_they_were_given() -> None:
    from pooling.backends.http import HTTPConnectionPool, PoolManager
    from pooling.backends.redis import ConnectionPool

    redis = ConnectionPool(host="127.0.0.1", password=CANARY)
    assert CANARY in set(redis.pooling._factory.secrets())
    assert "Tweety" not in repr(redis.pooling)
    http = HTTPConnectionPool("127.0.0.1", headers={"Authorization": f"Basic {CANARY}"})
    assert CANARY in set(http.pooling._factory.secrets())
    http.close()
    redis.disconnect()
    with PoolManager(key_password=CANARY) as manager:
        origin = manager.connection_from_url("https://127.0.0.1:1/")
        assert CANARY in set(origin.pooling._factory.secrets())


def test_a_factory_that_shows_itself_is_not_shown() -> None:
    class Own(Factory[Any]):
        def __repr__(self) -> str:
            return f"Own({CANARY})"

    with pytest.raises(ValueError, match="need a factory with a check") as refused:
        Pool(Own(), check="ping")
    assert_hidden(str(refused.value))
