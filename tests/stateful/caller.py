"""A caller who enqueues, or acks, inside a transaction of its own that stays open for a while."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from psycopg import Connection

from orchestrator.model import AttemptStatus, Claim, Enqueued, Place
from orchestrator.store import queue, staging
from orchestrator.store.queue import Ending
from orchestrator.store.sql import run
from tests.stateful.actors import Order
from tests.stateful.world import Task, World


class Caller:
    """At most one open transaction; what it did happens in the world when it commits.

    Keys are left out: whoever asks for one that an open transaction holds would wait for it.
    """

    def __init__(self, connection: Connection[Any], queue_id: int, world: World) -> None:
        self._connection = connection
        self._queue = queue_id
        self._world = world
        self._happens: Callable[[], None] | None = None

    @property
    def busy(self) -> bool:
        return self._happens is not None

    def enqueue(self, orders: Sequence[Order]) -> None:
        """Enqueue and stay in the transaction: the ids are taken, the rows are not seen."""
        orders = [order._replace(key=None) for order in orders for _ in range(order.copies)]
        self._connection.execute("begin")
        stored: list[Enqueued] = run(
            self._connection,
            staging.enqueue(
                self._queue, [order.spec for order in orders], [order.payload for order in orders]
            ),
        )
        added = [
            Task(one.id, order.spec, order.place, order.deadline)
            for one, order in zip(stored, orders, strict=True)
        ]

        def happens() -> None:
            for task in added:
                self._world.add(task)

        self._happens = happens

    def ack(self, claims: Sequence[Claim]) -> None:
        """Ack and stay in the transaction: the slots are held, the rows are locked."""
        acked = [task for claim in claims if (task := self._mine(claim))]
        if not acked:
            return
        self._connection.execute("begin")
        endings = [
            Ending(task.dispatch_key, task.claim, AttemptStatus.SUCCEEDED)
            for task in acked
            if task.dispatch_key is not None and task.claim is not None
        ]
        ended = run(self._connection, queue.finish(self._queue, endings, worker="w"))
        assert len(ended) == len(acked)
        self._world.locked = {task.id for task in acked}

        def happens() -> None:
            for task in acked:
                self._world.end(task, "succeeded")

        self._happens = happens

    def _mine(self, claim: Claim) -> Task | None:
        task = self._world.tasks[claim.id]
        stands = task.place is Place.CLAIMED and task.claim == claim.claim_id
        return task if stands and task.spec.idempotency_key is None else None

    def end(self, *, commit: bool) -> None:
        """Commit or roll back, if a transaction is open."""
        if self._happens is None:
            return
        self._connection.execute(b"commit" if commit else b"rollback")
        self._world.locked = set()
        if commit:
            self._happens()
        self._happens = None
