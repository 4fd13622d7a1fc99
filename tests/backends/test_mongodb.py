"""What is special about MongoDB by PyMongo."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymongo
import pytest
from pymongo import errors, monitoring

from pooling import ConnectError, Pool, PoolError, create_pool
from pooling.backends import _mongo, mongodb
from pooling.backends.mongodb import MongoFactory, sockets, transaction
from tests.backends.adapters_mongodb import MongoDB
from tests.backends.contract import fill, in_threads, run_python, session_of, settled
from tests.docs.pages import ROOT, bare, table
from tests.proxy import Proxy
from tests.servers import MongoDB as Server
from tests.waiting import until

NOBODY = "mongodb://127.0.0.1:1/?directConnection=true"
MONITORS = 2  # sockets that a client has beside those for operations, per server: one to watch, one to measure


@pytest.fixture
def backend(mongodb: Server, tmp_path: Path) -> Iterator[MongoDB]:
    with MongoDB(mongodb, tmp_path) as adapter:
        yield adapter


@pytest.fixture(scope="module")
def tls_server() -> Iterator[Server]:
    with Server(tls=True, external=False) as server:
        yield server


class Commands(monitoring.CommandListener):
    """Keeps what was sent."""

    def __init__(self) -> None:
        self.sent: list[monitoring.CommandStartedEvent] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        self.sent.append(event)

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Of no concern."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Of no concern."""


def agree(backend: MongoDB, pool: Pool[Any], count: int) -> None:
    """The pool, the driver's events and the server say the same."""
    settled(pool, size=count, closing=0, busy=0)
    until(lambda: sockets(pool).open == count)
    backend.wait_for(count)


