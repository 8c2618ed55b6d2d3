"""What the decisions of the weighted scheduler do not depend on: each law runs a twin beside."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.fairness import Pick, WorkloadClass
from orchestrator.model import CostMode
from tests.unit.drawn import arrivals, histories, orgs, ticks, weights, workloads, worlds
from tests.unit.histories import (
    ORGS,
    WORKLOADS,
    Arrive,
    Event,
    OrgConfig,
    Refresh,
    Settle,
    Tick,
    Trial,
    Weigh,
    World,
    law,
)


@law
@given(worlds(CostMode.COUNT), histories(), st.sampled_from((2, 5, 16, 100)))
def test_scaling_all_weights_and_shares_changes_no_order(
    world: World, history: list[Event], factor: int
) -> None:
    scaled = World(
        config={o: replace(c, weight=c.weight * factor) for o, c in world.config.items()},
        workloads={n: w._replace(share=w.share * factor) for n, w in world.workloads.items()},
        cost_mode=world.cost_mode,
    )
    heavier = [e._replace(weight=e.weight * factor) if isinstance(e, Weigh) else e for e in history]
    order = [(p.org, p.workload, p.reserved) for p in world.run(history).picks]
    assert [(p.org, p.workload, p.reserved) for p in scaled.run(heavier).picks] == order


@law
@given(worlds(), histories(), st.permutations(ORGS))
def test_renaming_orgs_renames_the_picks(
    world: World, history: list[Event], names: list[str]
) -> None:
    name = dict(zip(ORGS, names, strict=True))
    config = {name[org]: decided for org, decided in world.config.items()}
    twin = World(config, world.workloads, world.cost_mode)
    nameless = (Settle, Refresh, Tick, Trial)
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
        config = {org: OrgConfig(w) for org, w in weight.items()}
        world = World(config, dict.fromkeys(WORKLOADS, WorkloadClass()))
        picks = world.run([Arrive("ada", "api", 10_000), *history]).picks
        return list(accumulate(pick.org == "ada" for pick in picks))

    raised = admissions(weight | {"ada": weight["ada"] * factor})
    assert all(now >= was - 1 for was, now in zip(admissions(weight), raised, strict=True))
