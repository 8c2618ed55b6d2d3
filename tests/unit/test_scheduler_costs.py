"""Guesses and corrections in time mode, by example."""

from __future__ import annotations

import pytest

from orchestrator.fairness import (
    COUNT_COST_US,
    GUESS_US,
    WeightedScheduler,
    charge_of,
    learn,
    overrun,
    settled,
)
from orchestrator.model import CostMode

SECOND = 1_000_000


def scheduler_of(*orgs: str) -> WeightedScheduler:
    scheduler = WeightedScheduler(cost_mode=CostMode.TIME)
    scheduler.set_workload("etl", share=1, rank=0)
    scheduler.set_workload("api", share=1, rank=1)
    for org in orgs:
        scheduler.configure(org, weight=1, rank=0, burst_max=None, paused=False)
    return scheduler


def test_what_was_never_measured_is_guessed() -> None:
    scheduler = scheduler_of("ada")
    scheduler.arrive("ada", "etl", 1)
    assert [pick.charged_us for pick in scheduler.plan(1).picks] == [GUESS_US]


def test_a_flow_is_guessed_by_its_own_tasks_and_a_new_one_by_those_of_the_queue() -> None:
    scheduler = scheduler_of("ada", "bob")
    scheduler.arrive("ada", "etl", 2)
    (pick,) = scheduler.plan(1).picks
    scheduler.settle(settled(pick, 3 * SECOND))
    scheduler.arrive("bob", "etl", 1)
    guesses = {pick.org: pick.charged_us for pick in scheduler.plan(2).picks}
    assert guesses == {"ada": 3 * SECOND, "bob": 3 * SECOND}


def test_what_a_task_takes_is_known_once_one_was_measured() -> None:
    scheduler = scheduler_of("ada", "bob")
    scheduler.cost_mode = CostMode.COUNT
    scheduler.arrive("ada", "etl", 2)
    (pick,) = scheduler.plan(1).picks
    assert scheduler.measured_us("ada", "etl") == scheduler.measured_us("eve", "api") == 0
    scheduler.settle(settled(pick, 7))
    assert scheduler.measured_us("ada", "etl") == scheduler.measured_us("eve", "api") == 7


def test_an_attempt_that_never_ran_teaches_nothing_and_costs_next_to_nothing() -> None:
    scheduler = scheduler_of("ada")
    scheduler.arrive("ada", "etl", 2)
    (pick,) = scheduler.plan(1).picks
    scheduler.settle(settled(pick, 0))
    assert scheduler.orgs["ada"].flows["etl"].cost_us == 0
    assert scheduler.orgs["ada"].main.tag == 1


def test_in_count_mode_every_task_costs_the_same_whatever_it_takes() -> None:
    scheduler = scheduler_of("ada")
    scheduler.cost_mode = CostMode.COUNT
    scheduler.arrive("ada", "etl", 2)
    (pick,) = scheduler.plan(1).picks
    scheduler.settle(settled(pick, 60 * SECOND))
    assert scheduler.orgs["ada"].main.tag == charge_of(COUNT_COST_US, 1)


@pytest.mark.parametrize(
    ("estimate_us", "total_us", "count", "learnt_us"),
    [(0, 300, 3, 100), (100, 200, 1, 120), (100, 100, 1, 100), (100, 0, 1, 80), (1, 0, 1, 1)],
)
def test_an_estimate_moves_a_fifth_of_the_way(
    estimate_us: int, total_us: int, count: int, learnt_us: int
) -> None:
    assert learn(estimate_us, total_us, count) == learnt_us


def test_an_estimate_follows_a_change_within_sixteen_measurements() -> None:
    assert abs(learn(SECOND, 100 * SECOND, 100) - SECOND) <= 0
    assert 9.5 * SECOND < learn(SECOND, 1_000 * SECOND, 100) <= 10 * SECOND


@pytest.mark.parametrize(
    ("charged_us", "elapsed_us", "now_us"), [(100, 100, 125), (101, 102, 127), (100, 900, 900)]
)
def test_an_overrun_is_charged_a_quarter_more_or_what_was_used(
    charged_us: int, elapsed_us: int, now_us: int
) -> None:
    assert overrun(charged_us, elapsed_us) == now_us


def test_a_newcomer_does_not_wait_for_what_the_others_were_given_back() -> None:
    scheduler = scheduler_of("ada", "bob", "cyd")
    scheduler.arrive("ada", "etl", 1)
    (pick,) = scheduler.plan(1).picks
    # Tasks are believed to take a minute from now on, and take a millisecond.
    scheduler.settle(settled(pick, 60 * SECOND))
    for org in ("ada", "bob"):
        scheduler.arrive(org, "etl", 1_000)
    for _ in range(20):
        for short in scheduler.plan(2).picks:
            scheduler.settle(settled(short, 1_000))
    scheduler.wake()
    scheduler.arrive("cyd", "etl", 10)
    ahead = [pick.org for pick in scheduler.plan(20).picks]
    assert ahead.index("cyd") <= 2


@pytest.mark.parametrize("early", [10, 130])
def test_first_guesses_that_are_refunded_hold_up_nobody_who_came_in_between(early: int) -> None:
    scheduler = scheduler_of("ada", "bob")
    scheduler.arrive("ada", "etl", 10_000)
    charged = scheduler.plan(130).picks
    # Comes while nothing was measured, is served in part, and is back when all of it was refunded.
    scheduler.arrive("bob", "etl", early)
    charged += scheduler.plan(20).picks
    for pick in charged:
        scheduler.settle(settled(pick, 20))
    scheduler.wake()
    scheduler.arrive("bob", "etl", 10)
    bob = scheduler.orgs["bob"]
    scheduler.plan(2 * bob.backlog + 130)
    assert not bob.backlog


def test_a_workload_that_wakes_does_not_wait_for_what_another_was_given_back() -> None:
    scheduler = scheduler_of("ada")
    scheduler.arrive("ada", "etl", 1_000)
    for _ in range(20):
        (pick,) = scheduler.plan(1).picks
        scheduler.settle(settled(pick, 60 * SECOND if pick.charged_us == GUESS_US else 1_000))
    scheduler.arrive("ada", "api", 10)
    ahead = [pick.workload for pick in scheduler.plan(20).picks]
    assert ahead.index("api") <= 1
