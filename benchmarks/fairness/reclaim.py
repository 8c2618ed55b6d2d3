"""E7: burst and reclaim: an org that used what nobody wanted, and one that comes back.

In the second case an org comes out of a cap: the others have used what it could not, and it must
not be paid back for that.
"""

from __future__ import annotations

import random

from benchmarks.estimates import Experiment, Sample
from benchmarks.fairness.running import NAMES, SECOND_US, lag_sample, under_all, varied
from orchestrator.fairness.simulation.policy import Change, OrgSetting, SimPolicy
from orchestrator.fairness.simulation.run import Run
from orchestrator.fairness.simulation.scenarios import burst, merged
from orchestrator.fairness.simulation.trace import Trace

SLOTS = 16
BACK_US = 60 * SECOND_US
RECLAIM = "an org comes back after 60 s"
LIFTED = "a cap of 1 is lifted after 60 s"
_AFTER_US = 10 * SECOND_US
_STEP_US = SECOND_US // 20
# Of what it is due: eight slots of sixteen, up to one that is in the middle of changing hands.
_RECLAIMED = 7 / 16


def reclaim_trace(seed: int) -> Trace:
    """Return an org with work for two minutes, and another that has as much after one."""
    tasks = 2 * SLOTS * BACK_US // SECOND_US
    streams = [burst("there", tasks, SECOND_US), burst("back", tasks, SECOND_US, at_us=BACK_US)]
    return _varied(merged(streams, slots=SLOTS), seed)


def lifted_trace(seed: int) -> Trace:
    """Return two orgs with work for the whole run."""
    tasks = 2 * SLOTS * BACK_US // SECOND_US
    streams = [burst("there", tasks, SECOND_US), burst("back", tasks, SECOND_US)]
    return _varied(merged(streams, slots=SLOTS), seed)


def lifted_policy() -> SimPolicy:
    """Return a queue that lifts the cap of one org."""
    return SimPolicy(
        slots=SLOTS,
        orgs={"back": OrgSetting(burst_max=1)},
        changes=(Change(BACK_US, "back", OrgSetting()),),
    )


def _varied(trace: Trace, seed: int) -> Trace:
    dice = random.Random(seed)
    for task, duration_us in enumerate(trace.duration_us):
        trace.duration_us[task] = varied(dice, duration_us)
    return trace


def sample(seed: int, quick: bool) -> list[Sample]:
    """Return how soon the share is reclaimed, and what it is right after."""
    del quick  # a second of work
    samples: list[Sample] = []
    cases = (
        (RECLAIM, reclaim_trace(seed), SimPolicy(slots=SLOTS)),
        (LIFTED, lifted_trace(seed), lifted_policy()),
    )
    for case, trace, policy in cases:
        for rule, run in under_all(trace, policy, until_us=BACK_US + 2 * _AFTER_US):
            share = 100 * part_of(run, "back", BACK_US, BACK_US + _AFTER_US)
            samples += [
                Sample(case, NAMES[rule], "until it holds its share, s", _reclaimed_s(run)),
                Sample(case, NAMES[rule], "its share of the next 10 s, %", share),
                *lag_sample(case, rule, run),
            ]
    return samples


def part_of(run: Run, org: str, from_us: int, until_us: int) -> float:
    """Return the part of the worker time of [from_us, until_us) that `org` had."""
    place, mine, total = run.trace.orgs.index(org), 0, 0
    columns = zip(run.trace.org, run.start_us, run.trace.duration_us, strict=True)
    for owner, start_us, duration_us in columns:
        if start_us < 0:
            continue
        used = min(until_us, start_us + duration_us) - max(from_us, start_us)
        if used > 0:
            total += used
            mine += used * (owner == place)
    return mine / (total or 1)


def _reclaimed_s(run: Run) -> float:
    """Return after how long the org that is back holds what it is due; the whole time if never."""
    end_us = BACK_US + 2 * _AFTER_US
    for at_us in range(BACK_US, end_us, _STEP_US):
        if part_of(run, "back", at_us, at_us + 1) >= _RECLAIMED:
            return (at_us - BACK_US) / SECOND_US
    return (end_us - BACK_US) / SECOND_US


EXPERIMENT = Experiment(
    "E7",
    "Burst and reclaim",
    f"{SLOTS} slots, two orgs of equal weight, tasks of 1 s on average; a share of 50% is due",
    sample,
)
