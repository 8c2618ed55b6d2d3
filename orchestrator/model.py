"""The frozen values that cross module borders, and the bounds that guard them.

The bounds here and the CHECK constraints of `schema/` say the same; a test pins them together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, TypeAlias
from uuid import UUID

from orchestrator.errors import PayloadError

PRIORITY_MIN = 1
PRIORITY_MAX = 10


class _Usual(int):
    """A priority that nobody gave: told from the same one that somebody did."""


PRIORITY_DEFAULT: int = _Usual(5)
BURST_MAX_MIN = 1
WEIGHT_MIN = 1
WEIGHT_MAX = 1_000_000
# A name longer than this has no use as a key and would bloat every index that leads with it.
NAME_MAX_CHARS = 200
MAX_ATTEMPTS_MAX = 1_000
DEFAULT_QUEUE = "default"
DEFAULT_WORKLOAD = "etl"
DEFAULT_TIER = "standard"
# Depth is counted up to here and no further: telling it must never cost O(backlog).
DEPTH_MAX = 1_000

# `json.loads` looks at its options first, for as long as a short text takes.
_DECODE = json.JSONDecoder().raw_decode


class Place(StrEnum):
    """Where a task is; at every commit it is in exactly one of these."""

    STAGED = "staged"
    SCHEDULED = "scheduled"
    READY = "ready"
    CLAIMED = "claimed"
    ENDED = "ended"


class AttemptStatus(StrEnum):
    """How one attempt, or the whole task, ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    LOST = "lost"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    RELEASED = "released"
    SNOOZED = "snoozed"
    DISCARDED = "discarded"
    DEAD = "dead"


class CancelOutcome(StrEnum):
    """What `cancel` found: gone at once, to be told to its worker, or already ended."""

    CANCELLED = "cancelled"
    REQUESTED = "requested"
    ENDED = "ended"


class Urgency(StrEnum):
    """How urgent a task is, in the three levels that agent platforms use: 100, 50 and 10."""

    CRITICAL = "critical"
    TASK = "task"
    INFO = "info"

    @property
    def level(self) -> int:
        """Return the level as a number: the higher, the more urgent."""
        return {Urgency.CRITICAL: 100, Urgency.TASK: 50, Urgency.INFO: 10}[self]

    @property
    def priority(self) -> int:
        """Return the priority that a task of this urgency has."""
        by_urgency = {
            Urgency.CRITICAL: PRIORITY_MAX,
            Urgency.TASK: int(PRIORITY_DEFAULT),
            Urgency.INFO: PRIORITY_MIN,
        }
        return by_urgency[self]


class Policy(StrEnum):
    """How the leader picks the next org of a queue."""

    WEIGHTED = "weighted"
    STRICT = "strict"


class CostMode(StrEnum):
    """What an admission is charged: its worker time, or one unit whatever it takes."""

    TIME = "time"
    COUNT = "count"


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """One task to enqueue; times are aware, durations are seconds.

    `urgency` stands for a priority, and `expires_in` for an `expires_at` so long after the enqueue.
    A critical task has priority 10 unless another is given.
    """

    name: str
    payload: Any = None
    org: str
    queue: str = DEFAULT_QUEUE
    workload: str = DEFAULT_WORKLOAD
    priority: int = PRIORITY_DEFAULT
    run_at: datetime | None = None
    delay: float | None = None
    expires_at: datetime | None = None
    idempotency_key: str | None = None
    max_attempts: int = 5
    timeout_s: float | None = None
    headers: Mapping[str, str] | None = None
    critical: bool = False
    urgency: Urgency | str | int | None = None
    expires_in: float | None = None

    @classmethod
    def of(cls, **values: Any) -> TaskSpec:
        """Return the spec of all these fields, none left out, at less cost (`Claim.of`)."""
        spec = object.__new__(cls)
        spec.__dict__.update(values)
        return spec


@dataclass(frozen=True, slots=True)
class Enqueued:
    """The live task of an enqueue: its id, whether this call created it, the org's depth if
    asked.
    """

    id: int
    created: bool
    depth: int | None = None


