"""`explain` on a real server: the facts are those of the tables, in one snapshot and at a bound."""

from __future__ import annotations

import asyncio
from datetime import UTC, timedelta
from typing import Any

import psycopg
import pytest
import sqlalchemy

from orchestrator import AsyncClient, Client, Explanation, ReasonKind, TaskNotFound
from orchestrator.fairness.explanation.standing import standing
from orchestrator.model import AttemptStatus, Place
from orchestrator.store import explain as store
from orchestrator.store.sql import run
from tests.support.explaining import explain, facts, reason_of
from tests.support.stage import Stage
from tests.support.stepping import ack, cancel, claim, give_back, reap, retry


def kinds(explanation: Explanation) -> list[ReasonKind]:
    return [reason.kind for reason in explanation.reasons]


# Reasons


def test_an_unknown_task_is_not_found(stage: Stage) -> None:
    with pytest.raises(TaskNotFound, match="4711"):
        explain(stage, 4711)


def test_without_a_leader_its_absence_binds_and_nothing_is_expected(stage: Stage) -> None:
    (task_id,) = stage.enqueue(1)
    explanation = explain(stage, task_id)
    assert kinds(explanation) == [ReasonKind.LEADER_ABSENT]
    assert explanation.expected_start_at is None
    assert explanation.place is Place.STAGED


def test_an_absent_leader_is_told_with_the_last_sign_of_one(stage: Stage) -> None:
    leader = stage.leader()
    leader.step()
    leader.close()
    (task_id,) = stage.enqueue(1)
    last = stage.one("select max(at) from orchestrator.leadership_log")

    reason = reason_of(explain(stage, task_id), ReasonKind.LEADER_ABSENT)

    assert reason.since == last


def test_a_leader_that_leads_is_no_reason(stage: Stage) -> None:
    stage.leader()
    (task_id,) = stage.enqueue(1)
    assert kinds(explain(stage, task_id)) == [ReasonKind.NEXT_TICK]


def test_a_delayed_task_is_not_due_until_its_time(stage: Stage) -> None:
    stage.leader()
    (task_id,) = stage.enqueue(1, delay=60.0)
    explanation = explain(stage, task_id)
    reason = reason_of(explanation, ReasonKind.NOT_DUE)
    assert explanation.place is Place.SCHEDULED
    assert reason.until is not None
    assert 50 < (reason.until - explanation.at).total_seconds() <= 60
    assert reason.until.tzinfo is UTC


def test_pauses_bind_first_the_org_s_own_before_the_queue_s(stage: Stage) -> None:
    with Client(stage.dsn) as client:
        client.pause_org("a", "invoice overdue")
    stage.set_queue(paused_at="2026-01-01T00:00:00Z")
    (task_id,) = stage.enqueue(1, "a")
    explanation = explain(stage, task_id)
    assert kinds(explanation)[:2] == [ReasonKind.ORG_PAUSED, ReasonKind.QUEUE_PAUSED]
    assert explanation.reasons[0] is explanation.binding
    assert "invoice overdue" in explanation.reasons[0].text


def test_burst_max_names_the_tasks_that_hold_the_slots(stage: Stage) -> None:
    stage.set_org("a", burst_max=3)
    leader = stage.leader()
    held = stage.enqueue(3, "a")
    leader.step()
    claim(stage.db, 1)
    (task_id,) = stage.enqueue(1, "a")

    reason = explain(stage, task_id).reasons[0]

    assert (reason.kind, reason.count, reason.limit) == (ReasonKind.BURST_MAX, 3, 3)
    assert reason.tasks == tuple(held)


def test_a_full_queue_is_told_with_its_capacity(stage: Stage) -> None:
    stage.set_queue(capacity=2, express_reserve=0)
    leader = stage.leader()
    stage.enqueue(2, "b")
    leader.step()
    (task_id,) = stage.enqueue(1, "a")
    reason = explain(stage, task_id).reasons[0]
    assert (reason.kind, reason.count, reason.limit) == (ReasonKind.QUEUE_FULL, 2, 2)


