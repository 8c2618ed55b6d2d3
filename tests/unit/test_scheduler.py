"""The weighted scheduler in count mode, by example."""

from __future__ import annotations

from collections import Counter

import pytest

from orchestrator.fairness import (
    COUNT_COST_US,
    Pick,
    Settled,
    WeightedScheduler,
    charge_of,
    settled,
)
from orchestrator.model import CostMode
from tests.unit.histories import persisted
from tests.unit.oracle import NaiveClass, NaiveScheduler

UNIT = charge_of(1_000_000, 1)


def scheduler_of(**weights: int) -> WeightedScheduler:
    """Return a scheduler with these orgs, in this order, that have nothing to do."""
    scheduler = WeightedScheduler(cost_mode=CostMode.COUNT)
    for workload, share in {"api": 8, "etl": 2}.items():
        scheduler.set_workload(workload, share=share, rank=0)
    for org, weight in weights.items():
        configure(scheduler, org, weight=weight)
    return scheduler


def configure(
    scheduler: WeightedScheduler,
    org: str,
    *,
    weight: int = 1,
    burst_max: int | None = None,
    paused: bool = False,
) -> None:
    scheduler.configure(org, weight=weight, rank=0, burst_max=burst_max, paused=paused)


def orgs_of(picks: list[Pick]) -> list[str]:
    return [pick.org for pick in picks]


def end(scheduler: WeightedScheduler, *picks: Pick) -> None:
    """End these attempts after the time they are charged."""
    for pick in picks:
        scheduler.settle(settled(pick, COUNT_COST_US))
    scheduler.wake()


# Charges ----------------------------------------------------------------------------------------


def test_a_charge_is_inversely_proportional_to_the_weight() -> None:
    assert charge_of(1_000_000, 1) == 1_000_000 * 2**10
    assert [charge_of(1_000_000, w) * w for w in (1, 2, 5, 10, 1_000)] == [UNIT] * 5


@pytest.mark.parametrize(("cost_us", "weight"), [(0, 1), (1, 1_000_000), (1, 2**11)])
def test_no_admission_is_free(cost_us: int, weight: int) -> None:
    assert charge_of(cost_us, weight) == 1


def test_a_pick_says_what_was_charged_and_at_which_weight() -> None:
    scheduler = scheduler_of(ada=5)
    scheduler.arrive("ada", "api", 1)
    assert scheduler.plan(1).picks == [Pick("ada", "api", COUNT_COST_US, 5, 8)]


# Shares -----------------------------------------------------------------------------------------


def test_orgs_share_slots_by_weight() -> None:
    scheduler = scheduler_of(ada=5, bob=3, cyd=2)
    for org in ("ada", "bob", "cyd"):
        scheduler.arrive(org, "etl", 1_000)
    assert Counter(orgs_of(scheduler.plan(100).picks)) == {"ada": 50, "bob": 30, "cyd": 20}


def test_workloads_of_an_org_share_its_slots_by_share() -> None:
    scheduler = scheduler_of(ada=1)
    scheduler.arrive("ada", "api", 1_000)
    scheduler.arrive("ada", "etl", 1_000)
    picks = scheduler.plan(100).picks
    assert Counter(pick.workload for pick in picks) == {"api": 80, "etl": 20}


def test_a_workload_nobody_configured_has_one_share() -> None:
    scheduler = scheduler_of(ada=1)
    scheduler.arrive("ada", "etl", 1_000)
    scheduler.arrive("ada", "unheard", 1_000)
    picks = scheduler.plan(90).picks
    assert Counter(pick.workload for pick in picks) == {"etl": 60, "unheard": 30}


