"""Priority: strict inside a window, bounded across it, and never a way to hide other tasks."""

from __future__ import annotations

import random
from itertools import accumulate

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.leader.admissions import dispatch_key
from orchestrator.model import PRIORITY_MAX, PRIORITY_MIN
from tests.support.invariants import check
from tests.support.stage import Stage
from tests.support.stepping import ack, claim

# How much a task can gain on another by its priority, in admissions, per unit of kappa.
SPAN = PRIORITY_MAX - PRIORITY_MIN

priorities = st.integers(PRIORITY_MIN, PRIORITY_MAX)
kappas = st.integers(0, 20)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_nine_before_seven_before_two_threes_in_order_before_one(stage: Stage, batch: int) -> None:
    staged = {
        (priority, turn): stage.enqueue(1, priority=priority)[0]
        for turn, priority in enumerate((3, 1, 9, 3, 7))
    }
    leader = stage.leader()
    leader.drain_ticks()
    taken: list[int] = []
    while claims := claim(stage.db, batch):
        taken += [c.id for c in claims]
    assert taken == [staged[key] for key in ((9, 2), (7, 4), (3, 0), (3, 3), (1, 1))]


def test_priority_counts_across_ticks_of_one_window(stage: Stage) -> None:
    leader = stage.leader()
    ids = {}
    for priority in (3, 1, 9, 7):
        ids[priority] = stage.enqueue(1, priority=priority)
        assert leader.tick().admitted == 1
    order = [claim(stage.db, 1)[0].id for _ in range(4)]
    assert order == [*ids[9], *ids[7], *ids[3], *ids[1]]


def test_leased_high_priorities_never_hide_ready_low_ones(stage: Stage) -> None:
    leader = stage.leader()
    leader.reign.tick.window.parked = 200
    for _ in range(5):
        high = stage.enqueue(20, priority=10)
        low = stage.enqueue(2, priority=1)
        leader.drain_ticks()
        leader.reign.tick.publish_floor()
        assert sorted(c.id for c in claim(stage.db, 20)) == high
        leader.reign.tick.publish_floor()
        lows = claim(stage.db, 20)
        assert sorted(c.id for c in lows) == low
        ack(stage.db, lows)
    check(stage.db)


def test_orgs_take_turns_whatever_priority_one_of_them_asks_for(stage: Stage) -> None:
    leader = stage.leader()
    stage.enqueue(10, "greedy", priority=10)
    stage.enqueue(10, "modest", priority=1)
    stage.do("update orchestrator.queue set ready_max = 10")
    assert leader.tick().admitted == 10
    counts = stage.rows(
        "select org_id, count(*) from orchestrator.task_queue group by 1 order by 1"
    )
    assert counts == [("greedy", 5), ("modest", 5)]


@example([1, *[10] * 20], 1)
@given(st.lists(priorities, max_size=300), kappas)
def test_a_key_is_unique_and_bounds_overtaking(drawn: list[int], kappa: int) -> None:
    keys = [dispatch_key(seq, kappa, priority) for seq, priority in enumerate(drawn)]
    assert len(set(keys)) == len(keys)
    served = sorted(range(len(keys)), key=keys.__getitem__)
    for seq, latest_before in zip(served, accumulate(served, max), strict=True):
        assert latest_before - seq <= SPAN * kappa


@given(st.lists(priorities, max_size=60), kappas, st.data())
def test_inside_a_window_of_kappa_priority_is_strict(
    drawn: list[int], kappa: int, data: st.DataObject
) -> None:
    window = drawn[: kappa or 1]
    start = data.draw(st.integers(0, 10**12))
    keyed = [(dispatch_key(start + n, kappa, p), -p, n) for n, p in enumerate(window)]
    assert sorted(keyed) == sorted(keyed, key=lambda item: item[1:])


@given(st.lists(st.tuples(kappas, st.lists(priorities, max_size=12)), max_size=12))
def test_keys_never_meet_when_kappa_changes_with_its_jump(
    stretches: list[tuple[int, list[int]]],
) -> None:
    keys: list[int] = []
    seq, in_force = 0, 0
    for kappa, drawn in stretches:
        # What the leader does: a raise jumps ahead first.
        seq += 10 * max(0, kappa - in_force)
        in_force = kappa
        for priority in drawn:
            seq += 1
            keys.append(dispatch_key(seq, kappa, priority))
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("seed", range(3))
def test_no_task_is_overtaken_by_more_than_nine_kappa_later_admissions(
    stage: Stage, seed: int
) -> None:
    draw = random.Random(seed)
    kappa = 2
    stage.set_queue(kappa=kappa)
    leader = stage.leader()
    # Room for all of them, so that they are admitted in the order of enqueueing.
    leader.reign.tick.window.parked = 1_000
    admitted: list[int] = []
    served: list[int] = []
    for _ in range(150):
        admitted += stage.enqueue(1, priority=draw.choice((1, 1, 2, 5, 9, 10, 10)))
        leader.tick()
        if draw.random() < 0.4:
            served += [c.id for c in claim(stage.db, draw.randint(1, 3))]
    while claims := claim(stage.db, 50):
        served += [c.id for c in claims]
    at = {task_id: turn for turn, task_id in enumerate(admitted)}
    assert sorted(served) == sorted(admitted)
    for turn, task_id in enumerate(served):
        overtakers = sum(1 for other in served[:turn] if at[other] > at[task_id])
        assert overtakers <= SPAN * kappa
    check(stage.db)
