"""What a monitor is shown of a queue, read as its leader.

Read-only; it writes no WAL. What it costs is bounded as what screens cost is: O(orgs with work), up
to `SLOTS_MAX` admitted and `SCHEDULED_MAX` scheduled tasks, never O(backlog) or O(in-flight).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orchestrator.model import FairnessReport, QueueConfig
from orchestrator.store import status
from orchestrator.store.fairness import recent
from orchestrator.store.loads import OrgLoad, org_loads
from orchestrator.store.sql import Operation, Statements
from orchestrator.telemetry.figures import OrgFigures, QueueFigures
from orchestrator.telemetry.metrics import OTHER

SQL = Statements("figures")

SLOTS_MAX = SCHEDULED_MAX = 10_000
# A window of the signal is written every ten seconds in which something happened.
_WINDOW_MAX_S = 30.0
_TIMEOUT_MS = 10_000


@dataclass(frozen=True, slots=True)
class Reading:
    """The figures of a queue, and the loads of its orgs that they were made from."""

    figures: QueueFigures
    loads: Sequence[OrgLoad]


def queue_figures(queue: QueueConfig, *, orgs_max: int) -> Operation:
    """Return the `Reading` of one queue; needs a transaction, best a REPEATABLE READ one."""
    yield status.SQL.call("steady")
    yield SQL.call("bounded", timeout_ms=_TIMEOUT_MS)
    loads: list[OrgLoad] = yield from org_loads(queue.id, SLOTS_MAX)
    running = [load for load in loads if not load.paused]
    longest = yield from status.oldest(queue.id, running)
    oldest_quiet = yield from status.oldest(queue.id, [load for load in running if load.is_quiet])
    scheduled = yield status.SQL.call("scheduled", queue=queue.id, most=SCHEDULED_MAX)
    overdue = yield SQL.call("overdue", queue=queue.id)
    windows = yield from recent(queue.id, 1)
    report: FairnessReport | None = None
    if windows and windows[0].ago_s < _WINDOW_MAX_S:
        report = windows[0].report
    figures = QueueFigures(
        staged=sum(load.staged for load in loads),
        scheduled=scheduled[0][0],
        in_flight=sum(load.in_flight for load in loads),
        ready=sum(load.ready for load in loads),
        lease_overdue_s=overdue[0][0],
        oldest_s=longest.age_s if longest else 0.0,
        oldest_quiet_s=oldest_quiet.age_s if oldest_quiet else 0.0,
        waiting_orgs=sum(load.staged > 0 for load in loads),
        over_cap=0,
        jain=report.jain if report else None,
        lag_ratio=report.lag / report.lag_bound if report and report.lag_bound else None,
        starved=report.starved if report else None,
        share_worst=min(map(_ratio, filter(_is_eligible, loads)), default=None),
        orgs=tuple(_by_name(loads, orgs_max)),
    )
    return Reading(figures, loads)


def _is_eligible(load: OrgLoad) -> bool:
    """Tell whether the org wants more than it has, and may have it."""
    capped = load.burst_max is not None and load.in_flight >= load.burst_max
    return load.staged > 0 and not load.paused and not capped and load.fair_share > 0


def _ratio(load: OrgLoad) -> float:
    return load.share / load.fair_share


def _by_name(loads: Sequence[OrgLoad], most: int) -> Iterator[OrgFigures]:
    """Yield the orgs that hold most slots and, for half of the places, those that want most; then
    the others together.
    """
    # An org of the very name that the others go by is one of them.
    named = [load for load in loads if load.org != OTHER]
    chosen = {load.org for load in named[: most - most // 2]}
    for load in sorted(named, key=lambda load: -load.staged):
        if len(chosen) < most:
            chosen.add(load.org)
    rest = []
    for load in loads:
        if load.org in chosen:
            ratio = _ratio(load) if load.fair_share else None
            yield OrgFigures(load.org, load.staged, load.in_flight, ratio)
        else:
            rest.append(load)
    if rest:
        due = sum(load.fair_share for load in rest)
        yield OrgFigures(
            OTHER,
            sum(load.staged for load in rest),
            sum(load.in_flight for load in rest),
            sum(load.share for load in rest) / due if due else None,
        )
