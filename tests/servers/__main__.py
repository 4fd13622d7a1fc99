"""`python -m tests.servers install` brings the servers; `run` starts one of each and prints its URL."""

from __future__ import annotations

import argparse
import contextlib
import signal

from tests.servers import KINDS
from tests.servers.install import install


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.servers", description=__doc__)
    parser.add_argument("action", choices=["install", "run"])
    if parser.parse_args().action == "install":
        return install()
    return run()


def run() -> int:
    # A polite kill ends it as Ctrl-C does, directories and all.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.ExitStack() as running:
        for kind, make in KINDS.items():
            server = running.enter_context(make())
            print(f"{kind:10} {server.url}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
