"""Fixtures of the tests of faults."""

from tests.integration.conftest import replica
from tests.support.fixtures import stage

__all__ = ["replica", "stage"]
