"""The past as a trace: every arrival with its worker time, the configuration, the slots in use."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.errors import InvalidInput, UnknownQueue
from orchestrator.fairness.simulation.policy import OrgSetting
from orchestrator.fairness.simulation.trace import Arrival
from orchestrator.model import AttemptStatus, CostMode, Policy
from orchestrator.policyfile import Draft
from orchestrator.store import history, orgs
from orchestrator.store import queue as store_queue
from orchestrator.store.history import History, Usage
from orchestrator.store.sql import run
from tests.support.stage import Stage
from tests.support.stepping import claim, endings, give_back, retry

MS = 1_000
SECOND = 1_000_000


def read(
    stage: Stage, window_s: float = 3600.0, *, page: int = 3, queue: str = "default"
) -> History:
    found: History = run(stage.db, history.read(queue, window_s, page=page))
    return found


def arrivals(stage: Stage, window_s: float = 3600.0, **options: Any) -> list[Arrival]:
    return list(read(stage, window_s, **options).trace)


def finish(
    stage: Stage, limit: int, cost_us: int, status: AttemptStatus = AttemptStatus.SUCCEEDED
) -> list[int]:
    """Claim up to `limit` tasks that will have run for `cost_us`, end them; return their ids."""
    claims = claim(stage.db, limit)
    stage.do("update orchestrator.task_queue set claimed_at = claimed_at - interval '1 hour'")
    ended = [one._replace(cost_us=cost_us) for one in endings(claims, status)]
    closing = sorted({one.claim_id for one in claims})
    if status is AttemptStatus.SUCCEEDED:
        run(stage.db, store_queue.finish(1, ended, worker="test", closing=closing))
    else:
        with stage.db.transaction():
            run(stage.db, store_queue.give_back(1, ended, worker="test"))
    return [one.id for one in claims]


def move_back(stage: Stage, seconds: float) -> None:
    """Let everything have happened `seconds` earlier."""
    stage.do(
        "update orchestrator.task set created_at = created_at - %s * interval '1 second'", seconds
    )
    stage.do(
        "update orchestrator.task_attempt set claimed_at = claimed_at - %s * interval '1 second',"
        " ended_at = ended_at - %s * interval '1 second'",
        seconds,
        seconds,
    )


def test_every_task_arrives_once_with_the_worker_time_it_took(stage: Stage) -> None:
    leader = stage.leader()
    stage.enqueue(4, "a", priority=9)
    stage.enqueue(3, "b", workload="api")
    leader.drain_ticks()
    assert len(finish(stage, 7, 250 * MS)) == 7
    found = read(stage)
    assert [a[1:] for a in found.trace] == [
        *[("a", "etl", 9, 250 * MS, False)] * 4,
        *[("b", "api", 5, 250 * MS, False)] * 3,
    ]
    assert (found.estimated, found.waited) == (0, 0)
    times = [a.at_us for a in found.trace]
    assert times == sorted(times)
    assert 3_500 * SECOND < times[0] < 3_600 * SECOND


@pytest.mark.parametrize("page", [1, 2, 7])
def test_pages_of_any_size_tell_the_same(stage: Stage, page: int) -> None:
    leader = stage.leader()
    for org in ("a", "b", "c"):
        stage.enqueue(5, org)
    leader.drain_ticks()
    for _ in range(3):
        finish(stage, 2, 100 * MS)
    stage.enqueue(5, "d", workload="api")
    # Nothing is claimed any more, so nothing changes but the clock.
    whole, paged = read(stage, page=5_000), read(stage, page=page)
    assert len(whole.trace) == 20
    assert whole.estimated == paged.estimated == 14
    assert [a[1:] for a in paged.trace] == [a[1:] for a in whole.trace]


def test_which_arrivals_are_critical_is_told_wherever_they_are(stage: Stage) -> None:
    leader = stage.leader()
    stage.set_queue(capacity=2)
    for org in ("ended", "claimed", "ready", "staged"):
        stage.enqueue(1, org, critical=True, priority=7)
        stage.enqueue(1, org)
        leader.drain_ticks()
        if org == "ended":
            finish(stage, 1, 100 * MS)
            finish(stage, 1, 100 * MS, AttemptStatus.FAILED)
        elif org == "claimed":
            # The retry of the task that failed goes on too.
            stage.set_queue(capacity=4)
            leader.drain_ticks()
            claim(stage.db, 3)
        elif org == "ready":
            stage.set_queue(capacity=1)
    found = arrivals(stage)
    assert {(a.org, a.priority, a.critical) for a in found} == {
        (org, priority, priority == 7)
        for org in ("ended", "claimed", "ready", "staged")
        for priority in (7, 5)
    }
    assert sum(a.critical for a in found) == 4


def test_a_retry_arrives_again_when_the_attempt_before_it_ended(stage: Stage) -> None:
    leader = stage.leader()
    stage.enqueue(1, "a")
    leader.drain_ticks()
    finish(stage, 1, 100 * MS, AttemptStatus.FAILED)
    move_back(stage, 60)
    leader.drain_ticks()
    finish(stage, 1, 300 * MS)
    first, again = arrivals(stage)
    assert [first.duration_us, again.duration_us] == [100 * MS, 300 * MS]
    ended_us = stage.one(
        "select extract(epoch from min(ended_at)) * 1000000 from orchestrator.task_attempt"
    )
    created_us = stage.one("select extract(epoch from created_at) * 1000000 from orchestrator.task")
    assert again.at_us - first.at_us == ended_us - created_us


def test_a_task_given_back_unharmed_arrives_once_when_it_was_enqueued(stage: Stage) -> None:
    leader = stage.leader()
    stage.enqueue(1, "a")
    leader.drain_ticks()
    give_back(stage.db, claim(stage.db, 1), AttemptStatus.RELEASED)
    stage.do("update orchestrator.task_attempt set cost_us = 0")
    leader.drain_ticks()
    finish(stage, 1, 300 * MS)
    stage.do("update orchestrator.task set created_at = created_at - interval '60 s'")
    (only,) = arrivals(stage)
    assert only.duration_us == 300 * MS
    # Not when it was given back, which is a moment ago.
    assert 3_400 * SECOND < only.at_us <= 3_540 * SECOND


def test_a_task_retried_by_hand_arrives_when_it_was_claimed(stage: Stage) -> None:
    leader = stage.leader()
    (task,) = stage.enqueue(1, "a", max_attempts=1)
    leader.drain_ticks()
    finish(stage, 1, 100 * MS, AttemptStatus.FAILED)
    move_back(stage, 600)
    retry(stage.db, task)
    leader.drain_ticks()
    claims = claim(stage.db, 1)
    run(
        stage.db,
        store_queue.finish(
            1, [e._replace(cost_us=1) for e in endings(claims, AttemptStatus.SUCCEEDED)], worker="w"
        ),
    )
    first, again = arrivals(stage)
    assert again.duration_us == 1
    assert 599 * SECOND < again.at_us - first.at_us < 660 * SECOND


def test_what_has_not_ended_is_expected_to_take_what_its_flow_takes(stage: Stage) -> None:
    leader = stage.leader()
    stage.set_queue(capacity=2)
    stage.enqueue(6, "a")
    stage.enqueue(2, "b")
    leader.drain_ticks()
    finish(stage, 2, 400 * MS)
    leader.drain_ticks()
    claim(stage.db, 1)
    stage.do(
        "update orchestrator.task_queue set claimed_at = claimed_at - interval '7 s'"
        " where claim_id is not null"
    )
    found = read(stage)
    assert len(found.trace) == 8
    assert found.estimated == 6
    durations = sorted(a.duration_us for a in found.trace)
    assert durations[:7] == [400 * MS] * 7
    assert 7 * SECOND <= durations[7] < 20 * SECOND


def test_what_waited_when_the_stretch_began_arrives_then_and_what_ran_is_left_out(
    stage: Stage,
) -> None:
    leader = stage.leader()
    stage.enqueue(2, "ran")
    leader.drain_ticks()
    claims = claim(stage.db, 2)
    stage.do("update orchestrator.task_queue set claimed_at = claimed_at - interval '100 s'")
    stage.enqueue(3, "waited")
    stage.do("update orchestrator.task set created_at = created_at - interval '200 s'")
    leader.drain_ticks()
    ended = [e._replace(cost_us=90 * SECOND) for e in endings(claims, AttemptStatus.SUCCEEDED)]
    run(stage.db, store_queue.finish(1, ended, worker="w"))
    late = claim(stage.db, 3)
    run(
        stage.db,
        store_queue.finish(
            1, [e._replace(cost_us=5) for e in endings(late, AttemptStatus.SUCCEEDED)], worker="w"
        ),
    )
    stage.enqueue(1, "new")
    found = read(stage, 60)
    assert [(a.org, a.at_us == 0) for a in found.trace] == [("waited", True)] * 3 + [("new", False)]
    assert (found.waited, found.estimated) == (3, 1)
    # The two that ran meanwhile held two slots.
    assert found.trace.slots == 2


def test_work_that_is_older_than_the_stretch_or_of_another_queue_is_not_read(stage: Stage) -> None:
    with stage.db.transaction():
        run(stage.db, orgs.set_queue("other", actor="test"))
    leader = stage.leader()
    stage.enqueue(2, "old")
    leader.drain_ticks()
    finish(stage, 2, 100 * MS)
    move_back(stage, 7200)
    stage.enqueue(2, "new")
    leader.drain_ticks()
    finish(stage, 2, 100 * MS)
    assert [a.org for a in arrivals(stage)] == ["new", "new"]
    assert [a.org for a in arrivals(stage, 10_000)] == ["old", "old", "new", "new"]
    with pytest.raises(InvalidInput, match="nothing arrived in queue 'other'"):
        read(stage, queue="other")
    with pytest.raises(UnknownQueue, match="no queue 'nope'"):
        read(stage, queue="nope")


def test_what_moves_while_it_is_read_counts_once(stage: Stage) -> None:
    leader = stage.leader()
    stage.enqueue(6, "a")
    moved: list[int] = []

    def move(rows: int) -> None:
        """Admit and end tasks between two pages."""
        leader.tick()
        moved.extend(finish(stage, 1, 100 * MS))

    found: History = run(stage.connect(), history.read("default", 3600, page=2, progress=move))
    assert len(moved) > 2
    assert len(found.trace) == 6
    # Only one that moved after the last page is still taken for unfinished.
    assert found.estimated <= 6 - len(moved) + 1


def test_reading_holds_no_snapshot_between_two_pages(stage: Stage) -> None:
    leader = stage.leader()
    stage.enqueue(9, "a")
    leader.drain_ticks()
    finish(stage, 9, 100 * MS)
    states: list[str] = []
    other = stage.connect()
    pid = other.info.backend_pid

    def look(rows: int) -> None:
        query = (
            "select state || coalesce(backend_xmin::text, '') from pg_stat_activity where pid = %s"
        )
        states.append(stage.one(query, pid))

    run(other, history.read("default", 3600, page=2, progress=look))
    assert len(states) > 2
    assert set(states) == {"idle"}


def test_the_configuration_in_force_is_what_a_simulation_starts_from(stage: Stage) -> None:
    with stage.db.transaction():
        run(stage.db, orgs.set_workload("chat", express=True, express_max_s=2.5, actor="test"))
        run(stage.db, orgs.pause_org("b", None, actor="test"))
    stage.set_org("a", tier="premium", weight=7, burst_max=3)
    stage.set_queue(capacity=50, headroom=2.0, express_reserve=4, kappa=30, policy="strict")
    draft: Draft = run(stage.db, history.configuration("default"))
    assert (draft.order, draft.cost_mode) == (Policy.STRICT, CostMode.TIME)
    policy = draft.policy
    assert (policy.capacity, policy.headroom, policy.express_reserve) == (50, 2.0, 4)
    assert policy.orgs == {
        "a": OrgSetting("premium", 7, 3, False),
        "b": OrgSetting("standard", None, None, True),
    }
    assert policy.workloads["chat"].express_max_us == 2_500 * MS
    with pytest.raises(UnknownQueue):
        run(stage.db, history.configuration("nope"))


def test_the_defaults_without_a_database_are_those_of_a_new_one(stage: Stage) -> None:
    draft: Draft = run(stage.db, history.configuration("default"))
    assert draft == Draft()


@pytest.mark.parametrize(
    ("spans", "slots"),
    [
        ([], None),
        ([(0, 500 * MS)], 1),
        ([(0, 4 * SECOND)] * 3, 3),
        # Two after one another in the same second are one slot.
        ([(0, 500 * MS), (500 * MS, SECOND)], 1),
        ([(-SECOND, SECOND), (9 * SECOND, 12 * SECOND), (9 * SECOND, 9 * SECOND + 800 * MS)], 2),
        ([(20 * SECOND, 30 * SECOND)], None),
    ],
)
def test_slots_are_the_most_worker_time_of_any_second(
    spans: list[tuple[int, int]], slots: int | None
) -> None:
    usage = Usage(10 * SECOND)
    for since_us, until_us in spans:
        usage.add(since_us, until_us)
    assert usage.slots == slots
