"""Two or three ways to end one task at the same time, in every order of their statements.

Whatever the order: the task ends or goes on in exactly one place, its slot is freed once, every
actor learns what really happened, and nobody is told of a deadlock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import count
from typing import Any

import pytest
from psycopg import Connection

from orchestrator.errors import TaskUnfinished
from orchestrator.model import AttemptStatus, CancelOutcome, Claim
from orchestrator.store import queue, tasks
from orchestrator.store.sql import Operation
from tests.support.interleave import Actor, Cast, Script, alone, explore, together
from tests.support.invariants import check
from tests.support.stage import Stage
from tests.support.stepping import SteppedLeader, ack, cancel, claim, endings, reap
from tests.support.waiting import pid_of

Script_ = Callable[[Connection[Any], Claim], Script]


def acking(connection: Connection[Any], held: Claim) -> Script:
    """Acknowledge in autocommit, closing the lease."""
    return alone(connection, _ack(held, closing=True))


def acking_along(connection: Connection[Any], held: Claim) -> Script:
    """Acknowledge in a transaction of the caller."""
    return together(connection, _ack(held, closing=False))


def acking_in_vain(connection: Connection[Any], held: Claim) -> Script:
    """Acknowledge in a transaction of the caller, which is rolled back."""
    return together(connection, _ack(held, closing=False), commit=False)


def nacking(connection: Connection[Any], held: Claim) -> Script:
    operation = queue.give_back(1, endings([held], AttemptStatus.FAILED), worker="test")
    return together(connection, operation)


def extending(connection: Connection[Any], held: Claim) -> Script:
    return alone(connection, queue.extend(1, [held.claim_id], 30.0))


def reaping(connection: Connection[Any], held: Claim) -> Script:
    return together(connection, queue.reap(1, limit=100))


def cancelling(connection: Connection[Any], held: Claim) -> Script:
    return together(connection, tasks.cancel(held.id, reason="test"))


def _ack(held: Claim, *, closing: bool) -> Operation:
    done = endings([held], AttemptStatus.SUCCEEDED)
    return queue.finish(1, done, worker="test", closing=[held.claim_id] if closing else [])


class Bench:
    """Puts a freshly claimed task before a cast, and counts what became of it."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.leader = stage.leader()
        self.held: Claim
        self._connections: dict[str, Connection[Any]] = {}

    def connection(self, name: str) -> Connection[Any]:
        """Return the session of this actor; it hears of a deadlock at once."""
        if name not in self._connections:
            self._connections[name] = self.stage.connect(deadlock_timeout="10ms")
        return self._connections[name]

    def claimed(self, *, expired: bool = False, **fields: Any) -> Claim:
        """Return a task that was staged, admitted and claimed just now."""
        self.stage.enqueue(1, **fields)
        assert self.leader.drain_ticks() == 1
        (self.held,) = claim(self.stage.db, 1)
        if expired:
            self.stage.expire_leases()
        return self.held

    def explore(self, actors: Mapping[str, Script_], *, expired: bool = False) -> Iterator[Cast]:
        """Yield the outcome of every order, after what must always hold was checked."""
        outcomes: list[Cast] = []

        def scene() -> Cast:
            held = self.claimed(expired=expired)
            return {
                name: Actor(self.connection(name), script(self.connection(name), held))
                for name, script in actors.items()
            }

        def outcome(cast: Cast) -> None:
            assert not [actor.error for actor in cast.values() if actor.error]
            check(self.stage.db)
            self.judge(cast)
            self.settle()

        explore(self.stage.db, scene, outcome)
        assert outcomes == []
        yield from ()

    def judge(self, cast: Cast) -> None:
        raise NotImplementedError

    def settle(self) -> None:
        """Let the task end, and check that its slot is free."""
