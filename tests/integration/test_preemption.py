"""A critical task whose org is at its cap has a task of that org yield, and takes its slot."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from psycopg import Connection

from orchestrator.errors import LeadershipLost
from orchestrator.model import AttemptStatus, Claim, Policy
from orchestrator.store.admission import Probe
from orchestrator.store.names import control_channel
from tests.support.invariants import check
from tests.support.stage import Stage
from tests.support.stepping import (
    SteppedLeader,
    ack,
    cancel,
    claim,
    enqueue,
    extend,
    give_back,
    reap,
    tasks,
)


def leading(stage: Stage) -> SteppedLeader:
    """Return an elected leader that looks at what runs in every tick."""
    leader = stage.leader()
    leader.reign.tick.preemption.interval_s = 0.0
    return leader


def run_all(stage: Stage, leader: SteppedLeader) -> list[Claim]:
    """Admit and claim all that may be, each under a lease of its own."""
    leader.drain_ticks()
    claims: list[Claim] = []
    while each := claim(stage.db, 1):
        claims += each
    return claims


def running(stage: Stage, leader: SteppedLeader, *priorities: int, org: str = "a") -> list[Claim]:
    """Fill an org's cap with tasks of these priorities that run; return them in that order."""
    stage.set_org(org, burst_max=len(priorities))
    ids = [stage.enqueue(1, org, priority=priority)[0] for priority in priorities]
    by_id = {each.id: each for each in run_all(stage, leader)}
    return [by_id[task_id] for task_id in ids]


def asked(stage: Stage) -> list[int]:
    """Return the tasks that are told to yield by their leases."""
    return [
        task_id
        for (task_id,) in stage.rows(
            "select q.task_id from orchestrator.lease l, unnest(l.yielding) as k(dispatch_key)"
            " join orchestrator.task_queue q on q.dispatch_key = k.dispatch_key order by 1"
        )
    ]


def told(db: Connection, claims: Sequence[Claim]) -> set[int]:
    """Return which of the claims a heartbeat would hear should yield."""
    keys = {key for extension in extend(db, claims) for key in extension.yielding}
    return {each.id for each in claims if each.dispatch_key in keys}


def yields(stage: Stage, held: Claim) -> None:
    verdicts = give_back(stage.db, [held], AttemptStatus.SNOOZED)
    assert verdicts == {held.dispatch_key: AttemptStatus.SNOOZED}


def test_the_lowest_running_task_yields_and_the_critical_one_takes_its_slot(stage: Stage) -> None:
    leader = leading(stage)
    high, low, middle = running(stage, leader, 7, 2, 5)
    (critical,) = stage.enqueue(1, critical=True, priority=10)
    assert leader.tick().admitted == 0
    assert told(stage.db, [high, low, middle]) == {low.id}
    yields(stage, low)
    assert leader.tick().admitted == 1
    (urgent,) = claim(stage.db, 5)
    assert (urgent.id, urgent.priority) == (critical, 10)
    # The yielded task waits in its old place, and its attempt was not counted.
    assert stage.rows("select task_id, neg_priority, attempt from orchestrator.staging_queue") == [
        (low.id, -2, 0)
    ]
    ack(stage.db, [urgent])
    assert leader.tick().admitted == 1
    (again,) = claim(stage.db, 5)
    assert (again.id, again.attempt) == (low.id, 1)
    assert asked(stage) == []
    assert leader.sweep() == []
    check(stage.db)


def test_the_yielded_slot_is_charged_to_the_flow_of_the_critical_task(stage: Stage) -> None:
    stage.set_queue(cost_mode="count")
    leader = leading(stage)
    (low,) = running(stage, leader, 1)
    stage.enqueue(1, workload="api", critical=True)
    leader.tick()
    flows = leader.scheduler.orgs["a"].flows
    etl = flows["etl"].tags[0]
    yields(stage, low)
    leader.tick()
    assert flows["etl"].tags[0] == etl
    assert flows["api"].tags[0] > leader.scheduler.orgs["a"].main.virtual_time


def test_one_request_is_made_for_each_critical_task_and_no_more(stage: Stage) -> None:
    leader = leading(stage)
    claims = running(stage, leader, 3, 4, 5, 6)
    stage.enqueue(1, critical=True, priority=10)
    for _ in range(5):
        leader.tick()
    assert asked(stage) == [claims[0].id]
    stage.enqueue(1, critical=True, priority=10, workload="api")
    for _ in range(5):
        leader.tick()
    assert asked(stage) == [claims[0].id, claims[1].id]


