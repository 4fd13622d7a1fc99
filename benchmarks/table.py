"""The results as a plain table, one block for each figure of each scenario."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.bars import Bar, Verdict
from benchmarks.rows import Row

HEAD = ("at", "peer", "value", "±", "unit", "bar")
RIGHT = {0, 2, 3}  # columns of numbers


def number(value: float) -> str:
    """Three digits that count: more would be noise."""
    if value == 0 or 1000 <= abs(value) < 1e9:
        return f"{value:.0f}"
    return f"{value:.3g}"


def blocks(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """The rows by scenario and figure, in the order in which they came."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row.scenario, row.figure), []).append(row)
    for block in found.values():
        block.sort(key=lambda row: row.at if row.at is not None else 0)  # stable: peers keep their order
    return found


def cells(row: Row, verdicts: Sequence[Verdict]) -> tuple[str, ...]:
    """What stands in a row's columns."""
    bar = ", ".join(str(verdict) for verdict in verdicts if verdict.row is row)
    at = "" if row.at is None else number(row.at)
    return at, row.peer, number(row.value), number(row.spread), row.unit, bar


def render(rows: Sequence[Row], verdicts: Sequence[Verdict], unmeasured: Sequence[Bar] = ()) -> str:
    """All blocks, and then what was not met."""
    lines: list[str] = []
    for (scenario, figure), block in blocks(rows).items():
        lines += [f"{scenario}: {figure}", *_block([cells(row, verdicts) for row in block]), ""]
    return "\n".join([*lines, *closing(verdicts, unmeasured)])


def _block(body: list[tuple[str, ...]]) -> list[str]:
    table = [HEAD, *body]
    widths = [max(len(line[column]) for line in table) for column in range(len(HEAD))]
    return [
        "  " + "  ".join(_pad(text, widths[n], n in RIGHT) for n, text in enumerate(line)).rstrip() for line in table
    ]


def _pad(text: str, width: int, right: bool) -> str:
    return text.rjust(width) if right else text.ljust(width)


def closing(verdicts: Sequence[Verdict], unmeasured: Sequence[Bar] = ()) -> list[str]:
    """How many bars were met, which were not, and of which nobody knows."""
    failed = [verdict for verdict in verdicts if not verdict.met]
    lines = [f"{len(verdicts) - len(failed)} of {len(verdicts)} bars met"]
    for verdict in failed:
        row, at = verdict.row, "" if verdict.row.at is None else f" at {number(verdict.row.at)}"
        lines.append(f"  not met: {row.scenario}{at}: {row.figure} {number(row.value)}, {verdict.bar}")
    for bar in unmeasured:
        at = "" if bar.at is None else f" at {number(bar.at)}"
        lines.append(f"  not measured: {bar.scenario}{at}: {bar.figure}, {bar}")
    return lines
