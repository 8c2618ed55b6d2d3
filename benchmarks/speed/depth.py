"""Whether a deep backlog makes the next admission and claim dearer."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.estimates import Bar, Estimate, median, ratio
from benchmarks.speed.draining import drain, refuse_repairs
from benchmarks.speed.preload import bed, filled
from benchmarks.speed.result import OURS, Key, Result

TITLE = "A deep backlog"
FEW, MANY = 10_000, 5_000_000
TASKS = 5_000
PAIRS = 10
_QUICK_MANY = 200_000
_BAR = 0.95
RATE = "tasks/s"


def measure(quick: bool) -> Result:
    """Drain the first 5,000 tasks with 10,000 and with 5,000,000 staged, in turns."""
    many, pairs = (_QUICK_MANY, 2) if quick else (MANY, PAIRS)
    rates: dict[int, list[float]] = {FEW: [], many: []}
    with bed() as on:
        for staged in rates:
            on.prepare(f"staged_{staged}", filled(staged))
        for _ in range(pairs):
            for staged, found in rates.items():
                with on.stage(f"staged_{staged}") as stage:
                    found.append(drain(stage, TASKS, whole=False).rate(TASKS))
                    refuse_repairs(stage)
    against = ratio(rates[many], rates[FEW])
    bar = Bar(f"depth: {many:,} staged against {FEW:,}", against, _BAR, at_least=True)
    return Result("depth", TITLE, _setting(many), _measures(rates, many, against), [bar])


def _measures(
    rates: Mapping[int, list[float]], many: int, against: Estimate
) -> Mapping[Key, Estimate]:
    measures = {
        Key(f"{staged:,} staged", OURS, RATE): median(found) for staged, found in rates.items()
    }
    measures[Key(f"{many:,} staged", OURS, "rate against 10,000")] = against
    return measures


def _setting(many: int) -> str:
    return (
        f"The first {TASKS:,} of {FEW:,} and of {many:,} no-op tasks of 20 orgs, one worker"
        f" process; rate from the first claim to the end of the {TASKS:,}th by the clock of the"
        " database. Each time in a database of its own, copied from one that was filled once,"
        " vacuumed and analysed."
    )
