"""Traces to learn from: noisy neighbour, many orgs, on and off, mixed durations, express and etl.

Randomness comes from the caller, seeded, so that a scenario is the same every time.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Iterable, Iterator
from heapq import merge
from itertools import accumulate
from typing import NamedTuple, Protocol

from orchestrator.fairness.roster import WorkloadClass
from orchestrator.fairness.simulation.policy import OrgSetting, SimPolicy
from orchestrator.fairness.simulation.trace import Arrival, Trace, trace_of
from orchestrator.model import DEFAULT_WORKLOAD, PRIORITY_DEFAULT

_SECOND = 1_000_000


class Dice(Protocol):
    """A source of randomness: `random.Random(seed)`."""

    def random(self) -> float:
        """Return a number from [0, 1)."""


class Scenario(NamedTuple):
    """A trace, and the queue it is meant for; `replace` the policy's rule to compare."""

    name: str
    trace: Trace
    policy: SimPolicy


def poisson(
    dice: Dice,
    org: str,
    *,
    rate: float,
    duration_us: int,
    from_us: int = 0,
    until_us: int,
    workload: str = DEFAULT_WORKLOAD,
    priority: int = PRIORITY_DEFAULT,
) -> Iterator[Arrival]:
    """Yield arrivals of one org at `rate` per second on average, without memory."""
    at = float(from_us)
    while (at := at - math.log(1.0 - dice.random()) / rate * _SECOND) < until_us:
        yield Arrival(int(at), org, workload, priority, duration_us)


def burst(
    org: str,
    tasks: int,
    duration_us: int,
    *,
    at_us: int = 0,
    workload: str = DEFAULT_WORKLOAD,
    priority: int = PRIORITY_DEFAULT,
) -> Iterator[Arrival]:
    """Yield `tasks` arrivals of one org at once."""
    return (Arrival(at_us, org, workload, priority, duration_us) for _ in range(tasks))


def merged(streams: Iterable[Iterable[Arrival]], *, slots: int | None = None) -> Trace:
    """Return the trace of several streams of arrivals, each in order of time."""
    return trace_of(merge(*streams, key=lambda arrival: arrival.at_us), slots=slots)


def noisy_neighbour(
    dice: Dice,
    *,
    quiet: int = 9,
    backlog: int = 10_000,
    duration_us: int = 100_000,
    span_us: int = 60 * _SECOND,
    slots: int = 16,
    load: float = 0.3,
) -> Scenario:
    """Let one org stage `backlog` tasks at once; others trickle, asking for `load` of the slots."""
    rate = load * slots * _SECOND / duration_us / quiet
    streams = [
        poisson(dice, f"quiet-{n}", rate=rate, duration_us=duration_us, until_us=span_us)
        for n in range(1, quiet + 1)
    ]
    flood = burst("noisy", backlog, duration_us, at_us=span_us // 10)
    trace = merged([*streams, flood], slots=slots)
    return Scenario("noisy neighbour", trace, SimPolicy(slots=slots))


def zipf(
    dice: Dice,
    *,
    orgs: int = 1_000,
    tasks: int = 100_000,
    duration_us: int = 100_000,
    slots: int = 200,
    load: float = 1.2,
    exponent: float = 1.0,
) -> Scenario:
    """Let the n-th org ask for 1 / n**exponent as much as the first; durations are exponential."""
    odds = list(accumulate(1 / n**exponent for n in range(1, orgs + 1)))
    gap_us = duration_us / (load * slots)

    def arrivals() -> Iterator[Arrival]:
        at = 0.0
        for _ in range(tasks):
            at -= math.log(1.0 - dice.random()) * gap_us
            org = bisect(odds, dice.random() * odds[-1])
            took_us = max(1, round(-math.log(1.0 - dice.random()) * duration_us))
            yield Arrival(int(at), f"org-{org + 1}", DEFAULT_WORKLOAD, PRIORITY_DEFAULT, took_us)

    return Scenario("zipf", trace_of(arrivals(), slots=slots), SimPolicy(slots=slots))


def on_off(
    dice: Dice,
    *,
    period_us: int = 20 * _SECOND,
    periods: int = 3,
    duration_us: int = 100_000,
    slots: int = 8,
    load: float = 0.6,
) -> Scenario:
    """Give one org twice the work that fits, another `load` of what fits half of each period."""
    fits = slots * _SECOND / duration_us
    until_us = periods * period_us
    steady = poisson(dice, "steady", rate=2 * fits, duration_us=duration_us, until_us=until_us)
    on = [
        poisson(
            dice,
            "on-off",
            rate=load * fits,
            duration_us=duration_us,
            from_us=start_us,
            until_us=start_us + period_us // 2,
        )
        for start_us in range(0, until_us, period_us)
    ]
    return Scenario("on and off", merged([steady, *on], slots=slots), SimPolicy(slots=slots))


def mixed_durations(*, span_us: int = 100 * _SECOND, slots: int = 16) -> Scenario:
    """Give three orgs of equal weight tasks of 10 ms, 1 s and 10 s: each could fill every slot."""
    durations = {"short": 10_000, "middle": _SECOND, "long": 10 * _SECOND}
    streams = [
        burst(org, -(-span_us * slots // duration_us), duration_us)
        for org, duration_us in durations.items()
    ]
    return Scenario("mixed durations", merged(streams, slots=slots), SimPolicy(slots=slots))


def weights_532(
    *,
    span_us: int = 100 * _SECOND,
    slots: int = 16,
    durations_us: tuple[int, int, int] = (100_000,) * 3,
) -> Scenario:
    """Give three orgs the weights 5, 3 and 2, and each enough to fill every slot."""
    weights = {"five": 5, "three": 3, "two": 2}
    streams = [
        burst(org, -(-span_us * slots // duration_us), duration_us)
        for org, duration_us in zip(weights, durations_us, strict=True)
    ]
    orgs = {org: OrgSetting(weight=weight) for org, weight in weights.items()}
    policy = SimPolicy(slots=slots, orgs=orgs)
    return Scenario("weights 5:3:2", merged(streams, slots=slots), policy)


def express_and_etl(
    dice: Dice,
    *,
    span_us: int = 1_800 * _SECOND,
    slots: int = 40,
    express_reserve: int = 2,
    api_rate: float = 5.0,
    api_us: int = 20_000,
    etl_us: int = 600 * _SECOND,
) -> Scenario:
    """Let etl tasks of ten minutes be enough to fill every slot, and api tasks of 20 ms trickle."""
    etl = burst("batch", 2 * slots * max(1, span_us // etl_us), etl_us, workload="etl")
    api = poisson(dice, "web", rate=api_rate, duration_us=api_us, until_us=span_us, workload="api")
    workloads = {
        "api": WorkloadClass(share=8, rank=0, express=True, express_max_us=_SECOND),
        "etl": WorkloadClass(share=2, rank=1),
    }
    policy = SimPolicy(slots=slots, express_reserve=express_reserve, workloads=workloads)
    return Scenario("express and etl", merged([etl, api], slots=slots), policy)
