"""A migration while tasks are claimed: one waits for the other, or is told to run again."""

from __future__ import annotations

from uuid import uuid4

import pytest
from psycopg import Connection

from orchestrator.store import queue
from orchestrator.store.sql import run
from tests.support.interleave import Actor, Cast, Script, alone, explore
from tests.support.invariants import check
from tests.support.stage import Stage
from tests.support.stepping import ack

# What a migration may do to the tables of a claim, under the timeout that migrations have.
STATEMENTS = (
    b"set local lock_timeout = '10s'",
    b"alter table orchestrator.task_queue add column probe integer",
    b"alter table orchestrator.lease add column probe integer not null default 0",
    b"create index probe on orchestrator.task_queue (task_id)",
)
UNDONE = (
    "drop index if exists orchestrator.probe",
    "alter table orchestrator.task_queue drop column if exists probe",
    "alter table orchestrator.lease drop column if exists probe",
)


def migrated(connection: Connection[object], *, commit: bool) -> Script:
    """Migrate in one transaction, one statement a step."""
    connection.execute("begin")
    for statement in STATEMENTS:
        yield
        connection.execute(statement)
    yield
    connection.execute("commit" if commit else "rollback")


@pytest.mark.parametrize("commit", [True, False], ids=["committed", "rolled back"])
def test_a_claim_beside_a_migration_gets_its_tasks_or_is_told_to_run_again(
    stage: Stage, commit: bool
) -> None:
    leader = stage.leader()
    one, two = stage.connect(), stage.connect()

    def scene() -> Cast:
        for statement in UNDONE:
            stage.do(statement)
        stage.enqueue(2)
        assert leader.drain_ticks() == 2
        claim = queue.claim(1, "default", uuid4(), limit=2, lease_s=30, worker="test")
        return {
            "claim": Actor(one, alone(one, claim)),
            "migrate": Actor(two, migrated(two, commit=commit)),
        }

    def outcome(cast: Cast) -> None:
        # On a slow machine the migration may be the one that has to give way.
        two.rollback()
        claims, told = cast["claim"].value, cast["claim"].error
        if told is not None:
            # Both waited for the other, and it was the claim that had to give way: nothing of it
            # remains, and the next one gets them.
            assert "run it again" in str(told)
            claims = run(one, queue.claim(1, "default", uuid4(), limit=2, lease_s=30, worker="t"))
        assert len(claims) == 2
        check(stage.db)
        assert len(ack(one, claims)) == 2

    assert explore(stage.db, scene, outcome) >= 6
