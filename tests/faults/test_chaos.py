"""A fixed short set of chaos schedules, and what can be said of schedules without playing any."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.chaos.run import Outcome, Stage, stage
from tests.faults.chaos.schedule import KINDS, draw
from tests.faults.chaos.strikes import STRIKES
from tests.faults.chaos.table import append, next_seed, totals

# Chosen so that together they hit what the last test asks for.
SEEDS = (2, 3, 5, 6, 11, 18)
PLAYED: list[Outcome] = []


def test_a_seed_always_gives_the_same_schedule() -> None:
    for seed in range(50):
        assert draw(seed) == draw(seed)
        assert str(draw(seed)) == str(draw(seed))
    assert len({str(draw(seed)) for seed in range(50)}) == 50


def test_every_kind_of_fault_is_drawn_and_can_be_done() -> None:
    drawn = Counter(fault.kind for seed in range(1, 301) for fault in draw(seed).faults)
    assert set(drawn) == set(KINDS) == set(STRIKES)
    assert min(drawn.values()) >= 10


def test_the_table_says_where_to_go_on(tmp_path: Path) -> None:
    table = tmp_path / "table.tsv"
    assert next_seed(table) == 1
    append(table, [Outcome(1, [], Counter(tasks=3), Counter(cut=2)), Outcome(2, ["S1: lost"])])
    append(table, [Outcome(3, [], Counter(tasks=4), Counter(cut=1, usurp=1))])
    assert next_seed(table) == 4
    counts, faults = totals(table)
    assert (counts["schedules"], counts["violated"], counts["tasks"]) == (3, 1, 7)
    assert faults == {"cut": 3, "usurp": 1}


@pytest.fixture(scope="module")
def on() -> Iterator[Stage]:
    with stage() as opened:
        yield opened


@pytest.mark.faults
@pytest.mark.parametrize("seed", SEEDS)
def test_no_invariant_breaks(on: Stage, seed: int) -> None:
    outcome = on.play(seed)
    PLAYED.append(outcome)
    assert outcome.violations == [], f"again: make chaos SEED={seed}; left in {outcome.home}"


@pytest.mark.faults
def test_each_path_was_really_hit() -> None:
    counts: Counter[str] = sum((outcome.counts for outcome in PLAYED), Counter())
    assert len(PLAYED) == len(SEEDS)
    for path in ("losses", "lost", "dead", "stale by fence", "stale by session", "ack", "terms"):
        assert counts[path] > 0, path
    assert counts["unknown"] + counts["resolved"] + counts["claim.released"] > 0
