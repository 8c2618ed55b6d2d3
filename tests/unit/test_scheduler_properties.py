"""Laws of the weighted scheduler in count mode, over drawn histories.

`V` is the virtual time of the queue, `F` the tag of an org, `w` its weight. Weights are of the form
2**a * 5**b, so that a charge is exactly proportional to 1/w and the bounds are exact integers.
"""

from __future__ import annotations

import copy
from collections import Counter
from fractions import Fraction
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.fairness import Pick, WeightedScheduler
from tests.unit.histories import (
    ORGS,
    Arrive,
    Event,
    OrgConfig,
    World,
    eligible,
    histories,
    law,
    snapshot,
    weights,
    worlds,
)

# Charges at weight 1; any common multiple of the weights in use would do.
UNIT = 1_000_000 * 1024


def charge(weight: int) -> int:
    return UNIT // weight


# Tags and virtual time --------------------------------------------------------------------------


@law
@given(worlds(), histories())
def test_virtual_time_never_goes_back(world: World, history: list[Event]) -> None:
    seen = [0]

    def watch(world: World, _: Pick | None) -> None:
        seen.append(world.scheduler.virtual_time)

    world.run(history, watch)
    assert seen == sorted(seen)


@law
@given(worlds(), histories())
def test_an_org_that_wakes_starts_at_virtual_time_or_later(
    world: World, history: list[Event]
) -> None:
    before: set[str] = set()
    tags: dict[str, int] = {}

    def watch(world: World, _: Pick | None) -> None:
        scheduler, now = world.scheduler, eligible(world)
        for org in now - before:
            assert scheduler.orgs[org].tag == max(tags.get(org, 0), scheduler.virtual_time)
        before.clear()
        before.update(now)
        tags.update({name: org.tag for name, org in scheduler.orgs.items()})

    world.run(history, watch)


@law
@given(worlds(), histories(reweigh=False))
def test_an_eligible_org_is_within_one_charge_of_virtual_time(
    world: World, history: list[Event]
) -> None:
    def watch(world: World, _: Pick | None) -> None:
        v = world.scheduler.virtual_time
        for org in world.scheduler.orgs.values():
            if org.may_run:
                assert v <= org.tag <= v + charge(org.weight)
            for flow in org.flows.values():
                if flow.backlog:
                    cost = charge(world.shares[flow.workload])
                    assert org.virtual_time <= flow.tag <= org.virtual_time + cost

    world.run(history, watch)


@law
@given(worlds(), histories())
def test_after_a_change_of_weight_the_corridor_is_that_of_the_last_charge(
    world: World, history: list[Event]
) -> None:
    paid: dict[str, int] = {}

    def watch(world: World, pick: Pick | None) -> None:
        if pick is not None:
            paid[pick.org] = pick.charge
        v = world.scheduler.virtual_time
        for org in world.scheduler.orgs.values():
            if org.may_run:
                assert v <= org.tag <= v + paid.get(org.org, 0)

    world.run(history, watch)


# Shares -----------------------------------------------------------------------------------------


class Ranges:
    """How far admissions of two parties drift apart while both could be served, per pair.

    The worst over all sub-intervals of a joint interval is the running maximum less the running
    minimum of the difference, which restarts whenever one of the two drops out.
    """

    def __init__(self, weight: dict[str, int]) -> None:
        self.weight = weight
        self.drift: dict[tuple[str, str], list[int]] = {}

    def admitted(self, party: str) -> None:
        for (f, g), drift in self.drift.items():
            if party in (f, g):
                step = self.weight[g] if party == f else -self.weight[f]
                drift[0] += step
                drift[1], drift[2] = min(drift[1], drift[0]), max(drift[2], drift[0])
                # |A_f / w_f - A_g / w_g| <= 1 / w_f + 1 / w_g, times w_f * w_g.
                assert drift[2] - drift[1] <= self.weight[f] + self.weight[g], (f, g)

    def present(self, parties: set[str]) -> None:
        pairs = set(combinations(sorted(parties), 2))
        self.drift = {pair: self.drift.get(pair, [0, 0, 0]) for pair in pairs}


@law
@given(worlds(), histories(reweigh=False))
def test_jointly_eligible_orgs_get_slots_in_proportion_to_weight_within_one_each(
    world: World, history: list[Event]
) -> None:
    ranges = Ranges({org: decided.weight for org, decided in world.config.items()})

    def watch(world: World, pick: Pick | None) -> None:
        if pick is not None:
            ranges.admitted(pick.org)
        ranges.present(eligible(world))

    world.run(history, watch)


@law
@given(worlds(), histories())
def test_waiting_workloads_of_an_org_get_slots_in_proportion_to_share_within_one_each(
    world: World, history: list[Event]
) -> None:
    ranges = {org: Ranges(dict(world.shares)) for org in ORGS}

    def watch(world: World, pick: Pick | None) -> None:
        if pick is not None:
            ranges[pick.org].admitted(pick.workload)
        for org in world.scheduler.orgs.values():
            ranges[org.org].present({f.workload for f in org.flows.values() if f.backlog})

    world.run(history, watch)


