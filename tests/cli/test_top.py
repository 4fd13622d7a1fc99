"""What ``top`` shows of another process's page, in one frame, as JSON, live, and where there is no page."""

from __future__ import annotations

import base64
import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from rich.console import Console

from pooling import Pool
from pooling._words import printable
from pooling.cli.top._frame import frame, sparks
from pooling.integrations.page import PageServer, serve
from pooling.testing import FakeFactory
from tests.backends.test_http import scripted
from tests.servers.base import free_port

Main = Callable[..., tuple[int, str, str]]
ESCAPE = "\x1b[31mred"


@pytest.fixture
def server() -> Iterator[PageServer]:
    """A page about one pool that is exhausted, with a waiter, and one that nobody uses."""
    end = threading.Event()
    with Pool(FakeFactory(), name=f"orders {ESCAPE}", max_size=2) as orders, Pool(FakeFactory(), name="cache") as cache:

        def hold() -> None:
            with orders.acquire():
                end.wait(60)

        threads = [threading.Thread(target=hold, name=f"report-{number}") for number in range(3)]
        for number, thread in enumerate(threads):
            thread.start()
            while orders.stats().leased + orders.stats().waiting <= number:
                time.sleep(0.005)
        time.sleep(0.15)  # beyond what is no waiting worth the word
        with serve([orders, cache], port=0) as server:
            yield server
        end.set()
        for thread in threads:
            thread.join(30)


def test_one_frame_tells_verdict_numbers_and_people(server: PageServer, main: Main) -> None:
    code, out, err = main("top", server.url, "--once")
    assert (code, err) == (0, "")
    assert re.search(r"● orders \\x1b\[31mred  exhausted for .*: 2/2 in use, 1 waiting, oldest ", out), out
    assert "● cache  at rest: no connection open, nobody waiting" in out
    assert re.search(r"holds +\d+ ms +report-\d +cli/test_top\.py:\d+ hold", out)
    assert re.search(r"waits +\d+ ms +report-2 +cli/test_top\.py:\d+ hold", out)
    assert f"process {os.getpid()} on " in out


def test_names_from_elsewhere_give_the_terminal_no_orders(server: PageServer, main: Main) -> None:
    assert "\x1b" not in main("top", server.url, "--once")[1]
    assert printable("a\x1b[2Jb\nc\x9bd\u202ee µ") == "a\\x1b[2Jb\\nc\\x9bd\\u202ee µ"


@pytest.mark.parametrize("form", ["{}", "{}pools.json", "127.0.0.1:{port}", "http://localhost:{port}"])
def test_the_address_may_be_written_in_several_ways(form: str, server: PageServer, main: Main) -> None:
    port = server.url.rpartition(":")[2].rstrip("/")
    assert main("top", form.format(server.url, port=port), "--once")[0] == 0


def test_as_json_it_is_the_page_s_document(server: PageServer, main: Main) -> None:
    code, out, _ = main("top", server.url, "--once", "--json")
    (line,) = out.splitlines()
    told = json.loads(line)
    assert (code, told["schema"], told["version"]) == (0, "pooling-page", 1)
    assert [pool["name"] for pool in told["pools"]] == [f"orders {ESCAPE}", "cache"]
    assert told["pools"][0]["now"]["waiting"] == 1


def test_one_pool_of_several_can_be_asked_for(server: PageServer, main: Main) -> None:
    code, out, _ = main("top", server.url, "--once", "--pool", "cache")
    assert code == 0
    assert "cache" in out
    assert "orders" not in out
    code, _, err = main("top", server.url, "--once", "--pool", "other")
    there = f"(there are: {f'orders {ESCAPE}'!r}, 'cache')"
    assert (code, err) == (1, f"pooling top: there is no pool 'other' on the page {there}\n")
    _, _, err = main("top", server.url, "--once", "--pool", "cahce")
    assert "no pool 'cahce' on the page, did you mean 'cache'? (there are: " in err
    assert ESCAPE not in err


def test_rich_is_needed_for_a_frame_and_not_for_json(
    server: PageServer, main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    code, _, err = main("top", server.url, "--once")
    assert (code, err) == (2, 'pooling top: this command needs rich: pip install "pooling[cli]"\n')
    assert main("top", server.url, "--once", "--json")[0] == 0


# -- live --------------------------------------------------------------------------------------------------------


@contextmanager
def running(*argv: str, **streams: Any) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "pooling", "top", *argv], stdin=subprocess.DEVNULL, **streams
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(30)