def test_nobody_is_asked_across_orgs(stage: Stage) -> None:
    leader = leading(stage)
    theirs = running(stage, leader, 2, 1, org="b")
    ours = running(stage, leader, 9)
    stage.enqueue(1, critical=True, priority=10)
    leader.tick()
    assert asked(stage) == [ours[0].id]
    assert told(stage.db, theirs) == set()
    # Nor where both are looked at together.
    stage.enqueue(1, "b", critical=True, priority=10)
    leader.tick()
    assert sorted(asked(stage)) == sorted([ours[0].id, theirs[1].id])


@pytest.mark.parametrize("priority", [5, 10])
def test_a_task_of_equal_priority_is_not_asked(stage: Stage, priority: int) -> None:
    leader = leading(stage)
    running(stage, leader, priority, 10)
    stage.enqueue(1, critical=True, priority=priority)
    leader.tick()
    assert asked(stage) == []


def test_a_critical_task_is_never_asked(stage: Stage) -> None:
    leader = leading(stage)
    stage.set_org("a", burst_max=1)
    stage.enqueue(1, critical=True, priority=1)
    run_all(stage, leader)
    stage.enqueue(1, critical=True, priority=10)
    leader.tick()
    assert asked(stage) == []


def test_below_the_cap_nobody_is_asked(stage: Stage) -> None:
    leader = leading(stage)
    stage.set_org("a", burst_max=3)
    stage.enqueue(2, priority=1)
    run_all(stage, leader)
    (critical,) = stage.enqueue(1, critical=True, priority=10)
    assert leader.tick().admitted == 1
    assert [each.id for each in claim(stage.db, 1)] == [critical]
    assert asked(stage) == []


@pytest.mark.parametrize("what", ["org", "queue"])
def test_while_its_org_or_queue_is_paused_nobody_is_asked(stage: Stage, what: str) -> None:
    leader = leading(stage)
    (low,) = running(stage, leader, 1)
    if what == "org":
        stage.do("update orchestrator.org_config set paused_at = now()")
    else:
        stage.set_queue(paused_at="2026-01-01")
    leader.tick()
    stage.enqueue(1, critical=True, priority=10)
    leader.tick()
    assert asked(stage) == []
    stage.do("update orchestrator.org_config set paused_at = null")
    stage.set_queue(paused_at=None)
    leader.tick()
    leader.tick()
    assert asked(stage) == [low.id]


def test_a_critical_task_goes_first_in_its_org_whatever_flow_it_is_in(stage: Stage) -> None:
    stage.set_queue(cost_mode="count")
    leader = leading(stage)
    stage.set_org("a", burst_max=1)
    stage.enqueue(3, workload="api", priority=10)
    stage.enqueue(3, workload="etl", priority=10)
    (critical,) = stage.enqueue(1, workload="etl", critical=True, priority=1)
    assert leader.tick().admitted == 1
    assert [each.id for each in claim(stage.db, 1)] == [critical]


def in_turn(stage: Stage, leader: SteppedLeader) -> list[int]:
    """Tick and work, one task at a time, until nothing waits; return the ids in their order."""
    stage.set_queue(ready_max=1)
    done: list[int] = []
    while leader.tick().admitted:
        claims = claim(stage.db, 1)
        done += [each.id for each in claims]
        ack(stage.db, claims)
    return done


def test_no_ordinary_task_goes_with_the_last_critical_one_of_its_flow(stage: Stage) -> None:
    stage.set_queue(cost_mode="count", ready_max=1)
    leader = leading(stage)
    # By share `api` would be next, each time.
    stage.do("update orchestrator.workload set share = case name when 'api' then 100 else 1 end")
    stage.enqueue(5, workload="api")
    stage.enqueue(5, workload="etl")
    critical = stage.enqueue(2, workload="api", critical=True)
    critical += stage.enqueue(2, workload="etl", critical=True)
    order = in_turn(stage, leader)
    assert set(order[:4]) == set(critical)
    assert len(order) == 14


