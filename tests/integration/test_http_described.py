"""The API does what its description says, whatever is asked of it; drawn by schemathesis.

Every answer has a status, a media type and a body that docs/openapi.json names, and none is a
mistake of the server. With HYPOTHESIS_PROFILE=nightly it draws far more.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.conftest import NIGHTLY
from tests.support.http import Served, serving

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3 * 3600 if NIGHTLY else 120)]
EXAMPLES = 1_000 if NIGHTLY else 15
DESCRIPTION = json.loads((Path(__file__).parents[2] / "docs" / "openapi.json").read_text())
SCHEMA: Any = schemathesis.openapi.from_dict(DESCRIPTION)
OPERATIONS = [found.ok() for found in SCHEMA.get_all_operations()]
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture
def served(dsn: str) -> Iterator[Served]:
    with serving(dsn, rate_per_s=10_000) as served:
        yield served
        structlog.reset_defaults()


def briefly(body: Any) -> None:
    """Let no claim wait long."""
    if isinstance(body, dict) and isinstance(body.get("wait_s"), int | float):
        body["wait_s"] = min(body["wait_s"], 0.01)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_every_answer_is_as_described(served: Served, operation: Any) -> None:
    client = served.client("producer", "worker", "reader", "admin")
    headers = {"Authorization": client.headers["Authorization"]}

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=not NIGHTLY,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def each(data: st.DataObject) -> None:
        mode = data.draw(st.sampled_from(list(schemathesis.GenerationMode)))
        case = data.draw(operation.as_strategy(generation_mode=mode))
        briefly(case.body)
        answer = case.call(base_url=served.url, headers=headers)
        case.validate_response(answer, checks=CHECKS, headers=headers)

    each()
