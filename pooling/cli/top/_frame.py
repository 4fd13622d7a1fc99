"""A page's document, drawn for a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from pooling._words import printable
from pooling.integrations.page._words import count, place, span

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

STYLES = {"good": "green", "busy": "blue", "warn": "yellow", "bad": "bold red", "off": "bright_black"}
WIDTH = 40  # characters of the bar of connections
SPARKS = " ▁▂▃▄▅▆▇█"
LEAST = 2  # holders, and waiters, that are shown however small the screen is
EVENTS = 3  # the latest ones


def frame(document: dict[str, Any], name: str, *, height: int, lost: str = "") -> RenderableType:
    """Everything about every pool, in about ``height`` lines. ``lost``: why the page does not answer just now."""
    from rich.console import Group
    from rich.text import Text

    pools = document["pools"]
    parts: list[RenderableType] = [_head(document, name, lost)]
    busy = sum(bool(pool["holders"] or pool["waiters"]) for pool in pools)
    # What is left of the screen is for the tables: each has a head, and says twice how many more there are.
    room = (height - 2 - sum(4 + _remarks(pool) for pool in pools)) // max(1, busy) - 3
    for pool in pools:
        parts += [Text(), *_pool(pool, max(2 * LEAST, room))]
    if not pools:
        parts.append(Text("no pools", style="bright_black"))
    return Group(*parts)


def line(pool: dict[str, Any]) -> str:
    """A pool in one line, where nothing can be redrawn."""
    return f"{printable(pool['name'])}: {printable(pool['verdict']['text'])}"


def _head(document: dict[str, Any], name: str, lost: str) -> Text:
    from rich.text import Text

    clock = time.strftime("%H:%M:%S", time.localtime(document["time"]))
    process = f"process {document['pid']} on {document['host']}, Python {document['python']}"
    head = Text.assemble(("pooling top", "bold"), f"  {clock}  ", (f"{name}  {printable(process)}", "bright_black"))
    if lost:
        head.append(f"\n{printable(lost)}", style="bold red")
    return head


def _pool(pool: dict[str, Any], room: int) -> Iterable[RenderableType]:
    from rich.text import Text

    verdict = pool["verdict"]
    style = STYLES.get(verdict["level"], "")
    yield Text.assemble(("● ", style), (printable(pool["name"]), "bold"), "  ", (printable(verdict["text"]), style))
    yield _bar(pool)
    yield Text(_numbers(pool))
    for finding in pool["findings"]:
        yield Text.assemble(("  • ", STYLES.get(finding["level"], "")), printable(finding["text"]))
    error = pool["last_error"]
    if error is not None and verdict["condition"] != "down":  # else it is among the findings
        yield Text(f"  last connect error, {span(error['age'])} ago: {printable(error['text'])}", style="bright_black")
    for event in pool["events"][:EVENTS]:
        age = span(max(0.0, event["age"] - event["lasted"]))
        yield Text.assemble((f"  {age:>8} ago  ", "bright_black"), (printable(event["text"]), STYLES[event["level"]]))
    if pool["holders"] or pool["waiters"]:
        yield _people(pool, room)


def _remarks(pool: dict[str, Any]) -> int:
    """The lines between a pool's numbers and its table."""
    return len(pool["findings"]) + (pool["last_error"] is not None) + len(pool["events"][:EVENTS])


def _bar(pool: dict[str, Any]) -> Text:
    """Connections as a bar against max_size, and the queue of the last minute as a line of sparks."""
    from rich.text import Text

    now = pool["now"]
    most = max(now["max_size"] or 0, now["size"], 1)
    other = now["connecting"] + now["busy"] + now["closing"]
    bar = Text("  ")
    drawn = 0
    for number, letter, style in ((now["leased"], "█", "blue"), (other, "▒", "magenta"), (now["idle"], "░", "cyan")):
        cells = min(WIDTH - drawn, -(-number * WIDTH // most))  # at least a cell for what is there at all
        bar.append(letter * cells, style=style)
        drawn += cells
    bar.append("·" * (WIDTH - drawn), style="bright_black")
    line = sparks(pool)
    if line.strip():
        bar.append(f"  waiting {line}", style="yellow")
    return bar


def sparks(pool: dict[str, Any]) -> str:
    """How many waited over the last minute, the newest at the right."""
    column = pool["history"]["columns"].index("waiting")
    waiting = [row[column] for row in pool["history"]["rows"]][-60:]
    groups = [max(waiting[i : i + 3]) for i in range(0, len(waiting), 3)]
    most = max([*groups, 1])
    return "".join(SPARKS[-(-number * (len(SPARKS) - 1) // most)] for number in groups)


def _numbers(pool: dict[str, Any]) -> str:
    wait, use, rate, leaks = pool["wait"], pool["use"], pool["rate"], pool["totals"]["leaks"]
    timeouts = sum(event["number"] for event in pool["events"] if event["kind"] == "timeouts")
    parts = [
        "" if rate is None else f"{rate:,.1f} acquires/s",
        f"wait p50 {span(wait['p50'])} p99 {span(wait['p99'])}" if wait["count"] else "",
        f"hold p50 {span(use['p50'])} p99 {span(use['p99'])}" if use["count"] else "",
        count(timeouts, "timeout") if timeouts else "",
        count(leaks, "leak") if leaks else "",
    ]
    return "  " + "   ".join(part for part in parts if part)


def _people(pool: dict[str, Any], rows: int) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bright_black")
    # Where the screen is narrow the places are cut, then the threads. Were all columns no_wrap, "holds" would be too,
    # and the unit of a time. So the last two may wrap, and what stands in them does not.
    table.add_column("", no_wrap=True)
    table.add_column("for", no_wrap=True, justify="right")
    cell = partial(Text, no_wrap=True, overflow="ellipsis")
    for column in ("thread", "at"):
        table.add_column(cell(column))
    # The queue gets what the holders leave, a third at the least.
    waiters = min(len(pool["waiters"]), max(rows - len(pool["holders"]), rows // 3))
    for what, people, shown, more in (
        ("holds", pool["holders"], rows - waiters, pool["more_holders"]),
        ("waits", pool["waiters"], waiters, pool["more_waiters"]),
    ):
        for each in people[:shown]:
            style = "yellow" if each.get("slow") else ""
            texts = (f"  {what}", span(each["age"]), printable(each["thread"]), printable(place(each["where"])))
            table.add_row(*(cell(text, style=style) for text in texts))
        if left := len(people[shown:]) + more:
            table.add_row("", "", cell(f"and {left:,} more", style="bright_black"), "")
    return table
