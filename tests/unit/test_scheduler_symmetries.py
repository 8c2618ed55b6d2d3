"""What the decisions of the weighted scheduler do not depend on: each law runs a twin beside.

The last twin is the naive one: decisions do not depend on how the protocol was written down.
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from itertools import accumulate

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orchestrator.fairness import OrgState, Pick, WeightedScheduler
from tests.unit.histories import (
    ORGS,
    WORKLOADS,
    Arrive,
    Event,
    OrgConfig,
    Settle,
    Tick,
    Trial,
    Weigh,
    World,
    arrivals,
    caps,
    histories,
    law,
    orgs,
    ticks,
    weights,
    workloads,
    worlds,
)
from tests.unit.oracle import NaiveScheduler


@law
@given(worlds(), histories(), histories())
def test_a_scheduler_loaded_from_what_it_persists_goes_on_with_the_same_picks(
    world: World, before: list[Event], after: list[Event]
) -> None:
    world.run(before)
    twin = world.reborn(world.scheduler.orgs)
    old, new = world.scheduler, twin.scheduler
    assert [(org.org, org.tag) for org in new.order()] == [(o.org, o.tag) for o in old.order()]
    assert (new.in_flight, new.backlog, new.eligible) == (old.in_flight, old.backlog, old.eligible)
    assert twin.run(after).picks == world.run(after).picks


@law
@given(worlds(), histories(), histories())
def test_writing_only_the_dirty_orgs_persists_all_that_decides(
    world: World, before: list[Event], after: list[Event]
) -> None:
    rows: dict[str, OrgState] = {}

    def persist(world: World, _: Pick | None) -> None:
        for org in world.scheduler.dirty:
            rows[org] = copy.deepcopy(world.scheduler.orgs[org])
        world.scheduler.dirty.clear()

    world.run(before, persist)
    assert world.reborn(rows).run(after).picks == world.run(after).picks


@law
@given(worlds(), histories(), histories())
def test_subtracting_virtual_time_from_every_tag_changes_no_decision(
    world: World, before: list[Event], after: list[Event]
) -> None:
    world.run(before)
    twin = world.reborn(world.scheduler.orgs, renormalise=True)
    assert twin.scheduler.virtual_time == 0
    assert twin.run(after).picks == world.run(after).picks


@law
@given(worlds(), histories(), st.sampled_from((2, 5, 16, 100)))
def test_scaling_all_weights_and_shares_changes_no_order(
    world: World, history: list[Event], factor: int
) -> None:
    scaled = World(
        config={o: replace(c, weight=c.weight * factor) for o, c in world.config.items()},
        shares={workload: share * factor for workload, share in world.shares.items()},
    )
    heavier = [e._replace(weight=e.weight * factor) if isinstance(e, Weigh) else e for e in history]
    order = [(p.org, p.workload) for p in world.run(history).picks]
    assert [(p.org, p.workload) for p in scaled.run(heavier).picks] == order


@law
@given(worlds(), histories(), st.permutations(ORGS))
def test_renaming_orgs_renames_the_picks(
    world: World, history: list[Event], names: list[str]
) -> None:
    name = dict(zip(ORGS, names, strict=True))
    twin = World({name[org]: c for org, c in world.config.items()}, world.shares)
    nameless = (Settle, Tick, Trial)
    renamed = [
        event if isinstance(event, nameless) else event._replace(org=name[event.org])
        for event in history
    ]
    picks = world.run(history).picks
    assert twin.run(renamed).picks == [pick._replace(org=name[pick.org]) for pick in picks]


@law
@given(
    worlds(), histories(), st.builds(Arrive, orgs(), workloads(), st.integers(1, 12)), histories()
)
def test_a_million_more_tasks_change_nothing_before_the_original_backlog_is_gone(
    world: World, before: list[Event], arrive: Arrive, after: list[Event]
) -> None:
    twin = copy.deepcopy(world.run(before)).run([arrive._replace(tasks=arrive.tasks + 1_000_000)])
    lasted: list[int] = []

    def watch(world: World, _: Pick | None) -> None:
        if world.scheduler.orgs[arrive.org].flows[arrive.workload].backlog == 0:
            lasted.append(len(world.picks))

    picks = world.run([arrive, *after], watch).picks
    until = lasted[0] if lasted else len(picks)
    assert twin.run(after).picks[:until] == picks[:until]


@law
@given(
    st.fixed_dictionaries({org: weights() for org in ORGS}),
    st.lists(arrivals() | ticks(), min_size=15, max_size=60),
    st.sampled_from((2, 5, 20)),
)
def test_a_higher_weight_never_costs_an_org_with_backlog_more_than_one_admission(
    weight: dict[str, int], history: list[Event], factor: int
) -> None:
    def admissions(weight: dict[str, int]) -> list[int]:
        world = World({org: OrgConfig(w) for org, w in weight.items()}, dict.fromkeys(WORKLOADS, 1))
        picks = world.run([Arrive("ada", "api", 10_000), *history]).picks
        return list(accumulate(pick.org == "ada" for pick in picks))

    raised = admissions(weight | {"ada": weight["ada"] * factor})
    assert all(now >= was - 1 for was, now in zip(admissions(weight), raised, strict=True))


# The naive twin ---------------------------------------------------------------------------------


class Twins(RuleBasedStateMachine):
    """The scheduler and the naive one, given the same events, must be in the same state."""

    @initialize(shares=st.lists(st.integers(1, 10), min_size=3, max_size=3))
    def start(self, shares: list[int]) -> None:
        self.real, self.naive = WeightedScheduler(), NaiveScheduler()
        for workload, share in zip(WORKLOADS, shares, strict=True):
            self.set_workload(workload, share, rank=0)

    @rule(workload=workloads(), share=st.integers(1, 10), rank=st.integers(0, 2))
    def set_workload(self, workload: str, share: int, rank: int) -> None:
        self.real.set_workload(workload, share=share, rank=rank)
        self.naive.set_workload(workload, share, rank)

    @rule(org=orgs(), weight=st.integers(1, 1_000), burst_max=caps(), paused=st.booleans())
    def configure(self, org: str, weight: int, burst_max: int | None, paused: bool) -> None:
        self.real.configure(org, weight=weight, rank=0, burst_max=burst_max, paused=paused)
        self.naive.configure(org, weight, burst_max, paused)

    @rule(org=orgs(), workload=workloads(), tasks=st.integers(1, 20))
    def arrive(self, org: str, workload: str, tasks: int) -> None:
        self.real.arrive(org, workload, tasks)
        self.naive.set_backlog(org, workload, self.real.orgs[org].flows[workload].backlog)

    @rule(org=orgs(), workload=workloads(), tasks=st.integers(0, 3))
    def set_backlog(self, org: str, workload: str, tasks: int) -> None:
        self.real.set_backlog(org, workload, tasks)
        self.naive.set_backlog(org, workload, tasks)

    @precondition(lambda self: self.real.in_flight > 0)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        busy = [org.org for org in self.real.orgs.values() if org.in_flight]
        org = data.draw(st.sampled_from(busy))
        ended = data.draw(st.integers(1, self.real.orgs[org].in_flight))
        self.real.settle(org, ended)
        self.naive.set_in_flight(org, self.naive.orgs[org].n - ended)

    @rule(org=orgs(), count=st.integers(0, 5))
    def set_in_flight(self, org: str, count: int) -> None:
        self.real.set_in_flight(org, count)
        self.naive.set_in_flight(org, count)

    @rule(slots=st.integers(0, 20))
    def plan(self, slots: int) -> None:
        assert [tuple(pick)[:3] for pick in self.real.plan(slots).picks] == self.naive.plan(slots)

    @rule(slots=st.integers(1, 20), found=st.integers(0, 2))
    def plan_and_find_fewer(self, slots: int, found: int) -> None:
        trial = self.real.plan(slots)
        assert [tuple(pick)[:3] for pick in trial.picks] == self.naive.trial(slots)
        self.real.undo(trial)
        wanted = Counter((pick.org, pick.workload) for pick in trial.picks)
        for (org, workload), tasks in wanted.items():
            if found < tasks:
                self.set_backlog(org, workload, found)

    @invariant()
    def same_state(self) -> None:
        assert (self.real.virtual_time, self.real.admit_seq) == (self.naive.v, self.naive.served)
        assert set(self.real.orgs) == set(self.naive.orgs)
        for name, org in self.naive.orgs.items():
            real = self.real.orgs[name]
            assert (real.tag, real.virtual_time, real.in_flight) == (org.tag, org.v, org.n), name
            assert real.eligible == org.eligible, name
            flows = {w: (f.tag, f.backlog) for w, f in real.flows.items()}
            assert flows == {w: (f.tag, f.backlog) for w, f in org.flows.items()}, name

    @invariant()
    def same_line(self) -> None:
        first = [org for org, _, _ in self.naive.trial(1)]
        assert [org.org for org in self.real.order()][:1] == first


TestTwins = Twins.TestCase
TestTwins.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
