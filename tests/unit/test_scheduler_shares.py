"""Shares of slots in count mode, where every task costs the same and the bounds are exact."""

from __future__ import annotations

from collections import Counter, deque
from fractions import Fraction
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.fairness import (
    COUNT_COST_US,
    Pick,
    WeightedScheduler,
    charge_of,
    settled,
)
from orchestrator.model import CostMode
from tests.unit.drawn import histories, weights, worlds
from tests.unit.histories import ORGS, Arrive, Event, OrgConfig, World, eligible, law

COUNT = CostMode.COUNT


def charge(weight: int) -> int:
    return charge_of(COUNT_COST_US, weight)


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
@given(worlds(COUNT), histories(reweigh=False))
def test_jointly_eligible_orgs_get_slots_in_proportion_to_weight_within_one_each(
    world: World, history: list[Event]
) -> None:
    ranges = Ranges({org: decided.weight for org, decided in world.config.items()})

    def watch(world: World, pick: Pick | None) -> None:
        if pick is not None and not pick.reserved:
            ranges.admitted(pick.org)
        ranges.present(eligible(world))

    world.run(history, watch)


@law
@given(worlds(COUNT), histories())
def test_waiting_workloads_of_an_org_get_slots_in_proportion_to_share_within_one_each(
    world: World, history: list[Event]
) -> None:
    ranges = {
        org: Ranges({name: workload.share for name, workload in world.workloads.items()})
        for org in ORGS
    }

    def watch(world: World, pick: Pick | None) -> None:
        if pick is not None and not pick.reserved:
            ranges[pick.org].admitted(pick.workload)
        for org in world.scheduler.orgs.values():
            ranges[org.org].present({f.workload for f in org.flows.values() if f.backlog})

    world.run(history, watch)


@law
@given(st.dictionaries(st.sampled_from(ORGS), st.integers(1, 1_000_000), min_size=2), st.data())
def test_with_any_weights_the_charges_of_backlogged_orgs_stay_within_one_each(
    weight: dict[str, int], data: st.DataObject
) -> None:
    scheduler = WeightedScheduler(cost_mode=COUNT)
    scheduler.set_workload("etl", share=1, rank=0)
    for org, w in weight.items():
        scheduler.configure(org, weight=w, rank=0, burst_max=None, paused=False)
        scheduler.arrive(org, "etl", 10_000)
    paid = Counter[str]()
    for pick in scheduler.plan(data.draw(st.integers(0, 300))).picks:
        paid[pick.org] += charge_of(pick.charged_us, pick.weight)
        for f, g in combinations(weight, 2):
            assert abs(paid[f] - paid[g]) <= max(charge(weight[f]), charge(weight[g]))


@law
@given(worlds(COUNT), histories(), histories())
def test_a_newcomer_waits_for_at_most_one_admission_of_each_other_org(
    world: World, before: list[Event], after: list[Event]
) -> None:
    world.run(before)
    world.config["new"] = OrgConfig()
    ahead = Counter[str]()

    def watch(world: World, pick: Pick | None) -> None:
        if pick is not None and not pick.reserved and ahead["new"] == 0:
            ahead[pick.org] += 1
            assert ahead[pick.org] <= 1

    world.run([Arrive("new", "etl", 1), *after], watch)


@law
@given(worlds(COUNT), histories(), histories())
def test_a_new_workload_waits_for_at_most_one_admission_of_each_other_workload_of_its_org(
    world: World, before: list[Event], after: list[Event]
) -> None:
    world.run(before)
    world.scheduler.set_workload("new", share=1, rank=9)
    ahead = Counter[str]()

    def watch(world: World, pick: Pick | None) -> None:
        ours = pick is not None and pick.org == "ada" and not pick.reserved
        if pick is not None and ours and ahead["new"] == 0:
            ahead[pick.workload] += 1
            assert ahead[pick.workload] <= 1

    world.run([Arrive("ada", "new", 1), *after], watch)


@law
@given(
    st.lists(st.tuples(weights(), st.integers(1, 12)), min_size=1, max_size=6), st.integers(1, 24)
)
def test_static_demand_of_unit_tasks_gets_the_weighted_water_filling_within_two_slots(
    demands: list[tuple[int, int]], slots: int
) -> None:
    """Tasks end one after the other. Were all slots freed at once, a capped org would lose more:
    what goes to others while it may hold no more is no debt of theirs.
    """
    scheduler = WeightedScheduler(cost_mode=COUNT)
    scheduler.set_workload("etl", share=1, rank=0)
    for org, (weight, burst_max) in enumerate(demands):
        scheduler.configure(str(org), weight=weight, rank=0, burst_max=burst_max, paused=False)
        scheduler.arrive(str(org), "etl", 1_000_000)
    rounds = 50 * slots
    running = deque(scheduler.plan(slots).picks)
    held = Counter[str]()
    for _ in range(rounds):
        scheduler.settle(settled(running.popleft(), COUNT_COST_US))
        running += scheduler.plan(slots - len(running)).picks
        held.update(pick.org for pick in running)
    for i, level in enumerate(water_filling(slots, demands)):
        # One slot where no cap binds; who is at its cap is out of line and may miss a turn.
        assert abs(Fraction(held[str(i)], rounds) - level) <= 2


def water_filling(slots: int, demands: list[tuple[int, int]]) -> list[Fraction]:
    """Share `slots` by weight; what an org cannot use for its cap goes to the others."""
    level: dict[int, Fraction] = {}
    while len(level) < len(demands):
        rest = {i: d for i, d in enumerate(demands) if i not in level}
        per_weight = (slots - sum(level.values())) / Fraction(sum(w for w, _ in rest.values()))
        full = {i: Fraction(b) for i, (w, b) in rest.items() if w * per_weight >= b}
        level |= full or {i: w * per_weight for i, (w, _) in rest.items()}
    return [level[i] for i in range(len(demands))]