class TestOneClient:
    def test_all_leases_yield_one_client(self, backend: MongoDB) -> None:
        pool = backend.pool(max_size=3)
        with pool.acquire() as first, pool.acquire() as second:
            assert first is second
            assert isinstance(first, pymongo.MongoClient)

    def test_it_names_itself_as_pymongos_own_does(self, backend: MongoDB) -> None:
        pool = backend.pool(max_size=1)
        with pool.acquire() as client, client.start_session() as session:
            assert repr(client).startswith("MongoClient(")
            with pymongo.MongoClient[Any](backend.url) as other, pytest.raises(errors.InvalidOperation) as raised:
                other.admin.command("ping", session=session)
        assert "the MongoClient that started it" in str(raised.value)

    def test_the_first_command_tells_the_clusters_time_as_it_does_without_a_pool(self, backend: MongoDB) -> None:
        commands = Commands()
        pool = create_pool(backend.url, {"event_listeners": [commands]}, max_size=1)
        with pool, pool.acquire() as client, client.start_session() as session, session.start_transaction():
            client.pooling.first.find_one(session=session)
        assert "$clusterTime" in commands.sent[0].command

    def test_each_permit_has_a_socket_and_all_three_counts_agree(self, backend: MongoDB) -> None:
        pool = backend.pool(max_size=4)
        leases = []
        for count in range(1, 5):
            leases.append(pool.acquire())
            agree(backend, pool, count)
        assert sockets(pool).in_use == 0
        for lease in leases:
            lease.release()
        agree(backend, pool, 4)

    def test_monitors_are_beside_the_cap_and_everything_is_gone_after_close(self, backend: MongoDB) -> None:
        pool = backend.pool(max_size=2)
        fill(backend, pool, 2)
        until(lambda: len(backend.addresses(monitors=True)) == MONITORS)
        assert backend.count() == 2
        pool.close()
        backend.wait_for(0)
        until(lambda: not backend.addresses(monitors=True))
        assert sockets(pool)[:3] == (0, 0, 2)

    def test_warm_up_opens_min_size_sockets(self, backend: MongoDB) -> None:
        pool = backend.pool(min_size=3, max_size=3)
        pool.warm_up()
        agree(backend, pool, 3)
        assert sockets(pool).opened == 3

    def test_a_socket_goes_with_each_permit_the_oldest_first(self, backend: MongoDB) -> None:
        pool = backend.pool(max_size=4)
        old = fill(backend, pool, 4)
        with pool.acquire() as connection:
            kept = backend.session(connection)
            pool.resize(max_size=2)
            agree(backend, pool, 2)
            assert set(backend.addresses()) < set(old)
        pool.resize(max_size=6)
        leases = [pool.acquire() for _ in range(6)]  # more than the client was made for
        agree(backend, pool, 6)
        assert kept in old
        for lease in leases:
            lease.release()

    def test_sockets_are_replaced_with_their_permits_lifetime(self, backend: MongoDB) -> None:
        pool = backend.pool(min_size=3, max_size=3, max_lifetime=0.5)
        old = set(fill(backend, pool, 3))
        until(lambda: not set(backend.addresses()) & old)
        assert pool.stats().closed["lifetime"] >= 3
        assert sockets(pool).open <= 3

    def test_clear_reaches_the_socket_of_a_lease_when_that_comes_back(self, backend: MongoDB) -> None:
        pool = backend.pool(max_size=3)
        old = set(fill(backend, pool, 3))
        lease = pool.acquire()
        pool.clear()
        agree(backend, pool, 1)
        fresh = [pool.acquire(), pool.acquire()]
        agree(backend, pool, 3)
        lease.release()
        agree(backend, pool, 2)
        assert not set(backend.addresses()) & old
        for one in fresh:
            one.release()

    def test_a_keepalive_uses_every_socket_in_its_turn(self, backend: MongoDB) -> None:
        used: list[int] = []

        class Uses(monitoring.ConnectionPoolListener):
            def connection_checked_out(self, event: Any) -> None:
                used.append(event.connection_id)

            def _ignore(self, event: Any) -> None: ...

            pool_created = pool_ready = pool_cleared = pool_closed = connection_created = connection_ready = _ignore
            connection_closed = connection_check_out_started = connection_check_out_failed = _ignore
            connection_checked_in = _ignore

        pool = backend.pool(connect_args={"event_listeners": [Uses()]}, max_size=3, keepalive=0.2)
        fill(backend, pool, 3)
        until(lambda: len(set(used)) == 3)
        assert sockets(pool).opened == 3

    def test_the_client_goes_with_the_last_permit(self, backend: MongoDB) -> None:
        pool = backend.pool(max_size=2, idle_timeout=0.2)
        with pool.acquire() as first:
            pass
        until(lambda: pool.stats().size == 0)
        with pytest.raises(errors.InvalidOperation):
            first.admin.command("ping")
        with pool.acquire() as second:
            assert second is not first

    def test_credentials_that_change_bring_a_new_client_and_the_old_one_ends_with_its_permits(
        self, backend: MongoDB
    ) -> None:
        names = ["first"]
        pool = backend.pool(connect_args=lambda: {"w": 1, "zlibCompressionLevel": len(names)}, max_size=3)
        with pool.acquire() as one, pool.acquire() as same:
            assert one is same
            names.append("second")
            with pool.acquire() as other:
                assert other is not one
                agree(backend, pool, 3)
                pool.resize(max_size=1)
        agree(backend, pool, 1)
        assert session_of(backend, pool)

    def test_without_a_look_behind_pymongos_names_the_pool_works_as_well(
        self, backend: MongoDB, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_mongo, "_NEEDED", ("a name of tomorrow",))
        pool = backend.pool(max_size=2, max_uses=50, check_after=0.0)
        in_threads(8, lambda _: [session_of(backend, pool) for _ in range(20)])
        assert backend.count() <= 2
        assert pool.stats().errors == 0

    @pytest.mark.parametrize("ask", [sockets, lambda pool: transaction(pool).__enter__()])
    def test_sockets_and_transactions_are_those_of_a_pool_of_mongodb(self, ask: Callable[[Any], Any]) -> None:
        with (
            Pool(threading.Lock, name="locks") as pool,
            pytest.raises(TypeError, match="'locks' is not a pool of MongoDB"),
        ):
            ask(pool)

    def test_a_child_of_a_fork_keeps_its_parents_sockets_from_their_destructors(self, mongodb: Server) -> None:
        """They close by number, and the child may have something else there: a daemon closes every descriptor."""
        run_python(
            """
            import gc, os, sys, warnings, weakref
            from pooling import create_pool

            warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 and later warn of a fork beside threads
            pool = create_pool(sys.argv[1])
            with pool.acquire() as client:
                client.admin.command("ping")
                topology = weakref.ref(client._topology)
            child = os.fork()
            if not child:
                gc.collect()
                os._exit(client._topology is topology() or topology() is None)
            assert os.waitpid(child, 0)[1] == 0
            pool.close()
            """,
            mongodb.url,
        )


