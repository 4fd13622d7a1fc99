"""What hangs: a frozen server, a black hole, a TLS handshake without an end, a name that is never found, a close that
blocks. No acquire outlives its deadline, what is stuck is bounded and counted, and all of it recovers."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pooling import Pool, PoolTimeout, create_pool
from tests.backends.contract import ROOT
from tests.outages import names
from tests.outages.conftest import Mine
from tests.outages.users import Crowd, fill
from tests.proxy import Proxy
from tests.servers.launch import user_namespaces_permitted
from tests.waiting import until

LATE = 2.0  # seconds by which a loaded machine may be late


def in_time(pool: Pool[Any], callers: int = 5, timeout: float = 0.4) -> None:
    """So many callers at once: each is told PoolTimeout when its time is over, neither before nor after."""
    ends: list[tuple[float, BaseException | None]] = []

    def call() -> None:
        began, error = time.monotonic(), None
        try:
            pool.acquire(timeout).discard()
        except Exception as caught:
            error = caught
        ends.append((time.monotonic() - began, error))

    threads = [threading.Thread(target=call, daemon=True) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30.0)
    assert len(ends) == callers, "an acquire has outlived its deadline by half a minute"
    for took, error in ends:
        assert isinstance(error, PoolTimeout), ends
        assert timeout <= took < timeout + LATE, ends


def workers() -> set[threading.Thread]:
    """Worker threads of all pools of this process, those at rest included, and what other tests have left stuck."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("pooling-worker")}


@pytest.mark.parametrize("name", ["mongodb", "mysql", "postgres", "redis"])
def test_a_frozen_server_keeps_nobody_beyond_his_time_and_is_used_again_when_it_thaws(mine: Mine, name: str) -> None:
    backend = mine(name)
    pool = backend.pool(max_size=4, check="ping", check_after=0.0, connect_timeout=2.0)
    fill(pool, 4)
    others = workers()
    backend.server.freeze()
    try:
        for _ in range(3):
            in_time(pool)
        assert len(workers() - others) <= 3 * 4  # a check or a connect for each slot, closes beside them
        assert pool.stats().hung <= 4
    finally:
        backend.server.thaw()
    crowd = Crowd(backend, pool)
    for _ in range(8):
        crowd.use()
    assert not crowd.failed
    assert pool.stats().hung == 0


@pytest.mark.parametrize("name", ["http", "mysql", "postgres", "redis"])
def test_those_who_are_stuck_in_a_frozen_server_are_freed_by_clear_with_interrupt(mine: Mine, name: str) -> None:
    """With the default check nothing is sent before a use: so the use itself hangs, in the driver, until it is told."""
    backend = mine(name)
    pool = backend.pool(max_size=5, timeout=60.0)
    fill(pool, 5)
    backend.server.freeze()
    crowd = Crowd(backend, pool)
    try:
        crowd.start(5, crowd.use)
        until(lambda: pool.stats().leased == 5, "they use their connections")
        time.sleep(0.1)
        assert not crowd.uses
        pool.clear(interrupt=True)
        crowd.join()
    finally:
        backend.server.thaw()
    assert len(crowd.failed) == 5
    for _ in range(5):
        crowd.use()
    assert len(crowd.failed) == 5
    assert pool.stats().closed.get("stale", 0) + pool.stats().closed.get("broken", 0) == 5


@pytest.mark.parametrize("name", ["https", "mysql", "postgres", "redis"])
def test_a_black_hole_that_opens_under_a_pool_at_work(mine: Mine, proxy: Callable[..., Proxy], name: str) -> None:
    backend = mine(name)
    between = proxy(backend.server)
    pool = backend.pool(backend.at(between.host, between.port), max_size=4, check_after=0.0, connect_timeout=2.0)
    fill(pool, 4)
    between.mute, between.on_accept = True, "mute"
    pool.clear()
    for _ in range(2):
        in_time(pool)
    assert pool.stats().connecting <= 1
    between.reset_all()
    between.mute, between.on_accept = False, "forward"
    crowd = Crowd(backend, pool)
    crowd.use()
    assert not crowd.failed


