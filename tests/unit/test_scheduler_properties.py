"""Laws of the weighted scheduler over drawn histories, in either cost mode unless one is named.

`V` is the virtual time of the main lane, `F` the tag of an org, `w` its weight. Weights are of the
form 2**a * 5**b, so that in count mode a charge is exactly proportional to 1/w.
"""

from __future__ import annotations

import copy
from collections import Counter
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.fairness import COUNT_COST_US, GUESS_US, Lane, Pick, charge_of
from orchestrator.model import CostMode
from tests.unit.drawn import histories, worlds
from tests.unit.histories import Event, World, eligible, law, snapshot


def charge(weight: int) -> int:
    return charge_of(COUNT_COST_US, weight)


# Tags and virtual time --------------------------------------------------------------------------


@law
@given(worlds(), histories())
def test_virtual_time_never_goes_back(world: World, history: list[Event]) -> None:
    seen: list[list[int]] = [[0], [0]]

    def watch(world: World, _: Pick | None) -> None:
        for line, times in zip(world.scheduler.lines, seen, strict=True):
            times.append(line.virtual_time)

    world.run(history, watch)
    assert seen == [sorted(times) for times in seen]


@law
@given(worlds(), histories())
def test_an_org_that_wakes_starts_at_virtual_time_or_as_the_first_in_line(
    world: World, history: list[Event]
) -> None:
    before: set[str] = set()
    tags: dict[str, int] = {}

    def watch(world: World, _: Pick | None) -> None:
        scheduler, now = world.scheduler, eligible(world)
        v = scheduler.virtual_time
        first = min((scheduler.orgs[org].main.tag for org in now & before), default=v)
        for org in now - before:
            tag = scheduler.orgs[org].main.tag
            assert tag >= min(v, first)
            if world.cost_mode is CostMode.COUNT:
                assert tag == max(tags.get(org, 0), v)
        before.clear()
        before.update(now)
        tags.update({name: org.main.tag for name, org in scheduler.orgs.items()})

    world.run(history, watch)


@law
@given(worlds(), histories())
def test_express_work_that_wakes_starts_likewise_in_its_own_lane(
    world: World, history: list[Event]
) -> None:
    before: set[str] = set()

    def watch(world: World, _: Pick | None) -> None:
        line, orgs = world.scheduler.express, world.scheduler.orgs
        now = {org.org for org in orgs.values() if org.may_run and org.express_backlog > 0}
        first = min((orgs[org].express.tag for org in now & before), default=line.virtual_time)
        for org in now - before:
            assert orgs[org].express.tag >= min(line.virtual_time, first)
        before.clear()
        before.update(now)

    world.run(history, watch)


@law
@given(worlds(CostMode.COUNT), histories(reweigh=False))
def test_in_count_mode_an_eligible_org_is_within_one_charge_of_virtual_time(
    world: World, history: list[Event]
) -> None:
    def watch(world: World, _: Pick | None) -> None:
        v = world.scheduler.virtual_time
        for org in world.scheduler.orgs.values():
            main = org.main
            if org.may_run:
                assert v <= main.tag <= v + charge(org.weight)
            for flow in org.flows.values():
                if flow.backlog:
                    high = main.virtual_time + charge(flow.share)
                    assert main.virtual_time <= flow.tags[Lane.MAIN] <= high

    world.run(history, watch)


@law
@given(worlds(CostMode.COUNT), histories())
def test_after_a_change_of_weight_the_corridor_is_that_of_the_last_charge(
    world: World, history: list[Event]
) -> None:
    paid: dict[str, int] = {}

    def watch(world: World, pick: Pick | None) -> None:
        if pick is not None and not pick.reserved:
            paid[pick.org] = charge(pick.weight)
        v = world.scheduler.virtual_time
        for org in world.scheduler.orgs.values():
            if org.may_run:
                assert v <= org.main.tag <= v + paid.get(org.org, 0)

    world.run(history, watch)


@law
@given(worlds(CostMode.TIME), histories(reweigh=False))
def test_in_time_mode_an_eligible_org_is_within_the_charges_of_what_is_held(
    world: World, history: list[Event]
) -> None:
    """G1: V - c P <= F <= V + D c / w.

    c is the largest charge of any attempt so far, D the most slots of the main lane that the org
    ever held, P the most that all held together, each slot counted 1 / w. Proof. Up: F <= V when it
    is last admitted, and what it is charged afterwards belongs to the at most D attempts that run
    from then on. Down: when V last rose, every F in line was at least V. What is taken back
    afterwards was charged to attempts that ran then, or to later ones, whose charges it cannot
    exceed; and who wakes starts no lower than the first in line, less what it is given back itself.
    """
    most: Counter[str] = Counter()
    together = [Fraction(0)]
    cost_us = [GUESS_US]

    def watch(world: World, _: Pick | None) -> None:
        cost_us.extend(attempt.charged_us for attempt in world.running)
        cost_us.extend(took for _, took in world.ended)
        cost_us[:] = [max(cost_us)]
        orgs = world.scheduler.orgs.values()
        held = sum((Fraction(org.main.in_flight, org.weight) for org in orgs), Fraction(0))
        together[:] = [max(together[0], held)]
        v = world.scheduler.virtual_time
        for org in orgs:
            most[org.org] = max(most[org.org], org.main.in_flight)
            assert org.main.tag <= v + most[org.org] * charge_of(cost_us[0], org.weight)
            if org.may_run:
                assert org.main.tag >= v - together[0] * charge_of(cost_us[0], 1)

    world.run(history, watch)