class TestBreaks:
    def test_a_session_killed_in_use_costs_one_user_an_error_and_one_permit(self, backend: MongoDB) -> None:
        pool = backend.pool(max_size=3, check_after=60.0)
        fill(backend, pool, 3)
        with pytest.raises(errors.AutoReconnect), pool.acquire() as connection:
            backend.kill(backend.session(connection))
            connection.admin.command("ping")
        in_threads(8, lambda _: [session_of(backend, pool) for _ in range(5)])
        assert pool.stats().errors >= 1
        assert backend.count() <= 3

    def test_killed_idle_sockets_cost_exactly_their_permits(self, backend: MongoDB) -> None:
        pool = backend.pool(max_size=4, check_after=0.0)
        old = fill(backend, pool, 4)
        for victim in old[:2]:
            backend.kill(victim)
        session_of(backend, pool)
        settled(pool, busy=0, closing=0)
        fill(backend, pool, 4)
        assert pool.stats().closed == {"broken": 2}
        assert set(old[2:]) < set(backend.addresses())

    def test_with_pymongos_own_retries_a_user_does_not_notice_a_killed_socket(self, backend: MongoDB) -> None:
        pool = backend.pool(connect_args={"retryReads": True}, max_size=1, check=None)
        with pool.acquire() as connection:
            backend.kill(backend.session(connection))
            assert connection.contract.notes.find_one({"name": "nobody"}) is None
        assert pool.stats().closed == {}

    def test_all_connections_hung_are_given_up_by_a_check(self, backend: MongoDB, proxy: Callable[..., Proxy]) -> None:
        between = proxy(backend.server)
        pool = backend.pool(
            backend.at(between.host, between.port), max_size=2, check="ping", check_after=0.0, connect_timeout=1.0
        )
        first = session_of(backend, pool)
        for link in between.links():
            link.mute = True
        assert session_of(backend, pool, 10.0) != first

    def test_a_check_waits_no_longer_than_a_user_would(self, backend: MongoDB, proxy: Callable[..., Proxy]) -> None:
        between = proxy(backend.server)
        url, args = backend.at(between.host, between.port), {"timeoutMS": 300}
        pool = backend.pool(url, connect_args=args, max_size=1, check="ping", check_after=0.0, connect_timeout=10.0)
        first = session_of(backend, pool)
        for link in between.links():
            link.mute = True
        start = time.monotonic()
        assert session_of(backend, pool, 9.0) != first
        assert time.monotonic() - start < 5.0

    def test_a_restarted_server_is_used_again_at_once(self, own_server: Callable[..., Server], tmp_path: Path) -> None:
        server = own_server("mongodb")
        with MongoDB(server, tmp_path) as backend:
            pool = backend.pool(max_size=3, check_after=0.0, fail_after=0.2)
            fill(backend, pool, 3)
            server.kill()
            with pytest.raises(ConnectError) as caught:
                pool.acquire(5.0)
            assert isinstance(caught.value.__cause__, errors.AutoReconnect)
            server.start()
            session_of(backend, pool)
            assert pool.stats().state == "up"

    def test_threads_that_share_a_lease_wait_for_each_others_sockets_and_break_nothing(self, backend: MongoDB) -> None:
        pool = backend.pool(max_size=1)
        with pool.acquire() as connection:
            in_threads(8, lambda number: backend.ask(connection, number))
            assert backend.count() == 1
        assert pool.stats().closed == {}


