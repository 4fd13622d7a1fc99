"""What a run does on a server of each kind, and how that server is asked for the run's sessions.

A module of a kind is imported where its URL is used: it needs the driver.
"""

from pooling.cli.stress.work._protocol import Work

__all__ = ["Work"]