@dataclass(frozen=True)
class Claim:
    """One leased task, as its worker sees it; `claim_id` fences every later verb."""

    id: int
    name: str | None
    payload_text: str | None
    org: str
    queue: str
    workload: str
    priority: int
    attempt: int
    max_attempts: int
    claim_id: UUID
    lease_expires_at: datetime
    dispatch_key: int
    timeout_s: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    created_at: datetime | None = None
    # Leases this task has lost in a row: it may be what ends its workers, so it runs alone.
    lost: int = 0
    # How long it had waited when it was claimed, from when it could first have run; None for a
    # later attempt.
    waited_s: float | None = None
    # Whether it has an idempotency key, which its end frees; True where that is not known.
    keyed: bool = True

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Claim:
        """Return the claim of all these fields, which it keeps: thousands are made a second, and
        a frozen dataclass sets its fields one by one, at six times the cost.
        """
        claim = object.__new__(cls)
        claim.__dict__.update(fields)
        return claim

    @property
    def payload(self) -> Any:
        """Decode the payload; raise `PayloadError` where PostgreSQL accepts what Python cannot."""
        known = self.__dict__
        # Not `cached_property`: up to Python 3.11 that takes a lock, the same for all claims.
        if "_payload" not in known:
            known["_payload"] = self._decoded()
        return known["_payload"]

    def _decoded(self) -> Any:
        if self.payload_text is None:
            return None
        try:
            payload, end = _DECODE(self.payload_text)
            if end < len(self.payload_text):  # what PostgreSQL writes has no space around it
                payload = json.loads(self.payload_text)
        except (ValueError, RecursionError) as error:
            raise PayloadError(f"payload of task {self.id} cannot be decoded: {error}") from error
        return payload


@dataclass(frozen=True, slots=True)
class Extension:
    """What a heartbeat learns of one lease: its new end, which of its tasks should stop, and which
    should yield to a critical one.

    `cancelled` and `yielding` name them by dispatch key as it comes from the store, by task id as
    the client returns it.
    """

    claim_id: UUID
    lease_expires_at: datetime
    cancelled: frozenset[int]
    yielding: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a worker learns when it reports what it runs: all by task id, and its new claims.

    `lost` tasks are somebody else's by now, or ended: drop what was done for them. `cancelled` ones
    should stop. `yielding` ones should make room for a critical task of their org, as soon as they
    can: snooze them, and they go on later.
    """

    extensions: tuple[Extension, ...]
    lost: frozenset[int]
    cancelled: frozenset[int]
    yielding: frozenset[int]
    claims: tuple[Claim, ...]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One line of a task's history."""

    attempt: int
    status: AttemptStatus
    final: bool
    claimed_at: datetime | None
    ended_at: datetime
    cost_s: float
    worker: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """A task as `get` and `task show` tell it."""

    id: int
    name: str
    org: str
    queue: str
    workload: str
    priority: int
    place: Place
    status: AttemptStatus | None
    attempt: int
    max_attempts: int
    payload_text: str
    headers: Mapping[str, str]
    created_at: datetime
    run_at: datetime | None
    expires_at: datetime | None
    timeout_s: float | None
    idempotency_key: str | None
    worker: str | None
    lease_expires_at: datetime | None
    history: tuple[Attempt, ...] = ()


@dataclass(frozen=True, slots=True)
class Tier:
    """L1: a named class of orgs; a bigger weight gets more, a smaller rank goes first (strict)."""

    name: str
    weight: int
    rank: int
    burst_max: int | None
    backlog_max: int | None = None


@dataclass(frozen=True, slots=True)
class Workload:
    """L2: a named class of an org's own work; shares divide the org's part."""

    name: str
    share: int
    rank: int
    express: bool = False
    express_max_s: float | None = None


@dataclass(frozen=True, slots=True)
class QueueConfig:
    """A lane of work: the domain of fairness, capacity and leadership."""

    id: int
    name: str
    policy: Policy
    cost_mode: CostMode
    capacity: int | None
    headroom: float | None
    express_reserve: int | None
    ready_max: int | None
    kappa: int
    max_wait_s: float | None
    paused: bool


