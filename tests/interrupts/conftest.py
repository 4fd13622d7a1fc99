"""What tests with tracers of their own have in common."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture
def untraced() -> Iterator[None]:
    """No other tracer, such as coverage's."""
    traced = sys.gettrace()
    sys.settrace(None)
    yield
    sys.settrace(traced)
