"""Producers, workers and operators of one queue: each verb acts on the tables and on the world.

What a verb answers is checked here, on the spot. What it did is checked by comparing the tables
with the world, after every rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
from psycopg import Connection

from orchestrator.errors import IdempotencyConflict, TaskUnfinished
from orchestrator.model import (
    AttemptStatus,
    CancelOutcome,
    Claim,
    Enqueued,
    Extension,
    Place,
    TaskInfo,
    TaskSpec,
)
from orchestrator.store import orgs, queue, staging, tasks
from orchestrator.store.queue import Ending
from orchestrator.store.sql import Operation, run
from tests.stateful.world import WAITING, Task, World

# Nothing comes due, and no lease ends, unless a rule makes it so.
FAR_S = 3600.0
FAR = datetime.now(UTC) + timedelta(days=1)
_TABLES = ("staging_queue", "scheduled_queue", "task_queue")


class Order(NamedTuple):
    """What a producer asks for: `copies` equal tasks."""

    org: str
    workload: str
    priority: int
    max_attempts: int
    copies: int
    delayed: bool = False
    deadline: bool = False
    key: str | None = None
    payload: str = "{}"

    @property
    def place(self) -> Place:
        return Place.SCHEDULED if self.delayed else Place.STAGED

    @property
    def spec(self) -> TaskSpec:
        return TaskSpec(
            name="t",
            org=self.org,
            workload=self.workload,
            priority=self.priority,
            max_attempts=self.max_attempts,
            delay=FAR_S if self.delayed else None,
            expires_at=FAR if self.deadline else None,
            idempotency_key=self.key,
        )


class Actors:
    """Everybody but the leader."""

    def __init__(self, connection: Connection[Any], queue_id: int, name: str, world: World) -> None:
        self._connection = connection
        self._queue = queue_id
        self._name = name
        self._world = world
        # Every claim ever handed out: workers come late, too.
        self.claims: list[Claim] = []
        self._payloads: dict[int, str] = {}

    # Producers ----------------------------------------------------------------------------------

    def enqueue(self, orders: Sequence[Order]) -> None:
        """Stage or schedule new tasks; one conflicting key refuses them all."""
        orders = [order for order in orders for _ in range(order.copies)]
        conflict = self._conflicts(orders)
        storing = staging.enqueue(
            self._queue, [order.spec for order in orders], [order.payload for order in orders]
        )
        if conflict:
            with pytest.raises(IdempotencyConflict):
                self._transact(storing)
            return
        stored: list[Enqueued] = self._transact(storing)
        created = set()
        for order, enqueued in zip(orders, stored, strict=True):
            if enqueued.created:
                assert enqueued.id not in self._world.tasks
                created.add(enqueued.id)
                self._add(order, enqueued.id)
        for order, enqueued in zip(orders, stored, strict=True):
            if not enqueued.created:
                self._check_holder(order, enqueued.id)
        assert len(created) == len(orders) - sum(not e.created for e in stored)

    def _conflicts(self, orders: Sequence[Order]) -> bool:
        """Tell whether a key stands for two different requests."""
        digests: dict[tuple[str, str], bytes] = {}
        for order in orders:
            if (key := order.key) is None:
                continue
            holder = self._world.holder(order.org, key)
            mine = staging.digest(order.spec, order.payload)
            theirs = staging.digest(holder.spec, self._payloads[holder.id]) if holder else mine
            if digests.setdefault((order.org, key), theirs) != mine:
                return True
        return False

    def _check_holder(self, order: Order, task_id: int) -> None:
        key = order.key
        assert key is not None, "a task without a key was not stored"
        holder = self._world.holder(order.org, key)
        assert holder is not None
        assert holder.id == task_id

    def _add(self, order: Order, task_id: int) -> None:
        self._world.add(Task(task_id, order.spec, order.place, order.deadline))
        self._payloads[task_id] = order.payload

    # Workers ------------------------------------------------------------------------------------

    def claim(self, limit: int) -> None:
        """Claim up to `limit`: exactly the first ones in the order of dispatch, never more."""
        ready = self._world.claimable()
        expected = ready[:limit]
        claim_id = uuid4()
        claimed: list[Claim] = self._run(
            queue.claim(self._queue, self._name, claim_id, limit=limit, lease_s=FAR_S, worker="w")
        )
        assert [(c.id, c.dispatch_key, c.attempt, c.lost) for c in claimed] == [
            (task.id, task.dispatch_key, task.attempt + 1, task.lost) for task in expected
        ]
        if expected:
            self._world.claim(claim_id, expected)
        _check_overtaking(expected, ready[limit:])
        self.claims += claimed

    def finish(self, which: Sequence[int], status: AttemptStatus, *, closing: bool) -> None:
        """End claimed tasks for good; a claim that no longer stands ends nothing."""
        chosen = self.choose(which)
        standing = [task for claim in chosen if (task := self._standing(claim))]
        endings = [Ending(claim.dispatch_key, claim.claim_id, status) for claim in chosen]
        claims = sorted({claim.claim_id for claim in chosen})
        ended: set[int] = self._run(
            queue.finish(self._queue, endings, worker="w", closing=claims if closing else ())
        )
        assert ended == {task.dispatch_key for task in standing}
        for task in standing:
            self._world.end(task, str(status))
        if closing:
            self._world.close_empty(claims)

    def give_back(self, which: Sequence[int], status: AttemptStatus, *, delayed: bool) -> None:
        """Give claimed tasks back; a claim that no longer stands gives nothing back."""
        chosen = self.choose(which)
        standing = [task for claim in chosen if (task := self._standing(claim))]
        endings = [
            Ending(claim.dispatch_key, claim.claim_id, status, "no", FAR_S if delayed else 0.0)
            for claim in chosen
        ]
        verdicts = self._transact(queue.give_back(self._queue, endings, worker="w"))
        assert verdicts == {
            task.dispatch_key: self._world.give_back(task, status, delayed=delayed)
            for task in standing
        }
        self._world.close_empty(claim.claim_id for claim in chosen)

    def extend(self, which: Sequence[int]) -> None:
        """Extend leases: those that are over stay over, and a heartbeat learns of cancellations."""
        claims = sorted({claim.claim_id for claim in self.choose(which)})
        extended: list[Extension] = self._run(queue.extend(self._queue, claims, FAR_S))
        leases = self._world.leases
        assert {e.claim_id: e.cancelled for e in extended} == {
            claim: frozenset(leases[claim].cancelled)
            for claim in claims
            if claim in leases and not leases[claim].over
        }

    def reap(self) -> None:
        """Take back what expired leases hold."""
        reaped = self._transact(queue.reap(self._queue, limit=100))
        assert {task_id: str(verdict) for task_id, verdict in reaped} == self._world.reap()

    def choose(self, which: Sequence[int]) -> list[Claim]:
        """Return claims, the newest first: small numbers are likely to stand still.

        Never one whose row an open transaction has locked: we would wait for ourselves.
        """
        newest = [claim for claim in self.claims[::-1] if claim.id not in self._world.locked]
        chosen = {newest[i].dispatch_key: newest[i] for i in which if i < len(newest)}
        return list(chosen.values())

    def _standing(self, claim: Claim) -> Task | None:
        task = self._world.tasks[claim.id]
        stands = (task.claim, task.dispatch_key) == (claim.claim_id, claim.dispatch_key)
        return task if stands else None

    # People -------------------------------------------------------------------------------------

    def cancel(self, which: int) -> None:
        """Cancel a task: at once where it waits, at the next word of its worker where it runs."""
        if (task := self._task(which)) is None:
            return
        outcome = self._transact(tasks.cancel(task.id, reason="cancelled"))
        if task.place in WAITING:
            assert outcome is CancelOutcome.CANCELLED
            self._world.end(task, "cancelled")
        elif task.place is Place.CLAIMED:
            assert outcome is CancelOutcome.REQUESTED
            assert task.claim is not None
            assert task.dispatch_key is not None
            self._world.leases[task.claim].cancelled.add(task.dispatch_key)
        else:
            assert outcome is CancelOutcome.ENDED

    def retry(self, which: int) -> None:
        """Stage an ended task again, unless it has not ended or its key was taken meanwhile."""
        if (task := self._task(which)) is None:
            return
        key = task.spec.idempotency_key
        retrying = tasks.retry(task.id)
        if task.place is not Place.ENDED:
            with pytest.raises(TaskUnfinished):
                self._transact(retrying)
        elif key is not None and self._world.holder(task.spec.org, key):
            with pytest.raises(IdempotencyConflict):
                self._transact(retrying)
        else:
            self._transact(retrying)
            self._world.retry(task)

    def look(self, which: int) -> None:
        """Look a task up: place, attempt and ending as they are."""
        if (task := self._task(which)) is None:
            return
        info: TaskInfo = self._run(tasks.get(task.id))
        assert (info.place, info.status) == (task.place, task.status)
        assert info.attempt == task.attempt
        assert len(info.history) == len(task.log)

    def _task(self, which: int) -> Task | None:
        """Return a task, the newest first."""
        newest = list(self._world.tasks.values())[::-1]
        return newest[which % len(newest)] if newest else None

    # Time ---------------------------------------------------------------------------------------

    def end_lease(self, which: int) -> None:
        """Let the time of a lease run out."""
        standing = [claim for claim, lease in self._world.leases.items() if not lease.over]
        if not standing:
            return
        claim = standing[which % len(standing)]
        self._sql(
            "update orchestrator.lease set expires_at = clock_timestamp() - interval '1 s' "
            "where queue = %s and claim_id = %s",
            [self._queue, claim],
        )
        self._world.leases[claim].over = True

    def pass_deadline(self, which: int) -> None:
        """Let the deadline of an unfinished task pass."""
        pending = [
            task
            for task in self._world.of(*WAITING, Place.CLAIMED)
            if task.deadline and not task.overdue and task.id not in self._world.locked
        ]
        if not pending:
            return
        task = pending[which % len(pending)]
        for table in _TABLES:
            self._sql(
                f"update orchestrator.{table} set expires_at = clock_timestamp() - interval '1 s' "
                "where queue = %s and task_id = %s",
                [self._queue, task.id],
            )
        self._sql(
            "update orchestrator.task set expires_at = clock_timestamp() - interval '1 s' "
            "where queue = %s and id = %s",
            [self._queue, task.id],
        )
        task.overdue = True

    def make_due(self, which: Sequence[int]) -> None:
        """Let the time of scheduled tasks come."""
        scheduled = self._world.of(Place.SCHEDULED)
        for task in (scheduled[i] for i in which if i < len(scheduled)):
            self._sql(
                "update orchestrator.scheduled_queue "
                "set run_at = clock_timestamp() - interval '1 s' "
                "where queue = %s and task_id = %s",
                [self._queue, task.id],
            )
            task.due = True

    # Operators ----------------------------------------------------------------------------------

    def set_org(self, org: str, tier: str, weight: int | None, burst_max: int | None) -> None:
        self._transact(orgs.set_org(org, tier=tier, weight=weight, burst_max=burst_max, actor="o"))
        self._world.config.orgs[org] = (tier, weight, burst_max)

    def pause_org(self, org: str) -> None:
        self._transact(orgs.pause_org(org, "why", actor="o"))
        self._world.config.orgs.setdefault(org, ("standard", None, None))
        self._world.config.paused_orgs.add(org)

    def resume_org(self, org: str) -> None:
        if org in self._world.config.orgs:
            self._transact(orgs.resume_org(org, actor="o"))
            self._world.config.paused_orgs.discard(org)

    def set_tier(self, tier: str, weight: int, burst_max: int | None) -> None:
        self._transact(orgs.set_tier(tier, weight=weight, burst_max=burst_max, actor="o"))
        self._world.config.tiers[tier] = (weight, burst_max)

    def set_workload(self, workload: str, share: int) -> None:
        self._transact(orgs.set_workload(workload, share=share, actor="o"))
        self._world.config.shares[workload] = share

    def set_queue(self, capacity: int | None, ready_max: int | None, kappa: int) -> None:
        self._transact(
            orgs.set_queue(
                self._name, capacity=capacity, ready_max=ready_max, kappa=kappa, actor="o"
            )
        )
        self._world.config.capacity, self._world.config.ready_max = capacity, ready_max

    def pause_queue(self, *, paused: bool) -> None:
        self._transact(orgs.pause_queue(self._name, paused=paused, actor="o"))
        self._world.config.paused = paused

    def forget_orgs(self) -> None:
        """Delete what was configured of every org: each is of the default tier again."""
        self._sql("delete from orchestrator.org_config", [])
        self._world.config.orgs.clear()
        self._world.config.paused_orgs.clear()

    def _run(self, operation: Operation) -> Any:
        return run(self._connection, operation)

    def _transact(self, operation: Operation) -> Any:
        with self._connection.transaction():
            return run(self._connection, operation)

    def _sql(self, statement: str, params: Sequence[Any]) -> None:
        self._connection.execute(statement.encode(), params)


def _check_overtaking(claimed: Sequence[Task], left: Sequence[Task]) -> None:
    """Check that what was left behind was overtaken by higher priorities only, and not by far."""
    for late in claimed:
        for early in left:
            if early.admit_seq < late.admit_seq and early.kappa == late.kappa:
                higher = late.spec.priority - early.spec.priority
                assert late.admit_seq - early.admit_seq <= late.kappa * higher
