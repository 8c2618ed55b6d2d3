"""E6: 100,000 orgs with Zipf demand on 200 slots: who starves, and what a round costs.

A round of the scheduler is timed alone, as often with 100 orgs as with 100,000, in turns and in one
process: `settle` of what ended, then `plan` of as many admissions.
"""

from __future__ import annotations

import gc
import random
import time
from collections import deque

from benchmarks.estimates import Bar, Experiment, Key, Measures, Sample, exact
from benchmarks.fairness.running import (
    NAMES,
    SECOND_US,
    lag_sample,
    served,
    under_all,
)
from orchestrator.fairness.measures import jain, percentile
from orchestrator.fairness.plan import Pick, settled
from orchestrator.fairness.simulation.baselines import Rule
from orchestrator.fairness.simulation.policy import OrgSetting, SimPolicy
from orchestrator.fairness.simulation.report import report_of
from orchestrator.fairness.simulation.run import Run
from orchestrator.fairness.simulation.scenarios import burst, merged, zipf
from orchestrator.fairness.simulation.trace import Arrival, Trace
from orchestrator.fairness.weighted import WeightedScheduler
from orchestrator.model import DEFAULT_WORKLOAD, PRIORITY_DEFAULT

ORGS = 100_000
# Baselines, of which some take a minute for the whole crowd, are compared over a part of it.
FEWER_ORGS = 3_000
SLOTS = 200
LOAD = 1.2
CROWD = "100,000 orgs, Zipf"
FEWER = "3,000 orgs, Zipf"
TIERED = "240 orgs, weights 10 and 1, 32 slots"
ROUND = "round of 100 admissions"
STARVED = "orgs starved"
RATIO = "time of a round, 100,000 orgs / 100, p99"
MEDIAN_RATIO = "time of a round, 100,000 orgs / 100, median"
HEAVY = "share of the 20 orgs of weight 10, %"
FIRST = "wait of an org's first task, p99, s"
JAIN = "Jain index, obtained / due, of orgs due a second or more"
# Time after the last arrival for it to be served; the backlog lasts longer. A newcomer waits for
# one admission of each other org in line, so in the crowd that takes a while: its p99 is a second.
_GRACE_US = SECOND_US
_CROWD_GRACE_US = 5 * SECOND_US
_TICK_US = 5_000
_FEW = 100
# As many as there are orgs in the small case: both rounds touch a hundred orgs once each, so that
# only the number of orgs in line differs.
_ADMISSIONS = 100
_TURNS = 4
_ROUNDS = 100


def trace(seed: int, orgs: int, tasks: int) -> Trace:
    """Return Zipf demand, and besides it one task of each org, at some time of the run."""
    dice = random.Random(seed)
    load = LOAD * tasks / (tasks + orgs)
    drawn = zipf(dice, orgs=orgs, tasks=tasks, slots=SLOTS, load=load).trace
    until_us = drawn.at_us[-1]
    instants = sorted(int(dice.random() * until_us) for _ in range(orgs))
    places = list(range(1, orgs + 1))
    dice.shuffle(places)
    once = (
        Arrival(
            at_us,
            f"org-{place}",
            DEFAULT_WORKLOAD,
            PRIORITY_DEFAULT,
            round(SECOND_US * dice.expovariate(10.0)) + 1,
        )
        for at_us, place in zip(instants, places, strict=True)
    )
    return merged([drawn, once], slots=SLOTS)


