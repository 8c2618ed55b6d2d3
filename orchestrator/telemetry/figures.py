"""What this replica leads, and what it last saw of it: the gauges that the leader alone shows.

One reads, many look: whoever reads a queue swaps its figures as a whole, so no scrape sees a mix of
two moments, and none waits for the database. What is not led is not shown: after a term its figures
vanish, and the next term shows none until it has read its own. A reading that was under way when
its term ended is dropped.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import Metric

from orchestrator.telemetry import metrics
from orchestrator.telemetry.metrics import Figure


@dataclass(frozen=True, slots=True)
class OrgFigures:
    """One org, or `other`: what waits, what it holds, and its share against what it is due."""

    org: str
    staged: int
    in_flight: int
    share_ratio: float | None


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """One queue at one moment; None is not known, and is not shown."""

    staged: int
    scheduled: int
    in_flight: int
    ready: int
    lease_overdue_s: float
    oldest_s: float
    oldest_quiet_s: float
    waiting_orgs: int
    over_cap: int
    jain: float | None
    lag_ratio: float | None
    starved: int | None
    share_worst: float | None
    orgs: Sequence[OrgFigures] = ()
    took_s: float = 0.0
    # When they were read, and after how long they say nothing of now.
    at: float = 0.0
    stale_after_s: float = 60.0


@dataclass(slots=True, eq=False)
class Lead:
    """One term of one queue, while it lasts; the leader's loop says that it turns."""

    queue: str
    epoch: int
    turned_at: float = field(default_factory=time.time)
    figures: QueueFigures | None = None

    def turn(self) -> None:
        """Note that the leader's loop turned."""
        self.turned_at = time.time()


class Board:
    """What one replica shows of the queues it stands for. Any thread may ask."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._lock = threading.Lock()
        self._stands: frozenset[str] = frozenset()
        self._leads: dict[str, Lead] = {}
        self._clock = clock

    def stand(self, queues: Iterable[str]) -> None:
        """Note for which queues the replica stands."""
        self._stands = frozenset(queues)

    def lead(self, queue: str, epoch: int) -> Lead:
        """Begin a term; nothing of an earlier one is shown any more."""
        lead = Lead(queue, epoch)
        with self._lock:
            self._leads[queue] = lead
        return lead

    def leave(self, lead: Lead) -> None:
        """End a term: its figures vanish."""
        with self._lock:
            if self._leads.get(lead.queue) is lead:
                del self._leads[lead.queue]

    def show(self, lead: Lead, figures: QueueFigures) -> bool:
        """Show figures from now on; return False, and drop them, where the term is over."""
        with self._lock:
            if self._leads.get(lead.queue) is not lead:
                return False
            lead.figures = figures
            return True

    def collect(self) -> Iterable[Metric]:
        """Return the families of this moment."""
        with self._lock:
            leads = sorted(self._leads.values(), key=lambda lead: lead.queue)
            standing = sorted(self._stands | self._leads.keys())
            seen = [(lead.queue, lead.figures) for lead in leads]
        leading = {lead.queue for lead in leads}
        yield metrics.LEADER_NOW.family(((queue,), float(queue in leading)) for queue in standing)
        yield metrics.LEADER_EPOCH.family(((lead.queue,), lead.epoch) for lead in leads)
        yield metrics.LAST_TICK.family(((lead.queue,), lead.turned_at) for lead in leads)
        now = self._clock()
        shown = {
            queue: each
            for queue, each in seen
            if each is not None and now - each.at <= each.stale_after_s
        }
        for figure, read in _OF_QUEUE.items():
            yield figure.family(_known(shown, read))
        yield metrics.ORG_STAGED.family(
            ((queue, org.org), org.staged) for queue, each in shown.items() for org in each.orgs
        )
        yield metrics.ORG_IN_FLIGHT.family(
            ((queue, org.org), org.in_flight) for queue, each in shown.items() for org in each.orgs
        )
        yield metrics.ORG_SHARE.family(
            ((queue, org.org), org.share_ratio)
            for queue, each in shown.items()
            for org in each.orgs
            if org.share_ratio is not None
        )


Read = Callable[[QueueFigures], float | None]
_OF_QUEUE: Mapping[Figure, Read] = {
    metrics.SNAPSHOT_AT: lambda q: q.at,
    metrics.SNAPSHOT_DURATION: lambda q: q.took_s,
    metrics.STAGED: lambda q: q.staged,
    metrics.SCHEDULED: lambda q: q.scheduled,
    metrics.IN_FLIGHT: lambda q: q.in_flight,
    metrics.READY: lambda q: q.ready,
    metrics.LEASED: lambda q: max(0, q.in_flight - q.ready),
    metrics.LEASE_OVERDUE: lambda q: q.lease_overdue_s,
    metrics.OLDEST: lambda q: q.oldest_s,
    metrics.OLDEST_QUIET: lambda q: q.oldest_quiet_s,
    metrics.ORGS_WAITING: lambda q: q.waiting_orgs,
    metrics.OVER_CAP: lambda q: q.over_cap,
    metrics.JAIN: lambda q: q.jain,
    metrics.WORST_LAG: lambda q: q.lag_ratio,
    metrics.STARVED: lambda q: q.starved,
    metrics.SHARE_WORST: lambda q: q.share_worst,
}


def _known(shown: Mapping[str, QueueFigures], read: Read) -> Iterator[tuple[Sequence[str], float]]:
    for queue, figures in shown.items():
        value = read(figures)
        if value is not None:
            yield (queue,), value
