"""How many slots a round may fill: capacity, ready window, express reserve."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.fairness import (
    Limits,
    Ready,
    Slots,
    WeightedScheduler,
    free_slots,
    reserve_of,
    settled,
)
from orchestrator.model import CostMode
from tests.unit.histories import law

NOTHING = Ready()


def scheduler_of(*, express: bool = True) -> WeightedScheduler:
    """Return a scheduler with one org, whose `api` work may be express."""
    scheduler = WeightedScheduler(cost_mode=CostMode.COUNT)
    scheduler.set_workload("api", share=1, rank=0, express=express)
    scheduler.set_workload("etl", share=1, rank=1)
    scheduler.configure("ada", weight=1, rank=0, burst_max=None, paused=False)
    return scheduler


def holding(main: int, express: int) -> WeightedScheduler:
    """Return a scheduler that holds so many slots of either lane."""
    scheduler = scheduler_of()
    scheduler.arrive("ada", "etl", main)
    assert len(scheduler.plan(main).picks) == main
    scheduler.arrive("ada", "api", express)
    assert len(scheduler.plan(0, express).picks) == express
    return scheduler


@pytest.mark.parametrize(
    ("total", "wanted", "reserve"),
    [
        (100, None, 10),
        (20, None, 2),
        # At least one.
        (5, None, 1),
        (2, None, 1),
        # Never the last one: ordinary work must go on.
        (1, None, 0),
        (0, None, 0),
        (5, 5, 4),
        (5, 9, 4),
        (100, 0, 0),
        (100, 7, 7),
    ],
)
def test_the_reserve_is_a_tenth_unless_told_and_never_the_last_slot(
    total: int, wanted: int | None, reserve: int
) -> None:
    assert reserve_of(total, wanted) == reserve


def test_without_express_work_nothing_is_reserved() -> None:
    scheduler = scheduler_of(express=False)
    assert free_slots(scheduler, Limits(10, 4), 100, NOTHING) == Slots(10, 0)
    assert free_slots(scheduler, Limits(None, 4), 100, NOTHING) == Slots(100, 0)


def test_with_express_work_a_tenth_of_the_capacity_is_kept_for_it() -> None:
    assert free_slots(scheduler_of(), Limits(20), 100, NOTHING) == Slots(18, 2)
    assert free_slots(scheduler_of(), Limits(20, 5), 100, NOTHING) == Slots(15, 5)


def test_a_main_lane_that_is_full_leaves_the_reserve_alone() -> None:
    assert free_slots(holding(18, 0), Limits(20), 100, NOTHING) == Slots(0, 2)
    assert free_slots(holding(18, 2), Limits(20), 100, NOTHING) == Slots(0, 0)


def test_a_full_reserve_leaves_the_main_lane_alone() -> None:
    assert free_slots(holding(0, 2), Limits(20), 100, NOTHING) == Slots(18, 0)


def test_the_window_counts_ready_tasks_of_either_kind_apart() -> None:
    scheduler = scheduler_of()
    # A window of 19 and a reserve of 2 of the 20.
    assert free_slots(scheduler, Limits(), 19, NOTHING) == Slots(19, 2)
    assert free_slots(scheduler, Limits(), 19, Ready(main=19)) == Slots(0, 2)
    assert free_slots(scheduler, Limits(), 19, Ready(main=4, express=1)) == Slots(15, 1)


def test_ready_express_tasks_beyond_the_reserve_fill_the_window() -> None:
    assert free_slots(scheduler_of(), Limits(), 19, Ready(main=4, express=5)) == Slots(12, 0)


def test_a_lowered_capacity_admits_nothing_until_enough_has_ended() -> None:
    scheduler = scheduler_of(express=False)
    scheduler.arrive("ada", "etl", 20)
    running = scheduler.plan(8).picks
    assert free_slots(scheduler, Limits(5), 100, NOTHING) == Slots(0, 0)
    for pick in running[:4]:
        scheduler.settle(settled(pick, 1))
    assert free_slots(scheduler, Limits(5), 100, NOTHING) == Slots(1, 0)


limits = st.builds(Limits, st.none() | st.integers(1, 30), st.none() | st.integers(0, 8))
readies = st.builds(Ready, st.integers(0, 12), st.integers(0, 12))
held = st.tuples(st.integers(0, 30), st.integers(0, 6))


@law
@given(limits, readies, held, st.integers(0, 30))
# The first express workload, and a reserve that was lowered: the other lane holds too much.
@example(Limits(10), NOTHING, (10, 0), 9)
@example(Limits(10, 0), NOTHING, (5, 5), 9)
def test_nothing_is_admitted_above_capacity(
    limits: Limits, ready: Ready, held: tuple[int, int], window: int
) -> None:
    scheduler = holding(*held)
    slots = free_slots(scheduler, limits, window, ready)
    assert min(slots) >= 0
    if limits.capacity is not None:
        kept = reserve_of(limits.capacity, limits.reserve)
        before = scheduler.main.in_flight, scheduler.in_flight
        assert slots.main == 0 or before[0] + slots.main <= limits.capacity - kept
        assert sum(slots) == 0 or before[1] + sum(slots) <= limits.capacity


@law
@given(limits, readies, held, st.integers(0, 30))
def test_nothing_is_admitted_that_the_window_has_no_room_for(
    limits: Limits, ready: Ready, held: tuple[int, int], window: int
) -> None:
    slots = free_slots(holding(*held), limits, window, ready)
    reserve = reserve_of(window + 1, limits.reserve)
    assert slots.main == 0 or ready.main + slots.main <= window
    # A window that was made smaller may hold too many already; the reserve is there all the same.
    assert sum(slots) == 0 or sum(ready) + sum(slots) <= max(window, ready.main) + reserve
    assert slots.express == 0 or ready.express + slots.express <= reserve


@law
@given(limits, held, st.integers(1, 30))
def test_some_slot_is_free_where_capacity_and_window_leave_one(
    limits: Limits, held: tuple[int, int], window: int
) -> None:
    scheduler = holding(*held)
    capacity, slots = limits.capacity, free_slots(scheduler, limits, window, NOTHING)
    if capacity is None:
        assert slots.main == window
    else:
        kept = reserve_of(capacity, limits.reserve)
        room = min(window, capacity - kept - held[0], capacity - sum(held))
        assert slots.main >= max(0, room)