class TestErrors:
    factory = MongoFactory(NOBODY)

    @staticmethod
    def labelled(error: errors.PyMongoError, *labels: str) -> errors.PyMongoError:
        for label in labels:
            error._add_error_label(label)
        return error

    @pytest.mark.parametrize(
        ("error", "broken"),
        [
            (errors.AutoReconnect("connection closed"), True),
            (errors.NotPrimaryError("not primary"), True),
            (errors.ServerSelectionTimeoutError("none"), True),
            (errors.InvalidOperation("Cannot use MongoClient after close"), True),
            (errors.InvalidOperation("Cannot change a bulk operation"), False),
            (errors.NetworkTimeout("timed out"), False),  # costs its socket alone
            (errors.WaitQueueTimeoutError("none free"), False),
            (errors.ExecutionTimeout("too long", 50), False),
            (errors.DuplicateKeyError("twice", 11000), False),
            (KeyError("theirs"), False),
        ],
    )
    def test_what_breaks_a_permit(self, error: Exception, broken: bool) -> None:
        assert self.factory.is_broken(error) is broken

    def test_what_fails_for_good(self) -> None:
        unknown, silent = errors.ConfigurationError("no such name"), errors.ConfigurationError("timed out")
        dns = pytest.importorskip("dns.resolver")
        unknown.__cause__, silent.__cause__ = dns.NXDOMAIN(), dns.LifetimeTimeout(timeout=1, errors=[])
        permanent = [
            errors.OperationFailure("authentication failed", 18),
            errors.InvalidURI("not that"),
            errors.AutoReconnect("SSL handshake failed: certificate verify failed"),
            unknown,
            TypeError("an argument"),
        ]
        passing = [
            errors.AutoReconnect("refused"),
            errors.OperationFailure("interrupted", 11600),
            errors.ServerSelectionTimeoutError("none"),
            silent,
        ]
        assert [self.factory.is_permanent(error) for error in permanent] == [True] * len(permanent)
        assert [self.factory.is_permanent(error) for error in passing] == [False] * len(passing)

    def test_what_may_be_tried_again(self) -> None:
        def failure(*labels: str) -> errors.PyMongoError:
            return self.labelled(errors.OperationFailure("no", 112), *labels)

        assert self.factory.is_retryable(failure("TransientTransactionError"))
        assert self.factory.is_retryable(failure("RetryableWriteError", "NoWritesPerformed"))
        assert self.factory.is_retryable(errors.ServerSelectionTimeoutError("nothing was sent"))
        assert not self.factory.is_retryable(failure("TransientTransactionError", "UnknownTransactionCommitResult"))
        assert not self.factory.is_retryable(failure("RetryableWriteError"))  # PyMongo has tried twice
        assert not self.factory.is_retryable(failure("SystemOverloadedError", "RetryableError", "NoWritesPerformed"))
        assert not self.factory.is_retryable(errors.AutoReconnect("sent, and then?"))
        assert not self.factory.is_retryable(errors.WaitQueueTimeoutError("perhaps of a second try"))
        assert not self.factory.is_retryable(KeyError("theirs"))


class TestTransactions:
    def test_a_transaction_of_the_pool_says_how_to_do_it(self, backend: MongoDB) -> None:
        pool = backend.pool(max_size=1)
        with pytest.raises(PoolError, match=r"mongodb\.transaction\(pool\) as session"), pool.transaction():
            pass
        assert session_of(backend, pool)
        assert pool.stats().closed == {}

    def test_a_transaction_commits_at_its_end_and_aborts_on_an_exception(self, backend: MongoDB) -> None:
        pool = backend.pool(max_size=1)
        with pool.acquire() as client:
            backend.write(client, 0)  # the collection exists

        def write(session: Any, token: int) -> None:
            session.client.contract.notes.insert_one({"name": backend.name, "token": token}, session=session)

        with mongodb.transaction(pool) as session:
            write(session, 1)
            assert pool.stats().leased == 1
        with pytest.raises(KeyError), mongodb.transaction(pool, 5.0, max_commit_time_ms=1000) as session:
            write(session, 2)
            raise KeyError
        with pool.acquire() as client:
            assert [backend.written(client, token) for token in (1, 2)] == [True, False]


