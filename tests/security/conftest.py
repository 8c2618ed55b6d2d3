"""Fixtures of the tests of security."""

from tests.support.fixtures import stage

__all__ = ["stage"]
