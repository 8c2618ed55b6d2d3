"""What must be true of one queue: every task in a dict, moved as the verbs promise to move it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from orchestrator.model import AttemptStatus, Place, TaskSpec
from tests.stateful.ledger import Flow, Rank, Terms, Told
from tests.stateful.reading import Lease, Reading

Line = tuple[int, str, bool, int | None]
WAITING = (Place.STAGED, Place.SCHEDULED, Place.READY)


@dataclass
class Task:
    """One task: where it is, what was tried, and what was written down about it."""

    id: int
    spec: TaskSpec
    place: Place
    deadline: bool
    attempt: int = 0
    lost: int = 0
    overdue: bool = False
    due: bool = False
    dispatch_key: int | None = None
    admit_seq: int = 0
    kappa: int = 0
    claim: UUID | None = None
    log: list[Line] = field(default_factory=list)

    @property
    def holds_slot(self) -> bool:
        return self.place in (Place.READY, Place.CLAIMED)

    @property
    def status(self) -> str | None:
        """Tell how it ended; None while it has not."""
        if self.place is not Place.ENDED:
            return None
        return next(status for _, status, final, _ in reversed(self.log) if final)


@dataclass
class Leased:
    """One claim call: its tasks in order of dispatch, and the keys asked to stop."""

    tasks: tuple[int, ...]
    over: bool = False
    cancelled: set[int] = field(default_factory=set)


@dataclass
class Config:
    """What operators decided: tiers and orgs as (weight, burst_max), and the queue."""

    tiers: dict[str, tuple[int, int | None]]
    shares: dict[str, int]
    orgs: dict[str, tuple[str, int | None, int | None]] = field(default_factory=dict)
    paused_orgs: set[str] = field(default_factory=set)
    capacity: int | None = None
    ready_max: int | None = None
    paused: bool = False

    def terms(self, org: str) -> Terms:
        tier, weight, burst_max = self.orgs.get(org, ("standard", None, None))
        tier_weight, tier_burst_max = self.tiers[tier]
        return Terms(
            tier_weight if weight is None else weight,
            tier_burst_max if burst_max is None else burst_max,
            org in self.paused_orgs,
        )


class World:
    """Every task of the queue, the leases, and the configuration."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.tasks: dict[int, Task] = {}
        self.leases: dict[UUID, Leased] = {}
        # Tasks whose row somebody's open transaction has locked.
        self.locked: set[int] = set()

    # What is where ------------------------------------------------------------------------------

    def of(self, *places: Place) -> list[Task]:
        """Return the tasks in `places`, oldest first."""
        return [task for task in self.tasks.values() if task.place in places]

    def holder(self, org: str, key: str) -> Task | None:
        """Return the unfinished task that holds the idempotency key."""
        for task in self.tasks.values():
            spec = task.spec
            if (spec.org, spec.idempotency_key) == (org, key) and task.place is not Place.ENDED:
                return task
        return None

    def claimable(self) -> list[Task]:
        """Return the tasks that a claim may take, in the order in which it must."""
        ready = [task for task in self.of(Place.READY) if not task.overdue]
        return sorted(ready, key=lambda task: task.dispatch_key or 0)

    def held(self) -> Counter[str]:
        """Return the slots each org holds."""
        return Counter(task.spec.org for task in self.tasks.values() if task.holds_slot)

    def waiting(self) -> dict[Flow, list[Rank]]:
        """Return the staged tasks of each flow, in the order inside it."""
        flows: dict[Flow, list[Rank]] = {}
        for task in self.of(Place.STAGED):
            flow = (task.spec.org, task.spec.workload)
            flows.setdefault(flow, []).append((-task.spec.priority, task.id))
        return {flow: sorted(ranks) for flow, ranks in flows.items()}

    def told(self, orgs: Iterable[str]) -> Told:
        """Return what a leader that looks now is told."""
        terms = {org: self.config.terms(org) for org in orgs}
        return Told(self.held(), self.waiting(), terms, dict(self.config.shares))

    # What the verbs do --------------------------------------------------------------------------

    def add(self, task: Task) -> None:
        self.tasks[task.id] = task

    def admit(self, task_id: int, dispatch_key: int, admit_seq: int, kappa: int) -> None:
        task = self.tasks[task_id]
        assert task.place is Place.STAGED
        task.place, task.dispatch_key = Place.READY, dispatch_key
        task.admit_seq, task.kappa = admit_seq, kappa

    def claim(self, claim_id: UUID, tasks: Sequence[Task]) -> None:
        for task in tasks:
            task.place, task.claim, task.attempt = Place.CLAIMED, claim_id, task.attempt + 1
        self.leases[claim_id] = Leased(tuple(task.id for task in tasks))

    def end(self, task: Task, status: str) -> None:
        """End a task for good, wherever it is."""
        key = task.dispatch_key if task.holds_slot else None
        task.log.append((task.attempt, status, True, key))
        task.place, task.claim, task.dispatch_key = Place.ENDED, None, None

    def give_back(self, task: Task, status: AttemptStatus, *, delayed: bool) -> str:
        """End an attempt that may be tried again; return how it really ended."""
        assert task.claim is not None
        if task.dispatch_key in self.leases[task.claim].cancelled:
            verdict = "cancelled"
        elif status is AttemptStatus.FAILED and task.attempt >= task.spec.max_attempts:
            verdict = "dead"
        else:
            self._wait_again(task, str(status), delayed=delayed)
            task.attempt -= status is not AttemptStatus.FAILED
            task.lost = task.lost if status is AttemptStatus.RELEASED else 0
            return str(status)
        self.end(task, verdict)
        return verdict

    def _wait_again(self, task: Task, status: str, *, delayed: bool) -> None:
        task.log.append((task.attempt, status, False, task.dispatch_key))
        task.place = Place.SCHEDULED if delayed else Place.STAGED
        task.claim, task.dispatch_key, task.due = None, None, False

    def close_empty(self, claims: Iterable[UUID]) -> None:
        """Delete those leases of which nothing is left."""
        held = {task.claim for task in self.of(Place.CLAIMED)}
        for claim_id in set(claims) - held:
            self.leases.pop(claim_id, None)

    def over(self) -> dict[UUID, list[Task]]:
        """Return the leases that are over, with what the reaper takes back of each."""
        held: dict[UUID, list[Task]] = {}
        for task in self.of(Place.CLAIMED):
            if task.claim is not None and task.id not in self.locked:
                held.setdefault(task.claim, []).append(task)
        return {claim: held.get(claim, []) for claim, lease in self.leases.items() if lease.over}

    def reap(self) -> dict[int, str]:
        """Take back the tasks of every lease that is over; return how each attempt ended.

        A lease of which a row is locked stays.
        """
        verdicts: dict[int, str] = {}
        for claim_id, tasks in self.over().items():
            for task in tasks:
                verdicts[task.id] = self._lose(task, self.leases[claim_id])
        over = [claim_id for claim_id, lease in self.leases.items() if lease.over]
        self.close_empty(over)
        return verdicts

    def _lose(self, task: Task, lease: Leased) -> str:
        if task.dispatch_key in lease.cancelled or task.attempt >= task.spec.max_attempts:
            verdict = "cancelled" if task.dispatch_key in lease.cancelled else "dead"
            self.end(task, verdict)
            return verdict
        self._wait_again(task, "lost", delayed=False)
        task.lost += 1
        return "lost"

    def overdue(self) -> list[Task]:
        """Return the tasks that wait past their deadline."""
        return [task for task in self.of(*WAITING) if task.overdue]

    def promote(self) -> None:
        """Stage every scheduled task that is due."""
        for task in self.of(Place.SCHEDULED):
            if task.due:
                task.place, task.due = Place.STAGED, False

    def retry(self, task: Task) -> None:
        """Stage an ended task with its attempts counted anew; a deadline that passed is void."""
        task.place, task.attempt, task.lost = Place.STAGED, 0, 0
        task.deadline = task.deadline and not task.overdue
        task.overdue = False

    # What the tables must show ------------------------------------------------------------------

    def check(self, reading: Reading) -> None:
        """Compare every table with what must be true: each task in its one place, nothing else."""
        assert reading.records == len(self.tasks)
        assert reading.staged == self._places(Place.STAGED)
        assert reading.scheduled == self._places(Place.SCHEDULED)
        assert reading.queued == {
            task.id: (
                task.dispatch_key,
                *(task.spec.org, task.spec.workload, task.spec.priority),
                *(task.attempt, task.lost, task.claim),
            )
            for task in self.of(Place.READY, Place.CLAIMED)
        }
        assert reading.leases == {
            claim: Lease(lease.tasks, frozenset(lease.cancelled), lease.over)
            for claim, lease in self.leases.items()
        }
        assert reading.log == {
            task.id: sorted(task.log, key=repr) for task in self.tasks.values() if task.log
        }
        assert reading.keys == {
            (task.spec.org, task.spec.idempotency_key): task.id
            for task in self.tasks.values()
            if task.spec.idempotency_key is not None and task.place is not Place.ENDED
        }

    def _places(self, place: Place) -> dict[int, tuple[Any, ...]]:
        return {
            task.id: (
                *(task.spec.org, task.spec.workload, -task.spec.priority),
                *(task.attempt, task.lost),
            )
            for task in self.of(place)
        }
