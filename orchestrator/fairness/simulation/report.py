"""The figures of a simulated run: dwell, slowdown, shares, fairness, utilisation."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from itertools import chain, compress
from typing import NamedTuple

from orchestrator.errors import InvalidInput
from orchestrator.fairness.measures import Lag, Spread, jain, spread
from orchestrator.fairness.simulation.observe import WindowOutcome
from orchestrator.fairness.simulation.run import Run


class CriticalOutcome(NamedTuple):
    """The critical tasks of a run, or of one org: how many came, and how long they waited."""

    tasks: int
    dwell: Spread


class OrgOutcome(NamedTuple):
    """One org of a run.

    `dwell` is in seconds, from arrival to the (first) start by a worker. `slowdown` is (dwell +
    duration) / duration. Both are over the tasks that started; `critical` are those of them that
    are, None where none came. `worker_s` was obtained, `fair_s` is what
    weighted water-filling gives of the worker time that was delivered, window by window, to those
    that wanted it; `share` and `fair_share` are the same as parts of all worker time.
    """

    org: str
    tier: str
    weight: int
    arrived: int
    dwell: Spread
    slowdown: Spread
    worker_s: float
    fair_s: float
    share: float
    fair_share: float
    in_flight_peak: int
    critical: CriticalOutcome | None = None


class TierOutcome(NamedTuple):
    """All tasks of the orgs of one tier."""

    tier: str
    orgs: int
    dwell: Spread
    slowdown: Spread
    worker_s: float


class Report(NamedTuple):
    """A run in figures.

    `jain` is Jain's index of worker time obtained / worker time due, over the `jain_orgs` orgs that
    were due any. `windows` have the index of worker time by weight over the orgs eligible all the
    time. `critical` are the critical tasks, None where none came; `yields` is how often a task made
    room for one. `lag` is the worst pair of the `tracked` orgs over every interval in which both
    were eligible; `window_lag` the worst of any two orgs over one window. `starved` had work and
    got no slot at all.
    """

    tasks: int
    started: int
    until_s: float
    utilisation: float
    idle_while_eligible_s: float
    dwell: Spread
    slowdown: Spread
    orgs: tuple[OrgOutcome, ...]
    tiers: tuple[TierOutcome, ...]
    jain: float | None
    jain_orgs: int
    windows: tuple[WindowOutcome, ...]
    tracked: tuple[str, ...]
    lag: Lag | None
    window_lag: Lag | None
    starved: tuple[str, ...]
    critical: CriticalOutcome | None = None
    yields: int = 0


class Point(NamedTuple):
    """A value at an instant."""

    at_s: float
    value: float


def report_of(run: Run) -> Report:
    """Return the figures of `run`; O(tasks log tasks)."""
    dwells, slowdowns = _waits(run)
    critical = _critical_outcomes(run)
    arrived = [0] * len(run.trace.orgs)
    for org in run.trace.org:
        arrived[org] += 1
    total_us = sum(run.served_us)
    due = [got / fair for got, fair in zip(run.served_us, run.fair_us, strict=True) if fair > 0]
    orgs = tuple(
        _org_outcome(run, org, arrived[org], dwells[org], slowdowns[org], total_us)._replace(
            critical=critical.get(org)
        )
        for org in range(len(arrived))
    )
    return Report(
        tasks=len(run.trace),
        started=sum(map(len, dwells)),
        until_s=run.until_us / 1e6,
        utilisation=run.busy_us / max(1, run.until_us * run.policy.slots),
        idle_while_eligible_s=run.idle_us / 1e6,
        dwell=spread(chain.from_iterable(dwells), 1e6),
        slowdown=spread(chain.from_iterable(slowdowns)),
        orgs=orgs,
        tiers=_tier_outcomes(run, dwells, slowdowns),
        jain=jain(due),
        jain_orgs=len(due),
        windows=run.windows,
        tracked=run.tracked,
        lag=run.lag,
        window_lag=max(
            (window.lag for window in run.windows if window.lag is not None),
            key=lambda lag: lag.ratio,
            default=None,
        ),
        starved=tuple(
            org.org for org in orgs if org.arrived and not (org.dwell.of or org.worker_s)
        ),
        critical=critical.get(None),
        yields=run.yields,
    )


def dwell_series(run: Run, org: str) -> list[Point]:
    """Return when each started task of `org` arrived, and how long it waited, in seconds."""
    place = _place(run, org)
    trace = run.trace
    return [
        Point(at_us / 1e6, (start_us - at_us) / 1e6)
        for owner, at_us, start_us in zip(trace.org, trace.at_us, run.start_us, strict=True)
        if owner == place and start_us >= 0
    ]


def service_series(run: Run, org: str, step_s: float) -> list[Point]:
    """Return the worker-seconds that `org` had obtained by each multiple of `step_s`.

    Of a run in which nobody yielded: each task is taken to run in one piece.
    """
    place, step_us = _place(run, org), max(1, round(step_s * 1e6))
    steps = -(-run.until_us // step_us)
    # Whole steps are counted by where they begin and end, the two broken ones by themselves.
    part, level = [0] * (steps + 1), [0] * (steps + 2)
    durations = run.trace.duration_us
    for owner, start_us, duration_us in zip(run.trace.org, run.start_us, durations, strict=True):
        if owner == place and start_us >= 0:
            _spread_out(part, level, start_us, min(start_us + duration_us, run.until_us), step_us)
    points, obtained, running = [Point(0.0, 0.0)], 0, 0
    for step in range(steps):
        running += level[step]
        obtained += part[step] + running * step_us
        at_us = min((step + 1) * step_us, run.until_us)
        points.append(Point(at_us / 1e6, obtained / 1e6))
    return points


def admissions(run: Run) -> list[str]:
    """Return the orgs in the order of their admissions."""
    trace = run.trace
    return [trace.orgs[trace.org[task]] for task in run.order]


def _spread_out(part: list[int], level: list[int], since: int, until: int, step_us: int) -> None:
    first, last = since // step_us, until // step_us
    if first == last:
        part[first] += until - since
        return
    part[first] += (first + 1) * step_us - since
    part[last] += until - last * step_us
    level[first + 1] += 1
    level[last] -= 1


def _place(run: Run, org: str) -> int:
    try:
        return run.trace.orgs.index(org)
    except ValueError as error:
        raise InvalidInput(f"org {org!r} is not in the trace") from error


def _waits(run: Run) -> tuple[list[array[int]], list[array[float]]]:
    """Return dwell (microseconds) and slowdown of the started tasks, by place of org."""
    dwells = [array("q") for _ in run.trace.orgs]
    slowdowns = [array("d") for _ in run.trace.orgs]
    trace = run.trace
    columns = zip(trace.org, trace.at_us, run.start_us, trace.duration_us, strict=True)
    for org, at_us, start_us, duration_us in columns:
        if start_us >= 0:
            dwells[org].append(start_us - at_us)
            slowdowns[org].append((start_us - at_us + duration_us) / duration_us)
    return dwells, slowdowns


def _critical_outcomes(run: Run) -> dict[int | None, CriticalOutcome]:
    """Return the critical tasks of each org that has any, by its place; of all under None."""
    trace, came = run.trace, Counter[int | None]()
    dwells: dict[int | None, list[int]] = {}
    for task in compress(range(len(trace)), trace.critical):
        start_us = run.start_us[task]
        for org in (trace.org[task], None):
            came[org] += 1
            if start_us >= 0:
                dwells.setdefault(org, []).append(start_us - trace.at_us[task])
    return {
        org: CriticalOutcome(count, spread(dwells.get(org, ()), 1e6)) for org, count in came.items()
    }


def _org_outcome(
    run: Run,
    org: int,
    arrived: int,
    dwells: Sequence[int],
    slowdowns: Sequence[float],
    total_us: int,
) -> OrgOutcome:
    terms = run.terms[org]
    return OrgOutcome(
        org=run.trace.orgs[org],
        tier=terms.tier,
        weight=terms.weight,
        arrived=arrived,
        dwell=spread(dwells, 1e6),
        slowdown=spread(slowdowns),
        worker_s=run.served_us[org] / 1e6,
        fair_s=run.fair_us[org] / 1e6,
        share=run.served_us[org] / max(1, total_us),
        fair_share=run.fair_us[org] / max(1, total_us),
        in_flight_peak=run.peak[org],
    )


def _tier_outcomes(
    run: Run, dwells: Sequence[Sequence[int]], slowdowns: Sequence[Sequence[float]]
) -> tuple[TierOutcome, ...]:
    members: dict[str, list[int]] = {}
    for org, terms in enumerate(run.terms):
        members.setdefault(terms.tier, []).append(org)
    ranked = sorted(members, key=lambda tier: (run.policy.tiers[tier].rank, tier))
    return tuple(
        TierOutcome(
            tier,
            len(members[tier]),
            spread(chain.from_iterable(dwells[org] for org in members[tier]), 1e6),
            spread(chain.from_iterable(slowdowns[org] for org in members[tier])),
            sum(run.served_us[org] for org in members[tier]) / 1e6,
        )
        for tier in ranked
    )
