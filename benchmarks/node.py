"""Node's pools, generic-pool and pg-pool, beside ours: order, and what a pool leaves of the throughput that there is.

Another language with one thread for everybody: its callers are no threads, so a hand-over costs no switch. What can be
compared is who waits for how long, in what order, and each pool with no pool at all in its own language.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

from benchmarks.contended import Cell, with_pool, without_pool
from benchmarks.crowd import Outcome
from benchmarks.peers import Ours
from benchmarks.rows import NO_POOL, OURS, Family, Row, Settings, in_turn, percentile, ratio, row

SCRIPT = Path(__file__).with_name("node.cjs")
POOLS = ("generic-pool", "pg-pool")
CELLS = tuple(Cell(threads, slots, hold) for threads, slots in ((4, 1), (16, 4), (64, 16)) for hold in (0.0, 0.001))
LONGEST = 120.0  # seconds that a program of Node's may take


def run(settings: Settings) -> Iterator[Row]:
    found = installed()
    for pool in POOLS:
        if pool not in found:
            why = "npm install --global generic-pool pg-pool" if shutil.which("node") else "node is not installed"
            yield Row("node", _name(pool), "missing", why, 1.0, 0.0)
    if not found:
        return
    for number, cell in enumerate(CELLS[3:4] if settings.quick else CELLS, 1):
        yield from _rows(cell, _outcomes(cell, found, settings, f"node: cell {number} of {len(CELLS)}"))


def installed() -> list[str]:
    """The pools that are there."""
    return json.loads(_node()) if shutil.which("node") else []


def _outcomes(cell: Cell, pools: list[str], settings: Settings, progress: str) -> dict[str, list[Outcome]]:
    seconds = cell.duration / 5 if settings.quick else cell.duration
    subjects: dict[str, Callable[[], Outcome]] = {
        NO_POOL: partial(without_pool, cell, seconds),
        OURS: partial(with_pool, Ours, cell, seconds),
        **{_name(pool): partial(_in_node, pool, cell, seconds) for pool in ("none", *pools)},
    }
    outcomes: dict[str, list[Outcome]] = {name: [] for name in subjects}
    for number, names in enumerate(in_turn(list(subjects), settings.rounds), 1):
        for name in names:
            settings.say(f"{progress}, round {number}, {name}")
            outcomes[name].append(subjects[name]())
    return outcomes


def _in_node(pool: str, cell: Cell, seconds: float) -> Outcome:
    callers = min(cell.threads, cell.slots) if pool == "none" else cell.threads
    seen = json.loads(_node(pool, *map(str, (cell.slots, callers, cell.hold, seconds))))
    return Outcome([(number, called, served) for number, called, served in seen["services"]], seen["seconds"])


def _node(*arguments: str) -> str:
    """What the script prints."""
    environment = {**os.environ, "NODE_PATH": os.pathsep.join(filter(None, (os.environ.get("NODE_PATH"), _packages())))}
    command = ["node", str(SCRIPT), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=LONGEST).stdout


@cache
def _packages() -> str:
    """Where npm has put what was installed for everybody."""
    npm = shutil.which("npm")
    if npm is None:
        return ""
    return subprocess.run([npm, "root", "--global"], capture_output=True, text=True, check=False).stdout.strip()


def _name(pool: str) -> str:
    return "Node, no pool at all" if pool == "none" else f"Node {pool}"


def _rows(cell: Cell, outcomes: dict[str, list[Outcome]]) -> Iterator[Row]:
    scenario, at = f"node, {cell.slots} slots, hold {1000 * cell.hold:g} ms", cell.threads
    rates = {name: [len(one.services) / one.seconds for one in rounds] for name, rounds in outcomes.items()}
    for name, rate in rates.items():
        yield row(scenario, name, "throughput", "1/s", rate, at)
    for name, rate in rates.items():
        bare = NO_POOL if name == OURS else _name("none")
        if cell.hold and name not in (NO_POOL, bare):
            yield ratio(scenario, name, "throughput to no pool", rate, rates[bare], at)
    for name, rounds in outcomes.items():
        if name in (NO_POOL, _name("none")):
            continue
        for label, p in (("p50", 50.0), ("p99", 99.0), ("max", 100.0)):
            waits = [1000 * percentile(one.waits(), p) for one in rounds]
            yield row(scenario, name, f"wait {label}", "ms", waits, at)
        yield row(scenario, name, "least/most", "ratio", [one.least_to_most(at) for one in rounds], at)


FAMILY = Family(
    "node",
    "Node's generic-pool and pg-pool, where they are installed, on the cells of a crowd",
    run,
    plots=("throughput to no pool", "wait p99", "least/most"),
    axis="callers",
)
