"""Percentiles, Jain's index, the worst lag, and the water-filling that shares are compared with."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.fairness.measures import (
    Lag,
    Party,
    Spread,
    count_bound,
    jain,
    percentile,
    spread,
    time_bound,
    worst_lag,
)
from orchestrator.fairness.shares import fair_shares
from orchestrator.fairness.simulation.drift import Drift, Drifts
from tests.unit.histories import law

# Percentiles ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "value"), [(0.0, 1), (0.01, 1), (0.5, 50), (0.951, 96), (0.99, 99), (1.0, 100)]
)
def test_a_percentile_is_the_value_of_that_rank(part: float, value: float) -> None:
    assert percentile(range(1, 101), part) == value


def test_a_percentile_of_one_value_is_that_value() -> None:
    assert [percentile([7.0], part) for part in (0.0, 0.5, 0.99)] == [7.0] * 3


def test_a_spread_is_scaled_and_says_of_how_many() -> None:
    assert spread([4_000_000, 2_000_000], 1e6) == Spread(2, 2.0, 4.0, 4.0, 4.0)
    assert spread([]) == Spread(0, 0.0, 0.0, 0.0, 0.0)


# Jain -------------------------------------------------------------------------------------------


def test_equal_services_have_index_one() -> None:
    assert jain([3.0, 3.0, 3.0]) == 1.0


def test_one_that_has_it_all_has_index_one_nth() -> None:
    assert jain([8.0, 0.0, 0.0, 0.0]) == 0.25


def test_there_is_no_index_of_one_org_or_of_no_service() -> None:
    assert jain([1.0]) is None
    assert jain([0.0, 0.0]) is None


# Lag --------------------------------------------------------------------------------------------


def test_the_bound_in_time_mode_is_that_of_refreshed_charges() -> None:
    assert time_bound(cost=2.0, unfinished=4, weight=5.0) == pytest.approx(1.25 * 2.0 * 2 * 4 / 5.0)
    assert time_bound(2.0, 4, 5.0, beside=3.0) == pytest.approx(1.25 * 2.0 * (2 * 4 / 5.0 + 1.5))


def test_the_bound_in_count_mode_is_one_admission() -> None:
    assert count_bound(weight=4.0) == 0.25


def test_the_worst_lag_names_who_is_ahead_and_who_is_behind() -> None:
    parties = [Party("ada", 5.0, 1.0), Party("bob", 1.0, 1.0), Party("cyd", 2.0, 3.0)]
    assert worst_lag(parties) == Lag("ada", "bob", 4.0, 2.0)


def test_the_worst_lag_is_the_worst_for_its_bound() -> None:
    parties = [Party("ada", 9.0, 50.0), Party("bob", 4.0, 1.0), Party("cyd", 0.0, 1.0)]
    assert worst_lag(parties) == Lag("bob", "cyd", 4.0, 2.0)


def test_there_is_no_lag_of_one_and_none_between_equals() -> None:
    assert worst_lag([Party("ada", 1.0, 1.0)]) is None
    lag = worst_lag([Party("ada", 1.0, 1.0), Party("bob", 1.0, 2.0)])
    assert lag is not None
    assert lag.ratio == 0.0


@law
@given(st.lists(st.tuples(st.integers(0, 100), st.integers(1, 20)), min_size=2, max_size=8))
def test_the_worst_lag_is_found_without_looking_at_every_pair(drawn: list[tuple[int, int]]) -> None:
    parties = [Party(str(n), service, bound) for n, (service, bound) in enumerate(drawn)]
    found = worst_lag(parties)
    pairs = combinations(parties, 2)
    worst = max(abs(f.service - g.service) / (f.bound + g.bound) for f, g in pairs)
    assert found is not None
    assert found.ratio == pytest.approx(worst)


# Drift ------------------------------------------------------------------------------------------


def drift_of(drifts: Drifts, now: int) -> list[Drift]:
    return list(drifts.worst(now))


def test_a_lag_grows_while_only_one_of_two_is_served() -> None:
    drifts = Drifts([1.0, 1.0])
    drifts.enter(0, 0)
    drifts.enter(1, 0)
    drifts.run(0, 2, 10)
    assert drift_of(drifts, 15) == [Drift(0, 1, 10.0)]


def test_a_lag_is_by_weight() -> None:
    drifts = Drifts([4.0, 1.0])
    drifts.enter(0, 0)
    drifts.enter(1, 0)
    drifts.run(0, 4, 0)
    drifts.run(1, 2, 0)
    assert drift_of(drifts, 10) == [Drift(0, 1, 10.0)]


def test_the_worst_part_of_an_interval_counts_not_its_sum() -> None:
    drifts = Drifts([1.0, 1.0])
    drifts.enter(0, 0)
    drifts.enter(1, 0)
    drifts.serve(0, 3, 1)
    drifts.serve(1, 5, 2)
    drifts.serve(0, 2, 3)
    assert drift_of(drifts, 4) == [Drift(0, 1, 5.0)]


def test_what_one_was_served_while_the_other_had_no_work_is_no_lag() -> None:
    drifts = Drifts([1.0, 1.0])
    drifts.enter(0, 0)
    drifts.serve(0, 100, 1)
    drifts.enter(1, 2)
    drifts.serve(1, 1, 3)
    drifts.leave(1, 4)
    drifts.serve(0, 100, 5)
    drifts.enter(1, 6)
    assert drift_of(drifts, 7) == [Drift(0, 1, 1.0)]


def test_a_new_weight_begins_the_comparison_anew() -> None:
    drifts = Drifts([1.0, 1.0])
    drifts.enter(0, 0)
    drifts.enter(1, 0)
    drifts.run(0, 1, 0)
    drifts.reweigh(0, 2.0, 10)
    assert drift_of(drifts, 20) == [Drift(0, 1, 10.0)]
    assert drift_of(drifts, 40) == [Drift(0, 1, 15.0)]


# Shares -----------------------------------------------------------------------------------------


def test_capacity_goes_by_weight_where_all_want_more() -> None:
    demands, weights = {"ada": 100.0, "bob": 100.0}, {"ada": 3.0, "bob": 1.0}
    assert fair_shares(20.0, demands, weights) == {"ada": 15.0, "bob": 5.0}


def test_what_one_does_not_want_goes_to_the_others_by_weight() -> None:
    demands = {"ada": 3.0, "bob": 100.0, "cyd": 100.0, "dan": 0.0}
    weights = {"ada": 5.0, "bob": 2.0, "cyd": 1.0, "dan": 9.0}
    assert fair_shares(12.0, demands, weights) == {"ada": 3.0, "bob": 6.0, "cyd": 3.0, "dan": 0.0}


def test_nobody_gets_more_than_it_wants() -> None:
    assert fair_shares(100.0, {"ada": 1.0, "bob": 2.0}, {"ada": 1.0, "bob": 1.0}) == {
        "ada": 1.0,
        "bob": 2.0,
    }


@law
@given(
    st.integers(0, 200),
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), min_size=1, max_size=8),
)
def test_water_filling_gives_all_away_and_favours_nobody_who_wants_more(
    capacity: int, drawn: list[tuple[int, int]]
) -> None:
    demands = {n: float(demand) for n, (demand, _) in enumerate(drawn)}
    weights = {n: float(weight) for n, (_, weight) in enumerate(drawn)}
    due = fair_shares(float(capacity), demands, weights)
    assert sum(due.values()) == pytest.approx(min(capacity, sum(demands.values())))
    for one, other in combinations(due, 2):
        for poor, rich in ((one, other), (other, one)):
            if due[poor] < demands[poor] - 1e-6:
                assert due[rich] / weights[rich] <= due[poor] / weights[poor] + 1e-6