def test_on_a_terminal_it_redraws_until_ctrl_c(server: PageServer) -> None:
    ours, theirs = pty.openpty()
    seen = b""
    try:
        environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
        with running(server.url, "--interval", "0.1", stdout=theirs, stderr=theirs, env=environment) as process:
            os.close(theirs)
            end = time.monotonic() + 60
            while seen.count(b"report-2") < 3:
                assert time.monotonic() < end, seen
                if select.select([ours], [], [], 0.5)[0]:
                    seen += os.read(ours, 65536)
            process.send_signal(signal.SIGINT)
            try:
                while True:  # until the other side is closed, which Linux tells by an error
                    seen += os.read(ours, 65536)
            except OSError:
                pass
            assert process.wait(30) == 0
    finally:
        os.close(ours)
    assert seen.startswith(b"\x1b[?1049h")
    assert b"\x1b[?1049l" in seen, "the screen from before is not brought back"
    assert b"Traceback" not in seen


def test_without_a_terminal_it_prints_a_line_for_each_pool_and_goes_on_when_nobody_answers() -> None:
    with Pool(FakeFactory(), name="main") as pool:
        server = serve(pool, port=0)
        with running(server.url, "--interval", "0.1", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            first = process.stdout.readline().decode()
            assert re.fullmatch(r"\d\d:\d\d:\d\d main: at rest: no connection open, nobody waiting\n", first)
            server.close()
            while "no answer for " not in (line := process.stdout.readline().decode()):
                assert line, "it has ended"
            process.send_signal(signal.SIGINT)
            process.stdout.read()
            assert process.wait(30) == 0
            process.stdout.close()


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_json_lines_come_until_nobody_reads_them_any_more(
    unbuffered: str, server: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    with running(server.url, "--json", "--interval", "0.1", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        ticks = [json.loads(process.stdout.readline())["time"] for _ in range(3)]
        assert ticks == sorted(ticks)
        process.stdout.close()
        assert process.wait(30) == 0
        assert process.stderr.read() == b""
        process.stderr.close()


# -- no page -----------------------------------------------------------------------------------------------------


@contextmanager
def answering(status: int, body: bytes, seen: list[str] | None = None, *, sent_to: str = "") -> Iterator[str]:
    """Something else that speaks HTTP; ``seen`` gets the credentials that it is sent."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if seen is not None:
                seen.append(self.headers.get("Authorization", ""))
            self.send_response(status)
            if sent_to:
                self.send_header("Location", sent_to)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join(30)


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (404, b"", "answers 404 Not Found: give the address of the page, such as http://127.0.0.1:"),
        (200, b"<html>", "is no page of pools: give the address of the page, such as http://127.0.0.1:"),
        (200, b"[]", "is no page of pools"),
        (200, b'{"schema": "pooling-stress"}', "is no page of pools"),
        (200, b'{"schema": "pooling-page", "version": 2, "pooling": "9.0"}', "is of another version of pooling (9.0)"),
        (200, b'{"schema": "pooling-page", "version": 2, "pooling": "\\u001b[31m\\n"}', "pooling (\\x1b[31m\\n)"),
        (200, b'{"schema": "pooling-page", "version": 1}', "is no page of pools"),
        (200, b"[" * 100_000, "is no page of pools"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_something_else_is_told_in_one_line_with_exit_code_1(status: int, body: bytes, told: str, main: Main) -> None:
    with answering(status, body) as url:
        for more in ((), ("--json",)):
            code, out, err = main("top", url, "--once", *more)
            assert (code, out) == (1, "")
            assert told in err
            assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "is no page of pools"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n", "is no page of pools"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n{", "is no page of pools"),
        (b"HTTP/1.1 500 \x1b[31mred\r\n\r\n", "answers 500 \\x1b[31mred"),
    ],
    ids=["no HTTP", "endless headers", "half an answer", "a reason that steers the terminal"],
)
def test_what_hardly_speaks_http_is_told_in_one_line_as_well(answer: bytes, told: str, main: Main) -> None:
    with scripted(answer) as (host, port, _):
        code, out, err = main("top", f"http://{host}:{port}", "--once")
    assert (code, out) == (1, "")
    assert told in err
    assert len(err.splitlines()) == 1


def test_nobody_there_is_exit_code_1(main: Main) -> None:
    code, out, err = main("top", f"http://127.0.0.1:{free_port()}", "--once")
    assert (code, out) == (1, "")
    assert "does not answer: " in err
    assert "refused" in err


def test_user_and_password_go_into_a_header_and_nowhere_else(main: Main) -> None:
    seen: list[str] = []
    with answering(403, b"", seen) as url:
        code, out, err = main("top", f"http://me:gehe%2Fim@{url}", "--once")
    assert code == 1
    assert seen == ["Basic " + base64.b64encode(b"me:gehe/im").decode()]
    assert "gehe" not in out + err


def test_user_and_password_do_not_follow_a_redirect_to_another_host(main: Main) -> None:
    seen: list[str] = []
    with (
        answering(403, b"", seen) as elsewhere,
        answering(302, b"", seen, sent_to=f"http://{elsewhere}pools.json") as url,
    ):
        assert main("top", f"http://me:geheim@{url}", "--once")[0] == 1
    assert seen == ["Basic " + base64.b64encode(b"me:geheim").decode(), ""]


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        ([], "the following arguments are required: URL"),
        (["ftp://localhost/"], "the URL has to be that of a page"),
        (["http://"], "the URL has to be that of a page"),
        (["http://localhost:99999"], "the URL has to be that of a page"),
        (["http://local host/"], "the URL has to be that of a page"),
        (["postgresql://me:geheim@localhost/db"], "the URL has to be that of a page"),
        (["http://localhost", "--interval", "0"], "--interval must be a finite time of 0.1 seconds or more"),
        (["http://localhost", "--interval", "nan"], "--interval must be a finite time of 0.1 seconds or more"),
        (
            ["http://localhost", "--interval", "1e30"],
            "--interval must be a finite time of 0.1 seconds or more, a year at most, not 1e+30",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_arguments_are_told_in_one_line_with_exit_code_2(argv: list[str], told: str, main: Main) -> None:
    code, out, err = main("top", *argv)
    assert (code, out) == (2, "")
    assert told in err
    assert "geheim" not in err
    assert len(err.splitlines()) == 1


# -- drawing -----------------------------------------------------------------------------------------------------


def test_the_queue_of_the_last_minute_is_drawn_by_its_height() -> None:
    def pool(*waiting: int) -> dict[str, Any]:
        return {"history": {"columns": ["tick", "waiting"], "rows": [[0, number] for number in waiting]}}

    assert sparks(pool(*[0] * 6, *[4] * 3, *[8] * 3)) == "  ▄█"
    assert len(sparks(pool(*range(900)))) == 20
    assert sparks(pool()) == ""


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_frame_fits_the_terminal(width: int, server: PageServer, main: Main) -> None:
    document = json.loads(main("top", server.url, "--once", "--json")[1])
    document["pools"][0]["holders"] *= 50
    console = Console(file=io.StringIO(), width=width, height=24)
    console.print(frame(document, server.url, height=24, lost="no answer for 3 s"))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert all(len(line) <= width for line in lines)
    assert len(lines) <= (24 if width >= 80 else 34)
    assert any(line.startswith("no answer for 3 s") for line in lines)


@pytest.mark.parametrize("width", [40, 60, 80])
def test_on_a_narrow_screen_places_and_threads_are_cut_and_times_are_not(
    width: int, server: PageServer, main: Main
) -> None:
    document = json.loads(main("top", server.url, "--once", "--json")[1])
    # Names as an executor gives them, which fill 80 columns.
    long = {"thread": "ThreadPoolExecutor-0_17", "where": "/srv/reports/monthly.py:148 export_everything_of_a_month"}
    for people in ("holders", "waiters"):
        document["pools"][0][people] = [{**document["pools"][0][people][0], **long, "age": 204.2}]
    console = Console(file=io.StringIO(), width=width, height=24)
    console.print(frame(document, server.url, height=24))
    drawn = console.file.getvalue()  # type: ignore[attr-defined]
    for what in ("holds", "waits"):
        assert re.search(rf"^  {what}  3 min 24 s  Thread.*…", drawn, re.MULTILINE), drawn


def test_the_last_connect_error_is_told_when_all_is_well_again_and_once_while_it_is_not(
    server: PageServer, main: Main
) -> None:
    document = json.loads(main("top", server.url, "--once", "--json")[1])
    text = f"ConnectionRefusedError: nobody {ESCAPE}"
    document["pools"][0]["last_error"] = {"text": text, "age": 5.0}
    for condition, told in (("exhausted", 1), ("down", 0)):  # which has it among the findings
        document["pools"][0]["verdict"]["condition"] = condition
        console = Console(file=io.StringIO(), width=120, height=40)
        console.print(frame(document, server.url, height=40))
        drawn = console.file.getvalue()  # type: ignore[attr-defined]
        assert drawn.count("last connect error, 5 s ago: ConnectionRefusedError: nobody ") == told
        assert ESCAPE not in drawn


def test_a_page_without_pools_is_drawn(main: Main) -> None:
    with serve({}, port=0) as server:
        code, out, _ = main("top", server.url, "--once")
    assert code == 0
    assert out.splitlines()[-1].strip() == "no pools"
