"""Recurring tasks: each time fires once, and a bad row stands in nobody else's way."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from orchestrator.errors import InvalidInput, UnknownQueue, UnknownSchedule, UnknownWorkload
from orchestrator.model import TaskSpec
from orchestrator.store import schedules
from orchestrator.store.schedules import Schedule
from orchestrator.store.sql import run
from tests.support.interleave import Actor, Cast, explore, together
from tests.support.invariants import check
from tests.support.stage import Stage


def schedule(name: str = "nightly", **fields: Any) -> Schedule:
    plain: dict[str, Any] = {
        "cron": "*/5 * * * *",
        "timezone": "UTC",
        "task_name": "report",
        "payload_text": '{"kind": "pdf"}',
        "org": "a",
        "queue": "default",
        "workload": "etl",
        "priority": 7,
        "max_attempts": 3,
        "timeout_s": 9.5,
    }
    return Schedule(name=name, **(plain | fields))


def accept(spec: TaskSpec) -> None:
    """Refuse no spec: what a task may be is tested elsewhere."""
    del spec


def put(stage: Stage, *wanted: Schedule) -> None:
    for each in wanted:
        run(stage.db, schedules.set_schedule(each, accept))


def make_due(stage: Stage, ago: str = "1 second") -> None:
    stage.do("update orchestrator.schedule set next_run_at = clock_timestamp() - %s::interval", ago)


def fire(stage: Stage) -> list[str]:
    """Fire until nothing is due; return the names, in the order of firing."""
    fired: list[str] = []
    while len(fired) < 20:
        with stage.db.transaction():
            name = run(stage.db, schedules.fire_next())
        if name is None:
            return fired
        fired.append(name)
    raise AssertionError(f"it fires without end: {fired}")


def find(stage: Stage, name: str) -> Schedule:
    listed: list[Schedule] = run(stage.db, schedules.list_schedules())
    return next(each for each in listed if each.name == name)


def staged(stage: Stage) -> int:
    return int(stage.one("select count(*) from orchestrator.staging_queue"))


def test_nothing_fires_before_its_time(stage: Stage) -> None:
    assert run(stage.db, schedules.until_due()) is None
    put(stage, schedule())
    assert run(stage.db, schedules.until_due()) > 0
    assert fire(stage) == []
    assert find(stage, "nightly").next_run_at > datetime.now(UTC)  # type: ignore[operator]


def test_what_is_due_fires_once_with_all_that_its_row_says(stage: Stage) -> None:
    put(stage, schedule())
    make_due(stage)
    assert run(stage.db, schedules.until_due()) <= 0
    assert fire(stage) == ["nightly"]
    assert fire(stage) == []
    fired = stage.rows(
        "select t.id, t.name, t.payload::text, t.org_id, t.workload, t.priority, t.max_attempts,"
        " t.timeout_s, s.neg_priority from orchestrator.task t"
        " join orchestrator.staging_queue s on s.task_id = t.id"
    )
    row = find(stage, "nightly")
    assert fired == [
        (row.last_task_id, "report", '{"kind": "pdf"}', "a", "etl", 7, 3, 9.5, -7),
    ]
    assert row.last_run_at is not None
    assert row.next_run_at is not None
    assert row.next_run_at > row.last_run_at


def test_times_that_were_missed_fire_once_together(stage: Stage) -> None:
    put(stage, schedule())
    make_due(stage, "3 days")
    assert fire(stage) == ["nightly"]
    assert staged(stage) == 1
    assert find(stage, "nightly").next_run_at > datetime.now(UTC)  # type: ignore[operator]


def test_a_schedule_without_a_next_time_is_given_one_and_not_fired(stage: Stage) -> None:
    put(stage, schedule())
    stage.do("update orchestrator.schedule set next_run_at = null")
    assert fire(stage) == ["nightly"]
    assert staged(stage) == 0
    assert find(stage, "nightly").next_run_at is not None


def test_task_and_advance_commit_together_or_not_at_all(stage: Stage) -> None:
    put(stage, schedule())
    make_due(stage)
    with stage.db.transaction(force_rollback=True):
        assert run(stage.db, schedules.fire_next()) == "nightly"
    assert staged(stage) == 0
    assert fire(stage) == ["nightly"]
    assert staged(stage) == 1


# What a row can hold that no verb would have stored.
BAD: dict[str, tuple[str, object]] = {
    "no such day": ("cron", "0 0 30 2 *"),
    "not cron": ("cron", "whenever"),
    "no such zone": ("timezone", "Mars/Olympus"),
    "no such queue": ("queue", "gone"),
    "attempts": ("max_attempts", 0),
    "timeout": ("timeout_s", -1.0),
    "name": ("task_name", "x" * 201),
    "org": ("org_id", ""),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_disabled_and_the_others_fire(stage: Stage, case: str) -> None:
    column, value = BAD[case]
    put(stage, schedule("a"), schedule("b"), schedule("c"))
    # The first in line, the one that would stand in the way; unless the table refuses it.
    try:
        stage.do(f"update orchestrator.schedule set {column} = %s where name = 'a'", value)
    except psycopg.errors.CheckViolation:
        refused = True
    else:
        refused = False
    make_due(stage)
    assert sorted(fire(stage)) == ["a", "b", "c"]
    assert staged(stage) == (3 if refused else 2)
    row = find(stage, "a")
    assert (row.disabled_at is None) is refused
    assert bool(row.disabled_reason) is not refused
    assert find(stage, "b").disabled_at is None
    # Set anew, it works again.
    put(stage, schedule("a"))
    make_due(stage)
    assert "a" in fire(stage)


def test_two_leaders_that_fire_at_once_fire_each_schedule_once(stage: Stage) -> None:
    put(stage, schedule("a"), schedule("b"))
    sessions = {name: stage.connect() for name in ("one", "two")}

    def scene() -> Cast:
        stage.do("delete from orchestrator.staging_queue")
        stage.do("delete from orchestrator.task")
        make_due(stage)
        return {
            name: Actor(session, together(session, schedules.fire_next()))
            for name, session in sessions.items()
        }

    def outcome(cast: Cast) -> None:
        fired = [actor.value for actor in cast.values() if actor.value]
        assert sorted(fired + fire(stage)) == ["a", "b"]
        assert staged(stage) == 2
        check(stage.db)

    explore(stage.db, scene, outcome)


def test_a_schedule_is_checked_before_it_is_stored(stage: Stage) -> None:
    with pytest.raises(InvalidInput):
        put(stage, schedule(cron="0 0 30 2 *"))
    with pytest.raises(InvalidInput):
        put(stage, schedule(timezone="Mars/Olympus"))
    with pytest.raises(UnknownQueue):
        put(stage, schedule(queue="gone"))
    with pytest.raises(UnknownWorkload):
        put(stage, schedule(workload="gone"))
    assert run(stage.db, schedules.list_schedules()) == []


def test_a_schedule_is_replaced_and_removed_by_name(stage: Stage) -> None:
    put(stage, schedule(), schedule(cron="0 3 * * *", timezone="Europe/Berlin"))
    row = find(stage, "nightly")
    assert (row.cron, row.timezone) == ("0 3 * * *", "Europe/Berlin")
    assert row.next_run_at is not None
    assert row.next_run_at - datetime.now(UTC) <= timedelta(hours=25)
    run(stage.db, schedules.remove_schedule("nightly"))
    with pytest.raises(UnknownSchedule):
        run(stage.db, schedules.remove_schedule("nightly"))
