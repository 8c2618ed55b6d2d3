"""The frozen values that cross module borders, and the bounds that guard them.

The bounds here and the CHECK constraints of `schema/` say the same; a test pins them together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import Any
from uuid import UUID

from orchestrator.errors import PayloadError

PRIORITY_MIN = 1
PRIORITY_MAX = 10
PRIORITY_DEFAULT = 5
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


class Policy(StrEnum):
    """How the leader picks the next org of a queue."""

    WEIGHTED = "weighted"
    STRICT = "strict"


class CostMode(StrEnum):
    """What an admission is charged: its worker time, or one unit whatever it takes."""

    TIME = "time"
    COUNT = "count"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """One task to enqueue; times are aware, durations are seconds."""

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

    @cached_property
    def payload(self) -> Any:
        """Decode the payload; raise `PayloadError` where PostgreSQL accepts what Python cannot."""
        if self.payload_text is None:
            return None
        try:
            return json.loads(self.payload_text)
        except (ValueError, RecursionError) as error:
            raise PayloadError(f"payload of task {self.id} cannot be decoded: {error}") from error


@dataclass(frozen=True, slots=True)
class Extension:
    """What a heartbeat learns of one lease: its new end, and which of its tasks should stop.

    `cancelled` names them by dispatch key as it comes from the store, by task id as the client
    returns it.
    """

    claim_id: UUID
    lease_expires_at: datetime
    cancelled: frozenset[int]


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
    ready_max: int | None
    kappa: int
    max_wait_s: float | None
    paused: bool


@dataclass(frozen=True, slots=True)
class OrgConfig:
    """What operators set for one org; None means the tier's default."""

    org: str
    tier: str = DEFAULT_TIER
    weight: int | None = None
    burst_max: int | None = None
    paused_at: datetime | None = None
    paused_reason: str | None = None
