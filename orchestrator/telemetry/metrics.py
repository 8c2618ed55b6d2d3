"""Every metric: its name, what it tells, its labels. `docs/metrics.md` is made from this module.

Counters and histograms are counted where things happen, a batch at a time, by the process that does
them: add them up over all processes. Figures are what the leader of a queue last saw of it
(`figures`): only the process that leads shows them. Units are in the names. The labels of orgs are
bounded; no other label holds what a user chose, but for names of queues.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter as Counts
from collections.abc import Collection, Iterable, Sequence
from functools import cache
from itertools import accumulate
from threading import Lock
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from orchestrator.model import AttemptStatus, Claim

# Of this process. Beside it the library's own tells of memory, descriptors and processor time.
REGISTRY = CollectorRegistry(auto_describe=False)
# Who shows it.
REPLICA, LEADER, WORKER, HTTP = "replica", "leader", "worker", "run --http"
BOTH = "worker, replica, run --http"
CLAIMERS = "worker, run --http"
# Waits and runs, from a handler of milliseconds to a backlog of a day.
_DURATIONS_S = (0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 14400, 86400)
_TICKS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_REQUESTS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30)
# Orgs that are not shown by name, together.
OTHER = "other"


class Metric(NamedTuple):
    """What `docs/metrics.md` says of one metric; `name` as it is exposed."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...]
    shown_by: str


CATALOGUE: list[Metric] = []


