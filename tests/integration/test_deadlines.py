"""Deadlines: an expired task is never handed out, and ends as expired wherever it waits."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from orchestrator.model import AttemptStatus
from orchestrator.store import orgs, tasks
from orchestrator.store.sql import run
from tests.support.invariants import check
from tests.support.stage import Stage
from tests.support.stepping import SteppedLeader, ack, cancel, claim, give_back, reap, retry

AHEAD = datetime.now(UTC) + timedelta(hours=1)
TABLES = {"staged": "staging_queue", "scheduled": "scheduled_queue", "ready": "task_queue"}


def status(stage: Stage, task_id: int) -> AttemptStatus | None:
    info = run(stage.db, tasks.get(task_id))
    found: AttemptStatus | None = info.status
    return found


def pass_deadline(stage: Stage, station: str) -> None:
    """Let the deadline of what waits at `station` have passed."""
    stage.do(f"update orchestrator.{TABLES[station]} set expires_at = clock_timestamp()")


def wait_at(stage: Stage, leader: SteppedLeader, station: str) -> int:
    delay = 1800 if station == "scheduled" else None
    (task_id,) = stage.enqueue(1, delay=delay, expires_at=AHEAD, idempotency_key="k")
    if station == "ready":
        assert leader.drain_ticks() == 1
    return task_id


@pytest.mark.parametrize("station", TABLES)
def test_a_task_whose_deadline_has_passed_ends_as_expired(stage: Stage, station: str) -> None:
    leader = stage.leader()
    task_id = wait_at(stage, leader, station)
    pass_deadline(stage, station)
    assert claim(stage.db, 1) == []
    leader.step()
    assert status(stage, task_id) is AttemptStatus.EXPIRED
    assert stage.one("select count(*) from orchestrator.idempotency_key") == 0
    leader.drain_ticks()
    assert (leader.scheduler.in_flight, leader.scheduler.backlog) == (0, 0)
    check(stage.db)


@pytest.mark.parametrize("station", ["staged", "scheduled"])
def test_tasks_of_a_paused_org_expire_too(stage: Stage, station: str) -> None:
    leader = stage.leader()
    run(stage.db, orgs.pause_org("a", None, actor="test"))
    task_id = wait_at(stage, leader, station)
    leader.step()
    pass_deadline(stage, station)
    leader.step()
    assert status(stage, task_id) is AttemptStatus.EXPIRED


def test_a_claim_passes_over_the_expired_to_those_behind(stage: Stage) -> None:
    leader = stage.leader()
    expired = wait_at(stage, leader, "ready")
    pass_deadline(stage, "ready")
    (other,) = stage.enqueue(1)
    leader.tick()
    assert [c.id for c in claim(stage.db, 5)] == [other]
    leader.step()
    assert status(stage, expired) is AttemptStatus.EXPIRED


def test_a_running_task_runs_on_past_its_deadline_and_its_retry_does_not(stage: Stage) -> None:
    leader = stage.leader()
    task_id = wait_at(stage, leader, "ready")
    held = claim(stage.db, 1)
    pass_deadline(stage, "ready")
    leader.step()
    assert status(stage, task_id) is None
    give_back(stage.db, held)
    leader.step()
    assert status(stage, task_id) is AttemptStatus.EXPIRED
    assert claim(stage.db, 1) == []
    check(stage.db)


def test_a_lost_task_past_its_deadline_is_not_handed_out_again(stage: Stage) -> None:
    leader = stage.leader()
    task_id = wait_at(stage, leader, "ready")
    claim(stage.db, 1)
    pass_deadline(stage, "ready")
    stage.expire_leases()
    assert reap(stage.db) == [(task_id, AttemptStatus.LOST)]
    leader.step()
    assert status(stage, task_id) is AttemptStatus.EXPIRED
    check(stage.db)


def test_a_deadline_goes_along_through_admission_and_retry_of_an_attempt(stage: Stage) -> None:
    leader = stage.leader()
    wait_at(stage, leader, "ready")
    give_back(stage.db, claim(stage.db, 1))
    assert stage.one("select expires_at = %s from orchestrator.staging_queue", AHEAD)
    leader.drain_ticks()
    assert stage.one("select expires_at = %s from orchestrator.task_queue", AHEAD)
    give_back(stage.db, claim(stage.db, 1), delay_s=5)
    assert stage.one("select expires_at = %s from orchestrator.scheduled_queue", AHEAD)


def test_a_replayed_task_keeps_a_deadline_that_is_still_ahead(stage: Stage) -> None:
    task_id = wait_at(stage, stage.leader(), "staged")
    cancel(stage.db, task_id)
    retry(stage.db, task_id)
    assert stage.one("select expires_at = %s from orchestrator.staging_queue", AHEAD)


def test_a_replayed_task_whose_deadline_has_passed_is_run_all_the_same(stage: Stage) -> None:
    # Somebody asked for it after the deadline: to end it at once would be no answer.
    leader = stage.leader()
    task_id = wait_at(stage, leader, "staged")
    stage.do("update orchestrator.task set expires_at = clock_timestamp()")
    pass_deadline(stage, "staged")
    leader.step()
    assert status(stage, task_id) is AttemptStatus.EXPIRED
    retry(stage.db, task_id)
    leader.step()
    held = claim(stage.db, 1)
    assert [c.id for c in held] == [task_id]
    assert len(ack(stage.db, held)) == 1
    check(stage.db)
