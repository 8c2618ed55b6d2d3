"""The simulator, by hand: small runs of which every start can be worked out."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from orchestrator.errors import InvalidInput
from orchestrator.fairness.simulation.baselines import Rule
from orchestrator.fairness.simulation.policy import Change, OrgSetting, SimPolicy
from orchestrator.fairness.simulation.report import (
    admissions,
    dwell_series,
    report_of,
    service_series,
)
from orchestrator.fairness.simulation.run import Run
from orchestrator.fairness.simulation.scenarios import (
    zipf,
)
from orchestrator.fairness.simulation.simulate import simulate
from orchestrator.fairness.simulation.trace import trace_of
from orchestrator.model import Tier
from tests.unit.simulated import MS, S, tasks


def starts(run: Run) -> list[int]:
    return list(run.start_us)


# By hand ----------------------------------------------------------------------------------------


def test_tasks_of_one_org_run_one_after_the_other_on_one_slot() -> None:
    run = simulate(trace_of(tasks("ada", 3, S)), SimPolicy(slots=1))
    assert starts(run) == [0, S, 2 * S]
    report = report_of(run)
    assert (report.started, report.until_s, report.utilisation) == (3, 3.0, 1.0)
    assert report.dwell == (3, 1.0, 2.0, 2.0, 2.0)
    assert report.slowdown == (3, 2.0, 3.0, 3.0, 3.0)


def test_a_slot_that_is_free_with_nothing_to_do_is_not_utilised_and_not_idle() -> None:
    run = simulate(trace_of([*tasks("ada", 1, S), *tasks("ada", 1, S, at_us=3 * S)]), SimPolicy())
    assert (run.until_us, run.busy_us, run.idle_us) == (4 * S, 2 * S, 0)


def test_inside_a_flow_priority_goes_first_and_then_who_came_first() -> None:
    trace = trace_of(
        [
            *tasks("ada", 1, S),
            *tasks("ada", 2, S, at_us=1, priority=5),
            *tasks("ada", 1, S, at_us=2, priority=10),
            *tasks("ada", 1, S, at_us=3, priority=1),
        ]
    )
    run = simulate(trace, SimPolicy(slots=1))
    assert list(run.order) == [0, 3, 1, 2, 4]


def test_a_newcomer_is_next_and_fifo_lets_it_wait_for_the_backlog() -> None:
    trace = trace_of([*tasks("ada", 10, S), *tasks("bob", 1, S, at_us=S // 2)])
    weighted = simulate(trace, SimPolicy(slots=1))
    fifo = simulate(trace, SimPolicy(slots=1, rule=Rule.FIFO))
    assert weighted.start_us[10] == S
    assert fifo.start_us[10] == 10 * S


def test_what_arrives_between_two_ticks_starts_at_the_second() -> None:
    trace = trace_of(tasks("ada", 2, 15 * MS, at_us=5 * MS))
    run = simulate(trace, SimPolicy(slots=1, tick_us=10 * MS))
    # The second starts at the first tick after the slot is free, at 25 ms.
    assert starts(run) == [10 * MS, 30 * MS]
    assert run.idle_us == 5 * MS + 5 * MS


def test_a_window_fills_the_slots_by_its_size_each_tick() -> None:
    trace = trace_of(tasks("ada", 5, S))
    run = simulate(trace, SimPolicy(slots=4, window=2, tick_us=10 * MS))
    assert starts(run) == [0, 0, 10 * MS, 10 * MS, S]


def test_with_a_window_ready_tasks_start_without_waiting_for_a_tick() -> None:
    trace = trace_of(tasks("ada", 3, 15 * MS))
    run = simulate(trace, SimPolicy(slots=1, window=2, tick_us=10 * MS))
    assert starts(run) == [0, 15 * MS, 30 * MS]


def test_inside_the_window_urgent_tasks_are_claimed_first() -> None:
    trace = trace_of(
        [
            *tasks("ada", 3, S, priority=1),
            *tasks("bob", 1, S, at_us=1, priority=10),
        ]
    )
    policy = SimPolicy(slots=1, window=3)
    assert starts(simulate(trace, policy)) == [0, 2 * S, 3 * S, S]
    assert starts(simulate(trace, replace(policy, kappa=0))) == [0, S, 2 * S, 3 * S]


def test_a_run_that_is_cut_short_counts_what_was_used_until_then() -> None:
    run = simulate(trace_of(tasks("ada", 3, S)), SimPolicy(slots=1), until_us=1_500 * MS)
    assert starts(run) == [0, S, -1]
    assert (run.until_us, run.busy_us, list(run.served_us)) == (1_500 * MS,) * 2 + ([1_500 * MS],)


def test_an_empty_trace_is_a_run_of_nothing() -> None:
    report = report_of(simulate(trace_of([]), SimPolicy()))
    assert (report.tasks, report.orgs, report.jain, report.lag) == (0, (), None, None)


def test_a_window_compares_those_that_had_work_all_the_time() -> None:
    trace = trace_of([*tasks("ada", 3, S), *tasks("bob", 3, S), *tasks("cyd", 1, S, at_us=S // 2)])
    run = simulate(trace, SimPolicy(slots=2), window_us=S)
    assert [(window.from_us, window.until_us) for window in run.windows] == [
        (at * S, (at + 1) * S) for at in range(4)
    ]
    # In the first second cyd comes late; in the second it has a slot, and bob none, who has both in
    # the third.
    assert [window.orgs for window in run.windows] == [("ada", "bob"), ("ada", "bob"), ("ada",), ()]
    assert [window.jain for window in run.windows] == [1.0, 0.5, None, None]
    assert sum(run.fair_us) == pytest.approx(run.busy_us)


def test_what_is_due_is_worker_time_by_weight_to_those_that_wanted_it() -> None:
    trace = trace_of([*tasks("ada", 60, S), *tasks("bob", 60, S), *tasks("cyd", 1, S)])
    policy = SimPolicy(slots=8, orgs={"ada": OrgSetting(weight=3), "bob": OrgSetting(weight=1)})
    report = report_of(simulate(trace, policy, until_us=10 * S, window_us=10 * S))
    # Cyd wanted one second and got it; 79 are left, three parts to one.
    due = {org.org: org.fair_s for org in report.orgs}
    assert due == pytest.approx({"ada": 79 * 0.75, "bob": 79 * 0.25, "cyd": 1.0})
    assert sum(org.worker_s for org in report.orgs) == 80


def test_what_a_capped_org_is_due_is_what_its_cap_allows() -> None:
    trace = trace_of([*tasks("ada", 60, S), *tasks("bob", 60, S)])
    policy = SimPolicy(slots=8, orgs={"ada": OrgSetting(burst_max=2)})
    report = report_of(simulate(trace, policy, until_us=6 * S, window_us=3 * S))
    assert [(org.worker_s, org.fair_s) for org in report.orgs] == [(12.0, 12.0), (36.0, 36.0)]
    assert report.jain == pytest.approx(1.0)


def test_headroom_leaves_a_part_of_the_capacity_to_others() -> None:
    policy = SimPolicy(slots=10, capacity=10, headroom=1.0)
    run = simulate(trace_of(tasks("ada", 30, S)), policy)
    assert list(run.peak) == [5]
    assert run.idle_us == 0


@pytest.mark.parametrize("wrong", [{"until_us": 0}, {"window_us": 0}], ids=str)
def test_a_run_without_time_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidInput, match="must be at least 1, not 0"):
        simulate(trace_of([]), SimPolicy(), **wrong)  # type: ignore[arg-type]


# Configuration ----------------------------------------------------------------------------------


def test_a_paused_org_starts_nothing_until_it_is_resumed() -> None:
    changes = (
        Change(1_500 * MS, "ada", OrgSetting(paused=True)),
        Change(7 * S, "ada", OrgSetting()),
    )
    run = simulate(trace_of(tasks("ada", 3, S)), SimPolicy(slots=1, changes=changes))
    assert starts(run) == [0, S, 7 * S]
    assert run.idle_us == 0


def test_a_pause_that_is_never_lifted_leaves_the_rest_undone() -> None:
    policy = SimPolicy(orgs={"ada": OrgSetting(paused=True)})
    run = simulate(trace_of([*tasks("ada", 2, S), *tasks("bob", 2, S)]), policy)
    report = report_of(run)
    assert (report.started, report.starved) == (2, ("ada",))


def test_a_cap_that_is_lifted_gives_its_half_and_no_more() -> None:
    trace = trace_of([*tasks("ada", 400, S // 10), *tasks("bob", 400, S // 10)])
    policy = SimPolicy(
        slots=10,
        orgs={"ada": OrgSetting(burst_max=1)},
        changes=(Change(2 * S, "ada", OrgSetting()),),
    )
    run = simulate(trace, policy, until_us=4 * S)
    at = [point.value for point in service_series(run, "ada", 1.0)]
    assert at[2] - at[1] == pytest.approx(1.0)
    assert at[3] - at[2] == pytest.approx(5.0, abs=0.3)
    assert at[4] - at[3] == pytest.approx(5.0, abs=0.3)


def test_weights_come_from_the_tier_unless_the_org_has_its_own() -> None:
    tiers = {"standard": Tier("standard", 1, 1, None), "gold": Tier("gold", 3, 0, 2)}
    policy = SimPolicy(
        slots=1,
        tiers=tiers,
        orgs={"ada": OrgSetting("gold"), "bob": OrgSetting("gold", weight=5, burst_max=7)},
    )
    trace = trace_of([*tasks("ada", 1, S), *tasks("bob", 1, S), *tasks("cyd", 1, S)])
    report = report_of(simulate(trace, policy))
    assert [(org.tier, org.weight) for org in report.orgs] == [
        ("gold", 3),
        ("gold", 5),
        ("standard", 1),
    ]
    assert [(tier.tier, tier.orgs, tier.worker_s) for tier in report.tiers] == [
        ("gold", 2, 2.0),
        ("standard", 1, 1.0),
    ]
    assert policy.terms_of("ada").burst_max == 2
    assert policy.terms_of("bob").burst_max == 7


@pytest.mark.parametrize(
    "wrong",
    [
        {"slots": 0},
        {"capacity": 0},
        {"window": -1},
        {"headroom": 2.0},
        {"orgs": {"ada": OrgSetting("no such tier")}},
        {"orgs": {"ada": OrgSetting(weight=0)}},
        {"changes": (Change(0, "ada", OrgSetting(burst_max=0)),)},
    ],
    ids=str,
)
def test_a_policy_that_cannot_work_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        SimPolicy(**wrong)  # type: ignore[arg-type]


# Series -----------------------------------------------------------------------------------------


def test_series_tell_how_dwell_and_service_went() -> None:
    run = simulate(trace_of(tasks("ada", 3, 1_500 * MS)), SimPolicy(slots=1))
    assert dwell_series(run, "ada") == [(0.0, 0.0), (0.0, 1.5), (0.0, 3.0)]
    assert service_series(run, "ada", 2.0) == [(0.0, 0.0), (2.0, 2.0), (4.0, 4.0), (4.5, 4.5)]
    assert admissions(run) == ["ada"] * 3
    with pytest.raises(InvalidInput, match="'bob' is not in the trace"):
        dwell_series(run, "bob")


def test_progress_is_told_now_and_then() -> None:
    told: list[tuple[int, int]] = []
    trace = zipf(random.Random(1), orgs=10, tasks=60_000, slots=50).trace
    policy = SimPolicy(slots=50, tick_us=100 * MS)
    simulate(trace, policy, progress=lambda done, total: told.append((done, total)))
    assert len(told) == 1
    assert 100_000 <= told[0][0] <= 120_000 == told[0][1]
