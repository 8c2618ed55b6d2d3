"""E5: shares of worker time: weights 5:3:2, and tasks of 10 ms, 1 s and 10 s side by side."""

from __future__ import annotations

import random

from benchmarks.estimates import Bar, Experiment, Key, Measures, Sample
from benchmarks.fairness.running import (
    NAMES,
    SECOND_US,
    lag_sample,
    served,
    share_of,
    under_all,
    varied,
)
from orchestrator.fairness.measures import jain
from orchestrator.fairness.simulation.baselines import Rule
from orchestrator.fairness.simulation.scenarios import Scenario, mixed_durations, weights_532

SPAN_US = 60 * SECOND_US
WEIGHTS_SPAN_US = 120 * SECOND_US
MIXED = "10 ms, 1 s, 10 s, equal weights"
EQUAL = "weights 5:3:2, 1 s each"
UNEQUAL = "weights 5:3:2, 0.1 s, 1 s, 10 s"
JAIN = "Jain index of worker time"
DUE = {"five": 50.0, "three": 30.0, "two": 20.0}
OFF = "furthest share from its due, points"


def mixed(seed: int, quick: bool) -> Scenario:
    """Return three orgs of equal weight, each with enough for all slots."""
    return _jittered(mixed_durations(span_us=_span_us(SPAN_US, quick)), seed)


def weighted(seed: int, quick: bool, *, equal: bool) -> Scenario:
    """Return three orgs with the weights 5, 3 and 2."""
    durations = (SECOND_US,) * 3 if equal else (SECOND_US // 10, SECOND_US, 10 * SECOND_US)
    span_us = _span_us(WEIGHTS_SPAN_US, quick)
    return _jittered(weights_532(span_us=span_us, durations_us=durations), seed)


def sample(seed: int, quick: bool) -> list[Sample]:
    """Return Jain's index and shares under each rule, while all have work."""
    samples: list[Sample] = []
    scenario = mixed(seed, quick)
    for rule, run in under_all(scenario.trace, scenario.policy, until_us=_span_us(SPAN_US, quick)):
        index = jain(list(served(run).values())) or 0.0
        samples.append(Sample(MIXED, NAMES[rule], JAIN, index))
        samples += [
            Sample(MIXED, NAMES[rule], f"share of {org}, %", share_of(run, org))
            for org in run.trace.orgs
        ]
        samples += lag_sample(MIXED, rule, run)
    for case, equal in ((EQUAL, True), (UNEQUAL, False)):
        samples += _weights(case, weighted(seed, quick, equal=equal), quick)
    return samples


def _weights(case: str, scenario: Scenario, quick: bool) -> list[Sample]:
    samples: list[Sample] = []
    until_us = _span_us(WEIGHTS_SPAN_US, quick)
    for rule, run in under_all(scenario.trace, scenario.policy, until_us=until_us):
        shares = {org: share_of(run, org) for org in DUE}
        samples += [Sample(case, NAMES[rule], f"share of {org}, %", shares[org]) for org in DUE]
        off = max(abs(shares[org] - due) for org, due in DUE.items())
        samples.append(Sample(case, NAMES[rule], OFF, off))
        samples += lag_sample(case, rule, run)
    return samples


def _span_us(full_us: int, quick: bool) -> int:
    return full_us // (4 if quick else 1)


def _jittered(scenario: Scenario, seed: int) -> Scenario:
    dice = random.Random(seed)
    durations = scenario.trace.duration_us
    for task, duration_us in enumerate(durations):
        durations[task] = varied(dice, duration_us)
    return scenario


def bars(measures: Measures) -> list[Bar]:
    """Return the bars on Jain's index and on shares by weight."""
    name = NAMES[Rule.WEIGHTED]
    return [
        Bar("Jain index, tasks of 10 ms, 1 s, 10 s", measures[Key(MIXED, name, JAIN)], 0.99, True),
        Bar("weights 5:3:2, unequal durations: points off", measures[Key(UNEQUAL, name, OFF)], 2.0),
        Bar("weights 5:3:2, equal durations: points off", measures[Key(EQUAL, name, OFF)], 2.0),
    ]


EXPERIMENT = Experiment(
    "E5",
    "Shares of worker time",
    f"16 slots, everybody could fill them all; durations vary by half around their mean;"
    f" {SPAN_US // SECOND_US} s for equal weights, {WEIGHTS_SPAN_US // SECOND_US} s for 5:3:2",
    sample,
    bars,
)