def test_ordinary_work_is_told_of_the_reserve_and_a_false_express_flow_of_its_demotion(
    stage: Stage,
) -> None:
    stage.do(
        "update orchestrator.workload set express = true, express_max_s = 0.05 where name = 'api'"
    )
    stage.set_queue(capacity=10, express_reserve=4)
    leader = stage.leader()
    stage.enqueue(6, "b")
    leader.step()
    (ordinary,) = stage.enqueue(1, "a")
    (express,) = stage.enqueue(1, "a", workload="api")
    assert kinds(explain(stage, ordinary))[0] is ReasonKind.EXPRESS_RESERVE
    assert ReasonKind.EXPRESS_RESERVE not in kinds(explain(stage, express))

    leader.step()
    stage.do("update orchestrator.flow_state set cost_us = 90000 where workload = 'api'")
    (demoted,) = stage.enqueue(1, "a", workload="api")
    found = kinds(explain(stage, demoted))
    assert {ReasonKind.EXPRESS_RESERVE, ReasonKind.EXPRESS_DEMOTED} <= set(found)


def test_a_ready_task_counts_those_that_are_claimed_first(stage: Stage) -> None:
    leader = stage.leader()
    ids = stage.enqueue(5, "a")
    leader.step()
    claim(stage.db, 2)
    reason = explain(stage, ids[4]).reasons[0]
    assert (reason.kind, reason.count) == (ReasonKind.WAITING_FOR_WORKER, 2)


def test_a_claimed_task_names_its_worker_and_the_end_of_its_lease(stage: Stage) -> None:
    leader = stage.leader()
    (task_id,) = stage.enqueue(1)
    leader.step()
    (held,) = claim(stage.db, 1)
    explanation = explain(stage, task_id)
    reason = reason_of(explanation, ReasonKind.LEASED)
    assert explanation.place is Place.CLAIMED
    assert (reason.worker, reason.until) == ("test", held.lease_expires_at)


def test_a_retry_tells_of_the_failure_and_of_the_next_attempt(stage: Stage) -> None:
    leader = stage.leader()
    (task_id,) = stage.enqueue(1)
    leader.step()
    give_back(stage.db, claim(stage.db, 1), AttemptStatus.FAILED, delay_s=30.0)
    explanation = explain(stage, task_id)
    assert kinds(explanation) == [ReasonKind.NOT_DUE, ReasonKind.LAST_FAILURE]
    due, failed = explanation.reasons
    assert failed.status is AttemptStatus.FAILED
    assert failed.attempt == 1
    assert failed.until == due.until


def test_of_several_failures_the_last_one_is_told(stage: Stage) -> None:
    leader = stage.leader()
    (task_id,) = stage.enqueue(1)
    for status in (AttemptStatus.FAILED, AttemptStatus.LOST):
        leader.step()
        claims = claim(stage.db, 1)
        if status is AttemptStatus.LOST:
            stage.expire_leases()
            reap(stage.db)
        else:
            give_back(stage.db, claims, status)
    reason = reason_of(explain(stage, task_id), ReasonKind.LAST_FAILURE)
    assert (reason.attempt, reason.status) == (2, AttemptStatus.LOST)
    assert reason.until is None


def test_an_ended_task_tells_how_and_a_retried_one_waits_again(stage: Stage) -> None:
    leader = stage.leader()
    done, gone = stage.enqueue(2)
    leader.step()
    ack(stage.db, claim(stage.db, 1))
    cancel(stage.db, gone)
    assert reason_of(explain(stage, done), ReasonKind.ENDED).status is AttemptStatus.SUCCEEDED
    assert reason_of(explain(stage, gone), ReasonKind.ENDED).status is AttemptStatus.CANCELLED
    retry(stage.db, gone)
    assert kinds(explain(stage, gone)) == [ReasonKind.NEXT_TICK]


# The line


