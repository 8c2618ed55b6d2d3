"""Two or three ways to end one claimed task at once, in every order of their statements.

Whatever the order: the task goes on or ends in exactly one place, its slot is freed once, every
actor is told what really happened, a cancellation that was accepted is never forgotten, and nobody
hears of a deadlock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from psycopg import Connection

from orchestrator.model import AttemptStatus, CancelOutcome, Claim
from orchestrator.store import queue, tasks
from orchestrator.store.sql import Operation
from tests.support.interleave import Actor, Cast, Script, alone, explore, together
from tests.support.invariants import check
from tests.support.stage import Stage
from tests.support.stepping import ack, claim, endings, reap

Way = Callable[[Connection[Any], Claim], Script]


def _finish(held: Claim, *, closing: bool) -> Operation:
    done = endings([held], AttemptStatus.SUCCEEDED)
    return queue.finish(1, done, worker="test", closing=[held.claim_id] if closing else [])


def acking(connection: Connection[Any], held: Claim) -> Script:
    """Acknowledge in autocommit and close the lease."""
    return alone(connection, _finish(held, closing=True))


def acking_along(connection: Connection[Any], held: Claim) -> Script:
    """Acknowledge in a transaction of the caller."""
    return together(connection, _finish(held, closing=False))


def acking_in_vain(connection: Connection[Any], held: Claim) -> Script:
    """Acknowledge in a transaction of the caller that is rolled back."""
    return together(connection, _finish(held, closing=False), commit=False)


def nacking(connection: Connection[Any], held: Claim) -> Script:
    """Give the task back as failed."""
    failed = endings([held], AttemptStatus.FAILED)
    return together(connection, queue.give_back(1, failed, worker="test"))


def extending(connection: Connection[Any], held: Claim) -> Script:
    """Send a heartbeat."""
    return alone(connection, queue.extend(1, [held.claim_id], 30.0))


def reaping(connection: Connection[Any], held: Claim) -> Script:
    """Take back what is lost."""
    del held
    return together(connection, queue.reap(1, limit=100))


def cancelling(connection: Connection[Any], held: Claim) -> Script:
    """Cancel the task."""
    return alone(connection, tasks.cancel(held.id, reason="test"))


def cancelling_and_more(connection: Connection[Any], held: Claim) -> Script:
    """Cancel the task in a transaction with what belongs to it."""
    return together(connection, tasks.cancel(held.id, reason="test"))


WAYS: dict[str, Way] = {
    "ack": acking,
    "ack along": acking_along,
    "ack in vain": acking_in_vain,
    "nack": nacking,
    "nack too": nacking,
    "extend": extending,
    "reap": reaping,
    "reap too": reaping,
    "cancel": cancelling,
    "cancel and more": cancelling_and_more,
}
HELD = [
    ("ack", "nack"),
    ("ack along", "nack"),
    ("ack in vain", "nack"),
    ("nack", "nack too"),
    ("ack", "cancel"),
    ("ack along", "cancel"),
    ("nack", "cancel"),
    ("nack", "cancel and more"),
    ("nack", "extend"),
    ("ack", "extend", "nack"),
]
LOST = [
    ("ack", "reap"),
    ("ack along", "reap"),
    ("ack in vain", "reap"),
    ("nack", "reap"),
    ("reap", "reap too"),
    ("cancel", "reap"),
    ("cancel and more", "reap"),
    ("ack", "extend", "reap"),
]


class Bench:
    """Claims one task after the other, and judges what became of each."""

    def __init__(self, stage: Stage, *, lost: bool, beside: int = 0) -> None:
        self._stage = stage
        self._lost = lost
        # Tasks of the same claim call that nobody touches: they keep the lease standing.
        self._beside = beside
        self._leader = stage.leader()
        self._held: Claim
        self._sessions: dict[str, Connection[Any]] = {}

    def explore(self, names: tuple[str, ...]) -> int:
        """Play these ways in every order; return how many orders there are."""
        # Told of a deadlock at once, not after a second.
        self._sessions = {name: self._stage.connect(deadlock_timeout="10ms") for name in names}
        return explore(self._stage.db, self._scene, self._judge)

    def _scene(self) -> Cast:
        self._stage.enqueue(1 + self._beside)
        assert self._leader.tick().admitted == 1 + self._beside
        self._held, *_ = claim(self._stage.db, 1 + self._beside)
        if self._lost:
            self._stage.expire_leases()
        return {
            name: Actor(session, WAYS[name](session, self._held))
            for name, session in self._sessions.items()
        }

    def _judge(self, cast: Cast) -> None:
        assert {name: actor.error for name, actor in cast.items() if actor.error} == {}
        check(self._stage.db)
        held = self._held
        logged = self._stage.rows(
            "select status from orchestrator.task_attempt where dispatch_key = %s",
            held.dispatch_key,
        )
        # Who was told to have ended the claim, and how: one at most, and what was written down.
        told = [AttemptStatus.SUCCEEDED for name in ("ack", "ack along") if cast_value(cast, name)]
        told += [v for name in ("nack", "nack too") for v in cast_value(cast, name).values()]
        reaped = [task for name in ("reap", "reap too") for task in cast_value(cast, name)]
        told += [verdict for task_id, verdict in reaped if task_id == held.id]
        assert [(str(status),) for status in told] == logged
        if self._lost and "extend" in cast:
            assert cast["extend"].value == []
        for name in {"cancel", "cancel and more"} & cast.keys():
            self._judge_cancel(cast[name].value)
        self._settle()

    def _judge_cancel(self, outcome: CancelOutcome) -> None:
        ended = self._stage.one(
            "select exists (select from orchestrator.task_attempt where task_id = %s and final)",
            self._held.id,
        )
        if outcome is CancelOutcome.REQUESTED and not ended:
            # Still with its worker, which will be told; never waiting to run again.
            place = "select claim_id from orchestrator.task_queue where task_id = %s"
            assert self._stage.rows(place, self._held.id) == [(self._held.claim_id,)]
            told = "select cancelled from orchestrator.lease where claim_id = %s"
            assert self._stage.one(told, self._held.claim_id) == [self._held.dispatch_key]
        else:
            assert ended

    def _settle(self) -> None:
        """Let the task end, and check that its slot is free and no lease is left."""
        self._stage.expire_leases()
        reap(self._stage.db)
        self._leader.drain_ticks()
        ack(self._stage.db, claim(self._stage.db, 1 + self._beside))
        check(self._stage.db)
        self._leader.tick()
        assert self._leader.scheduler.in_flight == 0
        for table in ("lease", "task_queue"):
            assert self._stage.one(f"select count(*) from orchestrator.{table}") == 0


def cast_value(cast: Cast, name: str) -> Any:
    """Return what the actor was told; nothing where it takes no part."""
    return cast[name].value if name in cast else {}


@pytest.mark.parametrize("names", HELD, ids=" | ".join)
def test_a_held_claim_ends_once_and_everybody_is_told_so(
    stage: Stage, names: tuple[str, ...]
) -> None:
    assert Bench(stage, lost=False).explore(names) > 1


@pytest.mark.parametrize("names", LOST, ids=" | ".join)
def test_a_lost_claim_ends_once_and_everybody_is_told_so(
    stage: Stage, names: tuple[str, ...]
) -> None:
    assert Bench(stage, lost=True).explore(names) > 1


@pytest.mark.parametrize(
    "names", [("ack", "cancel"), ("nack", "cancel"), ("nack", "cancel and more")], ids=" | ".join
)
def test_a_cancellation_is_not_left_in_a_lease_that_only_others_keep_standing(
    stage: Stage, names: tuple[str, ...]
) -> None:
    assert Bench(stage, lost=False, beside=1).explore(names) > 1
