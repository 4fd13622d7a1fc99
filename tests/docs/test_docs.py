"""What README and docs show works: their programs run, their links lead somewhere, their commands are there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pooling
from pooling.integrations.page import serve
from tests.docs.pages import PAGES, ROOT, anchors, blocks, commands, expected_output, links, program
from tests.servers import Postgres

KNOWN = {"python", "text output", "text", "sh", "python no-run"}


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


PROGRAMS = [page for page in PAGES if program(page)]
COMMANDS = [(page, line) for page in PAGES for line in commands(page)]
# What makes a command short enough for a test.
BRIEFLY = {"stress": "--duration 0.5", "page": "--duration 0.5 --port 0", "top": "--once", "check": "--times 1"}
SHOWN_PAGE = "http://127.0.0.1:8080/"  # where the pages say that a live page is


def environment(text: str, request: pytest.FixtureRequest) -> dict[str, str]:
    """The variables of a program or command. One that mentions DATABASE_URL gets a PostgreSQL server,
    one that mentions MYSQL_URL a MariaDB, MONGODB_URL a MongoDB, HTTP_URL an HTTP server."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    variables.pop("DATABASE_URL", None)
    if "DATABASE_URL" in text:
        server: Postgres = request.getfixturevalue("postgres")
        variables["DATABASE_URL"] = server.url
    if "MYSQL_URL" in text:
        variables["MYSQL_URL"] = request.getfixturevalue("mariadb").url
    if "MONGODB_URL" in text:
        variables["MONGODB_URL"] = request.getfixturevalue("mongodb").url
    if "HTTP_URL" in text:
        variables["HTTP_URL"] = request.getfixturevalue("http_server").url
    if "REDIS_URL" in text:
        variables["REDIS_URL"] = request.getfixturevalue("redis_server").url
    return variables


@pytest.fixture
def live_page() -> Iterator[str]:
    """The address of a live page about a pool."""
    with pooling.create_pool("sqlite://") as pool, serve(pool, port=0) as server:
        yield server.url


@pytest.mark.parametrize("page", PROGRAMS, ids=name)
def test_the_programs_of_a_page_run_and_print_what_it_says(
    page: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    text = program(page)
    script = tmp_path / f"page-{page.stem}.py"  # a redis.py would be in the driver's way
    script.write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", script.name],
        cwd=tmp_path, env=environment(text, request), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip  # one argument list
    assert done.returncode == 0, done.stderr
    assert "Exception ignored" not in done.stderr, done.stderr
    expected = expected_output(page)
    if expected:
        printed = done.stdout.splitlines()
        assert len(printed) == len(expected), f"printed:\n{done.stdout}"
        for line, pattern in zip(printed, expected, strict=True):
            assert matches(line, pattern), f"printed {line!r}, the page says {pattern!r}"


def matches(line: str, pattern: str) -> bool:
    """Whether a line is as the page says; ``…`` stands for anything, all else for itself."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("…"))), line) is not None


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_says_what_it_is(page: Path) -> None:
    for block in blocks(page):
        assert block.info in KNOWN or block.info.startswith("python no-run "), f"{name(page)}:{block.start}"
        assert block.info != "python no-run", f"{name(page)}:{block.start}: a block that is not run gives the reason"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for link in links(page):
        if link.startswith("https://"):
            continue
        path, _, fragment = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name(page)}: {link}"
        assert ROOT in target.parents, f"{name(page)}: {link} leaves the project"
        if fragment:
            assert fragment in anchors(target), f"{name(page)}: {link}"


def led_to(start: Path) -> set[Path]:
    return {(start.parent / link.partition("#")[0]).resolve() for link in links(start)}


def test_the_readme_leads_to_the_index_and_that_to_every_page() -> None:
    index = ROOT / "docs" / "index.md"
    assert index in led_to(ROOT / "README.md")
    missing = {page for page in PAGES if page.parent != index.parent and page.name != "README.md"} - led_to(index)
    assert not missing, f"the index does not mention {sorted(map(name, missing))}"


@pytest.mark.parametrize("marker", ["main-command", "test-command"])
def test_the_readme_has_each_command_once_in_one_line(marker: str) -> None:
    assert "\n" not in marked(marker)
    assert (ROOT / "README.md").read_text(encoding="utf-8").count(marked(marker)) == 1
    assert "\\" not in marked(marker)


def test_the_continuous_run_calls_the_readmes_test_command_and_nothing_else(tmp_path: Path) -> None:
    """A copy of the script whose last line is gone prints what it would have called."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert script.rstrip().endswith('exec bash -euo pipefail -c "$command"')
    (tmp_path / ".ci").mkdir()
    copy = tmp_path / ".ci" / "run"
    copy.write_text(script.replace('exec bash -euo pipefail -c "$command"', ""), encoding="utf-8")
    (tmp_path / "README.md").write_text((ROOT / "README.md").read_text(encoding="utf-8"), encoding="utf-8")
    done = subprocess.run(["bash", str(copy)], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip("\n") == marked("test-command")


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=lambda value: value if isinstance(value, str) else value.stem)
def test_a_command_line_that_a_page_shows_runs(
    page: Path, line: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    short = re.sub(r" --duration \S+", "", line).replace("python", f'"{sys.executable}"', 1)
    if SHOWN_PAGE in line:
        short = short.replace(SHOWN_PAGE, request.getfixturevalue("live_page"))
    done = subprocess.run(
        ["bash", "-euc", f"{short} {BRIEFLY[line.split()[3]]}"],
        cwd=tmp_path, env=environment(line, request), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip  # one argument list
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_the_readmes_main_command_works_in_a_fresh_clone(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", marked("main-command")],
        cwd=clone, env=variables, capture_output=True, text=True, check=False,
    )  # fmt: skip  # one argument list
    assert done.returncode == 0, done.stdout + done.stderr


def marked(marker: str) -> str:
    """The block of the README that follows an HTML comment."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert lines.count(f"<!-- {marker} -->") == 1
    start = lines.index(f"<!-- {marker} -->") + 2
    (block,) = [block for block in blocks(ROOT / "README.md") if block.start == start + 1]
    assert block.info == "sh"
    return block.text
