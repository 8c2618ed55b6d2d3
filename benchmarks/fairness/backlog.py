"""E2: how long a newcomer waits beside a backlog of 0 to 1,000,000 tasks of somebody else.

The noisy org keeps every slot busy in all cases: it stages one task for each slot and then as many
as there is room for beside the newcomers. Only the backlog in front differs.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator
from heapq import heapify, heapreplace

from benchmarks.estimates import Bar, Experiment, Key, Measures, Sample
from benchmarks.fairness.running import NAMES, SECOND_US, lag_sample, p99, under_all, varied
from orchestrator.fairness.measures import percentile
from orchestrator.fairness.simulation.baselines import Rule
from orchestrator.fairness.simulation.policy import OrgSetting, SimPolicy
from orchestrator.fairness.simulation.scenarios import merged
from orchestrator.fairness.simulation.trace import Arrival, Trace
from orchestrator.model import DEFAULT_WORKLOAD, PRIORITY_DEFAULT, Tier

NOISY = "noisy"
SLOTS = 16
DURATION_US = 100_000
SPAN_US = 16 * SECOND_US
NEWCOMERS_PER_S = 20.0
TASKS_EACH = 2
BACKLOGS = (0, 1_000, 30_000, 1_000_000)
QUICK_BACKLOGS = (0, 1_000, 20_000)
# The others are compared up to here; what a million costs shows in ours and in FIFO.
_COMPARED_MAX = 30_000
METRIC = "newcomer dwell p99, s"
RATIO = "newcomer dwell p99, largest backlog / none"
POLICY = SimPolicy(
    slots=SLOTS,
    tiers={
        "upper": Tier("upper", weight=1, rank=0, burst_max=None),
        "standard": Tier("standard", weight=1, rank=1, burst_max=None),
    },
    orgs={NOISY: OrgSetting(tier="upper")},
)


def backlogs(quick: bool) -> tuple[int, ...]:
    """Return the backlogs that are compared."""
    return QUICK_BACKLOGS if quick else BACKLOGS


def case_of(backlog: int) -> str:
    """Return how the case is called."""
    return f"backlog {backlog:,}"


def trace(seed: int, backlog: int) -> Trace:
    """Return newcomers with a few tasks each, and an org that always has work besides."""
    dice = random.Random(seed)

    def task(at_us: int, org: str) -> Arrival:
        took_us = varied(dice, DURATION_US)
        return Arrival(at_us, org, DEFAULT_WORKLOAD, PRIORITY_DEFAULT, took_us)

    def newcomers() -> Iterator[Arrival]:
        at_s, number = 2.0, 0
        while (at_s := at_s + dice.expovariate(NEWCOMERS_PER_S)) < SPAN_US / SECOND_US - 2:
            number += 1
            for _ in range(TASKS_EACH):
                yield task(int(at_s * SECOND_US), f"new-{number}")

    late = list(newcomers())
    room = SPAN_US * SLOTS - sum(arrival.duration_us for arrival in late)
    count = room // DURATION_US - SLOTS
    steady = [task(SPAN_US * number // count, NOISY) for number in range(count)]
    # Drawn last: everything else is the same whatever the backlog.
    first = [task(0, NOISY) for _ in range(SLOTS + backlog)]
    return merged([first, steady, late], slots=SLOTS)


def sample(seed: int, quick: bool) -> list[Sample]:
    """Return the dwell of newcomers by backlog and rule, and how much the backlog made of it."""
    samples: list[Sample] = []
    found: dict[tuple[int, Rule], float] = {}
    for backlog in backlogs(quick):
        drawn, case = trace(seed, backlog), case_of(backlog)
        others = iter([Rule.WEIGHTED])
        if backlog <= _COMPARED_MAX:
            others = (rule for rule in NAMES if rule is not Rule.FIFO)
        for rule, run in under_all(drawn, POLICY, until_us=SPAN_US, tracked=2, rules=others):
            found[backlog, rule] = p99(run, _is_new)
            samples += lag_sample(case, rule, run)
        found[backlog, Rule.FIFO] = percentile(_fifo_dwells_s(drawn), 0.99)
    samples += [Sample(case_of(b), NAMES[rule], METRIC, s) for (b, rule), s in found.items()]
    for rule, name in NAMES.items():
        most = max(backlog for backlog, of in found if of is rule)
        ratio = found[most, rule] / found[0, rule]
        samples.append(Sample("largest backlog / none", name, RATIO, ratio))
    return samples


def _is_new(org: str) -> bool:
    return org != NOISY


def fifo_starts(drawn: Trace, slots: int) -> array[int]:
    """Return when each task starts first in, first out: what the simulator's FIFO does, faster."""
    free_at = [0] * slots
    heapify(free_at)
    starts = array("q")
    for at_us, duration_us in zip(drawn.at_us, drawn.duration_us, strict=True):
        start_us = max(at_us, free_at[0])
        heapreplace(free_at, start_us + duration_us)
        starts.append(start_us)
    return starts


def _fifo_dwells_s(drawn: Trace) -> list[float]:
    chosen = [_is_new(org) for org in drawn.orgs]
    columns = zip(drawn.org, drawn.at_us, fifo_starts(drawn, SLOTS), strict=True)
    return sorted((start - at) / SECOND_US for org, at, start in columns if chosen[org])


def bars(measures: Measures) -> list[Bar]:
    """Return the bar on the newcomer's dwell."""
    key = Key("largest backlog / none", NAMES[Rule.WEIGHTED], RATIO)
    return [Bar("newcomer dwell p99, largest backlog against none", measures[key], 1.2)]


EXPERIMENT = Experiment(
    "E2",
    "A newcomer beside a backlog",
    f"{SLOTS} slots that are always busy, tasks of {DURATION_US // 1000} ms on average; in"
    f" {SPAN_US // SECOND_US} s about {NEWCOMERS_PER_S:g} orgs a second come with {TASKS_EACH}"
    " tasks each; the noisy org is in the upper tier under strict tiers; who had not started at the"
    " end is counted with the time waited so far (FIFO is followed to its end);"
    f" rules but ours and FIFO up to a backlog of {_COMPARED_MAX:,}",
    sample,
    bars,
)
