"""What an error that the pool keeps holds on to: nothing. What it still tells: where it was raised."""

from __future__ import annotations

import gc
import traceback
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from pooling import ConnectError, Pool
from pooling._traces import apart, bare
from tests.core.helpers import run_python
from tests.waiting import until


class Kept:
    """What must not be kept."""


def failing_with(kept: Kept) -> Callable[[], Any]:
    """A connect that raises out of a function that encloses something."""

    def connect() -> Any:
        def fail() -> None:
            raise OSError(f"no way, {kept!r:.0}")

        fail()

    return connect


@pytest.mark.parametrize("workers", ["threads", "inline"])
def test_a_pool_whose_server_was_away_is_collected_when_it_is_dropped(workers: Any) -> None:
    """Its last error stands in its books, which the interpreter keeps until the pool is gone."""
    pool = Pool(failing_with(Kept()), fail_after=0.0, workers=workers)
    with pytest.raises(ConnectError):
        pool.acquire()
    gone = weakref.ref(pool)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del pool
        until(lambda: gc.collect() >= 0 and gone() is None)


def caused_by(connect: Callable[[], Any]) -> Callable[[], Any]:
    """The same, with what it raised as the cause of another error, as of a driver that tries one address after another
    and raises when it is through."""

    def through() -> None:
        errors: list[OSError] = []
        try:
            connect()
        except OSError as error:
            errors.append(error)
        try:
            raise OSError("no address is left") from errors[0]
        finally:
            errors.clear()

    return through


@pytest.mark.parametrize("chained", [lambda connect: connect, caused_by], ids=["alone", "a-cause"])
def test_an_error_that_is_kept_keeps_nothing_else(chained: Callable[..., Any]) -> None:
    kept = Kept()
    gone = weakref.ref(kept)
    pool = Pool(chained(failing_with(kept)), fail_after=0.0)
    del kept
    with pytest.raises(ConnectError) as caught:
        pool.acquire()
    cause = caught.value.__cause__
    caught = None  # type: ignore[assignment]
    pool.close()
    del pool
    until(lambda: gc.collect() >= 0 and gone() is None)
    assert isinstance(cause, OSError)


def test_it_tells_the_files_lines_and_names_of_where_it_was_raised() -> None:
    with pytest.raises(OSError, match="no way") as caught:
        failing_with(Kept())()
    trace = caught.tb
    was, is_now = traceback.extract_tb(trace), traceback.extract_tb(bare(trace))
    assert [(f.filename, f.lineno, f.name, f.line) for f in is_now] == [
        (f.filename, f.lineno, f.name, f.line) for f in was
    ]
    assert is_now[-1].line == 'raise OSError(f"no way, {kept!r:.0}")'
    for frame, _ in traceback.walk_tb(bare(trace)):
        assert (frame.f_locals, frame.f_back, frame.f_globals) == ({}, None, globals())


def test_the_interpreter_prints_no_line_of_carets_below_it() -> None:
    """Which columns they belong to is not known any more. Up to Python 3.12 other code than traceback's prints it."""
    run_python(
        """
        import io, json, sys
        from pooling._traces import bare
        try:
            json.loads("nothing")
        except ValueError as error:
            raised = error.with_traceback(bare(error.__traceback__))
        sys.stderr = said = io.StringIO()
        sys.__excepthook__(type(raised), raised, raised.__traceback__)
        sys.stderr = sys.__stderr__
        assert "    raise JSONDecodeError(" in said.getvalue()
        assert all(line.strip("^~ ") for line in said.getvalue().splitlines()), said.getvalue()
        """
    )


def test_an_error_that_several_get_is_each_ones_own() -> None:
    error = OSError(5, "gone")
    own = apart(error)
    assert own is not error
    assert (type(own), own.args) == (OSError, error.args)


def test_an_error_that_cannot_be_made_again_is_everybodys() -> None:
    class Odd(Exception):
        def __init__(self, one: str, other: str) -> None:
            super().__init__(one + other)

    error = Odd("a", "b")
    assert apart(error) is error
