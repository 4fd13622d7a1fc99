"""The benchmarks run, and every peer has its rows. How fast anything is, no test says: machines are noisy."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import bars, node, plots
from benchmarks.__main__ import FAMILIES, main
from benchmarks.bars import BARS, Bar, judge
from benchmarks.contended import SLACK
from benchmarks.crowd import Outcome
from benchmarks.peers import ALL, Floor, installed, missing, unfit
from benchmarks.rows import OURS, Family, Row, Settings, by_time, in_turn, percentile, ratio, row

BUDGETED = next(bar.limit for bar in BARS if bar.figure == "ratio to the floor" and bar.stage == "now")
ROOT = Path(__file__).resolve().parents[2]


def benchmarks(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """The table and the data of a quick run of the uncontended family."""
    path = tmp_path_factory.mktemp("bench") / "run.json"
    done = benchmarks("--quick", "--only", "uncontended", "--json", str(path))
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(path.read_text(encoding="utf-8"))


def test_every_installed_peer_has_one_row_for_each_figure(run: tuple[str, dict[str, Any]]) -> None:
    _, data = run
    here = [kind.name for kind in ALL if kind.name not in missing()]
    for figure in ("cycle", "ratio to the floor"):
        assert Counter(one["peer"] for one in data["rows"] if one["figure"] == figure) == Counter(here)
    assert {one["scenario"] for one in data["rows"]} == {"uncontended"}


def test_a_missing_peer_is_named(run: tuple[str, dict[str, Any]]) -> None:
    table, data = run
    assert data["missing"] == missing()
    for name, why in missing().items():
        assert f"missing: {name} ({why}; pip install --group bench)" in table


def test_a_peer_whose_package_lacks_another_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_a_pool.py").write_text("import the_driver_it_needs\n")
    monkeypatch.syspath_prepend(tmp_path)
    half = type("Half", (Floor,), {"name": "half", "module": "half_a_pool"})
    assert list(installed([Floor, half])) == [Floor.name]
    assert unfit("half_a_pool") == "No module named 'the_driver_it_needs'"


def test_the_table_has_a_block_for_each_figure_and_a_line_for_each_row(run: tuple[str, dict[str, Any]]) -> None:
    table, data = run
    blocks = {f"{one['scenario']}: {one['figure']}" for one in data["rows"]}
    assert blocks <= set(table.splitlines())
    heads = len([line for line in table.splitlines() if line.split()[:2] == ["at", "peer"]])
    assert heads == len(blocks)
    for one in data["rows"]:
        assert f"  {one['peer']}  " in table


def test_bars_stand_beside_the_figures_they_are_for(run: tuple[str, dict[str, Any]]) -> None:
    table, data = run
    assert f"now ≤ {BUDGETED:g}" in table
    assert {data["rows"][one["row"]]["peer"] for one in data["verdicts"]} == {OURS}


def test_a_run_says_under_which_circumstances_it_was_made(run: tuple[str, dict[str, Any]]) -> None:
    table, data = run
    assert data["quick"] is True
    assert data["rounds"] == 1
    assert OURS in data["versions"]
    assert data["only"] == ["uncontended"]
    assert data["failed"] == {}
    first, second, *_ = table.splitlines()
    assert first.endswith("rounds: 1, quick: whether it runs, not how fast")
    assert second == ", ".join(f"{name} {version}" for name, version in data["versions"].items())


def test_the_list_names_families_and_peers() -> None:
    done = benchmarks("--list")
    assert done.returncode == 0
    families = ("uncontended", "contended", "cores", "opening", "outage", "scale", "rest", "servers", "node")
    for name in (*families, *(kind.name for kind in ALL)):
        assert name in done.stdout


@pytest.mark.parametrize("arguments", [("--only", "nothing"), ("--rounds", "0")])
def test_bad_arguments_end_with_status_two(arguments: tuple[str, ...]) -> None:
    assert benchmarks(*arguments).returncode == 2


def test_nodes_pools_are_measured_or_named_as_missing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "node.json"
    assert main(["--quick", "--only", "node", "--json", str(path)]) == 0
    rows = json.loads(path.read_text())["rows"]
    measured = node.installed()
    for pool in node.POOLS:
        figures = {one["figure"] for one in rows if one["peer"] == f"Node {pool}"}
        assert ("throughput to no pool" if pool in measured else "missing") in figures


def test_a_row_is_the_median_and_the_distance_of_the_quartiles() -> None:
    made = row("s", "p", "f", "ms", [1.0, 2.0, 3.0, 4.0, 100.0])
    assert (made.value, made.spread) == (3.0, 2.0)


def test_what_slows_a_whole_round_down_does_not_spread_a_ratio() -> None:
    made = ratio("s", "p", "f", [2.0, 20.0, 2.0], [1.0, 10.0, 1.0])
    assert (made.value, made.spread) == (2.0, 0.0)


def test_everybody_begins_a_round_once() -> None:
    assert list(in_turn(["a", "b", "c"], 3)) == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"]]


@pytest.mark.parametrize(("p", "value"), [(0, 1.0), (50, 51.0), (99, 100.0), (100, 100.0)])
def test_percentiles(p: float, value: float) -> None:
    assert percentile([float(n) for n in range(1, 101)], p) == value


def test_a_wait_counts_by_time_as_long_as_it_was() -> None:
    assert by_time([0.001] * 999 + [10.0], 50) == 10.0
    assert by_time([1.0] * 100, 99) == 1.0
    assert (by_time([], 99), by_time([0.0], 99)) == (0.0, 0.0)


def test_only_what_lies_apart_at_both_ends_is_an_inversion() -> None:
    step = 2 * SLACK
    fair = Outcome([(0, 0.0, 1.0), (1, step, 1.0 + step)])
    close = Outcome([(0, 0.0, 1.0), (1, SLACK / 2, 1.0 - SLACK / 2)])
    apart = Outcome([(0, 0.0, 1.0), (1, step, 1.0 - step)])
    assert [one.overtaken() for one in (fair, close, apart)] == [0, 1, 1]
    assert [one.overtaken(SLACK) for one in (fair, close, apart)] == [0, 0, 1]


def test_a_thread_that_was_never_served_counts_for_least() -> None:
    assert Outcome([(0, 0.0, 1.0), (0, 1.0, 2.0)]).least_to_most(2) == 0.0
    assert Outcome([(0, 0.0, 1.0), (1, 0.0, 1.0)]).least_to_most(2) == 1.0


def test_a_bar_judges_ours_alone_and_only_where_it_is_for() -> None:
    rows = [Row("ramp", peer, "total", "ms", 501.0, 0.0) for peer in (OURS, "another")]
    assert [(one.row, one.met) for one in judge(rows)] == [(rows[0], False)]
    bar = Bar("s *", "f", "≥", 1.0, "goal", at=4.0)
    assert [bar.fits(Row("s 1", OURS, "f", "", 1.0, 0.0, at)) for at in (None, 3.0, 4.0)] == [False, False, True]
    assert bar.met(Row("s 1", OURS, "f", "", 1.0, 0.0, 4.0))


def test_with_strict_a_bar_of_now_that_is_not_met_fails_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--quick", "--only", "uncontended"]
    monkeypatch.setattr(bars, "BARS", (Bar("uncontended", "ratio to the floor", "≤", 0.001, "now"),))
    assert main([*arguments, "--strict"]) == 1
    assert main(arguments) == 0
    monkeypatch.setattr(bars, "BARS", (Bar("uncontended", "ratio to the floor", "≤", 0.001, "goal"),))
    assert main([*arguments, "--strict"]) == 0


def test_with_strict_a_bar_of_now_that_a_whole_run_has_no_figure_of_fails_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    only = family(monkeypatch)
    monkeypatch.setattr("benchmarks.__main__.FAMILIES", {"mine": FAMILIES["mine"]})
    monkeypatch.setattr(
        bars, "BARS", (Bar("mine", "cycle", "≤", 1.0, "now"), Bar("renamed", "cycle", "≤", 1.0, "now", 4))
    )
    assert main(["--strict"]) == 1
    assert "1 of 1 bars met\n  not measured: renamed at 4: cycle, now ≤ 1\n" in capsys.readouterr().out
    assert main([]) == 0
    assert main(["--strict", "--quick"]) == 0
    assert main(["--strict", *only]) == 0


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_a_file_that_cannot_be_written_is_told_before_anything_is_measured(
    option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plots, "available", lambda: True)
    monkeypatch.setattr("benchmarks.__main__._measure", lambda *_: pytest.fail("it measures"))
    with pytest.raises(SystemExit, match="2"):
        main(["--quick", option, "/nowhere/at/all"])
    err = capsys.readouterr().err
    assert f"{option} cannot be written: [Errno 2] No such file or directory: '/nowhere/at/all'" in err


def family(monkeypatch: pytest.MonkeyPatch, *raises: BaseException) -> list[str]:
    """One family of scenarios whose run gives a row and then raises; the arguments that run it alone."""

    def run(_: Settings) -> Iterator[Row]:
        yield Row("mine", OURS, "cycle", "µs", 1.0, 0.0)
        for error in raises:
            raise error

    monkeypatch.setitem(FAMILIES, "mine", Family("mine", "", run, ()))
    return ["--only", "mine"]


def test_the_files_are_written_though_nobody_reads_the_table(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.json"
    with monkeypatch.context() as patched:
        patched.setattr("builtins.print", lambda *_, **__: raises(BrokenPipeError()))
        with pytest.raises(BrokenPipeError):
            main([*family(monkeypatch), "--json", str(path)])
    assert [one["scenario"] for one in json.loads(path.read_text(encoding="utf-8"))["rows"]] == ["mine"]


def raises(error: Exception) -> None:
    raise error


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="it is Linux's")
def test_a_file_that_can_no_longer_be_written_does_not_cost_the_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*family(monkeypatch), "--json", "/dev/full"]) == 1
    out, err = capsys.readouterr()
    assert "mine: cycle" in out
    assert "No space left on device" in err


def test_the_table_is_shown_on_a_stream_that_lacks_its_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        seen = io.BytesIO()
        patched.setattr(sys, "stdout", io.TextIOWrapper(seen, encoding="ascii", write_through=True))
        assert main(family(monkeypatch)) == 0
        assert b"pooling      1  0  ?s" in seen.getvalue()


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError("no luck"), "failed: mine (RuntimeError: no luck)"),
        (KeyboardInterrupt(), "failed: the run (interrupted)"),
    ],
)
def test_what_ended_early_is_named_below_the_table_and_what_it_has_measured_stays(
    error: BaseException, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(family(monkeypatch, error)) == 1
    out = capsys.readouterr().out.splitlines()
    assert "mine: cycle" in out
    assert out[-1] == line