class TestOptions:
    def test_options_of_the_pool_size_the_client(self, backend: MongoDB) -> None:
        pool = backend.pool(
            min_size=1, max_size=7, idle_timeout=5.0, timeout=3.0, max_connecting=2, connect_timeout=4.0
        )
        with pool.acquire() as client:
            options = client.options
            sized = options.pool_options
        assert (sized.max_pool_size, sized.min_pool_size, sized.max_connecting) == (7, 0, 2)
        assert (sized.max_idle_time_seconds, sized.wait_queue_timeout, sized.connect_timeout) == (5.0, 3.0, 4.0)
        assert options.server_selection_timeout == 3.0

    def test_options_in_the_url_and_in_connect_args_size_the_pool(self) -> None:
        url = (
            NOBODY + "&maxPoolSize=7&minpoolsize=2&maxIdleTimeMS=5000&waitQueueTimeoutMS=250&serverSelectionTimeoutMS=9"
        )
        with create_pool(url, {"maxConnecting": 3, "connectTimeoutMS": 1500}, max_uses=9) as pool:
            config = pool._config
        assert (config.max_size, config.min_size, config.max_connecting, config.max_uses) == (7, 2, 3, 9)
        assert (config.idle_timeout, config.timeout, config.connect_timeout) == (5.0, 0.25, 1.5)
        assert "serverSelectionTimeoutMS" not in pool._factory._sizes  # the URL's counts
        with create_pool(NOBODY + "&maxPoolSize=0", idle_timeout=None, timeout=None) as pool:
            assert (pool._config.max_size, pool._config.idle_timeout, pool._config.timeout) == (None, None, None)

    def test_times_that_pymongo_refuses_are_a_week_there(self) -> None:
        with create_pool(NOBODY, idle_timeout=1e7, timeout=1e300, connect_timeout=1e9) as pool:
            sizes = pool._factory._sizes
        names = ("maxIdleTimeMS", "waitQueueTimeoutMS", "connectTimeoutMS")
        assert [sizes[name] / 1000 for name in names] == [7 * 86400.0] * 3

    @pytest.mark.parametrize(
        ("url", "options", "error"),
        [
            ("mongodb://u:s3cret@h/?maxPoolSize=4", {"max_size": 5}, "ValueError: maxPoolSize=4 and max_size=5 contr"),
            ("mongodb://u:s3cret@h/?connectTimeoutMS=0", {}, "ValueError: connect_timeout must be greater than 0"),
            ("mongodb://u:s3cret@h/?maxPoolSize=s3cret", {}, "ValueError: maxPoolSize in the MongoDB URL has a value"),
            ("mongodb://u:s3cret@h/?maxPoolSiz=4", {}, "TypeError: unknown option .* did you mean 'maxPoolSize'"),
            ("mongodb://u:s3cret@h/?useUnifiedTopology=1", {}, "TypeError: useUnifiedTopology in the MongoDB URL is"),
            ("mongodb://u:s3@cret@h/", {}, "ValueError: the MongoDB URL cannot be read"),
            ("mongodb://u:s3cret/x@h", {}, "ValueError: URL cannot be read"),
            ("mongodb://", {}, "ValueError: the MongoDB URL cannot be read"),
            ("mongodb://u:p?s3cret@h/", {}, "ValueError: URL cannot be read"),
            ("mongodb://h/?w=1&", {}, "ValueError: the MongoDB URL cannot be read"),
        ],
    )
    def test_what_cannot_be_is_refused_without_the_password(self, url: str, options: Any, error: str) -> None:
        kind, _, text = error.partition(": ")
        with pytest.raises((TypeError, ValueError), match=text) as caught:
            create_pool(url, **options)
        assert type(caught.value).__name__ == kind
        assert "s3" not in str(caught.value)

    @pytest.mark.parametrize(
        "query",
        [
            "appName=R%26D", "appName=a+b%3D%25", "tls=true&tlsCertificateKeyFilePassword=p%26w%3Bx", "",
            "w=majority;journal=true", "readPreference=secondary&readPreferenceTags=dc:ny,rack:1&readPreferenceTags=",
            "authMechanismProperties=SERVICE_NAME:x,CANONICALIZE_HOST_NAME:true",
        ],
    )  # fmt: skip  # a list
    def test_what_pymongo_reads_in_a_url_is_accepted(self, query: str) -> None:
        client: Any = pymongo.MongoClient(f"mongodb://h/?{query}", connect=False)
        client.close()
        with create_pool(f"mongodb://h/?{query}") as pool:
            assert pool.name == "h:27017/"

    @pytest.mark.parametrize("query", ["srvServiceName=customname", "srvMaxHosts=2&maxPoolSize=3"])
    def test_what_is_for_hosts_found_by_dns_is_accepted_there_alone(self, query: str) -> None:
        with create_pool(f"mongodb+srv://h.example.org/?{query}") as pool:
            assert pool.name == "h.example.org/"
        with pytest.raises(ValueError, match=r"srv\w+ in the MongoDB URL is for mongodb\+srv:// only"):
            create_pool(f"mongodb://h/?{query}")

    def test_an_option_reaches_the_server_as_it_was_meant(self, backend: MongoDB) -> None:
        separator = "&" if "?" in backend.url else "/?"
        with create_pool(f"{backend.url}{separator}appName=R%26D+{backend.name}") as pool, pool.acquire() as client:
            running = client.admin.command({"currentOp": 1, "$all": True})["inprog"]
            clients = [each.get("clientMetadata", {}).get("application", {}) for each in running]
            assert {"name": f"R&D {backend.name}"} in clients

    def test_the_page_lists_them_with_their_counterparts(self) -> None:
        rows = table(ROOT / "docs" / "backends" / "mongodb.md", "elsewhere")
        listed = {bare(row[0]): bare(row[1]) for row in rows}
        assert mongodb._THEIRS.items() <= listed.items()

    def test_a_callable_that_sizes_the_client_is_told_to_size_the_pool(self) -> None:
        with (
            create_pool(NOBODY, lambda: {"maxPoolSize": 3}) as pool,
            pytest.raises(ConnectError, match="give max_size"),
        ):
            pool.acquire()

    def test_names_are_taken_from_the_url_without_user_and_password(self) -> None:
        for url, name in {
            "mongodb://u:s3cret@a,b:1/db?replicaSet=r": "a:27017,b:1/db",
            "mongodb+srv://u:s3cret@cluster.example.org/db": "cluster.example.org/db",
            "mongodb+pymongo://a": "a:27017/",
        }.items():
            with create_pool(url) as pool:
                assert pool.name == name
                assert "s3cret" not in repr(pool) + repr(pool._factory)


class TestTLS:
    def test_an_idle_connection_stays_and_a_killed_one_is_found(self, tls_server: Server, tmp_path: Path) -> None:
        with MongoDB(tls_server, tmp_path) as backend:
            pool = backend.pool(max_size=2, check_after=0.0)
            first = session_of(backend, pool)
            time.sleep(0.1)
            assert session_of(backend, pool) == first
            assert pool.stats().opened == 1
            backend.kill(first)
            assert session_of(backend, pool) != first

    def test_a_certificate_of_nobody_known_fails_for_good(self, tls_server: Server) -> None:
        url = f"mongodb://{tls_server.host}:{tls_server.port}/?directConnection=true&tls=true"
        with create_pool(url) as pool, pytest.raises(ConnectError) as caught:
            pool.acquire(5.0)
        assert pool._factory.is_permanent(caught.value.__cause__)  # type: ignore[arg-type]
