"""The subcommand ``check``.

``_command`` takes the steps and tells of them, ``_backends`` knows what each backend can be asked, ``_file`` sees to it
that an SQLite file stays as it was.
"""

from pooling.cli.check._command import HELP, NAME, configure, run

__all__ = ["HELP", "NAME", "configure", "run"]