def test_a_changed_weight_divides_the_next_slots_and_leaves_the_past_alone() -> None:
    scheduler = scheduler_of(ada=1, bob=1)
    scheduler.arrive("ada", "etl", 1_000)
    scheduler.arrive("bob", "etl", 1_000)
    scheduler.plan(10)
    tag = scheduler.orgs["ada"].main.tag
    configure(scheduler, "ada", weight=4)
    assert scheduler.orgs["ada"].main.tag == tag
    assert Counter(orgs_of(scheduler.plan(50).picks)) == {"ada": 40, "bob": 10}


def test_a_changed_share_divides_the_next_slots_of_every_org() -> None:
    scheduler = scheduler_of(ada=1)
    scheduler.arrive("ada", "api", 1_000)
    scheduler.arrive("ada", "etl", 1_000)
    scheduler.plan(100)
    scheduler.set_workload("etl", share=8, rank=0)
    picks = scheduler.plan(100).picks
    assert Counter(pick.workload for pick in picks) == {"api": 50, "etl": 50}


held_back = pytest.mark.parametrize(
    ("burst_max", "paused"), [(1, False), (None, True)], ids=["capped", "paused"]
)

# No banking -------------------------------------------------------------------------------------


def test_a_newcomer_shares_at_once_and_claims_nothing_for_its_absence() -> None:
    scheduler = scheduler_of(ada=1, bob=1)
    scheduler.arrive("ada", "etl", 1_000_000)
    scheduler.plan(5_000)
    scheduler.arrive("bob", "etl", 1_000)
    assert Counter(orgs_of(scheduler.plan(20).picks)) == {"ada": 10, "bob": 10}


def test_a_workload_that_was_idle_claims_nothing_for_its_absence() -> None:
    scheduler = scheduler_of(ada=1)
    scheduler.set_workload("etl", share=8, rank=0)
    scheduler.arrive("ada", "api", 1_000_000)
    scheduler.plan(5_000)
    scheduler.arrive("ada", "etl", 1_000)
    picks = scheduler.plan(20).picks
    assert Counter(pick.workload for pick in picks) == {"api": 10, "etl": 10}


@held_back
def test_an_org_that_was_held_back_shares_at_once_and_claims_nothing(
    burst_max: int | None, paused: bool
) -> None:
    scheduler = scheduler_of(bob=1)
    configure(scheduler, "ada", burst_max=burst_max, paused=paused)
    scheduler.arrive("ada", "etl", 1_000)
    scheduler.arrive("bob", "etl", 1_000)
    scheduler.plan(500)
    configure(scheduler, "ada")
    assert Counter(orgs_of(scheduler.plan(20).picks)) == {"ada": 10, "bob": 10}


def test_an_org_that_paid_ahead_is_not_forgiven_by_a_pause() -> None:
    scheduler = scheduler_of(ada=1, bob=100)
    scheduler.arrive("ada", "etl", 10)
    scheduler.arrive("bob", "etl", 1_000)
    assert orgs_of(scheduler.plan(1).picks) == ["ada"]
    configure(scheduler, "ada", paused=True)
    configure(scheduler, "ada")
    assert orgs_of(scheduler.plan(100).picks) == ["bob"] * 100


@held_back
def test_a_decision_between_two_terms_gives_no_credit_for_the_time_before(
    burst_max: int | None, paused: bool
) -> None:
    before = scheduler_of(bob=1)
    configure(before, "ada", burst_max=burst_max, paused=paused)
    before.arrive("ada", "etl", 1_000)
    before.arrive("bob", "etl", 1_000)
    before.plan(500)

    after = WeightedScheduler(
        cost_mode=CostMode.COUNT, virtual_time=before.virtual_time, admit_seq=before.admit_seq
    )
    for org in before.orgs.values():
        after.load(persisted(org))
        configure(after, org.org)
    assert Counter(orgs_of(after.plan(20).picks)) == {"ada": 10, "bob": 10}


