"""What is forgiven: debt made while nobody was left waiting, and no other."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.fairness import WeightedScheduler, settled
from orchestrator.model import CostMode
from tests.unit.drawn import weights
from tests.unit.histories import COSTS_US, law

SECOND = 1_000_000


def scheduler_of(*orgs: str, mode: CostMode = CostMode.TIME) -> WeightedScheduler:
    scheduler = WeightedScheduler(cost_mode=mode)
    scheduler.set_workload("etl", share=1, rank=0)
    for org in orgs:
        scheduler.configure(org, weight=1, rank=0, burst_max=None, paused=False)
    return scheduler


@law
@given(st.lists(st.sampled_from(COSTS_US), min_size=1, max_size=12), st.integers(1, 8))
def test_what_was_used_while_nobody_waited_is_no_debt(costs_us: list[int], still: int) -> None:
    scheduler = scheduler_of("ada", "bob")
    scheduler.arrive("ada", "etl", len(costs_us) + still)
    picks = scheduler.plan(100).picks
    for pick, cost_us in zip(picks, costs_us, strict=False):
        scheduler.settle(settled(pick, cost_us))
    # Some of ada's still run; nobody waits. Now both want as much as they can get.
    scheduler.wake()
    for org in ("ada", "bob"):
        scheduler.arrive(org, "etl", 100)
    assert scheduler.orgs["ada"].main.tag == scheduler.virtual_time
    assert scheduler.orgs["bob"].main.tag == scheduler.virtual_time


def test_after_use_that_harmed_nobody_two_orgs_share_at_once() -> None:
    scheduler = scheduler_of("ada", "bob", mode=CostMode.COUNT)
    scheduler.arrive("ada", "etl", 50)
    scheduler.plan(100)
    scheduler.wake()
    for org in ("ada", "bob"):
        scheduler.arrive(org, "etl", 100)
    assert Counter(pick.org for pick in scheduler.plan(20).picks) == {"ada": 10, "bob": 10}


@law
@given(st.integers(2, 40), weights())
def test_what_was_used_while_somebody_waited_is_paid_back(longer: int, weight: int) -> None:
    scheduler = scheduler_of("ada", "bob")
    for org in ("ada", "bob"):
        scheduler.configure(org, weight=weight, rank=0, burst_max=None, paused=False)
        scheduler.arrive(org, "etl", 100)
    (long,) = scheduler.plan(1).picks
    assert long.org == "ada"
    # Guessed at a second; bob waits for it, and is then served until it has as much.
    scheduler.settle(settled(long, longer * SECOND))
    for _ in range(longer):
        (short,) = scheduler.plan(1).picks
        assert short.org == "bob"
        scheduler.settle(settled(short, SECOND))
    scheduler.plan(1)
    ada, bob = (scheduler.orgs[org].main.tag for org in ("ada", "bob"))
    assert abs(ada - bob) <= longer * SECOND * 1024 // weight


def test_what_still_runs_is_charged_while_somebody_waits() -> None:
    scheduler = scheduler_of("ada", "bob")
    for org in ("ada", "bob"):
        scheduler.arrive(org, "etl", 100)
    before = scheduler.virtual_time
    scheduler.plan(2)
    scheduler.wake()
    assert scheduler.virtual_time == before


@law
@given(st.integers(1, 20))
def test_a_newcomer_after_forgiving_has_no_credit_over_those_that_ran(ran: int) -> None:
    scheduler = scheduler_of("ada", "bob", "cyd", mode=CostMode.COUNT)
    scheduler.arrive("ada", "etl", ran)
    scheduler.plan(ran)
    scheduler.wake()
    for org in ("bob", "cyd", "ada"):
        scheduler.arrive(org, "etl", 30)
    admitted = Counter(pick.org for pick in scheduler.plan(30).picks)
    assert admitted == {"ada": 10, "bob": 10, "cyd": 10}
