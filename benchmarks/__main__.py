"""``python -m benchmarks``: runs the scenarios, prints the table, writes JSON and HTML where it is told to."""

from __future__ import annotations

import argparse
import io
import json
import shutil
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import (
    arrivals,
    contended,
    cores,
    node,
    opening,
    outage,
    peers,
    plots,
    rest,
    scale,
    servers,
    table,
    uncontended,
)
from benchmarks.bars import Verdict, judge
from benchmarks.report import Run
from benchmarks.rows import Family, Settings

_MODULES = (uncontended, contended, cores, opening, outage, scale, rest, servers, arrivals, node)
FAMILIES: dict[str, Family] = {module.FAMILY.name: module.FAMILY for module in _MODULES}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.list:
        _list()
        return 0
    if options.html and not plots.available():
        parser.error("--html needs matplotlib: pip install --group bench")
    if options.rounds is not None and options.rounds < 1:
        parser.error(f"--rounds must be at least 1, not {options.rounds}")
    for name in ("json", "html"):
        if why := _unwritable(getattr(options, name)):
            parser.error(f"--{name} cannot be written: {why}")
    rounds = options.rounds or (1 if options.quick else 5)
    run = Run({"rounds": rounds, "quick": options.quick, "only": options.only or []})
    _measure(run, options.only or list(FAMILIES), Settings(rounds, options.quick, _say))
    # Before the table: whoever reads that may be a `head` that has gone.
    saved = _save(options.json, lambda: json.dumps(run.data(), indent=1, ensure_ascii=False) + "\n")
    saved &= _save(options.html, run.page)
    verdicts = judge(run.rows)
    _show(run, verdicts)
    doubtful = [*run.unmeasured(), *(verdict.bar for verdict in verdicts if not verdict.met)]
    broken = [bar for bar in doubtful if bar.stage == "now"]
    return 1 if run.failed or not saved or (options.strict and broken) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measures pooling beside its peers.")
    parser.add_argument("--list", action="store_true", help="show scenarios and peers, and measure nothing")
    parser.add_argument(
        "--only", action="append", choices=list(FAMILIES), metavar="NAME",
        help=f"one family of scenarios ({', '.join(FAMILIES)}); may be given several times",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, help="how often everything is measured (default 5, quick 1)")
    parser.add_argument("--quick", action="store_true", help="short samples: whether it runs, not how fast")
    parser.add_argument(
        "--strict", action="store_true",
        help='exit with 1 where a bar of "now" is not met, or a whole run has no figure of it',
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rows there")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a report with plots there")
    return parser


def _unwritable(path: Path | None) -> OSError | None:
    """What keeps a file from being written: asked now, not when everything has been measured."""
    if path is not None:
        try:
            path.open("a", encoding="utf-8").close()
        except OSError as error:
            return error
    return None


def _save(path: Path | None, text: Callable[[], str]) -> bool:
    """Whether it is there, if it was wanted: what goes wrong here must not lose the rest of the run."""
    try:
        if path is not None:
            path.write_text(text(), encoding="utf-8")
    except Exception:
        traceback.print_exc()
        return False
    return True


def _show(run: Run, verdicts: Sequence[Verdict]) -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # not everybody's encoding has ± and ≤
    print(f"{run.summary()}\n\n{table.render(run.rows, verdicts, run.unmeasured())}")
    for name, why in peers.missing().items():
        print(f"missing: {name} ({why}; pip install --group bench)")
    for name, why in run.failed.items():
        print(f"failed: {name} ({why})")


def _measure(run: Run, names: Sequence[str], settings: Settings) -> None:
    """Run the families. What one of them has measured is kept when it fails, or is interrupted."""
    try:
        for name in names:
            rows = run.results[FAMILIES[name]] = []
            try:
                rows.extend(FAMILIES[name].run(settings))
            except Exception as error:
                run.failed[name] = f"{type(error).__name__}: {error}"
                traceback.print_exc()
    except KeyboardInterrupt:
        run.failed["the run"] = "interrupted"
    _say("")


def _list() -> None:
    for family in FAMILIES.values():
        print(f"{family.name:12} {family.about}")
    missing, versions = peers.missing(), peers.versions()
    for kind in peers.ALL:
        state = f"missing ({missing[kind.name]})" if kind.name in missing else versions.get(kind.package, "")
        print(f"  {kind.name:30} {state}")


def _say(text: str) -> None:
    """A progress line that is written over, on a terminal only."""
    if sys.stderr and sys.stderr.isatty():
        width = shutil.get_terminal_size().columns - 1
        print(f"\r{text[:width]:{width}}\r", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
