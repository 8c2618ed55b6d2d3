"""Two lanes and headroom: what is kept for express work, and what one org leaves to others."""

from __future__ import annotations

import copy

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.fairness import Lane, Pick, Scheduler, WeightedScheduler, settled
from orchestrator.model import CostMode
from tests.unit.drawn import histories, worlds
from tests.unit.histories import Event, Settle, Tick, World, eligible, law, snapshot

SECOND = 1_000_000


def scheduler_of(*orgs: str, mode: CostMode = CostMode.TIME) -> WeightedScheduler:
    """Return a scheduler with these orgs; their `api` work is express up to a second."""
    scheduler = WeightedScheduler(cost_mode=mode)
    scheduler.set_workload("api", share=1, rank=0, express=True, express_max_us=SECOND)
    scheduler.set_workload("etl", share=1, rank=1)
    for org in orgs:
        scheduler.configure(org, weight=1, rank=0, burst_max=None, paused=False)
    return scheduler


def numbers(scheduler: Scheduler, lane: Lane) -> object:
    """Return the tags and virtual times of a lane."""
    orgs = scheduler.orgs.values()
    seats = [(org.seats[lane].tag, org.seats[lane].virtual_time) for org in orgs]
    flows = [flow.tags[lane] for org in orgs for flow in org.flows.values()]
    return scheduler.lines[lane].virtual_time, seats, flows


def express_eligible(world: World) -> set[str]:
    """Return the orgs that a slot of the reserve could go to, asked of each of them."""
    orgs = world.scheduler.orgs.values()
    return {
        org.org
        for org in orgs
        if org.may_run and any(flow.backlog and flow.express for flow in org.flows.values())
    }


# The reserve ------------------------------------------------------------------------------------


@law
@given(worlds(), histories())
def test_only_express_flows_as_short_as_promised_get_slots_of_the_reserve(
    world: World, history: list[Event]
) -> None:
    def watch(world: World, pick: Pick | None) -> None:
        for org in world.scheduler.orgs.values():
            for flow in org.flows.values():
                decided = world.workloads[flow.workload]
                limit_us = decided.express_max_us
                assert limit_us is not None
                assert flow.express == (decided.express and flow.cost_us <= limit_us)
        if pick is not None:
            assert pick.express == world.scheduler.orgs[pick.org].flows[pick.workload].express
            assert pick.express or not pick.reserved

    world.run(history, watch)


@law
@given(worlds(), histories(), st.integers(0, 12), st.integers(0, 12))
def test_the_main_lane_goes_first_and_the_reserve_takes_what_express_work_is_left(
    world: World, history: list[Event], slots: int, reserve: int
) -> None:
    scheduler = world.run(history).scheduler
    alone = copy.deepcopy(scheduler).plan(slots).picks
    picks = scheduler.plan(slots, reserve).picks
    assert picks[: len(alone)] == alone
    assert all(pick.reserved for pick in picks[len(alone) :])
    assert not any(pick.reserved for pick in alone)
    if len(picks) > len(alone):
        assert len(alone) == slots


@law
@given(worlds(), histories(), st.integers(0, 12))
def test_express_work_gets_the_reserve_whatever_the_main_lane_holds(
    world: World, history: list[Event], reserve: int
) -> None:
    picks = world.run(history).scheduler.plan(0, reserve).picks
    assert len(picks) == reserve or not express_eligible(world)
    assert all(pick.reserved for pick in picks)


@law
@given(worlds(), histories(), st.sampled_from(Lane), st.integers(1, 12))
def test_what_happens_in_one_lane_moves_nothing_in_the_other(
    world: World, history: list[Event], lane: Lane, slots: int
) -> None:
    scheduler = world.run(history).scheduler
    other = Lane(1 - lane)
    scheduler.wake()
    before = numbers(scheduler, other)
    picks = (scheduler.plan(slots) if lane is Lane.MAIN else scheduler.plan(0, slots)).picks
    assert numbers(scheduler, other) == before
    for pick in picks:
        scheduler.settle(settled(pick, 3 * SECOND))
    assert numbers(scheduler, other) == before


@law
@given(worlds(CostMode.COUNT), histories(reweigh=False))
def test_in_count_mode_express_work_is_within_one_charge_of_the_virtual_time_of_its_lane(
    world: World, history: list[Event]
) -> None:
    def watch(world: World, _: Pick | None) -> None:
        v = world.scheduler.express.virtual_time
        for org in express_eligible(world):
            state = world.scheduler.orgs[org]
            assert v <= state.express.tag <= v + SECOND * 1024 // state.weight

    world.run(history, watch)


