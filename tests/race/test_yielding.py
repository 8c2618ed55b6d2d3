"""A request to yield beside whatever else may happen to the task, in every order of the statements.

Whatever the order: nobody hears of a deadlock, the critical task gets the slot, nobody is asked
twice, and a leader that is deposed asks nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from psycopg import Connection

from orchestrator.fairness.preemption import requests
from orchestrator.model import AttemptStatus, Claim
from orchestrator.store import admission, leadership, preemption, queue, tasks
from orchestrator.store.leadership import Term
from orchestrator.store.sql import Operation
from tests.support.interleave import Actor, Cast, Script, alone, explore, together
from tests.support.invariants import check
from tests.support.stage import Stage
from tests.support.stepping import SteppedLeader, ack, claim, endings, give_back, reap

Way = Callable[[Connection[Any], Claim, Term], Script]
CRITICAL = 10


def _ask(term: Term) -> Operation:
    """Do what a leader does in its transaction; return whom it asked, None if it is deposed."""
    if not (yield admission.fence(term)):
        return None
    _, running = yield from preemption.running(1, ["a"], UUID(int=0))
    said = requests([CRITICAL], running, free=0)
    if said.ask:
        yield from preemption.tell(1, said)
    return [task.task_id for task in said.ask]


def asking(connection: Connection[Any], held: Claim, term: Term) -> Script:
    """Ask as the leader of a term."""
    return together(connection, _ask(term))


def acking(connection: Connection[Any], held: Claim, term: Term) -> Script:
    """End the task by itself, and close its lease."""
    done = endings([held], AttemptStatus.SUCCEEDED)
    return alone(connection, queue.finish(1, done, worker="test", closing=[held.claim_id]))


def yielding(connection: Connection[Any], held: Claim, term: Term) -> Script:
    """Yield."""
    return together(
        connection, queue.give_back(1, endings([held], AttemptStatus.SNOOZED), worker="test")
    )


def extending(connection: Connection[Any], held: Claim, term: Term) -> Script:
    """Send a heartbeat."""
    return alone(connection, queue.extend(1, [held.claim_id], 30.0))


def reaping(connection: Connection[Any], held: Claim, term: Term) -> Script:
    """Take back what is lost."""
    return together(connection, queue.reap(1, limit=100))


def cancelling(connection: Connection[Any], held: Claim, term: Term) -> Script:
    """Cancel the task."""
    return together(connection, tasks.cancel(held.id, reason="test"))


def electing(connection: Connection[Any], held: Claim, term: Term) -> Script:
    """Open another term."""
    return together(connection, leadership.elect(1, "rival"))


WAYS: dict[str, Way] = {
    "ask": asking,
    "ack": acking,
    "yield": yielding,
    "extend": extending,
    "reap": reaping,
    "cancel": cancelling,
    "elect": electing,
}


class Bench:
    """Has one task run in the way of a critical one, again and again."""

    def __init__(self, stage: Stage, *, lost: bool) -> None:
        self._stage = stage
        self._lost = lost
        self._leader: SteppedLeader | None = None
        self._held: Claim
        self._critical = 0
        stage.set_org("a", burst_max=1)

    def explore(self, names: tuple[str, ...]) -> int:
        """Play these ways in every order; return how many orders there are."""
        self._sessions = {name: self._stage.connect(deadlock_timeout="10ms") for name in names}
        return explore(self._stage.db, self._scene, self._judge, most=20)

    def _lead(self) -> SteppedLeader:
        if self._leader is not None:
            self._leader.close()
        self._leader = self._stage.leader(lock=False)
        self._leader.reign.tick.preemption.interval_s = 0.0
        return self._leader

    def _scene(self) -> Cast:
        leader = self._lead()
        self._stage.enqueue(1, priority=1)
        assert leader.tick().admitted == 1
        (self._held,) = claim(self._stage.db, 1)
        (self._critical,) = self._stage.enqueue(1, critical=True, priority=CRITICAL)
        if self._lost:
            self._stage.expire_leases()
        term = leader.reign.term
        assert term is not None
        return {
            name: Actor(session, WAYS[name](session, self._held, term))
            for name, session in self._sessions.items()
        }

    def _judge(self, cast: Cast) -> None:
        assert {name: actor.error for name, actor in cast.items() if actor.error} == {}
        check(self._stage.db)
        assert cast["ask"].value in (None, [], [self._held.id])
        if "elect" not in cast:
            assert cast["ask"].value is not None
        self._find_the_slot()
        self._settle()

    def _find_the_slot(self) -> None:
        """Whoever leads next sees to it that the critical task gets the slot."""
        leader = self._lead()
        for _ in range(3):
            leader.tick()
        running = self._stage.rows(
            "select l.yielding, l.cancelled <> '{}' from orchestrator.lease l"
            " join orchestrator.task_queue q on q.claim_id = l.claim_id where q.task_id = %s",
            self._held.id,
        )
        for told, cancelled in running:
            # Asked once, unless it stops anyway.
            assert told == [self._held.dispatch_key] or (cancelled and told == [])
            give_back(self._stage.db, [self._held], AttemptStatus.SNOOZED)
            leader.tick()
        (first,) = claim(self._stage.db, 2)
        assert first.id == self._critical
        ack(self._stage.db, [first])

    def _settle(self) -> None:
        """Let everything end, and check that every slot is free and no lease is left."""
        leader = self._lead()
        self._stage.expire_leases()
        reap(self._stage.db)
        while leader.drain_ticks():
            ack(self._stage.db, claim(self._stage.db, 2))
        check(self._stage.db)
        assert leader.scheduler.in_flight == 0
        assert not leader.reign.tick.preemption.open
        for table in ("lease", "task_queue", "staging_queue"):
            assert self._stage.one(f"select count(*) from orchestrator.{table}") == 0


@pytest.mark.parametrize(
    "names",
    [("ask", "ack"), ("ask", "yield"), ("ask", "extend"), ("ask", "cancel"), ("ask", "elect")],
    ids=" | ".join,
)
def test_a_request_beside_another_word_gives_the_slot_to_the_critical_task(
    stage: Stage, names: tuple[str, ...]
) -> None:
    assert Bench(stage, lost=False).explore(names) > 1


def test_a_request_beside_the_reaper_gives_the_slot_to_the_critical_task(stage: Stage) -> None:
    assert Bench(stage, lost=True).explore(("ask", "reap")) > 1