@pytest.mark.parametrize("after", ["election", "overflow"])
def test_a_critical_task_that_was_counted_is_not_told_of_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    """What is staged before a count of the tables, and told by the feed after it, counts once."""
    first = leading(stage)
    stage.enqueue(1, "b")
    first.tick()
    if after == "election":
        first.close()
    else:
        monkeypatch.setattr("orchestrator.store.admission.FEED_MAX", 1)
    stage.enqueue(3, workload="api")
    stage.enqueue(2, workload="api", critical=True)
    leader = leading(stage) if after == "election" else first
    stage.set_org("a", burst_max=1)
    leader.tick()
    # One of the two was admitted.
    assert leader.scheduler.orgs["a"].flows["api"].critical == 1


def test_critical_tasks_beyond_the_bound_of_a_count_go_first_too(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.store.preemption._COUNT_MAX", 2)
    stage.set_queue(cost_mode="count", ready_max=1)
    leader = leading(stage)
    # Read by the feed of the term before.
    stage.enqueue(5, workload="api")
    critical = stage.enqueue(5, workload="etl", critical=True)
    stage.set_queue(paused_at="2026-01-01T00:00:00Z")
    leader.step()
    leader.close()
    stage.set_queue(paused_at=None)
    assert in_turn(stage, leading(stage))[:5] == critical


def test_a_critical_task_that_took_the_turn_of_another_leaves_it_critical(stage: Stage) -> None:
    """It was staged first and committed between the feed and the admission: no feed tells of it."""
    stage.set_queue(cost_mode="count", ready_max=1)
    stage.do("update orchestrator.workload set share = case name when 'api' then 100 else 1 end")
    leader = leading(stage)
    stage.enqueue(3, workload="api")
    other = stage.connect()
    other.autocommit = False
    (early,) = enqueue(other, tasks(1, workload="etl", critical=True))
    (late,) = stage.enqueue(1, workload="etl", critical=True)
    read = leader.reign.tick._observe

    def observe(probe: Probe) -> None:
        other.commit()
        read(probe)

    leader.reign.tick._observe = observe  # type: ignore[method-assign]
    assert in_turn(stage, leader)[:2] == [early.id, late]


def test_the_request_is_harmless_where_the_task_ends_by_itself(stage: Stage) -> None:
    leader = leading(stage)
    low, high = running(stage, leader, 1, 9)
    (critical,) = stage.enqueue(1, critical=True, priority=10)
    leader.tick()
    ack(stage.db, [low])
    leader.tick()
    assert [each.id for each in claim(stage.db, 2)] == [critical]
    leader.tick()
    assert asked(stage) == []
    assert told(stage.db, [high]) == set()


def test_a_request_that_nobody_needs_any_more_is_withdrawn(stage: Stage) -> None:
    leader = leading(stage)
    low, high = running(stage, leader, 1, 9)
    stage.enqueue(1, critical=True, priority=10)
    leader.tick()
    assert told(stage.db, [low]) == {low.id}
    # Another ends first: its slot is the critical task's.
    ack(stage.db, [high])
    leader.tick()
    leader.tick()
    assert told(stage.db, [low]) == set()
    assert not leader.tick().blocked


def test_a_cancelled_critical_task_withdraws_its_request(stage: Stage) -> None:
    leader = leading(stage)
    (low,) = running(stage, leader, 1)
    (critical,) = stage.enqueue(1, critical=True, priority=10)
    leader.tick()
    assert asked(stage) == [low.id]
    cancel(stage.db, critical)
    leader.tick()
    assert asked(stage) == []


def test_a_task_that_was_cancelled_makes_room_so_that_no_other_is_asked(stage: Stage) -> None:
    leader = leading(stage)
    low, high = running(stage, leader, 1, 9)
    cancel(stage.db, high.id)
    stage.enqueue(1, critical=True, priority=10)
    leader.tick()
    assert asked(stage) == []
    assert told(stage.db, [low]) == set()


def test_a_task_that_does_not_yield_keeps_its_slot_and_no_other_is_asked(stage: Stage) -> None:
    leader = leading(stage)
    low, high = running(stage, leader, 1, 9)
    (critical,) = stage.enqueue(1, critical=True, priority=10)
    for _ in range(3):
        assert leader.tick().admitted == 0
        extend(stage.db, [low, high])
    assert asked(stage) == [low.id]
    # Its worker dies: the lease ends, and the slot is free after all.
    stage.expire_leases([low.claim_id])
    assert reap(stage.db) == [(low.id, AttemptStatus.LOST)]
    leader.tick()
    assert [each.id for each in claim(stage.db, 2)] == [critical]


def test_a_new_leader_finds_the_request_and_asks_nobody_else(stage: Stage) -> None:
    first = leading(stage)
    claims = running(stage, first, 1, 2, 3)
    stage.enqueue(1, critical=True, priority=10)
    first.tick()
    assert asked(stage) == [claims[0].id]
    first.close()
    second = leading(stage)
    for _ in range(3):
        second.tick()
    assert asked(stage) == [claims[0].id]
    # The leader that asked never admits; the other one does.
    yields(stage, claims[0])
    assert second.tick().admitted == 1
    assert [each.priority for each in claim(stage.db, 1)] == [10]


def test_a_leader_that_begins_with_a_waiting_critical_task_asks_for_it(stage: Stage) -> None:
    first = leading(stage)
    (low,) = running(stage, first, 1)
    # Read by the feed of a term that ends before it asks anybody.
    stage.enqueue(1, critical=True, priority=10)
    first.reign.tick.preemption.interval_s = 3600.0
    first.reign.tick.preemption._looked_at = float("inf")
    first.reign.tick.preemption.note = lambda work: None  # type: ignore[method-assign]
    first.tick()
    assert asked(stage) == []
    first.close()
    second = leading(stage)
    second.tick()
    assert asked(stage) == [low.id]


def test_a_request_whose_critical_task_went_with_the_old_leader_is_withdrawn(stage: Stage) -> None:
    first = leading(stage)
    (low,) = running(stage, first, 1)
    (critical,) = stage.enqueue(1, critical=True, priority=10)
    first.tick()
    first.close()
    cancel(stage.db, critical)
    assert asked(stage) == [low.id]
    second = leading(stage)
    second.tick()
    assert asked(stage) == []


def test_a_deposed_leader_asks_nobody(stage: Stage) -> None:
    first = leading(stage)
    running(stage, first, 1)
    stage.leader(lock=False)
    stage.enqueue(1, critical=True, priority=10)
    with pytest.raises(LeadershipLost):
        first.tick()
    assert asked(stage) == []


def test_a_critical_task_that_failed_is_critical_again(stage: Stage) -> None:
    leader = leading(stage)
    low, high = running(stage, leader, 1, 9)
    stage.enqueue(1, critical=True, priority=10)
    leader.tick()
    yields(stage, low)
    leader.tick()
    (urgent,) = claim(stage.db, 1)
    give_back(stage.db, [urgent], AttemptStatus.FAILED)
    # It is before the one that yielded, and its own slot is the one it takes.
    leader.tick()
    assert [each.id for each in claim(stage.db, 2)] == [urgent.id]
    assert told(stage.db, [high]) == set()


def test_its_workers_are_notified_of_the_lease_to_look_at(stage: Stage) -> None:
    leader = leading(stage)
    low, high = running(stage, leader, 1, 9)
    ear = stage.connect()
    ear.execute(f"listen {control_channel(1)}".encode())
    stage.enqueue(1, critical=True, priority=10)
    leader.tick()
    cancel(stage.db, high.id)
    heard = [notice.payload for notice in ear.notifies(timeout=5, stop_after=2)]
    assert heard == [str(low.claim_id), str(high.claim_id)]


def test_of_many_running_tasks_the_lowest_is_found_over_several_ticks(stage: Stage) -> None:
    leader = leading(stage)
    stage.set_org("a", burst_max=450)
    stage.enqueue(449, priority=5)
    (lowest,) = stage.enqueue(1, priority=2)
    leader.reign.tick.window.parked = 450
    assert len(run_all(stage, leader)) == 450
    stage.enqueue(1, critical=True, priority=10)
    looks = 1
    while leader.tick().more:
        looks += 1
    assert looks > 1
    assert asked(stage) == [lowest]


def test_under_the_strict_policy_no_worse_workload_goes_before_a_better_one(stage: Stage) -> None:
    stage.set_queue(policy=Policy.STRICT.value)
    leader = leading(stage)
    (low,) = running(stage, leader, 1)
    stage.enqueue(1, workload="api")
    stage.enqueue(1, workload="etl", critical=True, priority=10)
    leader.tick()
    # A slot would go to the better workload: nobody yields for that.
    assert asked(stage) == []
    (urgent,) = stage.enqueue(1, workload="api", critical=True, priority=10)
    leader.tick()
    assert asked(stage) == [low.id]
    yields(stage, low)
    leader.tick()
    assert [each.id for each in claim(stage.db, 1)] == [urgent]
