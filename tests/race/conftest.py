"""Fixtures of the tests of races."""

from tests.support.fixtures import stage

__all__ = ["stage"]
