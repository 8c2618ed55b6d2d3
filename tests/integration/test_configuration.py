"""Configuration and ticks: which value is in force at an admission, whoever came first."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from orchestrator.config import Settings
from orchestrator.model import Policy
from orchestrator.store import orgs
from orchestrator.store.sql import run
from tests.support.replica import replica_thread
from tests.support.stage import Stage
from tests.support.stepping import SteppedLeader, ack, claim
from tests.support.waiting import PATIENCE_S, until, until_blocked


def in_flight(stage: Stage, org: str = "a") -> int:
    count: int = stage.one("select count(*) from orchestrator.task_queue where org_id = %s", org)
    return count


def ticked(stage: Stage, times: int) -> bool:
    return bool(stage.one("select count(*) > %s from orchestrator.tick_log", times))


def lock_row(stage: Stage, query: str, *params: object) -> Any:
    """Return a connection whose open transaction holds the row of `query`."""
    holder = stage.connect()
    holder.execute("begin")
    holder.execute(query.encode(), params)
    return holder


def test_a_change_committed_before_the_fence_is_in_force_in_that_tick(stage: Stage) -> None:
    leader = stage.leader()
    stage.enqueue(10)
    operator = stage.connect()
    operator.execute("begin")
    run(operator, orgs.set_org("a", burst_max=3, actor="test"))
    # What a commit does first: from here on the operator holds the fence.
    operator.execute("set constraints all immediate")
    tick = stage.start(leader.tick)
    until_blocked(stage.db, leader.connection, by=operator)
    operator.execute("commit")
    assert tick.result(PATIENCE_S).admitted == 3
    assert in_flight(stage) == 3


def test_a_change_waits_for_the_tick_that_holds_the_fence(stage: Stage) -> None:
    leader = stage.leader()
    stage.enqueue(10)
    # The tick has the fence and has planned; now it cannot persist.
    holder = lock_row(stage, "select from orchestrator.queue_state where queue = 1 for update")
    tick = stage.start(leader.tick)
    until_blocked(stage.db, leader.connection, by=holder)
    operator = stage.connect()
    change = stage.start(lambda: run(operator, orgs.set_org("a", burst_max=3, actor="test")))
    until_blocked(stage.db, operator, by=leader.connection)
    assert not change.done()
    holder.execute("commit")
    assert tick.result(PATIENCE_S).admitted == 10
    change.result(PATIENCE_S)
    stage.enqueue(5)
    assert leader.tick().admitted == 0


def test_an_open_transaction_of_an_operator_holds_up_no_tick(stage: Stage) -> None:
    leader = stage.leader()
    operator = stage.connect()
    operator.execute("begin")
    run(operator, orgs.set_org("a", burst_max=3, actor="test"))
    stage.enqueue(10)
    assert leader.tick().admitted == 10
    operator.execute("rollback")


def test_no_admission_after_a_lowered_cap_returned_goes_over_it(stage: Stage) -> None:
    leader = stage.leader()
    draw = random.Random(7)
    stage.set_org("a", burst_max=20)
    stage.enqueue(2_000)
    going = True

    def lead() -> None:
        while going:
            leader.tick()

    def work() -> None:
        connection = stage.connect()
        while going:
            ack(connection, claim(connection, 3))

    threads = [stage.start(lead), stage.start(work)]
    for change in range(50):
        cap = draw.randint(1, 20)
        stage.set_org("a", burst_max=cap)
        # What was admitted before may stay; what is admitted from here on may not go over.
        held = in_flight(stage)
        for _ in range(3):
            now = in_flight(stage)
            assert now <= max(cap, held)
            held = now
        until(partial(ticked, stage, change // 2), "ticks go on between the changes")
    going = False
    for thread in threads:
        thread.result(PATIENCE_S)


def test_lowering_a_cap_below_what_is_in_flight_kills_nothing_and_admits_nothing(
    stage: Stage,
) -> None:
    leader = stage.leader()
    stage.set_org("a", burst_max=6)
    stage.enqueue(10)
    assert leader.drain_ticks() == 6
    stage.set_org("a", burst_max=2)
    for left in (6, 5, 4, 3):
        leader.tick()
        assert in_flight(stage) == left
        ack(stage.db, claim(stage.db, 1))
    leader.tick()
    assert in_flight(stage) == 2
    ack(stage.db, claim(stage.db, 1))
    assert leader.tick().admitted == 1
    assert in_flight(stage) == 2


def test_deleting_an_org_s_row_resets_it_to_the_default_tier(stage: Stage) -> None:
    stage.do("update orchestrator.tier set burst_max = 4 where name = 'standard'")
    stage.set_org("a", burst_max=2)
    stage.set_org("b", burst_max=1)
    leader = stage.leader()
    stage.enqueue(10)
    stage.enqueue(10, "b")
    assert leader.drain_ticks() == 3
    stage.do("delete from orchestrator.org_config where org_id = 'a'")
    leader.drain_ticks()
    assert (in_flight(stage, "a"), in_flight(stage, "b")) == (4, 1)


def test_a_tier_and_an_org_changed_in_one_transaction_are_in_force_together(stage: Stage) -> None:
    leader = stage.leader()
    stage.enqueue(10)
    stage.enqueue(10, "b")
    stage.do("update orchestrator.tier set burst_max = 3 where name = 'free'")
    with stage.db.transaction():
        run(stage.db, orgs.set_tier("free", burst_max=2, actor="test"))
        run(stage.db, orgs.set_org("a", tier="free", actor="test"))
        run(stage.db, orgs.set_org("b", tier="free", burst_max=5, actor="test"))
    leader.drain_ticks()
    assert (in_flight(stage, "a"), in_flight(stage, "b")) == (2, 5)


def test_a_paused_org_is_not_admitted_until_it_is_resumed(stage: Stage) -> None:
    leader = stage.leader()
    run(stage.db, orgs.pause_org("a", "unpaid", actor="test"))
    stage.enqueue(3)
    stage.enqueue(2, "b")
    assert leader.drain_ticks() == 2
    run(stage.db, orgs.resume_org("a", actor="test"))
    assert leader.drain_ticks() == 3


def test_a_paused_queue_admits_nothing_and_lets_what_is_admitted_go_on(stage: Stage) -> None:
    leader = stage.leader()
    stage.enqueue(3)
    leader.drain_ticks()
    run(stage.db, orgs.pause_queue("default", paused=True, actor="test"))
    stage.enqueue(3)
    assert leader.drain_ticks() == 0
    assert len(ack(stage.db, claim(stage.db, 10))) == 3
    assert leader.drain_ticks() == 0
    run(stage.db, orgs.pause_queue("default", paused=False, actor="test"))
    assert leader.drain_ticks() == 3


def test_the_capacity_of_a_queue_bounds_what_is_in_flight(stage: Stage) -> None:
    leader = stage.leader()
    run(stage.db, orgs.set_queue("default", capacity=4, actor="test"))
    for org in "abc":
        stage.enqueue(5, org)
    assert leader.drain_ticks() == 4
    assert leader.scheduler.in_flight == 4
    ack(stage.db, claim(stage.db, 3))
    assert leader.drain_ticks() == 3
    run(stage.db, orgs.set_queue("default", capacity=None, actor="test"))
    assert leader.drain_ticks() == 8


def test_another_policy_at_run_time_keeps_every_count(stage: Stage) -> None:
    leader = stage.leader()
    leader.reign.tick.window.parked = 100
    stage.set_org("a", tier="free", burst_max=3)
    stage.set_org("b", tier="enterprise", burst_max=4)
    for org in "ab":
        stage.enqueue(20, org)
    assert leader.drain_ticks() == 7
    run(stage.db, orgs.set_queue("default", policy=Policy.STRICT, actor="test"))
    assert leader.drain_ticks() == 0
    scheduler = leader.scheduler
    assert {o.org: (o.in_flight, o.backlog) for o in scheduler.orgs.values()} == {
        "a": (3, 17),
        "b": (4, 16),
    }
    assert (scheduler.in_flight, scheduler.backlog) == (7, 33)
    run(stage.db, orgs.set_queue("default", capacity=9, actor="test"))
    stage.set_org("a", burst_max=None)
    stage.set_org("b", burst_max=None)
    # Strict: what is free goes to the better tier.
    assert leader.drain_ticks() == 2
    assert (in_flight(stage, "a"), in_flight(stage, "b")) == (3, 6)
    run(stage.db, orgs.set_queue("default", policy=Policy.WEIGHTED, capacity=None, actor="test"))
    assert leader.drain_ticks() == 31
    assert leader.sweep() == []


def test_what_is_shown_to_wait_is_still_true_under_another_policy(stage: Stage) -> None:
    run(stage.db, orgs.pause_queue("default", paused=True, actor="test"))
    stage.enqueue(5)
    with replica_thread(stage.dsn, Settings()) as replica:
        until(lambda: [vitals.staged() for vitals in replica._led()] == [5], "it knows of all")
        run(stage.db, orgs.set_queue("default", policy=Policy.STRICT, actor="test"))
        run(stage.db, orgs.pause_queue("default", paused=False, actor="test"))
        until(lambda: [vitals.staged() for vitals in replica._led()] == [0], "all are admitted")


def elect_after(stage: Stage, change: Callable[[], None]) -> SteppedLeader:
    """Elect a candidate that stood, and read its queue, before `change` was committed."""
    candidate = stage.candidate()
    change()
    return candidate.elect()


CHANGES: dict[str, tuple[dict[str, Any], int]] = {
    "capacity": ({"capacity": 2}, 2),
    "ready_max": ({"ready_max": 3}, 3),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_queue_changed_while_a_candidate_stood_is_in_force_from_its_first_tick(
    stage: Stage, change: str
) -> None:
    fields, admitted = CHANGES[change]
    leader = elect_after(
        stage, lambda: run(stage.db, orgs.set_queue("default", actor="test", **fields))
    )
    stage.enqueue(10)
    assert leader.drain_ticks() == admitted


def test_a_queue_paused_while_a_candidate_stood_stays_paused(stage: Stage) -> None:
    leader = elect_after(
        stage, lambda: run(stage.db, orgs.pause_queue("default", paused=True, actor="test"))
    )
    stage.enqueue(10)
    assert leader.drain_ticks() == 0


def test_a_policy_changed_while_a_candidate_stood_is_the_policy_of_its_term(stage: Stage) -> None:
    stage.set_org("a", tier="free")
    stage.set_org("b", tier="enterprise")
    leader = elect_after(
        stage,
        lambda: run(
            stage.db, orgs.set_queue("default", policy=Policy.STRICT, capacity=4, actor="t")
        ),
    )
    for org in "ab":
        stage.enqueue(10, org)
    leader.drain_ticks()
    assert (in_flight(stage, "a"), in_flight(stage, "b")) == (0, 4)


def test_a_change_that_commits_while_a_term_opens_is_in_force_from_its_first_tick(
    stage: Stage,
) -> None:
    operator = stage.connect()

    def change() -> None:
        # The version has moved on, the commit is yet to come: the new leader reads in between.
        operator.execute("begin")
        run(operator, orgs.set_org("a", burst_max=1, actor="test"))
        operator.execute("set constraints all immediate")

    stage.set_org("a", burst_max=9)
    candidate = stage.candidate(alive=change)
    election = stage.start(candidate.elect)
    # It reads what it can, and takes the fence only where it must.
    until(lambda: election.done() or waits(stage, candidate), "the term opens")
    operator.execute("commit")
    leader = election.result(PATIENCE_S)
    stage.enqueue(10)
    leader.drain_ticks()
    assert in_flight(stage) == 1


def waits(stage: Stage, leader: SteppedLeader) -> bool:
    query = "select cardinality(pg_blocking_pids(%s)) > 0"
    return bool(stage.one(query, leader.connection.info.backend_pid))


def test_an_org_met_only_by_the_sweep_has_its_cap(stage: Stage) -> None:
    leader = stage.leader()
    leader.tick()
    stage.set_org("a", burst_max=1)
    stage.enqueue(5)
    # As if a restore, or hands, had put the rows below every feed.
    stage.do("update orchestrator.staging_queue set xid = '3'")
    leader.tick()
    assert in_flight(stage) == 0
    assert len(leader.sweep()) == 1
    leader.drain_ticks()
    assert in_flight(stage) == 1
