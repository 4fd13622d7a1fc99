"""``page``: a pool in use and the page about it, until it is over."""

from __future__ import annotations

import argparse
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pooling.cli import page
from tests.servers.base import free_port

OTHERS = "; take another by --port, 0 for any that is free"
Main = Callable[..., tuple[int, str, str]]


@contextmanager
def running(*argv: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command and the address that it has told."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "pooling", "page", "--port", "0", *argv],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **environment},
    )  # fmt: skip  # one argument list
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first.endswith("  (Ctrl-C ends it)\n"), process.communicate(timeout=30)
        yield process, first.split()[0]
    finally:
        process.terminate()  # by which it takes its folder away
        try:
            process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate(timeout=30)


def look(url: str) -> Any:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url + "pools.json", timeout=20) as answer:
        return json.load(answer)


def looked(url: str, wanted: Callable[[Any], object]) -> Any:
    """What is told of the pool as soon as it is as wanted."""
    end = time.monotonic() + 60
    while True:
        (pool,) = look(url)["pools"]
        if wanted(pool):
            return pool
        assert time.monotonic() < end, pool
        time.sleep(0.1)


@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM])
def test_a_pool_in_use_is_shown_until_it_is_told_to_end(told: signal.Signals, tmp_path: Path) -> None:
    users = ("--threads", "3", "--max-size", "2", "--hold", "5", "--think", "1")
    with running(*users, TMPDIR=str(tmp_path)) as (process, url):
        assert list(tmp_path.iterdir()), "its database"
        pool = looked(url, lambda pool: pool["totals"]["acquired"] > 20)
        assert pool["name"] == "page.db"
        assert pool["now"]["max_size"] == 2
        process.send_signal(told)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "", "")
    assert not list(tmp_path.iterdir()), "it leaves nothing behind"


def test_a_server_is_watched_as_it_goes_and_comes_back(own_server: Callable[..., Any]) -> None:
    server = own_server("redis")
    with running(server.url, "--threads", "2", "--hold", "1", "--think", "1") as (_, url):
        looked(url, lambda pool: pool["totals"]["acquired"] > 5)
        server.stop()
        pool = looked(url, lambda pool: pool["state"] == "down" and pool["last_error"])
        assert pool["verdict"]["text"].startswith("down for ")
        server.start()
        looked(url, lambda pool: pool["state"] == "up")


def test_orders_are_taken_with_the_token_from_the_environment() -> None:
    with running("--threads", "1", POOLING_PAGE_TOKEN="geheim") as (_, url):
        assert look(url)["actions"] is True
        body = json.dumps({"pool": "page.db", "action": "suspend"}).encode()
        headers = {"Content-Type": "application/json", "X-Pooling-Token": "geheim"}
        request = urllib.request.Request(url + "actions", data=body, headers=headers)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20) as answer:
            assert json.load(answer) == {"done": "suspended"}
        assert look(url)["pools"][0]["state"] == "suspended"
    with running("--threads", "1", POOLING_PAGE_TOKEN="") as (_, url):
        assert look(url)["actions"] is False


def test_it_ends_by_itself_after_its_time(main: Main) -> None:
    code, out, err = main("page", "--port", "0", "--duration", "0.3", "--threads", "2")
    assert (code, err) == (0, "")
    assert out.startswith("http://127.0.0.1:")


def test_it_listens_where_it_is_told_to(main: Main) -> None:
    code, out, err = main("page", "--host", "127.0.0.2", "--port", "0", "--duration", "0.1")
    assert (code, err) == (0, "")
    assert "http://127.0.0.2:" in out


def test_an_address_that_is_taken_is_exit_code_1_and_one_line(main: Main) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, out, err = main("page", "--port", str(port), "--duration", "1")
    assert (code, out) == (1, "")
    assert err == f"pooling page: cannot listen on 127.0.0.1:{port}: Address already in use{OTHERS}\n"


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--port", "70000"], "pooling page: --port must be a number from 0 to 65535, not 70000"),
        (["--port", "x"], "invalid int value: 'x'"),
        (["--threads", "-1"], "--threads must be at least 1, not -1"),
        (["--threads", "0"], "--threads must be at least 1, not 0"),
        (["--max-size", "0"], "--max-size must be at least 1, not 0"),
        (["--hold", "nan"], "--hold must be a finite time, 0 or more and a year at most, not nan"),
        (["--threads", "1000000"], "--threads must be at most 10,000, not 1,000,000"),
        (["--hold", "1e300"], "--hold must be a finite time, 0 or more and a year at most"),
        (["--duration", "inf"], "--duration must be a finite time, 0 or more"),
        (["--prot", "1"], "pooling page: there is no option --prot, did you mean --port?"),
        (["gopher://me:geheim@localhost"], "unknown URL scheme 'gopher'"),
        (["postgresql://me:geheim@[::1/db"], "cannot be read"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_arguments_are_told_in_one_line_with_exit_code_2(argv: list[str], told: str, main: Main) -> None:
    code, out, err = main("page", "--port", str(free_port()), *argv)
    assert (code, out) == (2, "")
    assert told in err
    assert "geheim" not in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("command", ["page", "stress"])
def test_no_place_for_a_file_of_its_own_is_told_in_one_line_with_exit_code_2(
    command: str, main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container whose files can only be read."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refuse)
    code, out, err = main(command, "--duration", "1")
    assert (code, out) == (2, "")
    why = "there is no place for an SQLite file (Read-only file system): give the URL of a server"
    assert err == f"pooling {command}: {why}\n"


def test_an_empty_token_of_blanks_is_refused(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POOLING_PAGE_TOKEN", "  ")
    code, _, err = main("page", "--port", "0", "--duration", "1")
    assert (code, err) == (2, "pooling page: token must not be empty: leave it out for a page that only reads\n")


def test_the_help_describes_every_option_and_names_its_default(main: Main) -> None:
    parser = argparse.ArgumentParser(add_help=False)
    page.configure(parser)
    assert all(action.help and action.help[0].islower() for action in parser._actions if action.option_strings)
    _, out, _ = main("page", "--help")
    assert out.count("(default ") == 7
