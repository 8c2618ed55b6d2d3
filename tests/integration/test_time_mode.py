"""Worker time is what is shared: charged as a guess, refreshed meanwhile, settled at the end."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from orchestrator.fairness import COST_MAX_US, GUESS_US, charge_of
from orchestrator.leader.refresh import Refresher
from orchestrator.model import AttemptStatus, CostMode
from orchestrator.store import admission, orgs
from orchestrator.store import queue as store_queue
from orchestrator.store.sql import run
from tests.support.invariants import check
from tests.support.stage import Stage
from tests.support.stepping import SteppedLeader, claim, endings, enqueue, tasks

MS = 1_000


def set_queue(stage: Stage, **fields: Any) -> None:
    with stage.db.transaction():
        run(stage.db, orgs.set_queue("default", actor="test", **fields))


def set_workload(stage: Stage, name: str, **fields: Any) -> None:
    with stage.db.transaction():
        run(stage.db, orgs.set_workload(name, actor="test", **fields))


def finish(stage: Stage, cost_us: int, *, limit: int = 1) -> list[str]:
    """Claim up to `limit` tasks, let each have run for `cost_us`, end them; return their orgs."""
    claims = claim(stage.db, limit)
    ended = [one._replace(cost_us=cost_us) for one in endings(claims, AttemptStatus.SUCCEEDED)]
    # The database's clock bounds what a worker says.
    stage.do(
        "update orchestrator.task_queue set claimed_at = claimed_at - interval '1 hour'"
        " where claim_id is not null"
    )
    closing = sorted({one.claim_id for one in claims})
    run(stage.db, store_queue.finish(1, ended, worker="test", closing=closing))
    return [one.org for one in claims]


def tag(leader: SteppedLeader, org: str) -> int:
    return int(leader.scheduler.orgs[org].main.tag)


def stored(stage: Stage, org: str) -> dict[str, Any]:
    query = (
        "select org_state.tag, in_flight, cost_us from orchestrator.org_state"
        " join orchestrator.flow_state using (queue, org_id) where org_id = %s"
    )
    (row,) = stage.rows(query, org)
    return dict(zip(("tag", "in_flight", "cost_us"), row, strict=True))


def test_a_guess_is_settled_to_the_true_cost_at_the_weight_of_the_admission(stage: Stage) -> None:
    leader = stage.leader()
    stage.set_org("a", weight=4)
    stage.enqueue(1, "a")
    leader.drain_ticks()
    assert tag(leader, "a") == charge_of(GUESS_US, 4)
    # What is decided meanwhile is about charges to come.
    stage.set_org("a", weight=8)
    assert finish(stage, 250 * MS) == ["a"]
    leader.tick()
    assert tag(leader, "a") == charge_of(250 * MS, 4)
    stage.enqueue(1, "a")
    leader.drain_ticks()
    # The guess is now what was measured.
    assert tag(leader, "a") == charge_of(250 * MS, 4) + charge_of(250 * MS, 8)
    assert stored(stage, "a") == {"tag": tag(leader, "a"), "in_flight": 1, "cost_us": 250 * MS}


@pytest.mark.parametrize("status", ["succeeded", "failed", "released", "lost"])
def test_every_way_to_end_settles_the_worker_time_of_the_attempt(stage: Stage, status: str) -> None:
    leader = stage.leader()
    stage.enqueue(1, "a", max_attempts=1)
    leader.drain_ticks()
    (one,) = claim(stage.db, 1)
    stage.do("update orchestrator.task_queue set claimed_at = claimed_at - interval '3 s'")
    if status == "lost":
        stage.expire_leases()
        with stage.db.transaction():
            run(stage.db, store_queue.reap(1, limit=10))
    else:
        cost_us = 0 if status == "released" else 2_000 * MS
        (ending,) = endings([one], AttemptStatus(status), delay_s=60)
        ending = ending._replace(cost_us=cost_us)
        with stage.db.transaction():
            if status == "succeeded":
                run(stage.db, store_queue.finish(1, [ending], worker="w"))
            else:
                run(stage.db, store_queue.give_back(1, [ending], worker="w"))
    cost_us = int(stage.one("select cost_us from orchestrator.task_attempt"))
    if status == "lost":
        assert 3_000 * MS <= cost_us < 30_000 * MS
    else:
        assert cost_us == (0 if status == "released" else 2_000 * MS)
    leader.tick()
    assert leader.scheduler.in_flight == 0
    assert tag(leader, "a") == charge_of(cost_us, 2)


def test_what_runs_past_its_charge_is_charged_more_and_gets_back_what_was_too_much(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.leader.refresh.REFRESH_INTERVAL_S", 0)
    monkeypatch.setattr(admission, "REFRESH_INTERVAL_S", 0)
    leader = stage.leader()
    stage.enqueue(2, "a")
    leader.drain_ticks()
    one, other = claim(stage.db, 1)[0], claim(stage.db, 1)[0]
    begun = tag(leader, "a")
    # One was charged a guess and has run for eight seconds; the other has just begun.
    stage.do(
        "update orchestrator.task_queue set claimed_at = claimed_at - interval '8 s'"
        " where task_id = %s",
        one.id,
    )
    # Nobody looks at the other, so that only one charge is to be followed.
    stage.do(
        "update orchestrator.lease set claimed_at = 'infinity' where claim_id = %s", other.claim_id
    )
    refresher = leader.reign.tick._refresher
    assert refresher.refresh() == 1
    (charged,) = stage.rows("select dispatch_key, charged_us from orchestrator.overrun")
    assert charged[0] == one.dispatch_key
    assert charged[1] >= 8_000 * MS
    more = charge_of(charged[1], 2) - charge_of(GUESS_US, 2)
    assert tag(leader, "a") == begun + more
    # It is charged again only once it has outgrown that, by a quarter at the least.
    while not refresher.refresh():
        pass
    again = int(stage.one("select charged_us from orchestrator.overrun"))
    assert again >= charged[1] * 5 // 4
    # A new leader knows what the old one charged.
    leader = stage.leader(lock=False)
    assert tag(leader, "a") == begun + charge_of(again, 2) - charge_of(GUESS_US, 2)
    # Both end: all that is left of the charges is the worker time, and no overrun is kept.
    for claimed, cost_us in ((one, 5_000 * MS), (other, 0)):
        (ending,) = endings([claimed], AttemptStatus.SUCCEEDED)
        run(stage.db, store_queue.finish(1, [ending._replace(cost_us=cost_us)], worker="w"))
    leader.tick()
    assert tag(leader, "a") == begun - 2 * charge_of(GUESS_US, 2) + charge_of(
        5_000 * MS, 2
    ) + charge_of(0, 2)
    stage.enqueue(1, "a")
    leader.drain_ticks()
    assert stage.rows("select * from orchestrator.overrun") == []
    check(stage.db)


def test_a_refresh_that_is_not_committed_charges_nobody(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.leader.refresh.REFRESH_INTERVAL_S", 0)
    monkeypatch.setattr(admission, "REFRESH_INTERVAL_S", 0)
    leader = stage.leader()
    stage.enqueue(1, "a")
    leader.drain_ticks()
    claim(stage.db, 1)
    stage.do("update orchestrator.task_queue set claimed_at = claimed_at - interval '8 s'")
    usurper = stage.leader(lock=False)
    with pytest.raises(Exception, match="another replica was elected"):
        leader.reign.tick._refresher.refresh()
    assert stage.rows("select * from orchestrator.overrun") == []
    assert isinstance(usurper.reign.tick._refresher, Refresher)
    assert usurper.reign.tick._refresher.refresh() == 1


def test_an_ack_never_misses_a_task_that_is_being_refreshed(stage: Stage) -> None:
    # The charge is kept beside the row: the ack waits for nobody and finds its row where it was.
    leader = stage.leader()
    stage.enqueue(1, "a")
    leader.drain_ticks()
    (one,) = claim(stage.db, 1)
    stage.do("update orchestrator.task_queue set claimed_at = claimed_at - interval '8 s'")
    stage.do("update orchestrator.lease set claimed_at = claimed_at - interval '8 s'")
    term = leader.reign.term
    assert term is not None
    session = leader.connection
    run(session, admission.fenced(term))
    _, outgrown = run(session, admission.refresh(1, UUID(int=0)))
    assert len(outgrown) == 1
    acked = run(
        stage.db, store_queue.finish(1, endings([one], AttemptStatus.SUCCEEDED), worker="w")
    )
    assert acked == {one.dispatch_key}
    session.execute("commit")
    leader.tick()
    assert leader.scheduler.in_flight == 0


def test_tasks_of_unequal_length_share_worker_time_not_admissions(stage: Stage) -> None:
    set_queue(stage, capacity=4, ready_max=4)
    leader = stage.leader()
    stage.enqueue(400, "short")
    stage.enqueue(400, "long")
    served = {"short": 0, "long": 0}
    for _ in range(220):
        leader.tick()
        for one in claim(stage.db, 1):
            cost_us = 10 * MS if one.org == "short" else 100 * MS
            (ending,) = endings([one], AttemptStatus.SUCCEEDED)
            stage.do(
                "update orchestrator.task_queue set claimed_at = claimed_at - interval '1 s'"
                " where claim_id is not null"
            )
            run(stage.db, store_queue.finish(1, [ending._replace(cost_us=cost_us)], worker="w"))
            served[one.org] += cost_us
    share = served["short"] / sum(served.values())
    assert share == pytest.approx(0.5, abs=0.1), served


def test_a_weight_acts_on_what_is_already_staged_within_one_tick(stage: Stage) -> None:
    set_queue(stage, cost_mode=CostMode.COUNT, ready_max=20)
    leader = stage.leader()
    leader.reign.tick.window.parked = 20
    for org in ("a", "b"):
        stage.set_org(org, weight=1)
        stage.enqueue(100, org)
    leader.tick()

    def admitted_since(seq: int) -> dict[str, int]:
        rows = stage.rows(
            "select org_id, count(*) from orchestrator.task_queue where dispatch_key / 16 > %s"
            " group by 1",
            seq,
        )
        return dict(rows)

    assert admitted_since(-(2**40)) == {"a": 10, "b": 10}
    stage.do("delete from orchestrator.task_queue")
    leader.sweep()
    stage.set_org("a", weight=9)
    leader.tick()
    assert admitted_since(-(2**40)) == {"a": 18, "b": 2}
    stage.do("delete from orchestrator.task_queue")
    leader.sweep()
    stage.set_org("b", burst_max=1)
    leader.tick()
    assert admitted_since(-(2**40)) == {"a": 19, "b": 1}


def test_a_takeover_changes_no_decision(stage: Stage) -> None:
    # The same demand and the same ends, once under one leader and once under a new one each tick.
    orders = []
    for succession in (False, True):
        queue = f"succession {succession}"
        with stage.db.transaction():
            config = run(
                stage.db, orgs.set_queue(queue, capacity=6, kappa=0, ready_max=6, actor="test")
            )
        orders.append(_play(stage, config.id, succession=succession))
    assert orders[0] == orders[1]
    assert len(orders[0]) == 90


def _play(stage: Stage, queue: int, *, succession: bool) -> list[str]:
    leader = stage.leader(queue=queue)
    for org, count in (("a", 40), ("b", 30), ("c", 20)):
        stage.set_org(org, weight={"a": 1, "b": 3, "c": 7}[org])
        enqueue(stage.db, tasks(count, org), queue_id=queue)
    order: list[str] = []
    while leader.tick().admitted or leader.scheduler.in_flight:
        claims = claim(stage.db, 2, queue_id=queue)
        stage.do(
            "update orchestrator.task_queue set claimed_at = clock_timestamp() - interval '1 h'"
            " where queue = %s and claim_id is not null",
            queue,
        )
        ended = [
            ending._replace(cost_us={"a": 5, "b": 70, "c": 900}[one.org] * MS)
            for one, ending in zip(claims, endings(claims, AttemptStatus.SUCCEEDED), strict=True)
        ]
        run(stage.db, store_queue.finish(queue, ended, worker="w"))
        order += [one.org for one in claims]
        if succession:
            leader = stage.leader(queue=queue, lock=False)
    return order


def test_a_clock_that_was_decades_behind_leaves_every_tag_within_its_bounds(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.leader.refresh.REFRESH_INTERVAL_S", 0)
    monkeypatch.setattr(admission, "REFRESH_INTERVAL_S", 0)
    set_queue(stage, ready_max=30)
    stage.set_org("a", weight=1)
    leader = stage.leader()
    stage.enqueue(30, "a")
    leader.drain_ticks()
    running = claim(stage.db, 30)
    for table in ("task_queue", "lease"):
        stage.do(f"update orchestrator.{table} set claimed_at = claimed_at - interval '55 years'")
    # What runs still is charged for it, and what has ended.
    run(stage.db, store_queue.finish(1, endings(running[:15], AttemptStatus.DEAD), worker="w"))
    assert leader.reign.tick._refresher.refresh() > 0
    stage.enqueue(1, "b")
    assert leader.tick().admitted == 1
    assert tag(leader, "a") <= 30 * charge_of(COST_MAX_US, 1) * 5 // 4
    stage.enqueue(1, "a")
    assert stage.leader(lock=False).tick().admitted == 1
    check(stage.db)
