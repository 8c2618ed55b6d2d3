"""Express work has slots of its own, which nobody else can fill; capacity and headroom bind all."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.errors import InvalidInput
from orchestrator.model import AttemptStatus, CostMode
from orchestrator.store import orgs
from orchestrator.store import queue as store_queue
from orchestrator.store.names import MAIN_MIN, express_floor_sequence
from orchestrator.store.sql import run
from tests.support.invariants import check
from tests.support.stage import Stage
from tests.support.stepping import claim, endings


def set_queue(stage: Stage, **fields: Any) -> None:
    with stage.db.transaction():
        run(stage.db, orgs.set_queue("default", actor="test", **fields))


def set_workload(stage: Stage, name: str, **fields: Any) -> None:
    with stage.db.transaction():
        run(stage.db, orgs.set_workload(name, actor="test", **fields))


def held(stage: Stage) -> dict[tuple[str, bool], int]:
    """Return how many slots each (workload, reserved) holds."""
    rows = stage.rows(
        "select workload, reserved, count(*) from orchestrator.task_queue group by 1, 2"
    )
    return {(workload, reserved): count for workload, reserved, count in rows}


def by_org(stage: Stage) -> dict[str, int]:
    """Return how many slots each org holds."""
    return dict(stage.rows("select org_id, count(*) from orchestrator.task_queue group by 1"))


def finish(stage: Stage, limit: int, *, cost_us: int = 1_000) -> int:
    claims = claim(stage.db, limit)
    ended = [one._replace(cost_us=cost_us) for one in endings(claims, AttemptStatus.SUCCEEDED)]
    stage.do(
        "update orchestrator.task_queue set claimed_at = claimed_at - interval '1 h'"
        " where claim_id is not null"
    )
    closing = sorted({one.claim_id for one in claims})
    return len(run(stage.db, store_queue.finish(1, ended, worker="w", closing=closing)))


def test_ordinary_work_never_holds_the_reserve_and_express_work_always_may(stage: Stage) -> None:
    set_workload(stage, "chat", express=True)
    set_queue(stage, capacity=20, express_reserve=4)
    leader = stage.leader()
    stage.enqueue(100, "flood", workload="etl")
    leader.drain_ticks()
    assert held(stage) == {("etl", False): 16}
    stage.enqueue(10, "small", workload="chat")
    leader.drain_ticks()
    assert held(stage) == {("etl", False): 16, ("chat", True): 4}
    assert leader.scheduler.express.in_flight == 4
    # Claimed first, although it was admitted last.
    assert {one.workload for one in claim(stage.db, 4)} == {"chat"}
    check(stage.db)
    assert leader.sweep() == []


def test_express_work_competes_for_ordinary_slots_before_it_takes_the_reserve(stage: Stage) -> None:
    set_workload(stage, "chat", express=True)
    set_queue(stage, capacity=20, express_reserve=4, cost_mode=CostMode.COUNT)
    leader = stage.leader()
    stage.enqueue(100, "a", workload="chat")
    stage.enqueue(100, "b", workload="etl")
    leader.drain_ticks()
    assert held(stage) == {("etl", False): 8, ("chat", False): 8, ("chat", True): 4}


def test_without_an_express_workload_nothing_is_reserved(stage: Stage) -> None:
    set_queue(stage, capacity=20, express_reserve=4)
    leader = stage.leader()
    stage.enqueue(100, "flood")
    leader.drain_ticks()
    assert held(stage) == {("etl", False): 20}


def test_a_flow_that_is_express_in_name_only_is_demoted_and_comes_back(stage: Stage) -> None:
    set_workload(stage, "chat", express=True, express_max_s=0.5)
    set_queue(stage, capacity=10, express_reserve=2)
    leader = stage.leader()
    stage.enqueue(200, "liar", workload="chat")
    leader.drain_ticks()
    assert held(stage) == {("chat", False): 8, ("chat", True): 2}
    flow = leader.scheduler.orgs["liar"].flows["chat"]
    assert flow.express
    finish(stage, 10, cost_us=60_000_000)
    leader.drain_ticks()
    assert not flow.express
    assert held(stage) == {("chat", False): 8}
    # Its keys are ordinary ones now.
    assert int(stage.one("select min(dispatch_key) from orchestrator.task_queue")) >= MAIN_MIN
    # A new leader knows what was measured.
    leader = stage.leader(lock=False)
    flow = leader.scheduler.orgs["liar"].flows["chat"]
    assert not flow.express
    for _ in range(5):
        finish(stage, 8, cost_us=1_000)
        leader.drain_ticks()
    assert flow.express
    # Ready express work is as good as a reserved slot; once workers have it, the reserve is filled.
    claim(stage.db, 8)
    leader.drain_ticks()
    assert held(stage)["chat", True] == 2
    check(stage.db)


def test_a_takeover_keeps_the_lanes_apart(stage: Stage) -> None:
    set_workload(stage, "chat", express=True)
    set_queue(stage, capacity=20, express_reserve=4)
    leader = stage.leader()
    stage.enqueue(40, "a", workload="chat")
    leader.drain_ticks()
    before = leader.scheduler.orgs["a"]
    leader = stage.leader(lock=False)
    after = leader.scheduler.orgs["a"]
    for seat, other in zip(before.seats, after.seats, strict=True):
        assert (seat.tag, seat.virtual_time, seat.in_flight) == (
            other.tag,
            other.virtual_time,
            other.in_flight,
        )
    assert after.flows["chat"].tags == before.flows["chat"].tags
    assert after.express.in_flight == 4
    finish(stage, 20)
    leader.drain_ticks()
    assert held(stage) == {("chat", False): 16, ("chat", True): 4}
    assert leader.sweep() == []


def test_the_express_floor_hides_no_row_and_follows_what_is_done(stage: Stage) -> None:
    set_workload(stage, "chat", express=True)
    leader = stage.leader()
    leader.reign.tick.floors.interval_s = 0
    stage.enqueue(60, "a", workload="chat")
    stage.enqueue(60, "b", workload="etl")
    last = None
    done = 0
    while done < 120:
        leader.tick()
        floor = stage.one(f"select pg_sequence_last_value('{express_floor_sequence(1)}')")
        lowest = stage.one(
            "select min(dispatch_key) from orchestrator.task_queue where claim_id is null"
        )
        if lowest is not None and lowest < MAIN_MIN:
            assert floor is not None
            assert floor <= lowest
            assert last is None or floor >= last
            last = floor
        done += finish(stage, 7)
    leader.drain_ticks()
    assert stage.one("select count(*) from orchestrator.task_queue") == 0
    assert last is not None


def test_headroom_keeps_slots_for_others(stage: Stage) -> None:
    set_queue(stage, capacity=30, headroom=1.0)
    leader = stage.leader()
    stage.enqueue(100, "flood")
    leader.drain_ticks()
    # It may hold as much as it leaves free.
    assert held(stage) == {("etl", False): 15}
    stage.enqueue(100, "other")
    leader.drain_ticks()
    assert by_org(stage) == {"flood": 15, "other": 8}
    finish(stage, 4)
    leader.drain_ticks()
    assert sum(by_org(stage).values()) <= 23
    assert max(by_org(stage).values()) <= 15
    set_queue(stage, headroom=None)
    leader.drain_ticks()
    assert stage.one("select count(*) from orchestrator.task_queue") == 30


def test_headroom_without_a_capacity_is_refused(stage: Stage) -> None:
    with pytest.raises(InvalidInput, match="set a capacity too"):
        set_queue(stage, headroom=2.0)
    set_queue(stage, capacity=10, headroom=2.0)
    with pytest.raises(InvalidInput, match="or headroom none"):
        set_queue(stage, capacity=None)
    set_queue(stage, capacity=None, headroom=None)


@pytest.mark.parametrize("fields", [{"headroom": 0}, {"express_reserve": -1}, {"headroom": -2.0}])
def test_limits_that_mean_nothing_are_refused(stage: Stage, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        set_queue(stage, capacity=10, **fields)