class Histogram(Collector):
    """A histogram that takes a batch of values at once: sorted in C, then found by bisection.

    The library's takes one at a time, a lock each; a worker ends tens of thousands a second.
    """

    def __init__(self, name: str, text: str, bounds: Sequence[float], labels: Sequence[str]):
        self._name, self._text, self._labels = name, text, labels
        self._bounds = tuple(map(float, bounds))
        self._lock = Lock()
        # Of each child: values above the last bound and up to each, above all of them, and the sum.
        self._children: dict[tuple[str, ...], tuple[list[int], list[float]]] = {}

    def observe(self, value: float, *labels: str) -> None:
        """Count one value."""
        self.observe_all((value,), *labels)

    def observe_all(self, values: Collection[float], *labels: str) -> None:
        """Count many values of the same labels."""
        bounds = self._bounds
        with self._lock:
            child = self._children.get(labels)
            if child is None:
                child = self._children[labels] = ([0] * (len(bounds) + 1), [0.0])
            counts, total = child
            if len(values) < len(bounds):
                for value in values:
                    counts[bisect_left(bounds, value)] += 1
            else:
                _count_sorted(counts, sorted(values), bounds)
            total[0] += sum(values)

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """Return the family as it stands."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        with self._lock:
            children = [(key, list(n), s[0]) for key, (n, s) in self._children.items()]
        bounds = [*map(_number, self._bounds), "+Inf"]
        for labels, counts, total in children:
            family.add_metric(labels, list(zip(bounds, accumulate(counts), strict=True)), total)
        return [family]


def _count_sorted(counts: list[int], ordered: Sequence[float], bounds: Sequence[float]) -> None:
    below = 0
    for place, bound in enumerate(bounds):
        upto = bisect_right(ordered, bound, below)
        counts[place] += upto - below
        below = upto
    counts[-1] += len(ordered) - below


class Figure:
    """A gauge that is not kept but told: whoever collects says what it is at that moment."""

    def __init__(self, name: str, text: str, labels: Sequence[str]) -> None:
        self._name, self._text, self._labels = name, text, labels

    def family(self, values: Iterable[tuple[Sequence[str], float]]) -> GaugeMetricFamily:
        """Return the family of these values, by labels."""
        family = GaugeMetricFamily(self._name, self._text, labels=self._labels)
        for labels, value in values:
            family.add_metric(labels, value)
        return family


def _number(bound: float) -> str:
    return f"{bound:g}" if bound < 1e6 else str(bound)


def _counter(shown_by: str, name: str, text: str, *labels: str) -> Counter:
    CATALOGUE.append(Metric(f"{name}_total", "counter", text, labels, shown_by))
    return Counter(name, text, labels, registry=REGISTRY)


def _histogram(
    shown_by: str, name: str, text: str, bounds: Sequence[float], *labels: str
) -> Histogram:
    CATALOGUE.append(Metric(name, "histogram", text, labels, shown_by))
    histogram = Histogram(name, text, bounds, labels)
    REGISTRY.register(histogram)
    return histogram


def _figure(shown_by: str, name: str, text: str, *labels: str) -> Figure:
    CATALOGUE.append(Metric(name, "gauge", text, labels, shown_by))
    return Figure(name, text, labels)


# Leadership and ticks --------------------------------------------------------------------------

LEADER_NOW = _figure(
    REPLICA,
    "orchestrator_leader",
    "1 while this replica leads the queue, 0 while it stands by. The sum over all replicas is 1.",
    "queue",
)
LEADER_EPOCH = _figure(
    LEADER, "orchestrator_leader_epoch", "The epoch in which this replica leads.", "queue"
)
LAST_TICK = _figure(
    LEADER,
    "orchestrator_last_tick_timestamp_seconds",
    "When the leader's loop last turned, by its own clock.",
    "queue",
)
ELECTIONS = _counter(REPLICA, "orchestrator_elections", "Elections that this replica won.", "queue")
TERMS_LOST = _counter(
    REPLICA,
    "orchestrator_terms_lost",
    "Terms that ended otherwise than by a resignation.",
    "queue",
)
FENCED_REFUSALS = _counter(
    REPLICA,
    "orchestrator_fenced_refusals",
    "Transactions of a deposed leader that the fence refused. None of them changed anything.",
    "queue",
)
LOOP_FAILURES = _counter(
    REPLICA,
    "orchestrator_loop_failures",
    "Times that a loop of the replica failed, and was tried again.",
    "loop",
)
TICK_DURATION = _histogram(
    REPLICA,
    "orchestrator_tick_duration_seconds",
    "How long ticks took: feeds, plan, admissions, commit.",
    _TICKS_S,
    "queue",
)
CHORE_FAILURES = _counter(
    REPLICA,
    "orchestrator_chore_failures",
    "Periodic chores that failed, and will be tried again.",
    "chore",
)

# What the leader does --------------------------------------------------------------------------

ADMISSIONS = _counter(REPLICA, "orchestrator_admissions", "Tasks admitted.", "queue")
PROMOTIONS = _counter(
    REPLICA, "orchestrator_promotions", "Scheduled tasks that became due, and were staged.", "queue"
)
EXPIRATIONS = _counter(
    REPLICA, "orchestrator_expirations", "Tasks ended because their deadline had passed.", "queue"
)
REAPED = _counter(
    REPLICA,
    "orchestrator_reaped",
    "Attempts taken back because their lease had expired.",
    "queue",
)
REPAIRS = _counter(
    REPLICA,
    "orchestrator_repairs",
    "Differences between the tables and what the leader believed, found by the sweep. Always 0.",
    "queue",
)

# Names of queues by id, as whoever leads or claims from them has learned them.
NAMES: dict[int, str] = {}


def named(queue: int) -> str:
    """Return the name of a queue for a label."""
    return NAMES.get(queue) or str(queue)


# What workers do -------------------------------------------------------------------------------

CLAIM_CALLS = _counter(
    CLAIMERS,
    "orchestrator_claim_calls",
    "Claims that were answered, by whether they found anything (yes, no).",
    "queue",
    "found",
)
CLAIM_FAILURES = _counter(
    WORKER, "orchestrator_claim_failures", "Claims that failed, and will be tried again.", "queue"
)
CLAIMS = _counter(CLAIMERS, "orchestrator_claims", "Tasks claimed.", "queue")
ADMISSION_WAIT = _histogram(
    CLAIMERS,
    "orchestrator_admission_wait_seconds",
    "From when a task could first have run until its first claim, by the database's clock: the "
    "wait for admission, and the short one among the ready tasks after it.",
    _DURATIONS_S,
    "queue",
)
OUTCOMES = _counter(
    BOTH,
    "orchestrator_outcomes",
    "Attempts that ended, by how. By workers: succeeded, failed, snoozed, released, discarded, "
    "dead, cancelled; by the leader: lost (a lease expired), expired (a deadline passed).",
    "queue",
    "status",
)
RETRIES = _counter(
    BOTH,
    "orchestrator_retries",
    "Failed and lost attempts after which another one follows.",
    "queue",
)
DEAD_LETTERS = _counter(
    BOTH,
    "orchestrator_dead_letters",
    "Tasks that ended as dead letters, after their last attempt or because none could help.",
    "queue",
)
RUN_DURATION = _histogram(
    WORKER,
    "orchestrator_run_duration_seconds",
    "How long attempts held their slot, from the start of the handler to its end.",
    _DURATIONS_S,
    "queue",
)
ACKS_GONE = _counter(
    WORKER,
    "orchestrator_acks_gone",
    "Attempts whose end came too late: the lease was lost, or an earlier answer was.",
    "queue",
)
LEASES_LOST = _counter(
    WORKER, "orchestrator_leases_lost", "Leases that ran out under this worker.", "queue"
)
EXTEND_FAILURES = _counter(
    WORKER,
    "orchestrator_extend_failures",
    "Heartbeats that failed, and will be tried again.",
    "queue",
)
WORKER_SLOTS = _figure(
    WORKER, "orchestrator_worker_slots", "Tasks that this worker can run at the same time."
)
WORKER_RUNNING = _figure(WORKER, "orchestrator_worker_running_tasks", "Tasks that run now.")
WORKER_WAITING = _figure(
    WORKER, "orchestrator_worker_waiting_tasks", "Tasks claimed ahead that have not started."
)

# A queue as its leader last saw it -------------------------------------------------------------

SNAPSHOT_AT = _figure(
    LEADER,
    "orchestrator_snapshot_timestamp_seconds",
    "When the figures of the queue were read, by the leader's clock.",
    "queue",
)
SNAPSHOT_DURATION = _figure(
    LEADER, "orchestrator_snapshot_duration_seconds", "How long reading them took.", "queue"
)
STAGED = _figure(
    LEADER,
    "orchestrator_staged_tasks",
    "Tasks that wait for admission, as the leader counts them; of very long flows the least.",
    "queue",
)
SCHEDULED = _figure(
    LEADER,
    "orchestrator_scheduled_tasks",
    "Tasks that are not due yet, retries included; counted up to 10,000.",
    "queue",
)
IN_FLIGHT = _figure(
    LEADER, "orchestrator_in_flight_tasks", "Tasks admitted and unfinished: slots held.", "queue"
)
READY = _figure(
    LEADER,
    "orchestrator_ready_tasks",
    "Tasks admitted and not yet claimed; counted up to 10,000.",
    "queue",
)
LEASED = _figure(LEADER, "orchestrator_leased_tasks", "Tasks claimed and unfinished.", "queue")
LEASE_OVERDUE = _figure(
    LEADER,
    "orchestrator_lease_overdue_seconds",
    "For how long the oldest expired lease has not been taken back; 0 where there is none.",
    "queue",
)
OLDEST = _figure(
    LEADER,
    "orchestrator_oldest_waiting_seconds",
    "For how long the oldest task waits to be claimed that could run; paused orgs left out.",
    "queue",
)
OLDEST_QUIET = _figure(
    LEADER,
    "orchestrator_oldest_quiet_waiting_seconds",
    "The same among quiet orgs, those with fewer than 100 staged tasks: they do not wait behind "
    "themselves.",
    "queue",
)
ORGS_WAITING = _figure(
    LEADER, "orchestrator_waiting_orgs", "Orgs with staged tasks; counted up to a bound.", "queue"
)
OVER_CAP = _figure(
    LEADER,
    "orchestrator_over_cap_orgs",
    "Orgs that were given slots beyond their burst_max. Always 0: an org whose cap was lowered "
    "below what it holds is given none, and does not count.",
    "queue",
)
JAIN = _figure(
    LEADER,
    "orchestrator_jain_index_ratio",
    "Jain's index over the worker time by weight of the orgs that waited together in the last "
    "window: 1 is even.",
    "queue",
)
WORST_LAG = _figure(
    LEADER,
    "orchestrator_worst_lag_ratio",
    "The worst lag between two orgs in the last window, as a part of the bound that is promised: "
    "never above 1.",
    "queue",
)
STARVED = _figure(
    LEADER,
    "orchestrator_starved_orgs",
    "Orgs that waited all through the last window and were served nothing.",
    "queue",
)
SHARE_WORST = _figure(
    LEADER,
    "orchestrator_share_worst_ratio",
    "The smallest share of the slots in use that an org with staged work holds, as a part of its "
    "fair share: about 1 at the scale of a task's run time.",
    "queue",
)
ORG_STAGED = _figure(
    LEADER,
    "orchestrator_org_staged_tasks",
    "Staged tasks of the orgs that hold or want most, the others together as `other`.",
    "queue",
    "org",
)
ORG_IN_FLIGHT = _figure(
    LEADER, "orchestrator_org_in_flight_tasks", "Slots held, by the same orgs.", "queue", "org"
)
ORG_SHARE = _figure(
    LEADER,
    "orchestrator_org_share_ratio",
    "Share of the slots in use as a part of the fair share, by the same orgs: 1 is fair.",
    "queue",
    "org",
)

# The HTTP API ----------------------------------------------------------------------------------

HTTP_REQUESTS = _counter(
    HTTP,
    "orchestrator_http_requests",
    "Requests answered, by method, template of the route, and status.",
    "method",
    "route",
    "status",
)
HTTP_DURATION = _histogram(
    HTTP,
    "orchestrator_http_request_duration_seconds",
    "From a request to the end of its answer; long polls last as long as they were asked to.",
    _REQUESTS_S,
    "method",
    "route",
)
FASTPATH_HITS = _counter(
    HTTP,
    "orchestrator_fastpath_hits",
    "Looks at a queue answered with nothing out of the cache, without a statement.",
    "queue",
)
FASTPATH_MISSES = _counter(
    HTTP, "orchestrator_fastpath_misses", "Looks at a queue that had to ask the database.", "queue"
)
FASTPATH_FAILURES = _counter(
    HTTP,
    "orchestrator_fastpath_failures",
    "Calls to the store of the cache that failed or took too long, and counted as a miss.",
    "store",
)


def claimed(queue: str, claims: Sequence[Claim]) -> None:
    """Count what one claim gave."""
    if not claims:
        _child(CLAIM_CALLS, queue, "no").inc()
        return
    _child(CLAIM_CALLS, queue, "yes").inc()
    _child(CLAIMS, queue).inc(len(claims))
    waited = [claim.waited_s for claim in claims if claim.waited_s is not None]
    if waited:
        ADMISSION_WAIT.observe_all(waited, queue)


_RETRIED = (AttemptStatus.FAILED, AttemptStatus.LOST)


def ended(queue: str, verdicts: Collection[AttemptStatus]) -> None:
    """Count attempts that really ended in these ways; of those that may be tried again, told by
    what the database made of them: one that is not comes as dead.
    """
    # The usual end by identity: a member of an enumeration is slow to hash.
    others = [verdict for verdict in verdicts if verdict is not AttemptStatus.SUCCEEDED]
    if len(others) < len(verdicts):
        _child(OUTCOMES, queue, "succeeded").inc(len(verdicts) - len(others))
    for verdict, count in Counts(others).items() if others else ():
        OUTCOMES.labels(queue, verdict).inc(count)
        if verdict in _RETRIED:
            RETRIES.labels(queue).inc(count)
        elif verdict is AttemptStatus.DEAD:
            DEAD_LETTERS.labels(queue).inc(count)


@cache
def _child(counter: Counter, *labels: str) -> Counter:
    """Return a child that is counted with all the time; the library finds it anew, under a lock."""
    return counter.labels(*labels)