@law
@given(st.dictionaries(st.sampled_from(ORGS), st.integers(1, 1_000_000), min_size=2), st.data())
def test_with_any_weights_the_charges_of_backlogged_orgs_stay_within_one_each(
    weight: dict[str, int], data: st.DataObject
) -> None:
    scheduler = WeightedScheduler()
    scheduler.set_workload("etl", share=1, rank=0)
    for org, w in weight.items():
        scheduler.configure(org, weight=w, rank=0, burst_max=None, paused=False)
        scheduler.arrive(org, "etl", 10_000)
    paid = Counter[str]()
    for pick in scheduler.plan(data.draw(st.integers(0, 300))).picks:
        paid[pick.org] += pick.charge
        for f, g in combinations(weight, 2):
            assert abs(paid[f] - paid[g]) <= max(charge(weight[f]), charge(weight[g]))


@law
@given(worlds(), histories(), histories())
def test_a_newcomer_waits_for_at_most_one_admission_of_each_other_org(
    world: World, before: list[Event], after: list[Event]
) -> None:
    world.run(before)
    world.config["new"] = OrgConfig()
    ahead = Counter[str]()

    def watch(world: World, pick: Pick | None) -> None:
        if pick is not None and ahead["new"] == 0:
            ahead[pick.org] += 1
            assert ahead[pick.org] <= 1

    world.run([Arrive("new", "etl", 1), *after], watch)


@law
@given(worlds(), histories(), histories())
def test_a_new_workload_waits_for_at_most_one_admission_of_each_other_workload_of_its_org(
    world: World, before: list[Event], after: list[Event]
) -> None:
    world.run(before)
    world.scheduler.set_workload("new", share=1, rank=9)
    ahead = Counter[str]()

    def watch(world: World, pick: Pick | None) -> None:
        if pick is not None and pick.org == "ada" and ahead["new"] == 0:
            ahead[pick.workload] += 1
            assert ahead[pick.workload] <= 1

    world.run([Arrive("ada", "new", 1), *after], watch)


@law
@given(
    st.lists(st.tuples(weights(), st.integers(1, 12)), min_size=1, max_size=6), st.integers(1, 24)
)
def test_static_demand_of_unit_tasks_gets_the_weighted_water_filling_within_one_slot(
    demands: list[tuple[int, int]], slots: int
) -> None:
    scheduler = WeightedScheduler()
    scheduler.set_workload("etl", share=1, rank=0)
    for org, (weight, burst_max) in enumerate(demands):
        scheduler.configure(str(org), weight=weight, rank=0, burst_max=burst_max, paused=False)
        scheduler.arrive(str(org), "etl", 1_000_000)
    rounds = 50
    held = Counter[str]()
    for _ in range(rounds):
        running = Counter(pick.org for pick in scheduler.plan(slots).picks)
        held += running
        for name, tasks in running.items():
            scheduler.settle(name, tasks)
    for i, level in enumerate(water_filling(slots, demands)):
        assert abs(Fraction(held[str(i)], rounds) - level) <= 1


def water_filling(slots: int, demands: list[tuple[int, int]]) -> list[Fraction]:
    """Share `slots` by weight; what an org cannot use for its cap goes to the others."""
    level: dict[int, Fraction] = {}
    while len(level) < len(demands):
        rest = {i: d for i, d in enumerate(demands) if i not in level}
        per_weight = (slots - sum(level.values())) / Fraction(sum(w for w, _ in rest.values()))
        full = {i: Fraction(b) for i, (w, b) in rest.items() if w * per_weight >= b}
        level |= full or {i: w * per_weight for i, (w, _) in rest.items()}
    return [level[i] for i in range(len(demands))]


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
            held = world.running.count(pick.org)
            assert decided.burst_max is None or held <= decided.burst_max

    world.run(history, watch)


@law
@given(worlds(), histories(), st.integers(1, 30))
def test_a_plan_of_many_slots_exceeds_no_burst_max(
    world: World, history: list[Event], slots: int
) -> None:
    world.run(history)
    held = Counter(world.running)
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
            assert org.in_flight == world.running.count(org.org)
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
    assert picks == [pick for _ in range(slots) for pick in apart.plan(1).picks]
    assert snapshot(together) == snapshot(apart)


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
    scheduler.dirty.clear()
    before = snapshot(scheduler)
    assert scheduler.plan(0).picks == []
    assert snapshot(scheduler) == before
    for org in eligible(world):
        scheduler.configure(org, weight=1, rank=0, burst_max=None, paused=True)
    scheduler.dirty.clear()
    before = snapshot(scheduler)
    assert scheduler.plan(10).picks == []
    assert snapshot(scheduler) == before
    assert scheduler.dirty == set()


@law
@given(worlds(), histories(), st.integers(0, 30), histories())
def test_an_undone_plan_leaves_no_trace(
    world: World, history: list[Event], slots: int, later: list[Event]
) -> None:
    world.run(history)
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