def test_orgs_share_the_reserve_by_weight() -> None:
    scheduler = scheduler_of("ada", "bob", mode=CostMode.COUNT)
    scheduler.configure("ada", weight=3, rank=0, burst_max=None, paused=False)
    for org in ("ada", "bob"):
        scheduler.arrive(org, "api", 100)
        scheduler.arrive(org, "etl", 100)
    picks = scheduler.plan(0, 40).picks
    assert [pick.org for pick in picks].count("ada") == 30
    assert {pick.workload for pick in picks} == {"api"}


def test_a_flow_that_takes_longer_than_express_work_may_leaves_the_reserve_until_it_is_short() -> (
    None
):
    scheduler = scheduler_of("ada")
    scheduler.arrive("ada", "api", 100)
    flow = scheduler.orgs["ada"].flows["api"]

    def once(cost_us: int) -> bool:
        """Run one task in the main lane; tell whether the reserve is open afterwards."""
        (pick,) = scheduler.plan(1).picks
        scheduler.settle(settled(pick, cost_us))
        picks = scheduler.plan(0, 1).picks
        for reserved in picks:
            scheduler.settle(settled(reserved, 0))
        assert bool(picks) == flow.express
        return bool(picks)

    assert once(SECOND)
    assert not once(10 * SECOND)
    assert [once(1) for _ in range(6)] == [False, False, False, False, True, True]


def test_an_attempt_that_still_runs_past_what_express_work_may_take_closes_the_reserve() -> None:
    world = World({}, {}, CostMode.TIME, scheduler_of("ada"))
    world.scheduler.arrive("ada", "api", 3)
    world.run([Tick(0, 1)])
    world.refresh(world.running[0], 60 * SECOND)
    world.scheduler.wake()
    assert world.scheduler.plan(0, 1).picks == []
    assert [pick.workload for pick in world.scheduler.plan(1).picks] == ["api"]


# Headroom ---------------------------------------------------------------------------------------


@law
@given(worlds(headroom=True), histories())
def test_no_ordinary_slot_goes_to_an_org_without_headroom(
    world: World, history: list[Event]
) -> None:
    assert world.capacity is not None
    assert world.headroom is not None
    capacity, headroom = world.capacity, world.headroom

    def watch(world: World, pick: Pick | None) -> None:
        if pick is not None and not pick.reserved:
            held, total = world.held(pick.org) - 1, len(world.running) - 1
            assert held < headroom * (capacity - total)

    world.run(history, watch)


def with_headroom(world: World) -> set[str]:
    """Return the orgs that an ordinary slot could go to, headroom and all."""
    assert world.capacity is not None
    assert world.headroom is not None
    room = world.headroom * (world.capacity - world.scheduler.in_flight)
    return {org for org in eligible(world) if world.scheduler.orgs[org].in_flight < room}


@law
@given(worlds(headroom=True), histories(), st.integers(0, 12))
def test_a_slot_stays_free_only_if_nobody_with_headroom_is_eligible(
    world: World, history: list[Event], slots: int
) -> None:
    world.run(history)
    picks = world.scheduler.plan(slots).picks
    assert len(picks) == slots or not with_headroom(world)


@law
@given(worlds(headroom=True), histories(), st.integers(0, 12))
def test_an_undone_plan_leaves_no_trace_of_headroom_either(
    world: World, history: list[Event], slots: int
) -> None:
    scheduler = world.run(history).scheduler
    scheduler.wake()
    before = snapshot(scheduler)
    scheduler.undo(scheduler.plan(slots, 1))
    scheduler.wake()
    assert snapshot(scheduler) == before


@law
@given(st.booleans().flatmap(lambda some: worlds(headroom=some)), histories())
def test_with_producers_quiet_everything_staged_is_admitted(
    world: World, history: list[Event]
) -> None:
    """No wake-up is lost: as long as slots are freed and nobody is paused, staging drains."""
    world.run(history)
    for org in world.scheduler.orgs:
        world.scheduler.configure(org, weight=1, rank=0, burst_max=2, paused=False)
    rounds = world.scheduler.backlog
    for _ in range(rounds):
        before = world.scheduler.backlog
        world.run([Settle(len(world.running), 1), Tick(3)])
        assert world.scheduler.backlog < before or before == 0
    assert world.scheduler.backlog == 0