def test_the_own_tasks_ahead_are_those_of_higher_priority_and_the_earlier_ones(
    stage: Stage,
) -> None:
    stage.enqueue(4, "a")
    (task_id,) = stage.enqueue(1, "a")
    stage.enqueue(4, "a")
    stage.enqueue(2, "a", priority=9)
    stage.enqueue(3, "a", priority=1)
    reason = reason_of(explain(stage, task_id), ReasonKind.BEHIND_OWN_TASKS)
    assert (reason.count, reason.count_exact) == (6, True)


def test_an_org_that_was_served_less_goes_first_and_is_named(stage: Stage) -> None:
    stage.set_queue(cost_mode="count")
    leader = stage.leader()
    ids = stage.enqueue(60, "rich")
    leader.step()
    stage.enqueue(60, "poor")
    leader.step()  # the window is full: only the line is written down
    claim(stage.db, 2)
    leader.step()

    found = facts(stage, ids[40])
    reason = reason_of(explain(stage, ids[40]), ReasonKind.BEHIND_ORGS)

    assert reason.orgs == ("poor",)
    expected = leader.scheduler.orgs["poor"]
    assert found.line[0].tag == expected.main.tag
    assert found.line[0].flows[0].backlog == expected.backlog


def test_the_starts_ahead_are_those_that_then_come_first(stage: Stage) -> None:
    """Two orgs of unequal weight with backlogs: the forecast counts what the leader then does."""
    stage.set_queue(cost_mode="count", ready_max=4)
    stage.set_org("big", weight=3)
    stage.set_org("small", weight=1)
    leader = stage.leader()
    stage.enqueue(200, "big")
    ids = stage.enqueue(60, "small")
    for _ in range(10):
        leader.step()
        ack(stage.db, claim(stage.db, 4))
    leader.step()
    chosen = ids[30]
    own = reason_of(explain(stage, chosen), ReasonKind.BEHIND_OWN_TASKS).count
    found = facts(stage, chosen)
    ahead = standing(found).tasks
    assert own is not None

    first = [task.org for task in _until_claimed(stage, leader, chosen)]
    in_window = found.queue.ready
    assert first.count("small") == pytest.approx(own + in_window / 4, abs=2)
    assert len(first) == pytest.approx(ahead + in_window, abs=4)


def _until_claimed(stage: Stage, leader: Any, task_id: int) -> list[Any]:
    """Work until `task_id` is claimed; return what was claimed before it."""
    done: list[Any] = []
    while True:
        claims = claim(stage.db, 4)
        assert claims
        for number, task in enumerate(claims):
            if task.id == task_id:
                return done + claims[:number]
        ack(stage.db, claims)
        done += claims
        leader.step()


def test_a_position_beyond_the_bound_is_told_from_where_the_id_lies(stage: Stage) -> None:
    ids = [task_id for _ in range(4) for task_id in stage.enqueue(1_000, "a")]
    leader = stage.leader()
    leader.step()
    reason = reason_of(explain(stage, ids[3_000]), ReasonKind.BEHIND_OWN_TASKS)
    assert not reason.count_exact
    assert reason.count is not None
    assert 2_500 < reason.count < 3_500


def test_beyond_the_bound_priorities_that_hold_few_tasks_are_counted(stage: Stage) -> None:
    leader = stage.leader()
    stage.enqueue(5, "a", priority=9)
    ids = stage.enqueue(1_500, "a", priority=5)
    stage.enqueue(5, "a", priority=9)
    stage.do("update orchestrator.queue set paused_at = now()")
    leader.step()
    stage.do(
        "insert into orchestrator.flow_state (queue, org_id, workload, tag, backlog, express_tag,"
        " cost_us) values (1, 'a', 'etl', 0, 1510, 0, 0)"
    )
    ahead = facts(stage, ids[1_100]).task.ahead
    assert ahead.tasks == pytest.approx(1_110, abs=2)
    assert not ahead.exact


# What was measured


