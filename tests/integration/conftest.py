"""Fixtures of the integration tests."""

from tests.support.fixtures import stage

__all__ = ["stage"]
