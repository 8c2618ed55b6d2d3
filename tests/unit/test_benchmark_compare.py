"""How comparisons are put together: rounds, ratios of pairs, peers that fail, the late org."""

import pytest

from benchmarks.peers.peer import PeerFailed, Work
from benchmarks.peers.registry import OURS, RAW, SEED_SHAPE, STAGED
from benchmarks.peers.report import Start
from benchmarks.speed.compare import (
    CLOSE_PAIRS,
    PAIRS,
    Entrant,
    Ledger,
    close,
    extended,
    percentile,
)
from benchmarks.speed.dispatch import Attempt, Behind, Dispatched, Tick, behind
from benchmarks.speed.noisy import LATE, LATE_ORG, NOISY_ORG, judged
from benchmarks.speed.result import Key

MINE, OTHER = Key("case", "ours", "tasks/s"), Key("case", "raw", "tasks/s")


def test_a_ratio_is_taken_round_by_round_and_only_where_both_were_measured() -> None:
    ledger = Ledger()
    for turn, (mine, other) in enumerate([(2, 1), (30, 10), (400, 100)]):
        ledger.put(MINE, turn, mine)
        ledger.put(OTHER, turn, other)
    ledger.put(MINE, 3, 1_000)
    found = ledger.ratio(MINE, OTHER)
    assert found is not None
    assert (found.of, found.mean) == (3, 3)


def test_without_a_common_round_there_is_no_ratio() -> None:
    ledger = Ledger()
    ledger.put(MINE, 0, 1)
    ledger.put(OTHER, 1, 1)
    assert ledger.ratio(MINE, OTHER) is None


def test_a_ratio_that_no_bar_holds_is_a_measure_behind_those_of_its_case() -> None:
    ledger = Ledger()
    mine = Key("case", "ours, fast, batches of 100", "p50 ms")
    other = Key("case", "staged, default", "p50 ms")
    for turn, (ours, theirs) in enumerate([(2, 1), (30, 10), (400, 100), (5, 0)]):
        ledger.put(mine, turn, ours)
        ledger.put(other, turn, theirs)
    ledger.put(mine, 4, 1_000)
    ledger.compare(mine, other)
    found = ledger.estimates()
    key = Key("case", "ours against staged", "ratio of p50")
    assert list(found) == [mine, other, key]
    assert (found[key].of, found[key].mean) == (3, 3)


def test_a_ratio_to_what_was_not_measured_is_no_measure() -> None:
    ledger = Ledger()
    ledger.put(MINE, 0, 1)
    ledger.compare(MINE, OTHER)
    assert list(ledger.estimates()) == [MINE]


def test_a_peer_that_fails_is_left_out_and_named_with_the_reason() -> None:
    ledger = Ledger()
    assert ledger.runs(RAW)
    with ledger.forgiving(RAW):
        raise PeerFailed("raw work: no such table")
    assert not ledger.runs(RAW)
    assert "raw was not measured: raw work: no such table." in ledger.notes()


def test_a_failure_of_ours_is_not_forgiven() -> None:
    with pytest.raises(PeerFailed), Ledger().forgiving(OURS):
        raise PeerFailed("ours work: gone")


def test_estimates_come_case_by_case_with_ours_first() -> None:
    ledger = Ledger()
    fast = Entrant(RAW, Work(fast=True, batch=100), 1).system
    for system in (SEED_SHAPE.name, STAGED.name, fast, "ours"):
        ledger.put(Key("case", system, "tasks/s"), 0, 1)
    found = [key.system for key in ledger.estimates()]
    assert found == ["ours", "raw, fast, batches of 100", "staged", "seed-shape"]


@pytest.mark.parametrize(("near", "expected"), [(True, CLOSE_PAIRS), (False, PAIRS)])
def test_a_close_ratio_takes_more_rounds(near: bool, expected: int) -> None:
    played: list[int] = []
    assert extended(PAIRS, played.append, lambda: near) == expected
    assert played == list(range(expected))


def test_a_first_look_is_never_extended() -> None:
    assert extended(2, lambda _: None, lambda: True) == 2


def test_close_means_within_a_fifth_of_the_bar() -> None:
    ledger = Ledger()
    ledger.put(MINE, 0, 90)
    ledger.put(OTHER, 0, 100)
    assert close(ledger.ratio(MINE, OTHER), 0.8)
    assert not close(ledger.ratio(MINE, OTHER), 0.7)
    assert not close(None, 1)


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile([7], 0.99)) == (
        51,
        100,
        7,
    )


def test_the_late_org_is_behind_what_started_between_its_call_and_its_last_start() -> None:
    before = [Start(NOISY_ORG, n, n, 0) for n in range(50)]
    between = [Start(NOISY_ORG, 50 + n, 100 + n, 0) for n in range(30)]
    too_early = [Start(LATE_ORG, n, 3, 2) for n in range(LATE)]
    late = [Start(LATE_ORG, LATE + n, 110 + n, 99) for n in range(LATE)]
    found = judged([*too_early, *before, *between, *late], [3, 104], 100)
    assert found is not None
    # Its last starts at 119, and so does one of the others; 5 started before the call returned.
    assert (found.number, found.started, found.left, found.ahead) == (1, 55, 45, 15)
    assert found.dwell_ms == pytest.approx(20 / 1e6)


def test_a_late_org_that_was_not_served_to_the_end_has_no_position() -> None:
    noisy = [Start(NOISY_ORG, n, n, 0) for n in range(50)]
    assert judged([*noisy, Start(LATE_ORG, 0, 60, 49)], [50], 100) is None


def test_a_late_org_that_came_after_the_backlog_was_gone_has_no_position() -> None:
    noisy = [Start(NOISY_ORG, n, n, 0) for n in range(100)]
    late = [Start(LATE_ORG, n, 200 + n, 150) for n in range(LATE)]
    assert judged([*noisy, *late], [160], 100) is None


# Ten tasks of A, of which two were admitted with B's two; a claim each second from second 1 on.
_CLAIMS = [NOISY_ORG] * 7 + [LATE_ORG, NOISY_ORG, LATE_ORG, NOISY_ORG, NOISY_ORG]
RUN = Dispatched(
    [Attempt(org, place, float(place + 1)) for place, org in enumerate(_CLAIMS)],
    [Tick(0.5, 6, 4), Tick(4.55, 6, 8), Tick(30.0, 0, 1)],
)


def test_what_a_late_call_is_behind_is_told_by_where_it_was_when_the_call_returned() -> None:
    # By 4.5 four were claimed and three started; six were admitted, the seventh came after.
    assert behind(RUN, LATE_ORG, range(2), 4.5, started=3) == Behind(1, 2, 2, 8)


def test_the_window_is_that_of_the_nearest_tick_where_none_is_around() -> None:
    found = behind(RUN, LATE_ORG, range(2), 2.0, started=2)
    assert found is not None
    assert (found.window, found.claimed) == (4, 6)


def test_a_call_that_has_not_ended_is_behind_nothing_known() -> None:
    assert behind(RUN, LATE_ORG, range(2, 4), 4.5, started=3) is None
