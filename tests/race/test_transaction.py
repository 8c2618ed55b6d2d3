"""The transaction of a tick is one round trip: what it stands on is looked at again inside it."""

from __future__ import annotations

import time

import pytest
from psycopg import Connection

from orchestrator.errors import LeadershipLost
from orchestrator.leader import cut
from orchestrator.store import admission, tasks
from orchestrator.store.admission import Parked
from orchestrator.store.names import floor_sequence, ready_channel
from orchestrator.store.sql import batch, run
from orchestrator.wakeup.summons import summons
from tests.support.invariants import check
from tests.support.stage import Stage
from tests.support.stepping import SteppedLeader, cancel, claim
from tests.support.waiting import PATIENCE_S, until, until_blocked

ORGS = [f"org {number}" for number in range(5)]


@pytest.fixture(params=[2, cut.ORGS_AT_ONCE], ids=["in portions", "at once"])
def leader(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> SteppedLeader:
    """Lead, and know of nothing yet that a tick could say of the orgs."""
    monkeypatch.setattr(cut, "ORGS_AT_ONCE", request.param)
    return stage.leader()


def hold_fence(stage: Stage) -> Connection[object]:
    """Keep every tick waiting between its plan and its fence."""
    holder = stage.connect()
    holder.execute("begin")
    holder.execute("select from orchestrator.orchestrator_lock for update")
    return holder


def admitted(stage: Stage) -> list[int]:
    return [row[0] for row in stage.rows("select task_id from orchestrator.task_queue order by 1")]


def assert_admitted(stage: Stage, ids: list[int], leader: SteppedLeader) -> None:
    """Assert that these tasks are admitted, and that neither term has anything to repair."""
    assert admitted(stage) == ids
    check(stage.db)
    assert leader.sweep() == []
    assert stage.leader(lock=False).sweep() == []


def test_a_task_cancelled_between_plan_and_fence_leaves_the_others_admitted(
    stage: Stage, leader: SteppedLeader
) -> None:
    ids = [stage.enqueue(1, org)[0] for org in ORGS]
    holder = hold_fence(stage)
    tick = stage.start(leader.tick)
    until_blocked(stage.db, leader.connection, by=holder)
    cancel(stage.db, ids[1])
    holder.execute("commit")
    assert tick.result(PATIENCE_S).admitted == len(ids) - 1
    assert_admitted(stage, [ids[0], *ids[2:]], leader)


def test_a_task_cancelled_under_the_eyes_of_the_statement_leaves_the_others_admitted(
    stage: Stage, leader: SteppedLeader
) -> None:
    ids = [stage.enqueue(1, org)[0] for org in ORGS]
    holder = stage.connect()
    holder.execute("begin")
    run(holder, tasks.cancel(ids[1], reason="test"))
    tick = stage.start(leader.tick)
    # It sees the row, and waits for whoever takes it away.
    until_blocked(stage.db, leader.connection, by=holder)
    holder.execute("commit")
    assert tick.result(PATIENCE_S).admitted == len(ids) - 1
    assert_admitted(stage, [ids[0], *ids[2:]], leader)


def test_a_tick_that_did_nothing_in_the_end_has_called_nobody(
    stage: Stage, leader: SteppedLeader
) -> None:
    rota = leader.reign.tick.rota
    rota.learn([Parked(1, concurrency=1), Parked(2, concurrency=1)], time.monotonic())
    # Two of them are all that a worker does soon.
    leader.scheduler.cost_us = 5_000
    stage.enqueue(1)
    assert leader.tick().standing, "one was called, and may be dead"
    listener = stage.connect()
    listener.execute(f"listen {ready_channel(1)}".encode())
    ids = stage.enqueue(2)
    holder = stage.connect()
    holder.execute("begin")
    for task_id in ids:
        run(holder, tasks.cancel(task_id, reason="test"))
    # This one would call both.
    tick = stage.start(leader.tick)
    until_blocked(stage.db, leader.connection, by=holder)
    holder.execute("commit")
    assert tick.result(PATIENCE_S).admitted == 0
    # As soon as the one that was called has shown that it does not come.
    until(lambda: not leader.tick().standing, "all were called")
    calls = listener.notifies(timeout=PATIENCE_S, stop_after=1)
    assert [call.payload for call in calls] == [summons([])]


def test_an_org_paused_between_plan_and_fence_is_not_admitted(
    stage: Stage, leader: SteppedLeader
) -> None:
    ids = [stage.enqueue(1, org)[0] for org in ORGS]
    holder = hold_fence(stage)
    tick = stage.start(leader.tick)
    until_blocked(stage.db, leader.connection, by=holder)
    holder.execute(
        "insert into orchestrator.org_config (org_id, paused_at) values (%s, now())", [ORGS[1]]
    )
    holder.execute("commit")
    assert tick.result(PATIENCE_S).admitted == len(ids) - 1
    assert admitted(stage) == [ids[0], *ids[2:]]
    check(stage.db)


def test_a_leader_deposed_between_plan_and_fence_changes_nothing(
    stage: Stage, leader: SteppedLeader
) -> None:
    for org in ORGS:
        stage.enqueue(1, org)
    holder = hold_fence(stage)
    tick = stage.start(leader.tick)
    until_blocked(stage.db, leader.connection, by=holder)
    holder.execute("update orchestrator.orchestrator_lock set epoch = epoch + 1")
    holder.execute("commit")
    assert isinstance(tick.exception(PATIENCE_S), LeadershipLost)
    assert admitted(stage) == []
    assert stage.one("select count(*) from orchestrator.org_state") == 0
    leader.close()
    successor = stage.leader(lock=False)
    assert successor.drain_ticks() == len(ORGS)
    check(stage.db)


def test_of_many_orgs_each_is_saved_once_and_found_by_the_next_term(
    stage: Stage, leader: SteppedLeader
) -> None:
    for org in ORGS:
        stage.enqueue(2, org)
    stage.set_queue(ready_max=3)
    assert leader.tick().admitted == 3
    claim(stage.db, 3)
    # Now three are known and two are new.
    stage.enqueue(1, "another")
    assert leader.tick().admitted == 3
    assert stage.one("select count(*) from orchestrator.org_state") == len(ORGS) + 1
    believed = {
        org.org: (org.main.tag, org.in_flight, org.backlog)
        for org in leader.scheduler.orgs.values()
    }
    successor = stage.leader(lock=False)
    successor.step()
    assert believed == {
        org.org: (org.main.tag, org.in_flight, org.backlog)
        for org in successor.scheduler.orgs.values()
    }
    assert successor.sweep() == []


def test_a_row_of_another_queue_is_not_taken_for_the_one_that_lay_there(
    stage: Stage, leader: SteppedLeader
) -> None:
    stage.enqueue(2)
    stage.set_queue(ready_max=1)
    leader.tick()
    claim(stage.db, 1)
    stage.do("insert into orchestrator.queue (name) values ('other')")
    # Whoever rewrites a table moves its rows.
    leader.reign.cut.row.place = stage.one(
        "select ctid::text from orchestrator.queue_state where queue = 2"
    )
    other = "select to_jsonb(s) from orchestrator.queue_state s where queue = 2"
    before = stage.one(other)
    with pytest.raises(LeadershipLost, match="moved or deleted"):
        leader.tick()
    assert stage.one(other) == before


def test_a_floor_is_published_by_nobody_but_the_leader(stage: Stage) -> None:
    term = stage.leader().reign.term
    assert term is not None
    published = f"select last_value from {floor_sequence(1)}"
    stage.leader(lock=False)
    before = stage.one(published)
    statements = [
        admission.BEGIN,
        admission.fence(term),
        admission.set_floor(term, 4_242),
        admission.COMMIT,
    ]
    _, held, floor, _ = run(stage.db, batch(statements))
    assert held == floor == []
    assert stage.one(published) == before
