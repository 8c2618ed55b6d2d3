"""The plain order: tier rank, workload rank, and round robin inside that place."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.fairness import Pick, StrictScheduler, WeightedScheduler, settled
from tests.unit.histories import law

RANKS = {"api": 1, "etl": 2}


def scheduler_of(**ranks: int) -> StrictScheduler:
    """Return a scheduler with these orgs, in this order, by the rank of their tier."""
    scheduler = StrictScheduler()
    for workload, rank in RANKS.items():
        scheduler.set_workload(workload, share=1, rank=rank)
    for org, rank in ranks.items():
        configure(scheduler, org, rank=rank)
    return scheduler


def configure(
    scheduler: StrictScheduler,
    org: str,
    *,
    rank: int,
    burst_max: int | None = None,
    paused: bool = False,
) -> None:
    scheduler.configure(org, weight=1, rank=rank, burst_max=burst_max, paused=paused)


def orgs_of(picks: list[Pick]) -> list[str]:
    return [pick.org for pick in picks]


def test_the_tier_of_the_lowest_rank_goes_first_whatever_the_workload() -> None:
    scheduler = scheduler_of(free=9, gold=1)
    scheduler.arrive("free", "api", 3)
    scheduler.arrive("gold", "etl", 3)
    assert orgs_of(scheduler.plan(6).picks) == ["gold"] * 3 + ["free"] * 3


def test_inside_a_tier_the_workload_of_the_lowest_rank_goes_first() -> None:
    scheduler = scheduler_of(ada=1, bob=1)
    scheduler.arrive("ada", "etl", 2)
    scheduler.arrive("bob", "api", 2)
    scheduler.arrive("bob", "etl", 1)
    picks = [(pick.org, pick.workload) for pick in scheduler.plan(5).picks]
    assert picks[:2] == [("bob", "api")] * 2
    assert sorted(picks[2:]) == [("ada", "etl"), ("ada", "etl"), ("bob", "etl")]


def test_the_orgs_of_one_place_take_turns() -> None:
    scheduler = scheduler_of(ada=1, bob=1, cyd=1)
    for org, tasks in {"ada": 100, "bob": 3, "cyd": 3}.items():
        scheduler.arrive(org, "api", tasks)
    turns = orgs_of(scheduler.plan(9).picks)
    assert turns == ["ada", "bob", "cyd"] * 3


def test_an_org_of_the_tier_that_comes_late_is_next() -> None:
    scheduler = scheduler_of(ada=1, bob=1)
    scheduler.arrive("ada", "api", 100)
    scheduler.plan(10)
    scheduler.arrive("bob", "api", 1)
    assert orgs_of(scheduler.plan(2).picks) == ["bob", "ada"]


def test_a_lower_tier_waits_as_long_as_a_higher_one_has_work() -> None:
    scheduler = scheduler_of(gold=1, free=9)
    scheduler.arrive("free", "api", 1)
    for _ in range(20):
        scheduler.arrive("gold", "etl", 1)
        assert orgs_of(scheduler.plan(1).picks) == ["gold"]
    assert orgs_of(scheduler.plan(1).picks) == ["free"]


def test_what_a_capped_tier_cannot_use_goes_to_the_next() -> None:
    scheduler = scheduler_of(free=9)
    configure(scheduler, "gold", rank=1, burst_max=2)
    scheduler.arrive("gold", "api", 10)
    scheduler.arrive("free", "api", 10)
    picks = scheduler.plan(4).picks
    assert orgs_of(picks) == ["gold", "gold", "free", "free"]
    scheduler.settle(settled(picks[0], 1_000_000))
    assert orgs_of(scheduler.plan(2).picks) == ["gold", "free"]


def test_a_paused_org_is_passed_over() -> None:
    scheduler = scheduler_of(free=9)
    configure(scheduler, "gold", rank=1, paused=True)
    scheduler.arrive("gold", "api", 1)
    scheduler.arrive("free", "api", 1)
    assert orgs_of(scheduler.plan(2).picks) == ["free"]


def test_a_changed_rank_of_a_tier_or_a_workload_acts_on_what_waits() -> None:
    scheduler = scheduler_of(ada=1, bob=2)
    scheduler.arrive("ada", "api", 1)
    scheduler.arrive("ada", "etl", 1)
    scheduler.arrive("bob", "etl", 5)
    configure(scheduler, "bob", rank=1)
    scheduler.set_workload("etl", share=1, rank=0)
    picks = [(pick.org, pick.workload) for pick in scheduler.plan(7).picks]
    assert picks == [("ada", "etl"), *[("bob", "etl")] * 5, ("ada", "api")]


def test_an_undone_plan_is_made_again_alike() -> None:
    scheduler = scheduler_of(ada=1, bob=1, cyd=2)
    for org in ("ada", "bob", "cyd"):
        scheduler.arrive(org, "api", 3)
        scheduler.arrive(org, "etl", 3)
    scheduler.plan(1)
    trial = scheduler.plan(12)
    scheduler.undo(trial)
    assert scheduler.plan(12).picks == trial.picks


def test_an_org_that_starved_gets_no_credit_for_it_when_the_policy_becomes_weighted() -> None:
    strict = StrictScheduler(virtual_time=10**12)
    configure(strict, "gold", rank=1)
    configure(strict, "free", rank=9)
    strict.arrive("gold", "api", 1_000)
    strict.arrive("free", "api", 1_000)
    assert set(orgs_of(strict.plan(500).picks)) == {"gold"}

    weighted = WeightedScheduler(virtual_time=strict.virtual_time, admit_seq=strict.admit_seq)
    for org in strict.orgs.values():
        # What stood in another policy's line wakes in this one's.
        org.main.eligible = org.express.eligible = False
        weighted.load(org)
    assert Counter(orgs_of(weighted.plan(20).picks)) == {"gold": 10, "free": 10}


Flow = tuple[str, int, str]
flows = st.dictionaries(
    st.tuples(st.sampled_from("abcd"), st.sampled_from(sorted(RANKS))), st.integers(1, 9)
)


@law
@given(st.lists(st.integers(1, 3), min_size=4, max_size=4), flows, st.integers(0, 60))
def test_no_admission_passes_a_better_tier_or_in_a_tier_a_better_workload(
    ranks: list[int], staged: dict[tuple[str, str], int], slots: int
) -> None:
    rank = dict(zip("abcd", ranks, strict=True))
    scheduler = scheduler_of(**rank)
    waiting = Counter(staged)
    for (org, workload), tasks in staged.items():
        scheduler.arrive(org, workload, tasks)
    served = dict.fromkeys("abcd", 0)
    picks = scheduler.plan(slots).picks
    assert len(picks) == min(slots, waiting.total())
    for turn, pick in enumerate(picks, 1):
        best = min((rank[org], RANKS[workload]) for org, workload in waiting.elements())
        assert (rank[pick.org], RANKS[pick.workload]) == best
        rivals = {o for o, w in waiting.elements() if (rank[o], RANKS[w]) == best}
        assert served[pick.org] == min(served[org] for org in rivals)
        waiting[pick.org, pick.workload] -= 1
        served[pick.org] = turn
