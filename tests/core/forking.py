"""What the scripts of the tests that fork begin with."""

from __future__ import annotations

import textwrap

COMMON = """
import functools, gc, os, signal, sys, threading, time
signal.alarm(20)  # inherited by no child
from pooling import Pool, PoolError, PoolTimeout
from pooling.testing import FakeFactory, FakeConnection
from tests.waiting import comes_true, until
until = functools.partial(until, seconds=10)  # before the alarm

class Counting(FakeFactory):
    def __init__(self):
        super().__init__()
        self.abandoned = []
    def abandon(self, connection):
        self.abandoned.append(connection)

def in_child(call):
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        try:
            call()
            code = 0
        except BaseException:
            import traceback
            traceback.print_exc()
            code = 1
        os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, status

factory = Counting()
"""


# A pool in use has threads; from 3.12 on the interpreter warns of forking beside them.
LENIENT = ("-W", "error", "-W", "ignore:This process:DeprecationWarning")


def script(text: str) -> str:
    return COMMON + textwrap.dedent(text)
