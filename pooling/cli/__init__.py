"""The command line: ``python -m pooling …``, also installed as ``pooling``.

One module or package per subcommand, all of the same shape: NAME, HELP, ``configure(parser)`` and ``run(arguments)``,
which returns the exit code. A Mistake that run() raises is the user's: one line on stderr, exit code 2.
"""

from __future__ import annotations

import errno
import io
import sys
from collections.abc import Sequence

import pooling
from pooling._words import printable
from pooling.cli import check, page, stress, top
from pooling.cli._command import BAD_ARGUMENTS, FAILED, Command, Mistake, Parser, drop_output, similar

# Assigned by themselves: only so mypy compares a module with a protocol.
_CHECK: Command = check
_PAGE: Command = page
_STRESS: Command = stress
_TOP: Command = top
COMMANDS = (_CHECK, _PAGE, _STRESS, _TOP)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit code."""
    parser = Parser(prog="pooling", description=pooling.__doc__)
    parser.add_argument("--version", action="version", version=f"pooling {pooling.__version__}")
    subcommands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        below = subcommands.add_parser(command.NAME, help=command.HELP, description=command.HELP)
        command.configure(below)
        below.set_defaults(run=command.run)
    argv = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):
        # Not every terminal and pipe can be told "…", a bar, or any name. (In the C locale Python's own way is to let
        # bytes through that it could not read, and no letter that is none of ASCII's.)
        if isinstance(stream, io.TextIOWrapper) and stream.errors in {"strict", "surrogateescape"}:
            stream.reconfigure(errors="replace")
    name = next((word for word in argv if not word.startswith("-")), None)
    if name is not None and name not in subcommands.choices:
        known = list(subcommands.choices)
        parser.error(f"there is no command {name!r}{similar(name, known)} (commands: {', '.join(known)})")
    arguments = parser.parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
    except Mistake as mistake:
        print(f"pooling {arguments.command}: {printable(str(mistake))}", file=sys.stderr)
        return BAD_ARGUMENTS
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC):
            raise
        return _unwritten(arguments.command, error)
    return code


def _unwritten(command: str, error: OSError) -> int:
    """Nobody reads what is printed, a ``head`` that has gone perhaps, or there is no room for it."""
    if error.errno != errno.EPIPE:
        print(f"pooling {command}: the output cannot be written: {error.strerror}", file=sys.stderr)
    drop_output()
    return FAILED
