"""What `explain` knows of a task, its org, its queue and the line: one snapshot, as plain values.

Durations are seconds before (`_ago_s`) or after the snapshot. Tags, counts of slots and backlogs
are the leader's, as of its last tick that did something, those of orgs and flows as of one a moment
before; where a task stands in its flow was counted in the snapshot itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from orchestrator.model import AttemptStatus, CostMode, Instant, Place, Policy


class Counted(NamedTuple):
    """A number that was counted up to a bound; beyond it, at least so many."""

    tasks: int
    exact: bool = True


NONE_COUNTED = Counted(0)


class FlowFacts(NamedTuple):
    """One flow of the line: its tags, what waits, what a task of it is expected to take."""

    workload: str
    backlog: int
    cost_us: int = 0
    tag: int = 0
    express_tag: int = 0
    share: int = 1
    rank: int = 0
    # Its workload is express, and its tasks are as short as that promises.
    express: bool = False
    # It had no work as far as is known: it starts beside its org's other flows.
    fresh: bool = False
    # The critical tasks at its head, counted up to a bound.
    critical: int = 0


@dataclass(frozen=True, slots=True)
class OrgFacts:
    """One org of the line: its terms, its tags as far as is known, and its flows with work."""

    org: str
    weight: int = 1
    rank: int = 0
    burst_max: int | None = None
    paused: bool = False
    in_flight: int = 0
    tag: int = 0
    virtual_time: int = 0
    # Whether it was in line; who was not starts at the virtual time.
    eligible: bool = False
    express_tag: int = 0
    express_virtual_time: int = 0
    express_eligible: bool = False
    flows: tuple[FlowFacts, ...] = ()

    @property
    def may_run(self) -> bool:
        """Tell whether its own limits let it be admitted."""
        return not self.paused and (self.burst_max is None or self.in_flight < self.burst_max)


class Pulse(NamedTuple):
    """One tick that did something: how long ago, and how many it admitted, of whom, onto what."""

    ago_s: float
    admitted: int
    own: int
    ready: int
    window: int
    in_flight: int


class RecentFlow(NamedTuple):
    """How many tasks of a flow were admitted during the pulses."""

    org: str
    workload: str
    admitted: int
    cost_us: int


@dataclass(frozen=True, slots=True)
class QueueFacts:
    """The queue: its settings, its line's virtual times, who works for it."""

    name: str
    policy: Policy = Policy.WEIGHTED
    cost_mode: CostMode = CostMode.TIME
    capacity: int | None = None
    headroom: float | None = None
    express_reserve: int | None = None
    has_express: bool = False
    paused_at: Instant | None = None
    virtual_time: int = 0
    express_virtual_time: int = 0
    # What a task of a flow that was never measured is expected to take; 0 is unknown.
    cost_us: int = 0
    in_flight: Counted = NONE_COUNTED
    express_in_flight: int = 0
    ready: int = 0
    express_ready: int = 0
    claimed: int = 0
    # The tasks that the workers whose sessions announce it can run at once.
    workers: int = 0
    leader: str | None = None
    # Without a leader: the last sign of one.
    led_until: Instant | None = None


class LastAttempt(NamedTuple):
    """How the last attempt of a task ended."""

    attempt: int
    status: AttemptStatus
    ended_at: Instant
    worker: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """The task, and where it is; which fields mean something depends on the place."""

    id: int
    org: str
    workload: str
    place: Place
    attempt: int = 0
    max_attempts: int = 1
    # Scheduled or staged: it goes first in its org.
    critical: bool = False
    # Scheduled: when it is due.
    run_at: Instant | None = None
    due_in_s: float = 0.0
    # Scheduled or staged: the tasks of its flow that go first.
    ahead: Counted = NONE_COUNTED
    # Staged: for how long its org has had work at least, without a break.
    waiting_s: float = 0.0
    # Ready: the tasks that are claimed before it.
    claimed_first: int = 0
    # Claimed.
    worker: str | None = None
    claimed_at: Instant | None = None
    lease_expires_at: Instant | None = None
    # Ended.
    status: AttemptStatus | None = None
    ended_at: Instant | None = None
    last: LastAttempt | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that an explanation is made of."""

    at: Instant
    line_at: Instant | None
    task: TaskFacts
    # The task's own org: its flows include the task's, whether or not anything waits there.
    org: OrgFacts
    queue: QueueFacts
    paused_at: Instant | None = None
    paused_reason: str | None = None
    # Some of the tasks that hold the org's slots.
    holders: tuple[int, ...] = ()
    # Which of those are asked to make room; told where a critical task waits at `burst_max`.
    asked: tuple[int, ...] = ()
    # What the workload promises of an express task.
    workload_express: bool = False
    express_max_us: int | None = None
    # The other orgs with staged work, and whether these are all.
    line: tuple[OrgFacts, ...] = ()
    line_exact: bool = True
    # Newest first.
    pulses: tuple[Pulse, ...] = ()
    recent: tuple[RecentFlow, ...] = ()

    @property
    def flow(self) -> FlowFacts:
        """Return the task's own flow."""
        return next(flow for flow in self.org.flows if flow.workload == self.task.workload)
