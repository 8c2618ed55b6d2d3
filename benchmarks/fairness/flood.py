"""E1: one org floods a hundredfold; how long the others wait meanwhile, under each rule.

The figure that the vendor of SQS shows for its fair queues. Strict tiers get what they are made
for: the flood comes from the upper tier.
"""

from __future__ import annotations

import random

from benchmarks.estimates import Experiment, Sample, Series
from benchmarks.fairness.running import (
    NAMES,
    SECOND_US,
    dwells_s,
    lag_sample,
    under_all,
    varied,
)
from orchestrator.fairness.measures import percentile
from orchestrator.fairness.simulation.baselines import Rule
from orchestrator.fairness.simulation.policy import OrgSetting, SimPolicy
from orchestrator.fairness.simulation.report import dwell_series
from orchestrator.fairness.simulation.run import Run
from orchestrator.fairness.simulation.scenarios import merged, poisson
from orchestrator.fairness.simulation.trace import Trace
from orchestrator.model import Tier

NOISY = "noisy"
SLOTS = 16
DURATION_US = 100_000
QUIET = 9
RATE = 4.0
TIMES = 100
SPAN_US = 30 * SECOND_US
FLOOD_US = (5 * SECOND_US, 15 * SECOND_US)
CASE = "quiet orgs, 100x flood"
POLICY = SimPolicy(
    slots=SLOTS,
    tiers={
        "upper": Tier("upper", weight=1, rank=0, burst_max=None),
        "standard": Tier("standard", weight=1, rank=1, burst_max=None),
    },
    orgs={NOISY: OrgSetting(tier="upper")},
)
_STEP_S = 1.0


def trace(seed: int, quick: bool) -> Trace:
    """Return nine trickling orgs, and one that sends a hundred times as much for a while."""
    dice = random.Random(seed)
    until_us = SPAN_US // (4 if quick else 1)
    since, until = (at // (4 if quick else 1) for at in FLOOD_US)
    streams = [
        poisson(dice, f"quiet-{n}", rate=RATE, duration_us=DURATION_US, until_us=until_us)
        for n in range(1, QUIET + 1)
    ]
    flood = poisson(
        dice, NOISY, rate=TIMES * RATE, duration_us=DURATION_US, from_us=since, until_us=until
    )
    drawn = merged([*streams, flood], slots=SLOTS)
    for task, duration_us in enumerate(drawn.duration_us):
        drawn.duration_us[task] = varied(dice, duration_us)
    return drawn


def sample(seed: int, quick: bool) -> list[Sample]:
    """Return the dwell of the quiet orgs and of the noisy one under each rule."""
    samples: list[Sample] = []
    for rule, run in under_all(trace(seed, quick), POLICY):
        quiet = dwells_s(run, lambda org: org != NOISY)
        noisy = dwells_s(run, lambda org: org == NOISY)
        samples += [
            Sample(CASE, NAMES[rule], "quiet dwell p50, s", percentile(quiet, 0.5)),
            Sample(CASE, NAMES[rule], "quiet dwell p99, s", percentile(quiet, 0.99)),
            Sample(CASE, NAMES[rule], "noisy dwell p99, s", percentile(noisy, 0.99)),
            *lag_sample(CASE, rule, run),
        ]
    return samples


def series(seed: int, quick: bool) -> list[Series]:
    """Return the dwell of the quiet orgs (95th percentile) over the time of arrival."""
    runs = under_all(trace(seed, quick), POLICY)
    return [Series(NAMES[rule], _curve(run), rule is not Rule.WEIGHTED) for rule, run in runs]


def _curve(run: Run) -> list[tuple[float, float]]:
    stretches: dict[int, list[float]] = {}
    for org in run.trace.orgs:
        if org == NOISY:
            continue
        for point in dwell_series(run, org):
            stretches.setdefault(int(point.at_s / _STEP_S), []).append(point.value)
    return [
        (number * _STEP_S, percentile(sorted(dwells), 0.95))
        for number, dwells in sorted(stretches.items())
    ]


EXPERIMENT = Experiment(
    "E1",
    "One org floods a hundredfold",
    f"{SLOTS} slots, tasks of {DURATION_US // 1000} ms on average, {QUIET} orgs with {RATE:g} tasks"
    f" a second each, the noisy one {TIMES} times that for 10 of 30 s",
    sample,
)