# Caps, pauses, work conservation ----------------------------------------------------------------


@law
@given(worlds(), histories())
def test_no_admission_exceeds_burst_max_or_goes_to_a_paused_org(
    world: World, history: list[Event]
) -> None:
    def watch(world: World, pick: Pick | None) -> None:
        if pick is not None:
            decided = world.config[pick.org]
            assert not decided.paused
            held = world.held(pick.org)
            assert decided.burst_max is None or held <= decided.burst_max

    world.run(history, watch)


@law
@given(worlds(), histories(), st.integers(1, 30))
def test_a_plan_of_many_slots_exceeds_no_burst_max(
    world: World, history: list[Event], slots: int
) -> None:
    world.run(history)
    held = Counter(attempt.pick.org for attempt in world.running)
    for pick in world.scheduler.plan(slots).picks:
        held[pick.org] += 1
        limit = world.config[pick.org].burst_max
        assert limit is None or held[pick.org] <= limit


@law
@given(worlds(), histories(), st.integers(0, 30))
def test_a_plan_leaves_a_slot_free_only_if_no_org_is_eligible(
    world: World, history: list[Event], slots: int
) -> None:
    world.run(history)
    picks = world.scheduler.plan(slots).picks
    assert len(picks) == slots or not eligible(world)
    assert len(picks) <= slots


@law
@given(worlds(), histories())
def test_counts_equal_what_they_count(world: World, history: list[Event]) -> None:
    def watch(world: World, _: Pick | None) -> None:
        scheduler = world.scheduler
        assert scheduler.in_flight == len(world.running)
        assert scheduler.eligible == len(eligible(world)) == len(list(scheduler.order()))
        assert scheduler.admit_seq == len(world.picks)
        assert scheduler.backlog == sum(org.backlog for org in scheduler.orgs.values())
        for org in scheduler.orgs.values():
            assert org.in_flight == world.held(org.org)
            assert org.backlog == sum(flow.backlog for flow in org.flows.values())

    world.run(history, watch)


# Plans ------------------------------------------------------------------------------------------


@law
@given(worlds(), histories(), st.integers(0, 30))
def test_a_plan_of_many_slots_is_as_many_plans_of_one(
    world: World, history: list[Event], slots: int
) -> None:
    together = world.run(history).scheduler
    apart = copy.deepcopy(together)
    picks = together.plan(slots).picks
    assert picks == [pick for _ in picks for pick in apart.plan(1).picks]
    # A lane in which nobody waited meanwhile forgives a round later in the one than in the other.
    together.plan(0)
    apart.plan(0)
    assert snapshot(together) == snapshot(apart)
    if len(picks) < slots:
        assert apart.plan(1).picks == []


@law
@given(worlds(), histories(), st.integers(0, 8))
def test_the_orgs_with_the_lowest_tags_are_all_a_plan_needs(
    world: World, history: list[Event], slots: int
) -> None:
    world.run(history)
    lowest = [org.org for org in world.scheduler.order()][:slots]
    few = world.reborn({name: world.scheduler.orgs[name] for name in lowest})
    assert few.scheduler.plan(slots).picks == world.scheduler.plan(slots).picks


@law
@given(worlds(), histories())
def test_order_names_who_is_next(world: World, history: list[Event]) -> None:
    world.run(history)
    line = [org.org for org in world.scheduler.order()]
    assert [pick.org for pick in world.scheduler.plan(1).picks] == line[:1]


@law
@given(worlds(), histories())
def test_an_empty_plan_changes_nothing(world: World, history: list[Event]) -> None:
    scheduler = world.run(history).scheduler
    # What nobody waited for is forgiven once, not again.
    scheduler.plan(0)
    scheduler.wake()
    scheduler.dirty.clear()
    before = snapshot(scheduler)
    assert scheduler.plan(0).picks == []
    assert snapshot(scheduler) == before
    for org in eligible(world):
        scheduler.configure(org, weight=1, rank=0, burst_max=None, paused=True)
    scheduler.plan(0)
    scheduler.wake()
    scheduler.dirty.clear()
    before = snapshot(scheduler)
    assert scheduler.plan(10, 10).picks == []
    assert snapshot(scheduler) == before
    assert scheduler.dirty == set()


@law
@given(worlds(), histories(), st.integers(0, 30), histories())
def test_an_undone_plan_leaves_no_trace(
    world: World, history: list[Event], slots: int, later: list[Event]
) -> None:
    world.run(history).scheduler.wake()
    untouched = copy.deepcopy(world)
    before = snapshot(world.scheduler)
    plan = world.scheduler.plan(slots)
    world.scheduler.undo(plan)
    assert snapshot(world.scheduler) == before
    assert world.run(later).picks == untouched.run(later).picks


@law
@given(worlds(), histories(), st.integers(1, 30), st.data())
def test_a_plan_made_again_with_true_counts_is_the_plan_that_always_knew_them(
    world: World, history: list[Event], slots: int, data: st.DataObject
) -> None:
    believed = world.run(history).scheduler
    trial = believed.plan(slots)
    planned = sorted({(pick.org, pick.workload) for pick in trial.picks})
    believed.undo(trial)
    knew = copy.deepcopy(believed)
    believed.undo(believed.plan(slots))
    for org, workload in planned:
        true = data.draw(st.integers(0, believed.orgs[org].flows[workload].backlog))
        for scheduler in (knew, believed):
            scheduler.set_backlog(org, workload, true)
    assert believed.plan(slots).picks == knew.plan(slots).picks
    assert snapshot(believed) == snapshot(knew)
