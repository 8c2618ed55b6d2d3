"""Fixtures shared by the suites that drive the store and leaders step by step."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.stage import Stage


@pytest.fixture
def stage(dsn: str) -> Iterator[Stage]:
    """Yield a fresh database on which nothing outlives the test."""
    with Stage(dsn) as opened:
        yield opened
