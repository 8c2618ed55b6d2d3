"""The rules that fair admission is compared with, by example, and the traces to compare on."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from orchestrator.errors import InvalidInput
from orchestrator.fairness import Pick, Scheduler, WorkloadClass, settled
from orchestrator.fairness.simulation.baselines import (
    FifoScheduler,
    MaxMinScheduler,
    Rule,
    SqsScheduler,
    rule_of,
    scheduler_of,
)
from orchestrator.fairness.simulation.jsonl import format_arrival, format_trace, parse_trace
from orchestrator.fairness.simulation.scenarios import (
    Scenario,
    express_and_etl,
    mixed_durations,
    noisy_neighbour,
    on_off,
    weights_532,
    zipf,
)
from orchestrator.fairness.simulation.trace import Arrival, trace_of
from orchestrator.model import CostMode, Policy

S = 1_000_000


def configure(
    scheduler: Scheduler,
    org: str,
    *,
    weight: int = 1,
    rank: int = 0,
    burst_max: int | None = None,
) -> None:
    scheduler.configure(org, weight=weight, rank=rank, burst_max=burst_max, paused=False)


def admitted(scheduler: Scheduler, slots: int) -> list[str]:
    return [pick.org for pick in scheduler.plan(slots).picks]


def end(scheduler: Scheduler, org: str, cost_us: int = S) -> None:
    weight = scheduler.orgs[org].weight
    scheduler.settle(settled(Pick(org, "etl", cost_us, weight, 1), cost_us))


@pytest.mark.parametrize("rule", list(Rule))
def test_every_rule_honours_caps_and_fills_the_slots_that_are_left(rule: Rule) -> None:
    scheduler = scheduler_of(rule)
    configure(scheduler, "ada", burst_max=2)
    configure(scheduler, "bob")
    scheduler.arrive("ada", "etl", 10)
    scheduler.arrive("bob", "etl", 10)
    assert Counter(admitted(scheduler, 8)) == {"ada": 2, "bob": 6}
    assert scheduler.backlog == 12


def test_the_settings_of_a_queue_name_its_rule() -> None:
    assert rule_of(Policy.WEIGHTED, CostMode.TIME) is Rule.WEIGHTED
    assert rule_of(Policy.WEIGHTED, CostMode.COUNT) is Rule.COUNT
    assert rule_of(Policy.STRICT, CostMode.TIME) is Rule.STRICT


# FIFO -------------------------------------------------------------------------------------------


def test_fifo_is_the_order_of_arrival_over_all_orgs_and_workloads() -> None:
    scheduler = FifoScheduler()
    for org, workload, count in (("bob", "etl", 2), ("ada", "api", 1), ("bob", "api", 1)):
        scheduler.arrive(org, workload, count)
    scheduler.arrive("ada", "etl", 2)
    scheduler.arrive("bob", "etl", 1)
    picks = scheduler.plan(3).picks + scheduler.plan(9).picks
    assert [(pick.org, pick.workload) for pick in picks] == [
        ("bob", "etl"),
        ("bob", "etl"),
        ("ada", "api"),
        ("bob", "api"),
        ("ada", "etl"),
        ("ada", "etl"),
        ("bob", "etl"),
    ]


def test_fifo_forgets_tasks_that_were_withdrawn() -> None:
    scheduler = FifoScheduler()
    scheduler.arrive("ada", "etl", 3)
    scheduler.arrive("bob", "etl", 1)
    scheduler.set_backlog("ada", "etl", 0)
    scheduler.arrive("ada", "etl", 1)
    assert admitted(scheduler, 9) == ["bob", "ada"]


# Slot max-min -----------------------------------------------------------------------------------


def test_max_min_gives_a_slot_to_whoever_holds_fewest_for_its_weight() -> None:
    scheduler = MaxMinScheduler()
    configure(scheduler, "ada", weight=3)
    configure(scheduler, "bob")
    scheduler.arrive("ada", "etl", 99)
    scheduler.arrive("bob", "etl", 99)
    assert Counter(admitted(scheduler, 12)) == {"ada": 9, "bob": 3}
    for _ in range(3):
        end(scheduler, "bob")
    assert admitted(scheduler, 3) == ["bob"] * 3


def test_max_min_knows_no_weights_where_orgs_outnumber_slots() -> None:
    scheduler = MaxMinScheduler()
    for org, weight in (("ada", 10), ("bob", 1), ("cyd", 1)):
        configure(scheduler, org, weight=weight)
        scheduler.arrive(org, "etl", 99)
    served = Counter[str]()
    for _ in range(30):
        (org,) = admitted(scheduler, 1)
        served[org] += 1
        end(scheduler, org)
    assert served == {"ada": 10, "bob": 10, "cyd": 10}


# SQS --------------------------------------------------------------------------------------------


def loud(scheduler: Scheduler, *, held: int) -> None:
    """Let `noisy` hold `held` tasks and have more waiting, older than all others."""
    scheduler.arrive("noisy", "etl", held + 100)
    assert admitted(scheduler, held) == ["noisy"] * held


def test_sqs_lets_quiet_orgs_go_before_one_that_holds_a_tenth_and_thirty() -> None:
    scheduler = SqsScheduler()
    loud(scheduler, held=30)
    scheduler.arrive("quiet", "etl", 2)
    assert admitted(scheduler, 3) == ["quiet", "quiet", "noisy"]


def test_sqs_holds_nobody_noisy_for_fewer_than_thirty_in_flight() -> None:
    scheduler = SqsScheduler()
    loud(scheduler, held=28)
    scheduler.arrive("quiet", "etl", 1)
    assert admitted(scheduler, 2) == ["noisy", "noisy"]


def test_sqs_holds_whoever_used_a_tenth_of_recent_worker_time_noisy() -> None:
    scheduler = SqsScheduler()
    loud(scheduler, held=2)
    end(scheduler, "noisy")
    scheduler.arrive("quiet", "etl", 1)
    assert admitted(scheduler, 2) == ["quiet", "noisy"]


def test_sqs_lets_the_noisy_one_with_fewest_in_flight_go_first() -> None:
    scheduler = SqsScheduler()
    loud(scheduler, held=40)
    scheduler.arrive("louder", "etl", 100)
    assert admitted(scheduler, 31) == ["louder"] * 31
    assert Counter(admitted(scheduler, 9)) == {"louder": 9}
    assert Counter(admitted(scheduler, 10)) == {"louder": 5, "noisy": 5}


def test_sqs_holds_an_org_quiet_again_once_its_use_is_long_ago() -> None:
    scheduler = SqsScheduler()
    loud(scheduler, held=1)
    end(scheduler, "noisy")
    # With the ninth the noisy one's part is down to a tenth, which is not more than a tenth.
    for other in range(9):
        scheduler.arrive(f"other-{other}", "etl", 2)
        assert admitted(scheduler, 1) == [f"other-{other}"]
        end(scheduler, f"other-{other}")
    assert admitted(scheduler, 1) == ["noisy"]


def test_sqs_forgets_worker_time_beyond_the_last_thousand_attempts() -> None:
    scheduler = SqsScheduler()
    loud(scheduler, held=1)
    end(scheduler, "noisy", 10**6 * S)
    for other in range(1_000):
        scheduler.arrive(f"other-{other}", "etl", 1)
        assert admitted(scheduler, 1) == [f"other-{other}"]
        end(scheduler, f"other-{other}")
    scheduler.arrive("quiet", "etl", 1)
    assert admitted(scheduler, 1) == ["noisy"]


# Traces -----------------------------------------------------------------------------------------


def scenarios(seed: int) -> list[Scenario]:
    return [
        noisy_neighbour(random.Random(seed)),
        zipf(random.Random(seed), orgs=50, tasks=500),
        on_off(random.Random(seed), periods=1),
        mixed_durations(span_us=S),
        weights_532(span_us=S),
        express_and_etl(random.Random(seed), span_us=60 * S),
    ]


def test_a_scenario_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    for one, same, other in zip(scenarios(1), scenarios(1), scenarios(2), strict=True):
        assert list(one.trace) == list(same.trace)
        assert one.policy == same.policy
        if one.name not in {"mixed durations", "weights 5:3:2"}:
            assert list(one.trace) != list(other.trace)


def test_zipf_demand_falls_with_the_rank_of_the_org() -> None:
    asked = Counter(arrival.org for arrival in zipf(random.Random(1), tasks=20_000).trace)
    assert asked["org-1"] / asked["org-10"] == pytest.approx(10, rel=0.3)


def test_a_trace_keeps_what_it_was_given() -> None:
    arrivals = [Arrival(0, "ada", "etl", 5, 7), Arrival(3, "bob", "api", 10, 2, critical=True)]
    trace = trace_of(arrivals, slots=4)
    assert (list(trace), trace.orgs, trace.workloads, trace.slots) == (
        arrivals,
        ("ada", "bob"),
        ("etl", "api"),
        4,
    )


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (Arrival(4, "ada", "etl", 5, 1), "arrival 2: at 4 us lies before 5 us: sort"),
        (Arrival(5, "", "etl", 5, 1), "org must have 1 to 200 characters"),
        (Arrival(5, "ada", "w" * 201, 5, 1), "workload must have 1 to 200 characters"),
        (Arrival(5, "ada", "etl", 11, 1), "priority 11 must be 1 to 10"),
        (Arrival(5, "ada", "etl", 5, 0), "duration must be at least 1 us, not 0"),
    ],
    ids=str,
)
def test_an_arrival_that_cannot_be_simulated_is_refused(wrong: Arrival, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        trace_of([Arrival(5, "ada", "etl", 5, 1), wrong])


# Lines ------------------------------------------------------------------------------------------


def test_a_trace_is_read_back_as_it_was_written() -> None:
    trace = zipf(random.Random(1), orgs=20, tasks=200).trace
    again = parse_trace(f"{line}\n" for line in format_trace(trace))
    assert list(again) == list(trace)
    assert again.slots == trace.slots == 200


def test_defaults_are_those_of_an_enqueue() -> None:
    trace = parse_trace(['{"at": 0.5, "org": "Müller", "duration_s": 2}', "", "  "])
    assert list(trace) == [Arrival(500_000, "Müller", "etl", 5, 2 * S)]
    assert trace.slots is None
    assert "Müller" in format_arrival(trace.arrival(0))


def test_a_critical_arrival_says_so_and_no_other_does() -> None:
    trace = parse_trace(
        [
            '{"at": 1, "org": "ada", "duration_s": 1, "critical": true}',
            GOOD,
            '{"at": 1, "org": "ada", "duration_s": 1, "critical": false, "priority": 3}',
        ]
    )
    urgent, ordinary, low = trace
    # The priority is that of an enqueue, where a critical task has 10 unless another is given.
    assert (urgent.critical, urgent.priority) == (True, 10)
    assert (ordinary.critical, low.critical, low.priority) == (False, False, 3)
    assert ["critical" in line for line in format_trace(trace)] == [True, False, False]
    assert list(parse_trace(format_trace(trace))) == list(trace)


GOOD = '{"at": 1, "org": "ada", "duration_s": 1}'


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([], "the trace is empty: it needs one line like"),
        (["{"], "line 1: is no JSON"),
        ([GOOD, "[1]"], "line 2: is no object"),
        ([GOOD, "", '{"at": 0, "org": "ada", "duration_s": 1}'], "line 3: .* sort"),
        (['{"at": 1, "at_us": 1, "org": "ada", "duration_s": 1}'], "either at .* or at_us"),
        (['{"org": "ada", "duration_s": 1}'], "either at .* or at_us"),
        (['{"at": "x", "org": "ada", "duration_s": 1}'], "at must be a number of seconds"),
        (['{"at": NaN, "org": "ada", "duration_s": 1}'], "at must be a number of seconds"),
        (['{"at": 1e99, "org": "ada", "duration_s": 1}'], "at must be a number of seconds"),
        (['{"at": -1, "org": "ada", "duration_s": 1}'], "line 1: at -1000000 us lies before 0"),
        (['{"at_us": 1.5, "org": "ada", "duration_s": 1}'], "at_us must be a whole number"),
        (['{"at": 1, "org": 7, "duration_s": 1}'], "org must be a text, not 7"),
        (['{"at": 1, "duration_s": 1}'], "org must be a text, not null"),
        (['{"at": 1, "org": "ada", "duration_s": 0}'], "duration must be at least 1 us"),
        (['{"at": 1, "org": "ada"}'], "duration_s must be a number of seconds, not null"),
        (['{"at": 1, "org": "ada", "duration_s": 1, "priority": true}'], "whole number, not true"),
        (['{"at": 1, "org": "ada", "duration_s": 1, "priority": 0}'], "priority 0 must be 1 to 10"),
        (['{"at": 1, "org": "ada", "duration_s": 1, "prio": 1}'], "unknown field 'prio': use only"),
        (['{"at": 1, "org": "ada", "duration_s": 1, "critical": 1}'], "true or false, not 1"),
        (['{"slots": 0}', GOOD], "line 1: slots must be at least 1"),
        (['{"slots": 4, "org": "ada"}', GOOD], "a header has the field slots alone"),
        ([GOOD, '{"slots": 4}'], "line 2: unknown field 'slots'"),
    ],
)
def test_a_line_that_cannot_be_read_is_named_with_what_to_do(lines: list[str], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        parse_trace(lines)


def test_a_header_alone_is_a_trace_of_nothing() -> None:
    assert len(parse_trace(['{"slots": 3}'])) == 0


def test_workloads_can_be_express_in_a_scenario() -> None:
    scenario = express_and_etl(random.Random(1), span_us=10 * S)
    assert scenario.policy.workloads["api"] == WorkloadClass(8, 0, True, S)