def test_the_ticks_tell_how_many_were_admitted_and_how_many_of_the_org(stage: Stage) -> None:
    leader = stage.leader()
    stage.enqueue(3, "a")
    leader.step()
    ids = stage.enqueue(4, "b")
    leader.step()
    (task_id,) = stage.enqueue(1, "b")

    found = facts(stage, task_id)

    assert [(pulse.admitted, pulse.own) for pulse in found.pulses] == [(4, 4), (3, 0)]
    assert {(flow.org, flow.admitted) for flow in found.recent} == {("a", 3), ("b", 4)}
    assert [pulse.ready for pulse in found.pulses] == [3, 0]
    assert (found.queue.ready, found.queue.claimed) == (7, 0)
    assert facts(stage, ids[0]).task.claimed_first == 3


def test_an_org_has_had_work_since_its_first_staged_task_was_enqueued(stage: Stage) -> None:
    first, last = stage.enqueue(2, "a")
    stage.do(
        "update orchestrator.task set created_at = created_at - interval '30 s' where id = %s",
        first,
    )
    assert 30 < facts(stage, last).task.waiting_s < 60


# What it costs


def test_an_explanation_reads_a_bounded_number_of_rows_whatever_the_backlog(stage: Stage) -> None:
    leader = stage.leader()
    small = _rows_read(stage, stage.enqueue(50, "a")[-1])
    for _ in range(10):
        stage.enqueue(1_000, "noisy")
        ids = stage.enqueue(1_000, "a")
    leader.step()
    large = _rows_read(stage, ids[-1])
    assert small < large < small + 3 * 1_000 + 500


def _rows_read(stage: Stage, task_id: int) -> int:
    """Return how many index entries and rows of staging one explanation reads."""
    probe = stage.connect()
    stage.do("select pg_stat_force_next_flush()")
    before = _read_so_far(stage)
    with probe.transaction():
        run(probe, store.explain(task_id))
    probe.execute("select pg_stat_force_next_flush()")
    return _read_so_far(stage) - before


def _read_so_far(stage: Stage) -> int:
    return int(
        stage.one(
            "select sum(i.idx_tup_read) + max(t.seq_tup_read) from pg_stat_user_indexes i"
            " join pg_stat_user_tables t on t.relid = i.relid where t.relname = 'staging_queue'"
        )
    )


def test_an_explanation_reads_one_snapshot_and_writes_nothing(stage: Stage) -> None:
    stage.leader().step()
    (task_id,) = stage.enqueue(1)
    operation = store.explain(task_id)
    seen: list[str] = []
    with stage.db.transaction():
        run(stage.db, _watched(operation, seen))
        isolation = stage.one("show transaction_isolation")
        read_only = stage.one("show transaction_read_only")
    assert (isolation, read_only) == ("repeatable read", "on")
    assert len(seen) < 20


def _watched(operation: Any, seen: list[str]) -> Any:
    """Pass `operation` on and note its statements."""
    try:
        request = next(operation)
        while True:
            calls = request.calls if hasattr(request, "calls") else [request]
            seen.extend(call.statement.decode() for call in calls)
            request = operation.send((yield request))
    except StopIteration as done:
        return done.value


# The clients


def test_both_clients_explain(stage: Stage) -> None:
    stage.leader()
    (task_id,) = stage.enqueue(1)

    async def ask() -> Explanation:
        async with AsyncClient(stage.dsn) as client:
            return await client.explain(task_id)

    with Client(stage.dsn) as client:
        ours = client.explain(task_id)
    theirs = asyncio.run(ask())
    assert ours.reasons == theirs.reasons
    assert timedelta(0) < theirs.at - ours.at < timedelta(seconds=60)


def test_an_engine_of_the_caller_is_left_as_it_was(stage: Stage) -> None:
    (task_id,) = stage.enqueue(1)
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(stage.dsn)
    )
    try:
        assert Client(engine).explain(task_id).place is Place.STAGED
        with engine.connect() as connection:
            for setting, value in (("transaction_isolation", "read committed"), ("jit", "on")):
                shown = connection.execute(sqlalchemy.text(f"show {setting}")).scalar()
                assert shown == value
    finally:
        engine.dispose()
