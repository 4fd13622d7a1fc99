"""What the command line of stress takes, writes, and ends with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pooling.cli.stress._target import _redacted
from tests.cli.tiny_pool import OpensTooMany, TinyPool
from tests.servers.base import free_port

Main = Callable[..., tuple[int, str, str]]
SHORT = ("stress", "--duration", "0.3", "--threads", "8", "--max-size", "2")


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--threads", "0"], "--threads must be at least 1, not 0"),
        (["--threads", "many"], "invalid int value: 'many'"),
        (["--max-size", "0"], "--max-size must be at least 1, not 0"),
        (["--threads", "99999999"], "--threads must be at most 10,000, not 99,999,999"),
        (["--max-size", "99999999"], "--max-size must be at most 10,000, not 99,999,999"),
        (["--min-size", "9", "--max-size", "8"], "--min-size must be between 0 and --max-size (8), not 9"),
        (["--duration", "0"], "--duration must be a finite time, greater than 0"),
        (["--duration", "nan"], "--duration must be a finite time, greater than 0"),
        (["--think", "-1"], "--think must be a finite time, 0 or more and a year at most, not -1"),
        (["--hold", "1e300"], "--hold must be a finite time, 0 or more and a year at most"),
        (["--timeout", "inf"], "--timeout must be a finite time, 0 or more and a year at most, not inf"),
        (["--dirty", "1.5"], "--dirty is a share between 0 and 1, not 1.5"),
        (["--lost", "nan"], "--lost is a share between 0 and 1, not nan"),
        (["--dirty", "0.6", "--lost", "0.6"], "together they are at most 1"),
        (["--wrong"], "pooling stress: there is no option --wrong (see pooling stress --help)"),
        (["--durtion", "5"], "pooling stress: there is no option --durtion, did you mean --duration?"),
        (["gopher://localhost"], "unknown URL scheme 'gopher'"),
        (["sqlite://host/file.db"], "an SQLite URL has no host"),
        (["no-url"], "'postgresql://user@host/db'"),
        (["--json", "/nowhere/at/all.json"], "--json cannot be written"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_arguments_are_told_in_one_line_with_exit_code_2(argv: list[str], told: str, main: Main) -> None:
    code, out, err = main("stress", *argv)
    assert (code, out) == (2, "")
    assert told in err
    assert err.startswith("pooling")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["strss", "--durtion", "5"], "there is no command 'strss', did you mean stress? (commands: check, page, "),
        (["postgresql://me:geheim@h/x"], "there is no command 'postgresql://me:***@h/x' (commands: "),
        (["--wrong", "check", "sqlite://"], "there is no option --wrong"),
    ],
)
def test_an_unknown_command_is_told_with_the_nearest_and_with_all_there_are(
    argv: list[str], told: str, main: Main
) -> None:
    code, out, err = main(*argv)
    assert (code, out) == (2, "")
    assert err.startswith(f"pooling: {told}")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("more", [(), ("--chaos",)])
def test_a_password_that_ends_too_early_is_refused_and_not_taken_for_a_host(more: tuple[str, ...], main: Main) -> None:
    code, out, err = main(*SHORT, *more, "postgresql://u:p@geheim/w@127.0.0.1/x")
    assert (code, out) == (2, "")
    assert "it has a '/' before an '@'. Special characters in user, password and database" in err
    assert "geheim" not in err


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:gehe#im?1@h:5/x?password=geheim", "postgresql://me:***@h:5/x"),
        ("postgresql://h/x?user=me@there", "postgresql://h/x"),
        ("mysql://me@there:gehe@im@h/x", "mysql://me@there:***@h/x"),
        ("redis://:geheim@h/1", "redis://:***@h/1"),
        ("postgresql://me@h/x", "postgresql://me@h/x"),
        ("postgresql:///x", "postgresql:///x"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert _redacted(url) == shown


def test_without_a_subcommand_one_is_asked_for(main: Main) -> None:
    code, _, err = main()
    assert code == 2
    assert "COMMAND" in err


def test_without_rich_the_extra_is_named(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    assert main(*SHORT) == (2, "", 'pooling stress: this command needs rich: pip install "pooling[cli]"\n')


def test_without_the_driver_the_extra_is_named(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pooling.backends.postgres", raising=False)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    code, _, err = main(*SHORT, "postgresql://localhost/db")
    assert code == 2
    assert "pooling[postgres]" in err


@pytest.mark.parametrize("url", ["postgresql://me:geheim@127.0.0.1:{port}/db", "sqlite:////nowhere/at/all.db"])
def test_a_server_that_cannot_be_reached_is_exit_code_1_and_one_line_without_the_password(url: str, main: Main) -> None:
    code, out, err = main(*SHORT, url.format(port=free_port()))
    assert (code, out) == (1, "")
    assert err.startswith("pooling stress: no connection could be opened to ")
    assert "geheim" not in err
    assert len(err.splitlines()) == 1


def test_a_database_of_the_user_s_is_left_as_it_was(main: Main, tmp_path: Path) -> None:
    import sqlite3

    database = tmp_path / "mine.db"
    assert main(*SHORT, f"sqlite:///{database}", "--dirty", "0.5")[0] == 0
    connection = sqlite3.connect(database)
    assert connection.execute("SELECT * FROM sqlite_master").fetchall() == []
    connection.close()


def test_sqlite_in_memory_holds(main: Main) -> None:
    code, out, _ = main(*SHORT, "sqlite://", "--dirty", "0.1")
    assert code == 0, out


def test_the_json_file_says_what_the_tables_say(main: Main, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    code, out, _ = main(*SHORT, "--seed", "7", "--faults", "0.1", "--json", str(file))
    told: dict[str, Any] = json.loads(file.read_text())
    assert code == 0
    assert (told["schema"], told["version"]) == ("pooling-stress", 1)
    assert told["options"]["seed"] == 7
    assert told["uses"] == sum(told["endings"].values()) > 0
    assert f"{told['uses']:,} (" in out
    assert told["connections"]["opened"] == sum(told["connections"]["closed"].values())
    assert told["connections"]["peak_open"] <= 2
    assert 0 < told["wait"]["p50"] <= told["wait"]["p99"] <= told["wait"]["max"]
    assert told["hold"]["count"] == told["uses"]
    assert told["server"] is None
    assert told["verdict"]["held"] is True
    assert all(each["held"] for each in told["verdict"]["invariants"])


def test_a_narrow_terminal_sees_every_number_whole(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    code, out, _ = main(*SHORT)
    assert code == 0, out
    assert "…" not in out


def test_the_json_file_has_the_evidence(
    main: Main, tmp_path: Path, stressing: Callable[[type[TinyPool]], None]
) -> None:
    stressing(OpensTooMany)
    file = tmp_path / "run.json"
    assert main(*SHORT, "--lost", "0", "--faults", "0", "--json", str(file))[0] == 1
    verdict = json.loads(file.read_text())["verdict"]
    (broken,) = (each for each in verdict["invariants"] if not each["held"])
    assert broken["name"] == "size"
    assert "3 connections open, max_size is 2" in broken["evidence"][0]


def _start(folder: Path, *argv: str) -> subprocess.Popen[str]:
    """The command as a user starts it, once its run has begun."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pooling", "stress", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    until = time.monotonic() + 20
    while not list(folder.glob("pooling-stress-*/stress.db")) and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(0.3)  # so that there are uses to report
    return process


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT to send on Windows")
def test_ctrl_c_ends_a_run_with_tables_verdict_and_exit_code_130(tmp_path: Path) -> None:
    process = _start(tmp_path, "--duration", "60", "--hold", "5000", "--json", str(tmp_path / "run.json"))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130, out + err
    assert "HELD interrupted after" in out
    assert "acquire wait" in out
    assert err == ""
    assert json.loads((tmp_path / "run.json").read_text())["interrupted"] is True
    assert not list(tmp_path.glob("pooling-stress-*"))


def test_off_a_terminal_there_are_no_control_characters(tmp_path: Path) -> None:
    out, err = _start(tmp_path, "--duration", "0.5").communicate(timeout=20)
    assert "\x1b" not in out + err
    assert "\r" not in out + err
