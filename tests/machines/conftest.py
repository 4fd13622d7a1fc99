from __future__ import annotations

import random

import pytest


@pytest.fixture(autouse=True)
def _drawn_again_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hypothesis seeds Python's own generator before each example, so that the same steps lead to the same end."""
    monkeypatch.setattr("pooling._chance._source", random)
