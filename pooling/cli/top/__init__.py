"""The subcommand ``top``.

``_command`` asks again and again, ``_remote`` has the answer of another process's page, ``_frame`` draws it.
"""

from pooling.cli.top._command import HELP, NAME, configure, run

__all__ = ["HELP", "NAME", "configure", "run"]
