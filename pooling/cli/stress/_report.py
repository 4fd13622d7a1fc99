"""A run's result for people, as tables, and for programs, as JSON.

The JSON document (``"schema": "pooling-stress"``, ``"version": 1``). Times are seconds. Fields may be added within a
version; none is renamed, dropped, or given another meaning.

- ``options``: url (never with its password: ``target`` stands for it), threads, max_size, min_size, duration, think,
  hold, dirty, lost, faults, timeout, chaos, seed
- ``target``, ``python``, ``pooling``: what was stressed, and the two versions
- ``elapsed``, ``interrupted``
- ``uses``, ``uses_per_second``, ``endings``: how many uses ended how (name → count)
- ``wait``, ``hold``: count, mean, p50, p95, p99, max
- ``connections``: opened, closed (why → count), peak_open, connects_refused, connects_slowed
- ``server``: counts, peak, peak_listed (with those closed a moment ago); null where no server could be asked
- ``fairness``: min, max, ratio of the uses per thread
- ``errors``: kind → count
- ``chaos``: what was done to the network (trouble → count); null without ``--chaos``
- ``resources``: first_third and last_third of a run with ``--chaos``, each with descriptors, threads, megabytes; else
  null
- ``verdict``: held (bool), waits_watched, and ``invariants``: a list of name, meaning, held, count, evidence
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict
from typing import IO, TYPE_CHECKING, Any

import pooling
from pooling._words import printable
from pooling.cli.stress._result import Result
from pooling.cli.stress._verdict import MEANING
from pooling.stats import Histogram

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

SCHEMA, VERSION = "pooling-stress", 1
_POINTS = (50, 95, 99)


def document(result: Result) -> dict[str, Any]:
    """The result as the JSON document that this module's docstring describes."""
    options = asdict(result.options)
    del options["patience"], options["url"]
    least, most = min(result.per_thread), max(result.per_thread)
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "pooling": pooling.__version__,
        "python": platform.python_version(),
        "target": result.target,
        "options": options,
        "elapsed": result.elapsed,
        "interrupted": result.interrupted,
        "uses": result.uses,
        "uses_per_second": result.uses / result.elapsed if result.elapsed else 0.0,
        "endings": dict(result.endings),
        "wait": _points(result.wait),
        "hold": _points(result.hold),
        "connections": {
            "opened": result.opened,
            "closed": dict(result.closed),
            "peak_open": result.peak_open,
            "connects_refused": result.refused,
            "connects_slowed": result.slowed,
        },
        "server": result.sessions and result.sessions._asdict(),
        "fairness": {"min": least, "max": most, "ratio": least / most if most else 0.0},
        "errors": dict(result.errors),
        "chaos": None if result.troubles is None else dict(result.troubles),
        "resources": _thirds(result),
        "verdict": _verdict(result),
    }


def write_json(result: Result, file: IO[str]) -> None:
    json.dump(document(result), file, indent=2)
    file.write("\n")


def _points(histogram: Histogram) -> dict[str, float]:
    points = {f"p{p}": histogram.percentile(p) for p in _POINTS}
    return {"count": histogram.count, "mean": histogram.mean, **points, "max": histogram.max}


def _thirds(result: Result) -> dict[str, dict[str, float]] | None:
    if result.resources is None:
        return None
    first, last = result.resources
    return {"first_third": first._asdict(), "last_third": last._asdict()}


def _verdict(result: Result) -> dict[str, Any]:
    verdict = result.verdict
    return {
        "held": verdict.held,
        "waits_watched": result.waits_watched,
        "invariants": [
            {
                "name": each.value,
                "meaning": MEANING[each],
                "held": not verdict.count(each),
                "count": verdict.count(each),
                "evidence": list(verdict.evidence(each)),
            }
            for each in result.invariants
        ],
    }


def print_tables(result: Result, console: Console) -> None:
    """Numbers, then the verdict, whose last line names what broke."""
    console.print(_numbers(result, document(result)))
    console.print(_times(result))
    console.print(_invariants(result))
    broken = [each for each in result.invariants if result.verdict.count(each)]
    for each in broken:
        for evidence in result.verdict.evidence(each):
            console.print(printable(f"{each.value}: {evidence}"), markup=False, highlight=False, soft_wrap=True)
    ran = f"{'interrupted after' if result.interrupted else 'after'} {result.elapsed:.1f} s"
    line = f"BROKEN {ran}: {', '.join(each.value for each in broken)}" if broken else f"HELD {ran}: every invariant"
    seed = f" (--seed {result.options.seed})"
    console.print(line + seed, style="bold red" if broken else "bold green", highlight=False, soft_wrap=True)


def _numbers(result: Result, numbers: Mapping[str, Any]) -> Table:
    table = _table(f"pooling stress: {numbers['target']}", "", "")
    connections, fairness, options = numbers["connections"], numbers["fairness"], numbers["options"]
    table.add_row("threads on connections", f"{options['threads']} on {options['max_size']}")
    table.add_row("uses", f"{numbers['uses']:,} ({numbers['uses_per_second']:,.0f} a second)")
    table.add_row("uses by ending", _listed(numbers["endings"]))
    table.add_row("uses per thread", f"{fairness['min']:,} to {fairness['max']:,} (ratio {fairness['ratio']:.2f})")
    table.add_row("connections opened", f"{connections['opened']:,}, {connections['peak_open']} at once at most")
    table.add_row("connections closed", _listed(connections["closed"]))
    if connections["connects_refused"] or connections["connects_slowed"]:
        injected = {"refused": connections["connects_refused"], "slow": connections["connects_slowed"]}
        table.add_row("connects injected", _listed(injected))
    if numbers["server"] is not None:
        server = numbers["server"]
        table.add_row("sessions, by the server", f"{server['peak']} at most in {server['counts']:,} counts")
    if result.troubles is not None:
        table.add_row("chaos", _listed(result.troubles))
    if result.resources is not None:
        table.add_row("first third", str(result.resources[0]))
        table.add_row("last third", str(result.resources[1]))
    table.add_row("errors", _listed(numbers["errors"]))
    return table


def _times(result: Result) -> Table:
    table = _table("", "ms", *(f"p{p}" for p in _POINTS), "max")
    for name, histogram in (("acquire wait", result.wait), ("hold", result.hold)):
        values = [histogram.percentile(p) for p in _POINTS] + [histogram.max]
        table.add_row(name, *(f"{value * 1000:.3f}" for value in values))
    return table


def _invariants(result: Result) -> Table:
    table = _table("", "invariant", "verdict", "meaning")
    for each in result.invariants:
        count = result.verdict.count(each)
        table.add_row(each.value, f"[red]broken {count:,} x" if count else "[green]held", MEANING[each])
    table.caption = f"order: {result.waits_watched:,} waits watched"
    return table


def _table(title: str, *columns: str) -> Table:
    from rich.table import Table  # here, so that the command can say by itself that rich is missing

    table = Table(title=title or None, title_justify="left", caption_justify="left", show_header=any(columns))
    for column in columns:
        table.add_column(column, overflow="fold")  # in a narrow terminal no number loses its end
    return table


def _listed(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda pair: -pair[1])
    return ", ".join(f"{count:,} {name}" for name, count in ordered) or "none"