@dataclass(frozen=True, slots=True)
class FairnessReport:
    """How fairly the orgs of one queue were served during one window.

    `compared` orgs were eligible all the time; the others are left out. `jain` is 1 where those got
    the same for their weight. `lag` is how far `ahead` got ahead of `behind`, by weight, in
    `lag_unit`; the promise is that it stays below `lag_bound`. `starved` of them got nothing though
    far more was due. `idle_slot_s` is how long slots were free while an eligible org waited.
    """

    window_s: float
    compared: int
    jain: float | None
    lag: float
    lag_bound: float
    lag_unit: str
    ahead: str | None
    behind: str | None
    starved: int
    idle_slot_s: float
    served: int

    @property
    def bound_broken(self) -> bool:
        """Tell whether the promise was not kept."""
        return self.lag > self.lag_bound


@dataclass(frozen=True, slots=True)
class OrgConfig:
    """What operators set for one org; None means the tier's default."""

    org: str
    tier: str = DEFAULT_TIER
    weight: int | None = None
    burst_max: int | None = None
    paused_at: datetime | None = None
    paused_reason: str | None = None
    backlog_max: int | None = None


# For modules that may look at no clock, and so name no module that has one.
Instant: TypeAlias = datetime
# Where a clock of their own begins.
EPOCH: Instant = datetime(1970, 1, 1, tzinfo=UTC)


def after(at: Instant, seconds: float) -> Instant:
    """Return the instant so many seconds after `at`."""
    return at + timedelta(seconds=seconds)


# `explain` states an interval in which a task starts with this probability.
EXPECTED_PROBABILITY = 0.8


class ReasonKind(StrEnum):
    """Why a task is where it is, in the order in which they bind: what shuts it out altogether
    comes before its place in the line.
    """

    ENDED = "ended"
    LEASED = "leased"
    NOT_DUE = "not_due"
    ORG_PAUSED = "org_paused"
    QUEUE_PAUSED = "queue_paused"
    BURST_MAX = "burst_max"
    QUEUE_FULL = "queue_full"
    EXPRESS_RESERVE = "express_reserve"
    HEADROOM = "headroom"
    LEADER_ABSENT = "leader_absent"
    BEHIND_OWN_TASKS = "behind_own_tasks"
    BEHIND_ORGS = "behind_orgs"
    READY_WINDOW = "ready_window"
    NEXT_TICK = "next_tick"
    WAITING_FOR_WORKER = "waiting_for_worker"
    EXPRESS_DEMOTED = "express_demoted"
    LAST_FAILURE = "last_failure"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One reason: a sentence for people, and the same as values; what a kind has no use for is
    None or empty.
    """

    kind: ReasonKind
    text: str
    # What would change it; None where only time or nothing does.
    unblock: str | None = None
    # How many: slots held, tasks or orgs ahead. Counted up to a bound: then at least so many.
    count: int | None = None
    count_exact: bool = True
    # The bound that `count` has reached: `burst_max`, the capacity, the headroom, the ready window.
    limit: int | None = None
    # Which tasks hold the slots, and which orgs go first; the first of them, where they are many.
    tasks: tuple[int, ...] = ()
    orgs: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    worker: str | None = None
    attempt: int | None = None
    status: AttemptStatus | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a task waits, as of `at` on the database's clock, and when it may be expected to start.

    The line is the leader's, as of its last tick that did something, `line_at`. The start lies
    between `expected_start_low_at` and `expected_start_high_at` with `probability`; all three are
    None where the task has started, or where nothing was measured that could tell.
    """

    id: int
    org: str
    queue: str
    workload: str
    place: Place
    at: datetime
    line_at: datetime | None
    reasons: tuple[Reason, ...]
    expected_start_at: datetime | None = None
    expected_start_low_at: datetime | None = None
    expected_start_high_at: datetime | None = None
    probability: float = EXPECTED_PROBABILITY
    # Starts per second that the expectation was derived from: of the org's tasks where enough of
    # them were measured, else of the queue's; and how many starts come first, about.
    rate_per_s: float | None = None
    starts_ahead: int | None = None

    @property
    def binding(self) -> Reason | None:
        """Return the reason that binds now."""
        return self.reasons[0] if self.reasons else None