@pytest.mark.parametrize("name", ["mysql", "postgres", "redis"])
def test_a_first_connect_that_hangs_holds_up_nobody_for_as_long_as_that_may_take(
    mine: Mine, proxy: Callable[..., Proxy], name: str
) -> None:
    """As behind a balancer one of whose servers is dead."""
    backend = mine(name)
    between = proxy(backend.server)
    between.on_accept = "mute"
    pool = backend.pool(backend.at(between.host, between.port), max_size=4, connect_timeout=30.0)
    crowd = Crowd(backend, pool)
    users = [threading.Thread(target=crowd.use, daemon=True) for _ in range(5)]
    for user in users:
        user.start()
    until(lambda: between.accepted)
    between.on_accept = "forward"
    for user in users:
        user.join(20.0)
    try:
        assert (len(crowd.served), crowd.failed) == (5, [])
        assert pool.stats().connecting  # it hangs still
    finally:
        between.reset_all()


# -- a TLS handshake that never ends -----------------------------------------------------------------------


def greeting(server: Any) -> int:
    """How many bytes a MySQL server says before it is asked for TLS."""
    with socket.create_connection(server.address, timeout=10.0) as plain:
        head = plain.recv(4, socket.MSG_WAITALL)
        return 4 + int.from_bytes(head[:3], "little")


SAID_BEFORE: dict[str, Callable[[Any], int]] = {
    "http": lambda server: 0,
    "redis": lambda server: 0,
    "postgres": lambda server: 1,  # the S that promises TLS
    "mariadb": greeting,
}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.soak] * (kind in {"mariadb", "postgres"})) for kind in SAID_BEFORE]
)
def test_a_tls_handshake_that_never_ends(
    own_server: Callable[..., Any], proxy: Callable[..., Proxy], kind: str
) -> None:
    server = own_server(kind, tls=True)
    between = proxy(server)
    between.mute_after(from_server=SAID_BEFORE[kind](server))
    url = server.url_at(between.host, between.port)
    args = {"ca_certs": str(server.certificates.authority)} if kind == "http" else None
    pool = create_pool(url, connect_args=args, max_size=3, connect_timeout=2.0)
    try:
        for _ in range(2):
            in_time(pool)
        assert 1 <= between.accepted <= 2
        assert pool.stats().connecting <= 2
        between.mute_after(from_server=None)
        pool.acquire(20.0).release()
        assert pool.stats().hung == 0
    finally:
        between.reset_all()
        pool.close()


# -- a name that is never found ----------------------------------------------------------------------------


