"""E9: an org marks everything as most urgent: what that buys it, by kappa."""

from __future__ import annotations

import random

from benchmarks.estimates import Experiment, Sample
from benchmarks.fairness.running import (
    NAMES,
    SECOND_US,
    lag_sample,
    p99,
    share_of,
    under_all,
    varied,
)
from orchestrator.fairness.simulation.baselines import Rule
from orchestrator.fairness.simulation.policy import SimPolicy
from orchestrator.fairness.simulation.scenarios import burst, merged, poisson
from orchestrator.fairness.simulation.trace import Trace

SLOTS = 16
WINDOW = 64
KAPPAS = (0, 1, 10, 100, 10_000)
SPAN_US = 30 * SECOND_US
DURATION_US = 100_000
SHARE = "share of who marks everything urgent, %"


def case_of(kappa: int) -> str:
    """Return how the case is called."""
    return f"kappa {kappa:,}"


def trace(seed: int, quick: bool) -> Trace:
    """Return two orgs with more than fits, one with the highest priority and one with the lowest,
    and a third that trickles at the usual one.
    """
    dice = random.Random(seed)
    span_us = span(quick)
    tasks = 2 * SLOTS * span_us // DURATION_US
    trickle = poisson(dice, "trickle", rate=10.0, duration_us=DURATION_US, until_us=span_us)
    streams = [
        burst("urgent", tasks, DURATION_US, priority=10),
        burst("modest", tasks, DURATION_US, priority=1),
        trickle,
    ]
    drawn = merged(streams, slots=SLOTS)
    for task, duration_us in enumerate(drawn.duration_us):
        drawn.duration_us[task] = varied(dice, duration_us)
    return drawn


def span(quick: bool) -> int:
    """Return how long the run is, in microseconds."""
    return SPAN_US // (3 if quick else 1)


def sample(seed: int, quick: bool) -> list[Sample]:
    """Return the share of the urgent org (due: as much as the modest one) and its price."""
    samples: list[Sample] = []
    drawn = trace(seed, quick)
    for kappa in KAPPAS:
        policy = SimPolicy(slots=SLOTS, window=WINDOW, kappa=kappa)
        # The default is what the others are compared at.
        rules = iter(NAMES) if kappa == 100 else iter([Rule.WEIGHTED])
        for rule, run in under_all(drawn, policy, until_us=span(quick), rules=rules):
            case, urgent, modest = case_of(kappa), share_of(run, "urgent"), share_of(run, "modest")
            samples += [
                Sample(case, NAMES[rule], SHARE, 100 * urgent / ((urgent + modest) or 1)),
                Sample(case, NAMES[rule], "dwell p99 of who trickles, s", p99(run, _trickles)),
                *lag_sample(case, rule, run),
            ]
    return samples


def _trickles(org: str) -> bool:
    return org == "trickle"


EXPERIMENT = Experiment(
    "E9",
    "Marking everything urgent",
    f"{SLOTS} slots, a ready window of {WINDOW}, tasks of {DURATION_US // 1000} ms on average;"
    " one org marks all its tasks 10, another all of them 1 (50% each is due), a third trickles",
    sample,
)
