"""The contract suite, for every backend."""

from __future__ import annotations

from tests.backends.contract import Contract, RemoteContract


class TestEveryBackend(Contract):
    pass


class TestEveryRemoteBackend(RemoteContract):
    pass
