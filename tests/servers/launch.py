"""Starting a server's process so that it never outlives the tests, and acting on all of its processes."""

from __future__ import annotations

import functools
import os
import queue
import shutil
import signal
import subprocess
import threading
import time
from concurrent.futures import Future
from pathlib import Path

NOBODY = 65534

_jobs: queue.SimpleQueue[tuple[Future[subprocess.Popen[bytes]], list[str], Path]] = queue.SimpleQueue()
_start_lock = threading.Lock()
_owner_pid: int | None = None


def launch(command: list[str], folder: Path, *, unprivileged: bool = False) -> subprocess.Popen[bytes]:
    """Start `command` with its output in folder/server.log.

    The kernel kills it when this process dies, also by SIGKILL or os._exit (which is how pytest-timeout
    ends a run), where no atexit function runs. That signal is bound to the *thread* that started the
    process, so one thread that never ends starts them all.
    """
    _ensure_thread()
    prefix = ["setpriv", "--pdeathsig", "KILL"]
    if unprivileged and os.geteuid() == 0:
        if user_namespaces_permitted():
            prefix = [*_namespace(), *prefix]
        else:
            hand_over(folder)
            prefix += [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    started: Future[subprocess.Popen[bytes]] = Future()
    _jobs.put((started, [*prefix, *command], folder))
    return started.result()


def run(command: list[str], folder: Path, *, unprivileged: bool = False) -> None:
    """Run a set-up program to its end; what it said is in the error when it fails."""
    process = launch(command, folder, unprivileged=unprivileged)
    if process.wait() != 0:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}:\n{log_tail(folder)}")


def log_tail(folder: Path, size: int = 3000) -> str:
    log = folder / "server.log"
    return log.read_text(errors="replace")[-size:] if log.exists() else "(no output)"


@functools.cache
def user_namespaces_permitted() -> bool:
    """Some servers refuse root. In a namespace of its own a server sees itself as nobody, while its
    files stay root's: no user to add, no mode to change. Containers often forbid it."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*_namespace(), "true"], capture_output=True, check=False).returncode == 0


def hand_over(folder: Path) -> None:
    """Without namespaces the server is another user, to whom its files must belong."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


def signal_all(pid: int, number: signal.Signals) -> list[int]:
    """Signal a process and its descendants.

    The parent goes first and is stopped while we look, so that it cannot start a child we do not see.
    PostgreSQL's children are in sessions of their own: killpg would miss them.
    """
    _signal(pid, signal.SIGSTOP)
    everyone = [*descendants(pid), pid]
    for one in everyone:
        _signal(one, number)
    return everyone


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL a server's processes and wait for the last of them.

    PostgreSQL refuses to start again while one of its old processes holds the shared memory.
    """
    everyone = signal_all(process.pid, signal.SIGKILL)
    process.wait()
    while any(_alive(pid) for pid in everyone):
        time.sleep(0.001)


def freeze(pid: int) -> subprocess.Popen[bytes]:
    """Stop a server's processes; return the watchman who kills them if the tests die meanwhile.

    A stopped child cannot notice that its parent is gone, and would stay for ever.
    """
    everyone = signal_all(pid, signal.SIGSTOP)
    script = f"while kill -0 {os.getpid()}; do sleep 1; done; kill -KILL {' '.join(map(str, everyone))}"
    return subprocess.Popen(["sh", "-c", script], stderr=subprocess.DEVNULL, start_new_session=True)


def thaw(pid: int, watchman: subprocess.Popen[bytes]) -> None:
    watchman.kill()
    watchman.wait()
    signal_all(pid, signal.SIGCONT)


def _alive(pid: int) -> bool:
    """A zombie is not: it has given back all it held, and whoever inherited it may never look."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:  # ended while we were reading
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found: list[int] = []
    todo = [pid]
    while todo:
        mine = children.get(todo.pop(), [])
        found += mine
        todo += mine
    return found


def _namespace() -> list[str]:
    return ["unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}"]


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def _ensure_thread() -> None:
    global _owner_pid
    with _start_lock:
        if _owner_pid != os.getpid():  # also after a fork, which threads do not survive
            _owner_pid = os.getpid()
            threading.Thread(target=_serve, name="tests-servers-launcher", daemon=True).start()


def _serve() -> None:
    while True:
        started, command, folder = _jobs.get()
        try:
            with (folder / "server.log").open("ab") as log:
                process = subprocess.Popen(
                    command,
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C at a terminal is for the tests, not for their servers
                )
        except BaseException as error:
            started.set_exception(error)
        else:
            started.set_result(process)
