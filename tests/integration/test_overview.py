"""What screens show of a queue: the numbers, what is wrong with it, and what asking costs."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.model import AttemptStatus, Place
from orchestrator.store import leadership, loads, orgs, overview
from orchestrator.store.names import (
    MAIN_MIN,
    express_floor_sequence,
    floor_sequence,
    worker_application,
)
from orchestrator.store.overview import AlarmKind, Overview
from orchestrator.store.sql import Operation, run
from orchestrator.store.status import queue_status
from tests.support.stage import Stage
from tests.support.stepping import ack, claim, finish


def look(stage: Stage) -> Overview:
    (queue,) = run(stage.db, leadership.queues(["default"]))
    with stage.db.transaction():
        found: Overview = run(stage.db, overview.overview(queue))
    return found


def kinds(found: Overview) -> list[AlarmKind]:
    return [alarm.kind for alarm in found.alarms]


def ask(stage: Stage, operation: Operation) -> Any:
    with stage.db.transaction():
        return run(stage.db, operation)


def test_an_empty_queue_without_a_leader_raises_one_alarm(stage: Stage) -> None:
    found = look(stage)

    assert (found.ready, found.in_flight, found.admitted_per_s, found.ended_per_s) == (0, 0, 0, 0)
    assert found.status.oldest_quiet is None
    assert kinds(found) == [AlarmKind.NO_LEADER]


def test_pace_tells_what_was_admitted_and_what_ended(stage: Stage) -> None:
    stage.enqueue(12, "a")
    leader = stage.leader()
    leader.drain_ticks()
    ack(stage.db, claim(stage.db, limit=9))
    leader.tick()

    found = look(stage)

    assert found.in_flight == 3
    assert sum(step.admitted_per_s * overview.PACE_STEP_S for step in found.pace) == 12
    assert sum(step.ended_per_s * overview.PACE_STEP_S for step in found.pace) == 9
    assert len(found.pace) == overview.PACE_WINDOW_S / overview.PACE_STEP_S
    assert found.leader.alive
    assert found.elections == 1
    assert kinds(found) == []


def test_past_the_newest_attempts_the_ticks_tell_what_ended(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.enqueue(40, "a")
    stage.set_org("a", burst_max=10)
    leader = stage.leader()
    for _ in range(4):
        leader.drain_ticks()
        ack(stage.db, claim(stage.db, limit=10))
    stage.do("update orchestrator.tick_log set at = at - interval '2 minutes'")
    stage.do("update orchestrator.task_attempt set ended_at = ended_at - interval '2 minutes'")
    monkeypatch.setattr(overview, "_ATTEMPTS_MAX", 3)

    found = look(stage)

    # The last ten ended after the last tick that admitted; the first is what the others start from.
    assert sum(step.ended_per_s * overview.PACE_STEP_S for step in found.pace) == 30


def test_slots_past_the_bound_are_those_of_the_last_tick(stage: Stage) -> None:
    for org in ("a", "b"):
        stage.enqueue(8, org)
    stage.leader().drain_ticks()
    claim(stage.db, limit=5)
    (queue,) = run(stage.db, leadership.queues(["default"]))

    counted = ask(stage, queue_status(queue))
    told = ask(stage, queue_status(queue, slots_max=11))

    assert {o.org: (o.ready, o.claimed) for o in told.orgs} == {
        o.org: (o.ready, o.claimed) for o in counted.orgs
    }
    assert sum(o.in_flight for o in told.orgs) == 16


def test_a_million_leased_tasks_are_not_walked(stage: Stage) -> None:
    stage.enqueue(4, "a")
    stage.leader().drain_ticks()
    stage.do(
        "insert into orchestrator.task_queue (queue, dispatch_key, task_id, org_id, workload,"
        " priority, attempt, lost, expires_at, charged_us, weight, share, reserved, claim_id)"
        " select 1, -1000000 - n, -n, 'many', 'etl', 5, 1, 0, 'infinity', 0, 1, 1, false,"
        " gen_random_uuid() from generate_series(1, 30000) n"
    )
    for name in ("slots", "slots_as_of_tick"):
        row = stage.db.execute(
            b"explain (analyze, format json) " + loads.SQL[name],
            {
                "queue": 1,
                "most": 100,
                "floor": floor_sequence(1),
                "express_floor": express_floor_sequence(1),
                "main_min": MAIN_MIN,
            },
        ).fetchone()
        assert row is not None
        assert most_rows(row[0][0]["Plan"]) <= 200, name


def most_rows(plan: dict[str, Any]) -> int:
    """Return how many rows the busiest step of a plan touched."""
    touched = (plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)) * plan["Actual Loops"]
    return max([int(touched), *map(most_rows, plan.get("Plans", ()))])


def test_ready_work_that_nobody_claims_raises_an_alarm_until_a_worker_listens(
    stage: Stage,
) -> None:
    stage.enqueue(3, "a")
    stage.leader().drain_ticks()
    assert AlarmKind.NO_WORKERS not in kinds(look(stage))  # it was admitted a moment ago
    stage.do("update orchestrator.task set created_at = created_at - interval '1 minute'")

    assert AlarmKind.NO_WORKERS in kinds(look(stage))
    with stage.connect() as parked:
        parked.execute(
            "select set_config('application_name', %s, false)", (worker_application(1, 4),)
        )
        found = look(stage)

    assert AlarmKind.NO_WORKERS not in kinds(found)
    assert (found.workers.listening, found.workers.room) == (1, 4)


def test_pauses_and_dead_letters_raise_alarms(stage: Stage) -> None:
    stage.enqueue(2, "a")
    leader = stage.leader()
    leader.drain_ticks()
    claims = claim(stage.db, limit=1)
    finish(stage.db, claims, AttemptStatus.DEAD)
    stage.enqueue(2, "b")
    with stage.db.transaction():
        run(stage.db, orgs.pause_org("b", "unpaid", actor="test"))
        run(stage.db, orgs.pause_queue("default", paused=True, actor="test"))

    found = look(stage)

    assert kinds(found) == [
        AlarmKind.QUEUE_PAUSED,
        AlarmKind.DEAD_LETTERS,
        AlarmKind.ORGS_PAUSED,
    ]


def test_the_oldest_of_each_org_is_told(stage: Stage) -> None:
    stage.enqueue(1, "old")
    stage.do("update orchestrator.task set created_at = created_at - interval '1 hour'")
    stage.enqueue(1, "new")

    found = look(stage)

    assert found.oldest_by_org["old"] == pytest.approx(3600, abs=30)
    assert found.oldest_by_org["new"] < 30


def test_the_decision_log_names_who_was_admitted(stage: Stage) -> None:
    stage.enqueue(2, "a", workload="api")
    stage.enqueue(3, "b")
    stage.leader().drain_ticks()

    lines = ask(stage, overview.ticks(1, 10))

    assert sum(line.admitted for line in lines) == 5
    picked: dict[tuple[str, str], int] = {}
    for line in lines:
        for org, workload, count in line.picks:
            picked[org, workload] = picked.get((org, workload), 0) + count
    assert picked == {("a", "api"): 2, ("b", "etl"): 3}


def test_an_org_is_told_by_queue_and_workload(stage: Stage) -> None:
    stage.set_org("a", burst_max=2)
    ids = stage.enqueue(5, "a")
    stage.enqueue(1, "b")
    stage.leader().drain_ticks()

    (queue,) = ask(stage, overview.org_queues("a"))
    lines = ask(stage, overview.tasks_of_org(1, "a", 10))
    pace = ask(stage, overview.org_pace(1, "a", 600.0, 10))

    assert (queue.queue, queue.in_flight) == ("default", 2)
    assert [(flow.workload, flow.staged) for flow in queue.flows] == [("etl", 3)]
    assert [line.id for line in lines] == ids[::-1]
    assert sorted(line.place for line in lines) == [Place.READY] * 2 + [Place.STAGED] * 3
    assert sum(per_s * 10 for per_s in pace.values()) == 2


def test_changes_are_told_with_who_made_them(stage: Stage) -> None:
    stage.set_org("a", weight=7)
    stage.set_org("b", weight=8)

    (line,) = ask(stage, overview.audit(10, of="a"))

    assert (line.actor, line.verb, line.object) == ("test", "org.set", "a")
    assert '"weight": 7' in line.change
    assert len(ask(stage, overview.audit(10))) == 2
