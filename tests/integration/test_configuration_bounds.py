"""Python and the tables refuse the same values: each bound is tried on both sides, in both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
import pytest

from orchestrator.client.specs import ready
from orchestrator.config import LimitsSettings
from orchestrator.errors import InvalidInput
from orchestrator.model import (
    BURST_MAX_MIN,
    MAX_ATTEMPTS_MAX,
    NAME_MAX_CHARS,
    PRIORITY_MAX,
    PRIORITY_MIN,
    WEIGHT_MAX,
    WEIGHT_MIN,
    TaskSpec,
)
from orchestrator.store import orgs
from orchestrator.store.sql import Operation, run
from tests.support.stage import Stage

INT_MAX = 2**31 - 1
# A character of four bytes counts as one, here and there.
WIDE = "\N{WHITE HEAVY CHECK MARK}\N{GRINNING FACE}"


@dataclass(frozen=True)
class Bound:
    """One limit: the values within it, the verb that checks it, and the row that carries it."""

    low: int
    high: int
    verb: Callable[[Any], Operation | None]
    insert: LiteralString

    def values(self) -> dict[int, bool]:
        """Return the values on both sides of each end, and whether they are accepted."""
        return {
            self.low - 1: False,
            self.low: True,
            self.high: True,
            self.high + 1: False,
        }


def spec(**fields: Any) -> None:
    """Check a spec as a client does."""
    ready(TaskSpec(**({"name": "t", "org": "a"} | fields)), LimitsSettings())


TASK: LiteralString = (
    "insert into orchestrator.task (queue, id, org_id, workload, priority, name, max_attempts)"
)
STAGED: LiteralString = (
    "insert into orchestrator.staging_queue (queue, org_id, workload, neg_priority, task_id)"
)
ADMITTED: LiteralString = (
    "insert into orchestrator.task_queue (queue, dispatch_key, task_id, org_id, workload, priority,"
    " attempt, lost, expires_at, charged_us, weight, share, reserved)"
)
SCHEDULE: LiteralString = (
    "insert into orchestrator.schedule (name, cron, task_name, org_id, priority, max_attempts)"
)

NUMBERS: dict[str, Bound] = {
    "priority of a task": Bound(
        PRIORITY_MIN,
        PRIORITY_MAX,
        lambda value: spec(priority=value),
        TASK + " values (1, 1, 'a', 'etl', %s, 't', 5)",
    ),
    "priority of an admitted task": Bound(
        PRIORITY_MIN,
        PRIORITY_MAX,
        lambda value: spec(priority=value),
        ADMITTED + " values (1, 1, 1, 'a', 'etl', %s, 0, 0, 'infinity', 1, 1, 1, false)",
    ),
    "priority of a schedule": Bound(
        PRIORITY_MIN,
        PRIORITY_MAX,
        lambda value: spec(priority=value),
        SCHEDULE + " values ('s', '* * * * *', 't', 'a', %s, 5)",
    ),
    "attempts of a task": Bound(
        1,
        MAX_ATTEMPTS_MAX,
        lambda value: spec(max_attempts=value),
        TASK + " values (1, 1, 'a', 'etl', 5, 't', %s)",
    ),
    "attempts of a schedule": Bound(
        1,
        MAX_ATTEMPTS_MAX,
        lambda value: spec(max_attempts=value),
        SCHEDULE + " values ('s', '* * * * *', 't', 'a', 5, %s)",
    ),
    "burst_max of an org": Bound(
        BURST_MAX_MIN,
        INT_MAX,
        lambda value: orgs.set_org("a", burst_max=value, actor="test"),
        "insert into orchestrator.org_config (org_id, burst_max) values ('b', %s)",
    ),
    "burst_max of a tier": Bound(
        BURST_MAX_MIN,
        INT_MAX,
        lambda value: orgs.set_tier("one", burst_max=value, actor="test"),
        "insert into orchestrator.tier (name, weight, rank, burst_max) values ('two', 1, 1, %s)",
    ),
    "weight of an org": Bound(
        WEIGHT_MIN,
        WEIGHT_MAX,
        lambda value: orgs.set_org("a", weight=value, actor="test"),
        "insert into orchestrator.org_config (org_id, weight) values ('b', %s)",
    ),
    "weight of a tier": Bound(
        WEIGHT_MIN,
        WEIGHT_MAX,
        lambda value: orgs.set_tier("one", weight=value, actor="test"),
        "insert into orchestrator.tier (name, weight, rank) values ('two', %s, 1)",
    ),
    "share of a workload": Bound(
        WEIGHT_MIN,
        WEIGHT_MAX,
        lambda value: orgs.set_workload("one", share=value, actor="test"),
        "insert into orchestrator.workload (name, share, rank) values ('two', %s, 1)",
    ),
    "capacity of a queue": Bound(
        1,
        INT_MAX,
        lambda value: orgs.set_queue("one", capacity=value, actor="test"),
        "insert into orchestrator.queue (name, capacity) values ('two', %s)",
    ),
    "ready_max of a queue": Bound(
        1,
        INT_MAX,
        lambda value: orgs.set_queue("one", ready_max=value, actor="test"),
        "insert into orchestrator.queue (name, ready_max) values ('two', %s)",
    ),
    "kappa of a queue": Bound(
        0,
        1_000_000,
        lambda value: orgs.set_queue("one", kappa=value, actor="test"),
        "insert into orchestrator.queue (name, kappa) values ('two', %s)",
    ),
}
# How many characters a name may have.
NAMES: dict[str, Bound] = {
    "name of a task": Bound(
        1,
        NAME_MAX_CHARS,
        lambda value: spec(name=value),
        TASK + " values (1, 1, 'a', 'etl', 5, %s, 5)",
    ),
    "org of a task": Bound(
        1,
        NAME_MAX_CHARS,
        lambda value: spec(org=value),
        TASK + " values (1, 1, %s, 'etl', 5, 't', 5)",
    ),
    "idempotency key": Bound(
        1,
        NAME_MAX_CHARS,
        lambda value: spec(idempotency_key=value),
        "insert into orchestrator.idempotency_key (queue, org_id, key, task_id, digest)"
        " values (1, 'a', %s, 1, '')",
    ),
    "name of an org": Bound(
        1,
        NAME_MAX_CHARS,
        lambda value: orgs.set_org(value, actor="test"),
        "insert into orchestrator.org_config (org_id) values (%s)",
    ),
    "name of a tier": Bound(
        1,
        NAME_MAX_CHARS,
        lambda value: orgs.set_tier(value, actor="test"),
        "insert into orchestrator.tier (name, weight, rank) values (%s, 1, 1)",
    ),
    "name of a workload": Bound(
        1,
        NAME_MAX_CHARS,
        lambda value: orgs.set_workload(value, actor="test"),
        "insert into orchestrator.workload (name, share, rank) values (%s, 1, 1)",
    ),
    "name of a queue": Bound(
        1,
        NAME_MAX_CHARS,
        lambda value: orgs.set_queue(value, actor="test"),
        "insert into orchestrator.queue (name) values (%s)",
    ),
}


def python_accepts(stage: Stage, bound: Bound, value: object) -> bool:
    try:
        with stage.db.transaction(force_rollback=True):
            operation = bound.verb(value)
            if operation is not None:
                run(stage.db, operation)
    except InvalidInput:
        return False
    return True


def table_accepts(stage: Stage, bound: Bound, value: object) -> bool:
    try:
        with stage.db.transaction(force_rollback=True):
            stage.db.execute(bound.insert, [value])
    except (psycopg.errors.CheckViolation, psycopg.errors.NumericValueOutOfRange):
        return False
    return True


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_is_bounded_alike_in_python_and_in_its_table(stage: Stage, name: str) -> None:
    bound = NUMBERS[name]
    expected = bound.values()
    assert {value: python_accepts(stage, bound, value) for value in expected} == expected
    assert {value: table_accepts(stage, bound, value) for value in expected} == expected


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_bounded_alike_in_python_and_in_its_table(stage: Stage, name: str) -> None:
    bound = NAMES[name]
    expected = {(WIDE * length)[:length]: good for length, good in bound.values().items()}
    assert {value: python_accepts(stage, bound, value) for value in expected} == expected
    assert {value: table_accepts(stage, bound, value) for value in expected} == expected


@pytest.mark.parametrize("value", [True, False, 1.5, "3", float("nan")])
def test_what_is_no_whole_number_is_refused_before_it_is_stored(
    stage: Stage, value: object
) -> None:
    for name, bound in NUMBERS.items():
        assert not python_accepts(stage, bound, value), name


def test_a_staged_priority_is_the_negative_of_a_priority_or_a_lift(stage: Stage) -> None:
    row = STAGED + " values (1, 'a', 'etl', %s, 1)"
    # 11 above all priorities is the age bound's, 12 that of critical tasks.
    bound = Bound(-PRIORITY_MAX - 2, -PRIORITY_MIN, lambda _: None, row)
    expected = bound.values()
    assert {value: table_accepts(stage, bound, value) for value in expected} == expected


def test_a_burst_max_of_zero_is_refused_with_what_to_do_instead() -> None:
    with pytest.raises(InvalidInput, match="pause the org instead"):
        orgs.check_burst_max(0)