def ask_by_name(command: list[str], mode: str, *urls: str) -> None:
    done = subprocess.run(
        [*command, sys.executable, "-W", "error", "-m", "tests.outages.names", mode, *urls],
        cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip  # one argument list
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("all well\n"), done.stdout + done.stderr


def test_a_look_up_that_blocks_is_written_off_and_the_server_is_found_in_the_end(mine: Mine) -> None:
    backends = [mine(name) for name in ("http", "mysql", "redis", "mongodb")]
    ask_by_name([], "patched", *(backend.at(names.NAME, backend.server.port) for backend in backends))


def test_a_nameserver_that_never_answers(tmp_path: Path) -> None:
    """A real one, for the real resolver: libpq asks it in C, where Python's look-up cannot be replaced."""
    resolver = tmp_path / "resolv.conf"
    resolver.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:3\n")
    enter = f'mount --bind {resolver} /etc/resolv.conf && ip link set lo up && exec "$@"'
    world = ["unshare", "--user", "--map-root-user", "--mount", "--net", "sh", "-c", enter, "sh"]
    if not user_namespaces_permitted():
        world = ["unshare", "--mount", "--net", *world[5:]]  # for root it is
    urls = [f"{scheme}://{names.NAME}:9/nowhere" for scheme in ("postgresql", "mysql")]
    ask_by_name(world, "nobody", *urls, f"redis://{names.NAME}:9/0", f"http://{names.NAME}:9")


# -- a close that blocks -----------------------------------------------------------------------------------


@pytest.fixture
def deaf() -> Any:
    """A server that takes connections in and never reads: what is sent to it waits in the sender's buffer."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield listener


def test_closes_that_block_are_written_off_and_hold_nobody_up(deaf: socket.socket) -> None:
    """Real ones, in the kernel: with data unsent and a lingering socket, close() waits for the other side."""

    def connect() -> socket.socket:
        one = socket.create_connection(deaf.getsockname(), timeout=5.0)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 60))
        return one

    def choke(one: socket.socket) -> None:
        one.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                one.send(b"x" * 65536)

    pool: Pool[socket.socket] = Pool(connect, max_size=2, connect_timeout=0.3)
    for number in (1, 2):
        lease = pool.acquire(5.0)
        choke(lease.connection)
        before = time.monotonic()
        lease.discard()
        assert time.monotonic() - before < LATE
        assert pool.stats().closing == 1
        pool.acquire(5.0).release()  # the other slot serves
        until(lambda number=number: pool.stats().hung == number, "the close is written off")  # type: ignore[misc]
        assert pool.stats().size == 1  # and its slot is free again
    assert pool.stats().closed == {"hung": 2}
    # As many as max_size are stuck: nothing is opened beside the one that is there until one comes back.
    held = pool.acquire(5.0)
    in_time(pool, callers=2)
    assert pool.stats().opened == 3
    ends = [deaf.accept()[0] for _ in range(3)]
    for end in ends:
        end.close()  # with data unread: a reset, which is what the closes have waited for
    until(lambda: pool.stats().hung == 0, "the closes come back")
    pool.acquire(5.0).release()
    held.discard()
    pool.close()


# -- an answer that never ends -----------------------------------------------------------------------------

CHECKS_HALF_AN_ANSWER = """
import sys, time
import psycopg
from pooling.backends.postgres import PostgresFactory
from tests.proxy import Proxy

host, port, url = sys.argv[1], int(sys.argv[2]), sys.argv[3]
with Proxy((host, port)) as between:
    factory = PostgresFactory(url.replace(f":{port}/", f":{between.port}/") + "?sslmode=disable")
    connection = factory.connect(10.0)
    factory.check(connection, 10.0)
    between.links()[0].flows[1].silent_after = 5  # the empty answer, without the word that the server is ready
    before = time.monotonic()
    try:
        factory.check(connection, 0.3)
    except psycopg.OperationalError as error:
        print(error, 0.3 <= time.monotonic() - before < 2.0)
    connection.close()
"""


def test_half_an_answer_to_a_check_of_postgresql_does_not_stop_the_process(mine: Mine) -> None:
    """libpq would wait for the other half with the interpreter's own lock held: no other thread would ever run again.
    So this has to be tried in a process that can be killed."""
    server = mine("postgres").server
    command = [sys.executable, "-W", "error", "-c", CHECKS_HALF_AN_ANSWER, server.host, str(server.port), server.url]
    done = subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.stdout, done.stderr) == ("no answer in time True\n", "")


@pytest.mark.parametrize("name", ["mysql", "postgres", "redis"])
def test_paths_that_die_under_resets_cost_no_slot_for_longer_than_a_call_may_take(
    mine: Mine, proxy: Callable[..., Proxy], name: str
) -> None:
    """The network forgets the connections of a pool, as a firewall does, and opens new ones as before. The resets on
    the old ones never come back by themselves: they are written off, and made to fail."""
    backend = mine(name)
    between = proxy(backend.server)
    kinds = backend.dirt("transaction")
    dirt = kinds.get("a transaction that has read", next(iter(kinds.values())))  # two that write would wait in turn
    pool = backend.pool(backend.at(between.host, between.port), max_size=2, connect_timeout=1.0)
    leases = [pool.acquire() for _ in range(2)]
    for lease in leases:
        dirt.make(lease.connection)
    for link in between.links():
        link.mute = True
    for lease in leases:
        lease.release()
    crowd = Crowd(backend, pool)
    crowd.use(timeout=20.0)
    assert not crowd.failed
    until(lambda: pool.stats().hung == 0, "what hung has come back")
    assert pool.stats().closed["hung"] == 2
