"""How urgent a task is can be said in several ways, and in one at a time."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from orchestrator import InvalidInput, TaskSpec, Urgency
from orchestrator.client.specs import all_ready, ready
from orchestrator.config import LimitsSettings

LIMITS = LimitsSettings()
LATER = datetime(2030, 1, 1, tzinfo=UTC)


def said(**fields: Any) -> tuple[int, bool]:
    """Return the priority of a task, and whether it is critical."""
    spec = ready(TaskSpec(name="t", org="acme", **fields), LIMITS).spec
    return spec.priority, spec.critical


def test_the_three_levels_are_priorities() -> None:
    told = {urgency: (urgency.level, urgency.priority) for urgency in Urgency}
    assert told == {
        Urgency.CRITICAL: (100, 10),
        Urgency.TASK: (50, 5),
        Urgency.INFO: (10, 1),
    }


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (5, False)),
        ({"urgency": "critical"}, (10, True)),
        ({"urgency": Urgency.TASK}, (5, False)),
        ({"urgency": "info"}, (1, False)),
        ({"urgency": 100}, (10, True)),
        ({"urgency": 10}, (1, False)),
        ({"critical": True}, (10, True)),
        ({"critical": True, "priority": 5}, (5, True)),
        ({"critical": True, "urgency": "critical"}, (10, True)),
        ({"priority": 5}, (5, False)),
    ],
)
def test_urgency_priority_and_the_flag_say_one_thing(
    fields: dict[str, Any], expected: tuple[int, bool]
) -> None:
    assert said(**fields) == expected
    ((spec, _),) = all_ready([{"name": "t", "org": "acme", **fields}], LIMITS)
    assert (spec.priority, spec.critical) == expected


@pytest.mark.parametrize("priority", [5, 10])
def test_urgency_and_priority_exclude_each_other(priority: int) -> None:
    with pytest.raises(InvalidInput, match="urgency and priority exclude each other"):
        said(urgency="critical", priority=priority)


@pytest.mark.parametrize("urgency", ["task", "info"])
def test_what_is_critical_has_no_other_urgency(urgency: str) -> None:
    with pytest.raises(InvalidInput, match=f"urgency {urgency} is not critical"):
        said(urgency=urgency, critical=True)


def test_an_unknown_urgency_names_those_there_are() -> None:
    with pytest.raises(InvalidInput, match=r"critical \(100\), task \(50\), info \(10\), not 'hi'"):
        said(urgency="hi")


def test_a_deadline_and_a_time_to_live_exclude_each_other() -> None:
    with pytest.raises(InvalidInput, match="expires_at and expires_in exclude each other"):
        said(expires_at=LATER, expires_in=60)