def test_who_was_resumed_between_two_terms_starts_after_forgiving_as_in_one_term() -> None:
    before = scheduler_of(bob=1)
    configure(before, "ada", paused=True)
    before.arrive("ada", "etl", 1)
    before.arrive("bob", "etl", 3)
    before.plan(3)
    bob = before.orgs["bob"].main.tag
    assert before.virtual_time < bob

    after = WeightedScheduler(
        cost_mode=CostMode.COUNT, virtual_time=before.virtual_time, admit_seq=before.admit_seq
    )
    for org in before.orgs.values():
        after.load(persisted(org))
        configure(after, org.org)
    after.wake()
    assert after.virtual_time == after.orgs["ada"].main.tag == bob


# Ties -------------------------------------------------------------------------------------------


def test_of_equals_the_one_with_nothing_in_flight_goes_first() -> None:
    scheduler = scheduler_of(ada=1, bob=1)
    scheduler.arrive("bob", "etl", 10)
    scheduler.arrive("ada", "etl", 10)
    ada, bob = scheduler.plan(2).picks
    assert (ada.org, bob.org) == ("ada", "bob")
    end(scheduler, bob)
    assert orgs_of(scheduler.plan(1).picks) == ["bob"]


def test_of_equals_the_one_served_longest_ago_goes_first() -> None:
    scheduler = scheduler_of(ada=1, bob=1, cyd=1)
    for org in ("cyd", "ada", "bob"):
        scheduler.arrive(org, "etl", 1)
        end(scheduler, *scheduler.plan(1).picks)
    # All three wake at one virtual time, the tag of the org admitted last.
    configure(scheduler, "eve")
    scheduler.arrive("eve", "etl", 3)
    scheduler.plan(3)
    for org in ("ada", "bob", "cyd"):
        scheduler.arrive(org, "etl", 1)
    assert orgs_of(scheduler.plan(3).picks) == ["cyd", "ada", "bob"]


@pytest.mark.parametrize("names", [("ada", "bob"), ("bob", "ada")])
def test_of_equals_never_served_the_one_that_appeared_first_goes_first(
    names: tuple[str, str],
) -> None:
    scheduler = scheduler_of(**dict.fromkeys(names, 1))
    for org in reversed(names):
        scheduler.arrive(org, "etl", 1)
    assert orgs_of(scheduler.plan(2).picks) == list(names)


# Caps -------------------------------------------------------------------------------------------


def test_one_plan_stops_at_burst_max() -> None:
    scheduler = scheduler_of()
    configure(scheduler, "ada", burst_max=3)
    scheduler.arrive("ada", "etl", 10)
    assert len(scheduler.plan(10).picks) == 3
    assert scheduler.eligible == 0


def test_a_lowered_cap_blocks_until_in_flight_is_below_it() -> None:
    scheduler = scheduler_of(ada=1)
    scheduler.arrive("ada", "etl", 10)
    running = scheduler.plan(4).picks
    configure(scheduler, "ada", burst_max=2)
    admitted = []
    for pick in running:
        end(scheduler, pick)
        admitted.append(len(scheduler.plan(10).picks))
    # 4 -> 3 -> 2, still none; 1, one more; and one for each that ends.
    assert admitted == [0, 0, 1, 1]


def test_a_paused_org_gets_nothing_until_it_is_resumed() -> None:
    scheduler = scheduler_of()
    configure(scheduler, "ada", paused=True)
    scheduler.arrive("ada", "etl", 1)
    assert scheduler.plan(1).picks == []
    configure(scheduler, "ada")
    assert orgs_of(scheduler.plan(1).picks) == ["ada"]


def test_a_count_of_the_rows_corrects_what_is_in_flight() -> None:
    scheduler = scheduler_of()
    configure(scheduler, "ada", burst_max=2)
    scheduler.arrive("ada", "etl", 10)
    scheduler.plan(2)
    scheduler.set_in_flight("ada", 1)
    assert scheduler.in_flight == 1
    assert len(scheduler.plan(10).picks) == 1


