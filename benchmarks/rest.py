"""What a pool costs that does nothing, and what it costs to begin: each in a fresh process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.peer import Peer
from benchmarks.peers import Floor, installed
from benchmarks.rows import OURS, Family, Row, Settings, in_turn, row

REST, COLD, IMPORT = "at rest", "cold start", "import"
ROOT = Path(__file__).resolve().parent.parent
MODULES = {OURS: "pooling"}
FIGURES = {
    (REST, "wake-ups"): ("1/s", 1.0),
    (REST, "processor time"): ("ms/s", 1000.0),
    (REST, "threads"): ("", 1.0),
    (COLD, "construction"): ("ms", 1000.0),
    (COLD, "first acquire"): ("ms", 1000.0),
}
# Seconds until what the start has set going is over: idle worker threads end, and alarms for connects that might hang
# go off once, after connect_timeout (10 s).
SETTLE = 12.0


def run(settings: Settings) -> Iterator[Row]:
    peers = {name: kind for name, kind in installed().items() if kind.__base__ is Peer or kind.contends}
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in peers}
    imports: dict[str, list[float]] = {name: [] for name in peers if name != Floor.name}
    settle, rest = (0.2, 0.5) if settings.quick else (SETTLE, 4.0)
    for number, names in enumerate(in_turn(list(peers), settings.rounds), 1):
        for name in names:
            settings.say(f"{COLD}: round {number}, {name}")
            samples[name].append(_probe("start", name))
            if name in imports:
                imports[name].append(_import(MODULES.get(name) or peers[name].module or "queue"))
        settings.say(f"{REST}: round {number}, all of them")
        # All at the same time: who rests disturbs nobody.
        with ThreadPoolExecutor(len(names)) as together:
            for name, found in zip(
                names, together.map(lambda one: _probe("rest", one, str(settle), str(rest)), names), strict=True
            ):
                samples[name][-1].update(found)
    for (scenario, figure), (unit, scale) in FIGURES.items():
        for name, taken in samples.items():
            yield row(scenario, name, figure, unit, [scale * one[figure] for one in taken])
    for name, seconds in imports.items():
        yield row(IMPORT, name, "import", "ms", [1000 * one for one in seconds])


def _probe(*arguments: str) -> dict[str, float]:
    figures: dict[str, float] = _python("-m", "benchmarks.probe", *arguments)
    return figures


def _import(module: str) -> float:
    """Seconds, from an interpreter that has imported nothing yet but what it starts with."""
    code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    return float(_python("-c", code))


def _python(*arguments: str) -> Any:
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: {done.stderr.strip().rpartition(chr(10))[2]}")
    return json.loads(done.stdout)


FAMILY = Family(
    "rest",
    "wake-ups and processor time at rest, cold start, import",
    run,
    plots=("wake-ups", "first acquire", "import"),
)
