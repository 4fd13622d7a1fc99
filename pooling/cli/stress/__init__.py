"""The subcommand ``stress``.

``_command`` makes ``_options`` of the arguments, ``_harness`` carries out one run, and its ``_result`` becomes a
``_report``; a ``_progress`` line is shown meanwhile. A run has

- what it connects to: a ``_target``, and ``work/`` to do there, a module for each kind of server
- who uses the pool: each ``_user`` is a thread that follows its ``_plan``; the ``_scene`` is what they share
- what goes wrong: the ``_faults`` of connects, and the ``_chaos`` of a network, which a ``_proxy`` brings about
- what is watched from outside: the ``_census`` of connections, the ``_order`` of service, the ``_resources`` of the
  process, and the server's own count; what they find is in the ``_verdict``
"""

from pooling.cli.stress._command import HELP, NAME, configure, run

__all__ = ["HELP", "NAME", "configure", "run"]
