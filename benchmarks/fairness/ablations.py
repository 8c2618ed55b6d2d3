"""E12: what each part of the algorithm is for: the same runs with that part taken out.

Also what the ready window and the pace of the leader cost a newcomer.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from benchmarks.estimates import Experiment, Sample
from benchmarks.fairness import backlog, reclaim
from benchmarks.fairness.running import SECOND_US, p99, varied, worst_ratio
from orchestrator.fairness.line import Line
from orchestrator.fairness.plan import Refreshed, Settled
from orchestrator.fairness.simulation.policy import SimPolicy
from orchestrator.fairness.simulation.report import report_of
from orchestrator.fairness.simulation.run import Run
from orchestrator.fairness.simulation.scenarios import burst, merged
from orchestrator.fairness.simulation.simulate import simulate
from orchestrator.fairness.simulation.trace import Trace
from orchestrator.fairness.state import Seat
from orchestrator.fairness.weighted import WeightedScheduler

SLOTS = 16
WHOLE = "weighted"
SHARE = "share where 50% is due, %"
WINDOWS = (0, 32, 256)
TICKS_MS = (0, 5, 50)
_BACKLOG = 1_000


class WithoutClip(WeightedScheduler):
    """Who wakes keeps its old tag: time it did not use is credit."""

    def _stand(self, line: Line, seat: Seat, eligible: bool, *, clip: bool = True) -> None:
        super()._stand(line, seat, eligible, clip=False)


class WithoutRefund(WeightedScheduler):
    """A guess that was too high stays charged."""

    def settle(self, ended: Settled) -> None:
        """Settle, but give nothing back."""
        kept = ended._replace(
            tag_delta=max(0, ended.tag_delta), flow_delta=max(0, ended.flow_delta)
        )
        super().settle(kept)


class WithoutRefresh(WeightedScheduler):
    """A task that overruns its charge is charged for it when it ends."""

    def refresh(self, running: Refreshed) -> None:
        """Do nothing."""


class WithoutForgiving(WeightedScheduler):
    """What was used while nobody wanted it is a debt."""

    def _forgive(self, line: Line) -> None:
        """Do nothing."""


Part = Callable[[Run], float]


def sample(seed: int, quick: bool) -> list[Sample]:
    """Return what each part changes where it matters most, and the sweeps."""
    return [
        *_clip(seed),
        *_refund(seed),
        *_refresh(seed),
        *_forgive(seed),
        *_sweeps(seed, quick),
    ]


def _pair(
    case: str, trace: Trace, without: WeightedScheduler, until_us: int, part: Part
) -> list[Sample]:
    """Return the share in question (50% is due) and the lag, whole and without the part."""
    samples = []
    policy = reclaim.lifted_policy() if case == "clip" else SimPolicy(slots=SLOTS)
    for name, scheduler in ((WHOLE, WeightedScheduler()), (f"without {case}", without)):
        run = simulate(trace, policy, until_us=until_us, scheduler=scheduler)
        samples += [
            Sample(case, name, SHARE, 100 * part(run)),
            Sample(case, name, "worst lag / its bound", worst_ratio(run)),
        ]
    return samples


def _clip(seed: int) -> list[Sample]:
    """Lift a cap: who was capped asks for nothing of the past."""
    until_us = reclaim.BACK_US + 10 * SECOND_US
    return _pair(
        "clip",
        reclaim.lifted_trace(seed),
        WithoutClip(),
        until_us,
        lambda run: reclaim.part_of(run, "back", reclaim.BACK_US, until_us),
    )


def _refund(seed: int) -> list[Sample]:
    """Let one org have tasks of 20 ms and of 10 s in the same flow: a guess is always wrong."""
    dice = random.Random(seed)
    until_us = 200 * SECOND_US
    steady = burst("steady", 2 * SLOTS * 200, SECOND_US)
    uneven = burst("uneven", 2 * SLOTS * 40, SECOND_US)
    trace = merged([steady, uneven], slots=SLOTS)
    place = trace.orgs.index("uneven")
    for task, org in enumerate(trace.org):
        short = dice.random() < 0.5
        trace.duration_us[task] = SECOND_US // 50 if short else 10 * SECOND_US
        if org != place:
            trace.duration_us[task] = varied(dice, SECOND_US)
    return _pair(
        "refund",
        trace,
        WithoutRefund(),
        until_us,
        lambda run: reclaim.part_of(run, "uneven", 20 * SECOND_US, until_us),
    )


def _refresh(seed: int) -> list[Sample]:
    """Let an org come with tasks of a minute that nobody has seen before."""
    dice = random.Random(seed)
    until_us = 60 * SECOND_US
    short = burst("short", 2 * SLOTS * 60, 2 * SECOND_US)
    long = burst("long", 4 * SLOTS, 60 * SECOND_US, at_us=5 * SECOND_US)
    trace = merged([short, long], slots=SLOTS)
    for task, duration_us in enumerate(trace.duration_us):
        trace.duration_us[task] = varied(dice, duration_us)
    return _pair(
        "refresh",
        trace,
        WithoutRefresh(),
        until_us,
        lambda run: reclaim.part_of(run, "long", 10 * SECOND_US, until_us),
    )


def _forgive(seed: int) -> list[Sample]:
    """Let an org use free slots for long tasks, and then compete with another one."""
    dice = random.Random(seed)
    until_us = 34 * SECOND_US
    alone = burst("alone", 12, 20 * SECOND_US)
    after = [
        burst(org, SLOTS * 200, SECOND_US // 10, at_us=19 * SECOND_US) for org in ("alone", "late")
    ]
    trace = merged([alone, *after], slots=SLOTS)
    for task in range(12, len(trace)):
        trace.duration_us[task] = varied(dice, trace.duration_us[task])
    return _pair(
        "forgiving",
        trace,
        WithoutForgiving(),
        until_us,
        lambda run: reclaim.part_of(run, "alone", 21 * SECOND_US, 31 * SECOND_US),
    )


def _sweeps(seed: int, quick: bool) -> list[Sample]:
    """Vary the ready window and the pace of the leader beside a backlog."""
    samples = []
    trace = backlog.trace(seed, _BACKLOG)
    span_us = backlog.SPAN_US // (3 if quick else 1)
    policies = {f"window {size}": SimPolicy(slots=SLOTS, window=size) for size in WINDOWS}
    policies |= {f"tick {ms} ms": SimPolicy(slots=SLOTS, tick_us=1_000 * ms) for ms in TICKS_MS}
    policies |= {
        f"window 32, tick {ms} ms": SimPolicy(slots=SLOTS, window=32, tick_us=1_000 * ms)
        for ms in TICKS_MS[1:]
    }
    for case, policy in policies.items():
        run = simulate(trace, policy, until_us=span_us, tracked=2)
        waited = p99(run, lambda org: org != backlog.NOISY)
        used = 100 * report_of(run).utilisation
        samples += [
            Sample(case, WHOLE, backlog.METRIC, waited),
            Sample(case, WHOLE, "slots in use, %", used),
            Sample(case, WHOLE, "worst lag / its bound", worst_ratio(run)),
        ]
    return samples


EXPERIMENT = Experiment(
    "E12",
    "What each part is for",
    f"{SLOTS} slots; each part where it matters most, two orgs of equal weight; the sweeps with the"
    f" newcomers of E2 beside a backlog of {_BACKLOG:,}",
    sample,
)
