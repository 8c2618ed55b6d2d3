"""What the policies promise, seen in simulated runs."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from orchestrator.fairness import WorkloadClass
from orchestrator.fairness.simulation.baselines import Rule
from orchestrator.fairness.simulation.policy import SimPolicy
from orchestrator.fairness.simulation.report import report_of
from orchestrator.fairness.simulation.scenarios import (
    express_and_etl,
    merged,
    mixed_durations,
    noisy_neighbour,
    weights_532,
)
from orchestrator.fairness.simulation.simulate import simulate
from orchestrator.fairness.simulation.trace import trace_of
from tests.unit.simulated import MS, S, most_running, of_org, tasks

# What the policies promise ----------------------------------------------------------------------


def test_equal_weights_get_equal_worker_time_whatever_their_tasks_take() -> None:
    scenario = mixed_durations(slots=6)
    index = {}
    for rule in (Rule.WEIGHTED, Rule.COUNT, Rule.FIFO):
        policy = replace(scenario.policy, rule=rule)
        run = simulate(scenario.trace, policy, until_us=90 * S, window_us=90 * S)
        report = report_of(run)
        assert report.windows[0].orgs == ("short", "middle", "long")
        assert report.windows[0].jain == pytest.approx(report.jain)
        index[rule] = report.jain or 0.0
    assert index[Rule.WEIGHTED] >= 0.99
    assert index[Rule.COUNT] < 0.5
    assert index[Rule.FIFO] < 0.4


def test_weights_are_shares_of_worker_time() -> None:
    scenario = weights_532(durations_us=(10 * MS, S, 10 * S), span_us=50 * S)
    report = report_of(simulate(scenario.trace, scenario.policy, until_us=50 * S))
    assert [org.fair_share for org in report.orgs] == pytest.approx([0.5, 0.3, 0.2])
    assert [org.share for org in report.orgs] == pytest.approx([0.5, 0.3, 0.2], abs=0.02)


def test_quiet_orgs_do_not_notice_a_noisy_one() -> None:
    scenario = noisy_neighbour(random.Random(1), backlog=3_000)
    dwell, ratio = {}, {}
    for rule in (Rule.WEIGHTED, Rule.SQS, Rule.FIFO):
        report = report_of(simulate(scenario.trace, replace(scenario.policy, rule=rule)))
        ratio[rule] = report.lag.ratio if report.lag else 0.0
        quiet = [org.dwell.p99 for org in report.orgs if org.org != "noisy"]
        dwell[rule] = max(quiet)
        assert report.started == report.tasks
    # Two tasks of 100 ms for a place in front of the flood, against the whole of it.
    assert dwell[Rule.WEIGHTED] < 0.2
    assert dwell[Rule.SQS] < 0.2
    assert dwell[Rule.FIFO] > 10
    assert 0 < ratio[Rule.WEIGHTED] < 1 < 10 < ratio[Rule.FIFO]


def test_the_express_reserve_keeps_short_tasks_from_waiting_for_long_ones() -> None:
    scenario = express_and_etl(random.Random(2), slots=10, span_us=600 * S)
    waits = {}
    for reserve in (0, 1):
        policy = replace(scenario.policy, express_reserve=reserve)
        run = simulate(scenario.trace, policy)
        waits[reserve] = {org.org: org.dwell.p95 for org in report_of(run).orgs}["web"]
    assert waits[1] < 0.1
    assert waits[0] > 100


@pytest.mark.parametrize("window", [0, 8])
def test_long_tasks_never_run_on_the_reserve(window: int) -> None:
    scenario = express_and_etl(random.Random(2), slots=10, span_us=600 * S)
    run = simulate(scenario.trace, replace(scenario.policy, express_reserve=3, window=window))
    assert most_running(run, of_org(run, "batch")) == 7


def test_a_flow_that_is_express_in_name_only_leaves_the_reserve() -> None:
    trace = trace_of(tasks("ada", 40, 10 * S, workload="api"))
    workloads = {"api": WorkloadClass(express=True, express_max_us=S)}
    policy = SimPolicy(slots=4, express_reserve=1, workloads=workloads)
    run = simulate(trace, policy)
    late = [start for start in run.start_us if start > 100 * S]
    assert max(Counter(late).values()) == 3


def test_a_long_task_is_charged_while_it_runs() -> None:
    # Bob's first tasks are expected to take what ada's do. Without a charge for what they really
    # take he would get slot after slot until the first one ends.
    trace = merged([tasks("ada", 5_000, 10 * MS), tasks("bob", 40, 100 * S, at_us=S)])
    checked = simulate(trace, SimPolicy(slots=20, check_us=10 * MS), until_us=3 * S)
    unchecked = simulate(trace, SimPolicy(slots=20, check_us=1_000 * S), until_us=3 * S)
    assert checked.served_us[1] <= checked.served_us[0]
    assert unchecked.peak[1] == 20
    assert checked.peak[1] < 20
