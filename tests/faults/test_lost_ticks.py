"""A crash of the server loses ticks that nobody stood on, and those never were.

The commit of a tick does not wait for the disk. Here nothing writes the log but a commit that
waits: the process of the server that does it by the by is stopped. So what nobody waited for is
gone with a crash.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psycopg
import pytest

from orchestrator.client import Client
from orchestrator.errors import DatabaseUnavailable, OrchestratorError
from tests.faults.chaos.server import Server
from tests.faults.test_servers import command, finished, one, payload
from tests.support.invariants import check
from tests.support.stage import Stage
from tests.support.stepping import SteppedLeader, ack, claim, extend, give_back
from tests.support.waiting import until
from tests.unit.histories import snapshot

# Nothing else commits, or writes pages and so the log before them.
LAZY = {"autovacuum": "off", "bgwriter_lru_maxpages": "0"}
WRITER = "select pid from pg_stat_activity where backend_type = 'walwriter'"
ADMITTED = "select task_id, dispatch_key, org_id from orchestrator.task_queue order by 2"
STAGED = "select task_id, org_id, attempt from orchestrator.staging_queue order by 1"
EPOCH = "select epoch from orchestrator.orchestrator_lock where queue = 1"


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with Server(LAZY) as server:
        server.make_template()
        stop_writer(server)
        yield server
        # Stopped, it would be waited for.
        os.kill(one(server.dsn(), WRITER), signal.SIGKILL)


class Crashing:
    """A database on a server that crashes."""

    def __init__(self, server: Server) -> None:
        self.dsn = server.dsn(server.create())
        self._server = server

    def crash(self) -> None:
        """Lose whatever no commit has waited for, and be there again."""
        os.kill(one(self.dsn, WRITER), signal.SIGKILL)
        self._server.stop()
        self._server.start()
        stop_writer(self._server)


@pytest.fixture
def database(running: Server) -> Crashing:
    return Crashing(running)


def stop_writer(server: Server) -> None:
    os.kill(one(server.dsn(), WRITER), signal.SIGSTOP)


def settled(stage: Stage) -> None:
    """Commit something and wait for it: whatever was committed before is durable then."""
    stage.do("insert into orchestrator.org_config (org_id) values (gen_random_uuid())")


def leading(stage: Stage) -> SteppedLeader:
    leader = stage.leader()
    stage.set_queue(ready_max=40)
    leader.reign.tick.window.parked = 40
    return leader


def test_a_lost_tick_is_made_again_as_if_it_had_never_been(database: Crashing) -> None:
    with Stage(database.dsn) as stage:
        leader = leading(stage)
        for org in "abc":
            stage.enqueue(10, org)
            stage.enqueue(5, org, workload="api")
        assert leader.tick().admitted == 40
        # Both settled and given back: the next tick has feeds of either kind to read.
        ack(stage.db, claim(stage.db, 12))
        give_back(stage.db, claim(stage.db, 8))
        durable, staged = stage.rows(ADMITTED), stage.rows(STAGED)
        assert len(durable) == 20
        assert leader.tick().admitted == len(staged) == 13
        after, log = stage.rows(ADMITTED), stage.one("select count(*) from orchestrator.tick_log")
        cut = snapshot(leader.scheduler)
        database.crash()
        with pytest.raises(OrchestratorError):
            leader.tick()

    with Stage(database.dsn) as stage:
        # It was lost, or this test shows nothing.
        assert stage.rows(ADMITTED) == durable
        assert stage.rows(STAGED) == staged
        assert stage.one("select count(*) from orchestrator.tick_log") == log - 1
        check(stage.db)
        successor = leading(stage)
        assert successor.tick().admitted == 13
        # The same tasks under the same keys, and the same tags: nothing of it is remembered wrong.
        assert stage.rows(ADMITTED) == after
        assert snapshot(successor.scheduler) == cut
        assert successor.sweep() == []
        while claims := claim(stage.db, 50):
            ack(stage.db, claims)
        check(stage.db)
        ended = stage.rows("select task_id from orchestrator.task_attempt where final order by 1")
        assert ended == stage.rows("select id from orchestrator.task order by 1")


def _claims(stage: Stage) -> None:
    claim(stage.db, 1)


def _enqueues(stage: Stage) -> None:
    stage.enqueue(1, "late")


def _elects(stage: Stage) -> None:
    stage.leader(lock=False)


@pytest.mark.parametrize("follow", [_claims, _enqueues, _elects, settled])
def test_a_tick_that_anybody_committed_after_is_not_lost(
    database: Crashing, follow: Callable[[Stage], None]
) -> None:
    with Stage(database.dsn) as stage:
        leader = leading(stage)
        stage.enqueue(10)
        assert leader.tick().admitted == 10
        follow(stage)
        admitted = stage.rows(ADMITTED)
        database.crash()
    with Stage(database.dsn) as stage:
        assert stage.rows(ADMITTED) == admitted
        check(stage.db)


def test_who_was_given_a_task_keeps_it_through_a_crash_that_loses_the_next_tick(
    database: Crashing,
) -> None:
    with Stage(database.dsn) as stage:
        leader = leading(stage)
        stage.enqueue(5, "first")
        assert leader.tick().admitted == 5
        given = claim(stage.db, 3, lease_s=60)
        later = sorted(stage.enqueue(5, "second"))
        assert leader.tick().admitted == 5
        database.crash()
    with Stage(database.dsn) as stage:
        assert sorted(task for task, _, _ in stage.rows(STAGED)) == later
        assert sorted(org for _, _, org in stage.rows(ADMITTED)) == ["first"] * 5
        leader = leading(stage)
        leader.drain_ticks()
        others = claim(stage.db, 50)
        assert len(others) == 7
        assert {claim.id for claim in others}.isdisjoint(claim.id for claim in given)
        assert [held.claim_id for held in extend(stage.db, given)] == [given[0].claim_id]
        assert len(ack(stage.db, given)) == 3
        assert len(ack(stage.db, others)) == 7
        check(stage.db)


def test_what_else_a_leader_commits_is_durable_when_it_has_committed(database: Crashing) -> None:
    with Stage(database.dsn) as stage:
        leader = leading(stage)
        epoch = stage.one(EPOCH)
        database.crash()
    with Stage(database.dsn) as stage:
        # An epoch that was lost would be given twice.
        assert stage.one(EPOCH) == epoch
        leader = leading(stage)
        stage.enqueue(1)
        assert leader.tick().admitted == 1
        # A task whose time has passed is ended by the leader's own statement: people may be told.
        stage.enqueue(1)
        stage.do("update orchestrator.staging_queue set expires_at = clock_timestamp()")
        leader.step()
        assert stage.one("select count(*) from orchestrator.task_attempt") == 1
        database.crash()
    with Stage(database.dsn) as stage:
        assert stage.one("select status from orchestrator.task_attempt") == "expired"
        check(stage.db)


@pytest.mark.faults
@pytest.mark.timeout(180)
def test_a_server_that_crashes_between_tick_and_claim_loses_no_task_and_doubles_none(
    database: Crashing, tmp_path: Path
) -> None:
    dsn, lost, turns = database.dsn, 0, 4
    with command(dsn, tmp_path, "run"):
        for turn in range(turns):
            with Client(dsn) as client:
                until(partial(_enqueued, client, turn), "the server takes it", patience_s=30)
            until(partial(_ready, dsn, turn + 1), "all of it is admitted", patience_s=30)
            database.crash()
            # Read before the replica, which connects again after a while, makes the tick anew.
            lost += not _ready(dsn, turn + 1)
        # Nobody claims, but now and then a chore of the replica commits something.
        assert lost
        with command(dsn, tmp_path, "worker", "tests.faults.chaos.handlers:app"):
            until(lambda: finished(dsn) >= turns, "everything has run", patience_s=60)
    with psycopg.connect(dsn, autocommit=True) as db:
        check(db)
    ids = "select count(distinct task_id), count(*) from orchestrator.task_attempt where final"
    with psycopg.connect(dsn, autocommit=True) as db:
        assert db.execute(ids.encode()).fetchone() == (turns, turns)


def _ready(dsn: str, tasks: int) -> bool:
    return bool(one(dsn, "select count(*) = %s from orchestrator.task_queue", tasks))


def _enqueued(client: Client, turn: int) -> bool:
    try:
        client.enqueue("ok", payload(f"turn {turn}"), org="a")
    except DatabaseUnavailable:
        return False
    return True