def sample(seed: int, quick: bool) -> list[Sample]:
    """Return who starves in a crowd, weighted shares of many orgs, and the time of a round."""
    part = 20 if quick else 1
    return [
        *_crowd(
            CROWD,
            trace(seed, ORGS // part, ORGS // part // 4),
            [Rule.WEIGHTED],
            _GRACE_US if quick else _CROWD_GRACE_US,
        ),
        *_crowd(
            FEWER, trace(seed, FEWER_ORGS // part, 4 * FEWER_ORGS // part), list(NAMES), _GRACE_US
        ),
        *_tiered(seed, quick),
        *_rounds(seed, quick),
    ]


def _crowd(case: str, drawn: Trace, rules: list[Rule], grace_us: int) -> list[Sample]:
    policy = SimPolicy(slots=SLOTS, tick_us=_TICK_US)
    until_us = drawn.at_us[-1] + grace_us
    samples = []
    for rule, run in under_all(drawn, policy, until_us=until_us, rules=iter(rules)):
        report = report_of(run)
        index = jain([org.worker_s / org.fair_s for org in report.orgs if org.fair_s >= 1.0])
        samples += [
            Sample(case, NAMES[rule], STARVED, len(report.starved)),
            Sample(case, NAMES[rule], JAIN, index or 0.0),
            Sample(case, NAMES[rule], FIRST, _first_wait_s(run)),
            *lag_sample(case, rule, run),
        ]
    return samples


def _first_wait_s(run: Run) -> float:
    """Return how long orgs wait for the first slot they ever get; so far, where they got none."""
    first: dict[int, int] = {}
    waited: dict[int, int] = {}
    for org, at_us, start_us in zip(run.trace.org, run.trace.at_us, run.start_us, strict=True):
        first.setdefault(org, at_us)
        until_us = start_us if start_us >= 0 else run.until_us
        waited[org] = min(waited.get(org, run.until_us), until_us - first[org])
    return percentile(sorted(waited.values()), 0.99) / SECOND_US


def _tiered(seed: int, quick: bool) -> list[Sample]:
    """Compare more orgs than slots, a few of them with ten times the weight."""
    dice = random.Random(seed)
    span_us = (30 if quick else 60) * SECOND_US
    weights = {f"org-{n}": 10 if n <= 20 else 1 for n in range(1, 241)}
    streams = [burst(org, 200 * weight, SECOND_US // 2) for org, weight in weights.items()]
    drawn = merged(streams)
    for task, duration_us in enumerate(drawn.duration_us):
        drawn.duration_us[task] = round(duration_us * (0.5 + dice.random()))
    orgs = {org: OrgSetting(weight=weight) for org, weight in weights.items()}
    samples = []
    for rule, run in under_all(drawn, SimPolicy(slots=32, orgs=orgs), until_us=span_us):
        obtained = served(run)
        index = jain([obtained[org] / weight for org, weight in weights.items()]) or 0.0
        starved = sum(not seconds for seconds in obtained.values())
        heavy = sum(obtained[org] for org, weight in weights.items() if weight > 1)
        samples += [
            Sample(TIERED, NAMES[rule], HEAVY, 100 * heavy / sum(obtained.values())),
            Sample(TIERED, NAMES[rule], "weighted Jain index", index),
            Sample(TIERED, NAMES[rule], STARVED, starved),
            *lag_sample(TIERED, rule, run),
        ]
    return samples


# The time of a round -----------------------------------------------------------------------------


class Rounds:
    """A scheduler in full swing: each round settles as many tasks as it admits."""

    def __init__(self, orgs: int, seed: int) -> None:
        self._dice = random.Random(seed)
        self._scheduler = WeightedScheduler()
        for number in range(orgs):
            org = f"org-{number}"
            self._scheduler.configure(org, weight=1, rank=0, burst_max=None, paused=False)
            self._scheduler.arrive(org, "etl", 1_000_000)
        self._running: deque[Pick] = deque()
        # One lap and a little more: at the start all tags are equal, which they never are again.
        for _ in range(orgs // _ADMISSIONS + 5):
            self.round()

    def round(self) -> float:
        """Do one round; return how long it took, in microseconds."""
        running = self._running
        ended = [running.popleft() for _ in range(min(_ADMISSIONS, len(running) // 2))]
        costs = [self._dice.randrange(50_000, 150_000) for _ in ended]
        began = time.perf_counter_ns()
        for pick, cost_us in zip(ended, costs, strict=True):
            self._scheduler.settle(settled(pick, cost_us))
        plan = self._scheduler.plan(_ADMISSIONS)
        took = time.perf_counter_ns() - began
        self._scheduler.dirty.clear()
        running.extend(plan.picks)
        return took / 1_000


def _rounds(seed: int, quick: bool) -> list[Sample]:
    """Time rounds with few and with many orgs in turns."""
    few, many = Rounds(_FEW, seed), Rounds(ORGS // (20 if quick else 1), seed)
    took: tuple[list[float], list[float]] = ([], [])
    gc.collect()
    gc.freeze()  # the orgs that exist before; what a round leaves behind is collected as ever
    for _ in range(_TURNS):
        for times, rounds in zip(took, (few, many), strict=True):
            times += [rounds.round() for _ in range(_ROUNDS)]
    gc.unfreeze()
    samples = []
    for name, times in zip((f"{_FEW} orgs", "100,000 orgs"), map(sorted, took), strict=True):
        samples += [
            Sample(ROUND, name, "median, us", percentile(times, 0.5)),
            Sample(ROUND, name, "p99, us", percentile(times, 0.99)),
        ]
    ordered = [sorted(times) for times in took]
    for metric, part in ((MEDIAN_RATIO, 0.5), (RATIO, 0.99)):
        ratio = percentile(ordered[1], part) / percentile(ordered[0], part)
        samples.append(Sample(ROUND, NAMES[Rule.WEIGHTED], metric, ratio))
    return samples


_WHY_STARVED = (
    "the run is cut five seconds after the last arrival, in the middle of the overload: five times"
    " the p99 of an org's first wait; after one second, up to five of the last were still waiting"
)


def bars(measures: Measures) -> list[Bar]:
    """Return the bar on starvation; that on the tick is measured on the database."""
    starved = measures[Key(CROWD, NAMES[Rule.WEIGHTED], STARVED)]
    return [
        Bar(
            "100,000 orgs: starved, most of any seed",
            exact(starved.worst),
            0.0,
            why=_WHY_STARVED,
        )
    ]


EXPERIMENT = Experiment(
    "E6",
    "A hundred thousand orgs",
    f"{SLOTS} slots, Zipf demand of {LOAD:g} times what fits, tasks of 0.1 s on average,"
    " a round each 5 ms; starved: had work and no slot at all until some seconds after the last"
    f" arrival; all rules over {FEWER_ORGS:,} orgs; 240 orgs with weights: 32 slots, all"
    " backlogged, 47.6% due to the 20 heavy ones; the time of a round is that of the scheduler"
    " alone, without the database, where the whole tick is compared",
    sample,
    bars,
)