def test_ending_more_than_is_in_flight_is_refused_and_changes_nothing() -> None:
    scheduler = scheduler_of(ada=1)
    scheduler.arrive("ada", "etl", 1)
    scheduler.plan(1)
    with pytest.raises(ValueError, match="2 attempts ended, 1 are in flight"):
        scheduler.settle(Settled("ada", "etl", False, 2, 2, 2_000_000, 0, 0))
    assert (scheduler.orgs["ada"].in_flight, scheduler.in_flight) == (1, 1)


# Undo -------------------------------------------------------------------------------------------


def test_a_plan_for_tasks_that_were_not_there_does_not_make_a_newcomer_wait_for_them() -> None:
    scheduler = scheduler_of(ada=1, bob=1)
    scheduler.arrive("ada", "etl", 48)
    scheduler.undo(scheduler.plan(48))
    scheduler.set_backlog("ada", "etl", 1)
    assert orgs_of(scheduler.plan(48).picks) == ["ada"]
    scheduler.arrive("ada", "etl", 1_000)
    scheduler.arrive("bob", "etl", 1)
    assert scheduler.virtual_time == 0
    assert orgs_of(scheduler.plan(48).picks).index("bob") <= 1


@pytest.mark.parametrize("changes", range(1, 6))
def test_an_admission_number_that_was_taken_back_may_go_to_another_org(changes: int) -> None:
    scheduler = scheduler_of(ada=1, bob=1)
    scheduler.arrive("ada", "etl", 9)
    scheduler.undo(scheduler.plan(1))
    configure(scheduler, "ada", paused=True)
    # Of as many changes as one that ada went through: what an entry of the line is told by.
    for _ in range(changes):
        scheduler.arrive("bob", "etl", 2)
    assert orgs_of(scheduler.plan(2).picks) == ["bob"] * 2


def test_the_plan_after_an_undone_one_starts_at_the_same_admission_number() -> None:
    scheduler = scheduler_of(ada=1)
    scheduler.arrive("ada", "etl", 9)
    scheduler.plan(2)
    trial = scheduler.plan(5)
    scheduler.undo(trial)
    assert (trial.admit_seq, scheduler.plan(5).admit_seq) == (2, 2)


# The line ---------------------------------------------------------------------------------------


def test_order_is_the_line_of_eligible_orgs_by_tag() -> None:
    scheduler = scheduler_of(ada=1, bob=2, cyd=4, dan=1, eve=1)
    for org in ("ada", "bob", "cyd", "eve"):
        scheduler.arrive(org, "etl", 5)
    scheduler.plan(4)
    configure(scheduler, "eve", paused=True)
    assert orgs_of_line(scheduler) == ["cyd", "bob", "ada"]


def orgs_of_line(scheduler: WeightedScheduler) -> list[str]:
    return [org.org for org in scheduler.order()]


def test_a_flow_waits_while_it_is_believed_to_hold_work() -> None:
    scheduler = scheduler_of(ada=1)
    scheduler.arrive("ada", "etl", 1)
    assert [scheduler.waits("ada", "etl"), scheduler.waits("ada", "api")] == [True, False]
    assert not scheduler.waits("nobody", "etl")
    scheduler.plan(1)
    assert not scheduler.waits("ada", "etl")


def test_changes_without_a_plan_between_them_do_not_fill_memory() -> None:
    scheduler, naive = scheduler_of(ada=1, bob=2), NaiveScheduler()
    naive.classes = {"etl": NaiveClass(2, 0, False, None)}
    for org, weight in (("ada", 1), ("bob", 2)):
        naive.configure(org, weight, None, paused=False)
        for _ in range(5_000):
            scheduler.arrive(org, "etl", 1)
        naive.set_backlog(org, "etl", 5_000)
    # Each change leaves a stale place in line behind: private, but what memory depends on.
    assert len(scheduler.main._heap) < 2_000
    picks = [(pick.org, pick.workload) for pick in scheduler.plan(300).picks]
    assert picks == [(pick.org, pick.workload) for pick in naive.plan(300)]
