"""What a leader does first: its predecessor may have been told what no feed will tell again."""

from __future__ import annotations

import time
from typing import Any

from psycopg import Connection

from orchestrator.config import LeaderSettings
from orchestrator.leader.reign import Reign
from orchestrator.leader.session import open_session
from orchestrator.store import leadership, orgs
from orchestrator.store.sql import Operation, run
from tests.support.stepping import SteppedLeader, claim, connect, enqueue, tasks

# Far more than the few milliseconds between two looks, far less than the sweep's interval.
PATIENCE_S = 5.0


def test_a_new_leader_admits_what_only_its_predecessor_was_told_of(dsn: str) -> None:
    with connect(dsn) as client:
        _transact(client, orgs.pause_org("bob", "why", actor="o"))
        enqueue(client, [*tasks(1, "ada"), *tasks(3, "bob")])
        before = SteppedLeader(dsn).elect()
        assert before.tick().admitted == 1
        before.close()
        # It runs on, so that no freed slot calls anybody.
        assert len(claim(client, 1)) == 1
        _transact(client, orgs.resume_org("bob", actor="o"))
        _lead_until_ready(dsn, client, 3)
        assert _ready(client) == 3


def _lead_until_ready(dsn: str, client: Connection[Any], wanted: int) -> None:
    """Let a replica's own loop lead until so many tasks are ready, or patience ends."""
    deadline = time.monotonic() + PATIENCE_S
    settings = LeaderSettings()
    with open_session(dsn, settings, holder="after") as session:
        while not run(session, leadership.try_lock(1, 60))[0]:
            assert time.monotonic() < deadline, "the lock of a closed session was never freed"
        reign = Reign(
            session,
            run(session, leadership.queue(1)),
            settings,
            holder="after",
            stopping=lambda: _ready(client) >= wanted or time.monotonic() > deadline,
            alive=lambda: None,
        )
        reign.lead()
        reign.waker.close()


def _ready(client: Connection[Any]) -> int:
    rows = client.execute(
        "select count(*) from orchestrator.task_queue where queue = 1 and claim_id is null"
    )
    return int(rows.fetchall()[0][0])


def _transact(client: Connection[Any], operation: Operation) -> None:
    with client.transaction():
        run(client, operation)
