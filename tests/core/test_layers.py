"""Imports go downwards only, and the core needs the standard library alone."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.core.helpers import run_python

PACKAGE = Path(__file__).parents[2] / "pooling"

# From the top down. A module may import what stands in a row below its own; the files of a package, each other.
LAYERS = (
    {"__main__"},
    {"cli"},
    {"integrations"},
    {"__init__"},  # the public names
    {"testing"},
    {"manager", "signals", "monitor"},
    {"_configuration"},  # pools in a configuration
    {"_changes", "_periodic"},  # what pools have done, and when to look at them
    {"backends"},
    {"pool"},  # the lock, the clock, the hand to workers and reaper
    {"retry"},  # which Pool.run() calls
    {"lease"},
    {"_inspection"},
    {"_waiting"},
    {"_dispatch"},
    {"_finalizer", "_report"},
    {"_hooks"},  # how a job is done
    {"_ledger.ledger"},  # what is reported
    {"_ledger.settling"},  # what follows from it
    {"_ledger.upkeep"},  # what time brings
    {"_ledger.moves"},  # the single steps
    {"_ledger.roster", "_ledger.limits", "_ledger.tally", "_ledger.notice", "_ledger.nesting", "_ledger.jobs"},
    {"_runtime.threads"},  # time and threads
    {"_runtime.bell"},
    {"_ledger.queue", "_holders"},
    {"_ledger.entry"},
    {"_ledger.demotion"},
    {"_ledger.outage", "_ledger.slow_start", "_ledger.phase"},
    {"_ledger"},  # what all of these have in common, in words
    {"events"},
    {"_sources"},  # which pools to look at
    {"config", "_runtime.reaper"},
    {"factory"},
    {"errors", "_secrets", "_log", "_driver", "_runtime.fork", "_runtime.lock", "_runtime.offer"},
    {"_runtime.workers"},
    {"stats"},
    {"_chance", "_clock", "_elsewhere", "_lazy", "_runtime", "_traces", "_words"},
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
IN_ROWS_OF_THEIR_OWN = {"_ledger", "_runtime"}  # packages whose files have places in LAYERS
IMPURE = {"asyncio", "logging", "os", "queue", "select", "signal", "socket", "subprocess", "threading", "time"}
OUTSIDE_THE_CORE = {"__main__", "cli", "integrations", "backends"}


def files() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py"))


def module(path: Path) -> str:
    """The name in LAYERS that a file belongs to: its own, or its package's."""
    return place(path.relative_to(PACKAGE).with_suffix("").parts)


def place(parts: Sequence[str]) -> str:
    inside = parts[0] in IN_ROWS_OF_THEIR_OWN and len(parts) > 1 and parts[1] != "__init__"
    return ".".join(parts[:2]) if inside else parts[0]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything a file imports when it runs, in functions too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    hidden: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            hidden.update(inner for statement in node.body for inner in ast.walk(statement))
    for node in ast.walk(tree):
        if node in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            if node.module == "pooling":
                yield from ((node.lineno, f"pooling.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, node.module or ""


def target(name: str) -> str:
    """The name in LAYERS that an import of something in pooling leads to."""
    parts = name.split(".")
    if len(parts) == 1 or parts[1] not in LEVEL:
        return "__init__"  # "import pooling", or one of the public names
    return place(parts[1:])


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downwards(path: Path) -> None:
    own = module(path)
    assert own in LEVEL, f"{own} has no place in LAYERS yet"
    for line, name in imports(path):
        if name.partition(".")[0] != "pooling":
            continue
        other = target(name)
        inside = other == own and path.parent != PACKAGE and "." not in own
        assert inside or LEVEL[other] > LEVEL[own], f"{path}:{line}: {own} imports {name}, which is not below it"


@pytest.mark.parametrize(
    "path",
    [path for path in files() if module(path) not in OUTSIDE_THE_CORE],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_the_core_imports_the_standard_library_alone(path: Path) -> None:
    for line, name in imports(path):
        top = name.partition(".")[0]
        assert top == "pooling" or top in sys.stdlib_module_names, f"{path}:{line}: {name}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "_ledger").glob("*.py")), ids=lambda path: path.stem)
def test_the_ledger_has_neither_clock_nor_lock_nor_thread(path: Path) -> None:
    """What it decides depends on what it is told, so that a machine can try all of it without waiting for anything."""
    used = {name.partition(".")[0] for _, name in imports(path)}
    assert not used & IMPURE


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_threading_is_imported_as_a_module(path: Path) -> None:
    """gevent replaces what the module holds; a name taken from it before that stays the old one."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    taken = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "threading"]
    assert not taken


def test_importing_the_package_starts_nothing_and_loads_no_driver() -> None:
    run_python(
        """
        import sys, threading
        before = set(sys.modules)
        import pooling
        assert threading.active_count() == 1
        drivers = {"psycopg", "sqlite3", "pymysql", "pymongo", "redis", "urllib3", "requests", "rich"}
        loaded = drivers & (set(sys.modules) - before)
        assert not loaded, loaded
        """
    )


def test_every_public_name_exists_and_is_documented() -> None:
    import pooling

    for name in pooling.__all__:
        assert getattr(pooling, name).__doc__, name
