"""The whole run as data, and as one HTML file that needs nothing else: its plots are SVG inside it."""

from __future__ import annotations

import base64
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from html import escape
from typing import Any

from benchmarks import peers, plots
from benchmarks.bars import Bar, Verdict, judge, unmeasured
from benchmarks.rows import OURS, Family, Row
from benchmarks.table import HEAD, RIGHT, blocks, cells, closing

STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: .5rem 0 1.5rem } td, th { padding: .15rem .7rem; text-align: left }
.n { text-align: right; font-variant-numeric: tabular-nums } tr:nth-child(even) { background: #f6f6f6 }
tr.ours { background: #e6effc; font-weight: 600 } .failed { color: #b00020 }
img { width: 49%; vertical-align: top } summary { cursor: pointer; margin: .3rem 0 }
"""


@dataclass
class Run:
    """One run: its rows, and the circumstances without which they say nothing."""

    settings: dict[str, Any]
    results: dict[Family, list[Row]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    """Families that ended by an exception, and which."""

    @property
    def rows(self) -> list[Row]:
        return [row for rows in self.results.values() for row in rows]

    def unmeasured(self) -> list[Bar]:
        """The bars that a whole run has no figure of: a peer or server is missing, or a name has changed."""
        part = self.settings.get("quick") or self.settings.get("only")
        return [] if part else unmeasured(self.rows)

    def circumstances(self) -> dict[str, Any]:
        return {
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "python": f"{platform.python_implementation()} {platform.python_version()}",
            "gil": getattr(sys, "_is_gil_enabled", lambda: True)(),
            "platform": platform.platform(),
            "processors": os.cpu_count(),
            "versions": peers.versions(),
            "missing": peers.missing(),
            "failed": self.failed,
            **self.settings,
        }

    def summary(self) -> str:
        """The same in two lines, for a terminal."""
        facts = self.circumstances()
        how = f"{facts['python']}, {facts['processors']} processors, rounds: {facts['rounds']}"
        if facts.get("quick"):
            how += ", quick: whether it runs, not how fast"
        return f"{how}\n{', '.join(f'{name} {version}' for name, version in facts['versions'].items())}"

    def data(self) -> dict[str, Any]:
        """For json.dumps."""
        places = {id(row): place for place, row in enumerate(self.rows)}
        verdicts = [{"row": places[id(one.row)], "met": one.met, "bar": asdict(one.bar)} for one in judge(self.rows)]
        return {**self.circumstances(), "rows": [asdict(row) for row in self.rows], "verdicts": verdicts}

    def page(self) -> str:
        """The HTML report."""
        verdicts = judge(self.rows)
        lines = closing(verdicts, self.unmeasured())
        body = [f"<h1>{OURS} beside its peers</h1>", *_circumstances(self.circumstances())]
        body += [f"<p class='{'failed' if line[0] == ' ' else ''}'>{escape(line)}</p>" for line in lines]
        for family, rows in self.results.items():
            body += [f"<h2>{escape(family.name)}: {escape(family.about)}</h2>", *_plots(family, rows)]
            body += _tables(rows, verdicts)
        head = f"<meta charset='utf-8'><title>{OURS}: benchmarks</title><style>{STYLE}</style>"
        return "\n".join(["<!doctype html>", f"<html lang='en'><head>{head}</head><body>", *body, "</body></html>"])


def _circumstances(facts: dict[str, Any]) -> Iterator[str]:
    yield "<table>"
    for name, value in facts.items():
        shown = value
        if isinstance(value, dict):
            shown = ", ".join(f"{key} ({what})" for key, what in value.items())
        elif isinstance(value, list):
            shown = ", ".join(value)
        yield f"<tr><th>{escape(name)}</th><td>{escape(str(shown))}</td></tr>"
    yield "</table>"


def _plots(family: Family, rows: Sequence[Row]) -> Iterator[str]:
    for (scenario, figure), block in blocks(rows).items():
        if figure in family.plots:
            title = f"{scenario}: {figure}"
            # As an image of its own each plot keeps its element ids to itself.
            image = base64.b64encode(plots.draw(title, block, family.axis).encode()).decode()
            yield f"<img alt='{escape(title)}' src='data:image/svg+xml;base64,{image}'>"


def _tables(rows: Sequence[Row], verdicts: Sequence[Verdict]) -> Iterator[str]:
    for (scenario, figure), block in blocks(rows).items():
        yield f"<details><summary>{escape(scenario)}: {escape(figure)}</summary><table><tr>"
        yield from (f"<th{_side(column)}>{escape(name)}</th>" for column, name in enumerate(HEAD))
        yield "</tr>"
        for row in block:
            line = "".join(f"<td{_side(n)}>{escape(text)}</td>" for n, text in enumerate(cells(row, verdicts)))
            yield f"<tr class='ours'>{line}</tr>" if row.peer == OURS else f"<tr>{line}</tr>"
        yield "</table></details>"


def _side(column: int) -> str:
    return " class='n'" if column in RIGHT else ""
