"""Output that nobody reads, or that there is no room for: one line at most, no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import pooling
from pooling.integrations import page


def told(output: int, *command: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "pooling", *command], stdout=output, stderr=subprocess.PIPE, text=True, check=False
    )
    return done.returncode, done.stderr


@pytest.fixture(params=["", "1"], ids=["all at once", "line by line"])
def written(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written to a pipe or file is gathered first, unless the environment says otherwise: this one may."""
    monkeypatch.setenv("PYTHONUNBUFFERED", request.param)


@pytest.mark.usefixtures("written")
def test_a_reader_that_has_gone_is_no_news() -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        assert told(write, "check", "sqlite://") == (1, "")
    finally:
        os.close(write)


@pytest.mark.usefixtures("written")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only some systems have a device that is always full")
def test_no_room_is_told_in_one_line_and_the_json_is_there(tmp_path: Path) -> None:
    url, document = f"sqlite:///{tmp_path}/a.db", tmp_path / "stress.json"
    with open("/dev/full", "w") as full:
        line = "the output cannot be written: No space left on device\n"
        assert told(full.fileno(), "check", "sqlite://") == (1, f"pooling check: {line}")
        code, text = told(full.fileno(), "stress", url, "--duration", "1", "--json", str(document))
    assert (code, text.splitlines(keepends=True)[-1]) == (1, f"pooling stress: {line}")
    assert document.stat().st_size > 1000


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("command", [["check", "--help"], ["page", "--help"], ["check", "sqlite://"]])
def test_what_an_output_has_no_letters_for_is_a_question_mark(
    encoding: str, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    assert told(subprocess.DEVNULL, *command) == (0, "")


C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}  # as it is, without Python's help


@pytest.mark.parametrize("variables", [{"PYTHONIOENCODING": "ascii"}, C_LOCALE], ids=["ascii", "C"])
def test_a_frame_of_top_is_drawn_in_question_marks_too(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pooling.create_pool("sqlite://", name="p…") as pool, page.serve(pool, port=0) as server, pool.acquire():
        assert told(subprocess.DEVNULL, "top", server.url, "--once") == (0, "")
