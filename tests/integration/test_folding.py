"""The folding of a leading replica: the tables of the cut follow its journal, whatever fails."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import pytest

from orchestrator.config import LeaderSettings, Settings
from orchestrator.errors import DatabaseUnavailable
from orchestrator.leader import folding
from orchestrator.leader.folding import Folding
from orchestrator.leader.reign import Reign
from orchestrator.store.names import doze_sequence
from tests.support.replica import replica_thread
from tests.support.stage import Stage
from tests.support.stepping import ack, claim
from tests.support.waiting import PATIENCE_S, until

SETTINGS = Settings(leader=LeaderSettings(election_poll_s=0.05))
# The journal is empty, and the tables know of the last admission.
FOLDED = """
select not exists (select from orchestrator.cut_journal)
   and (select max(last_admit) from orchestrator.org_state)
       = (select admit_seq from orchestrator.queue_state where queue = 1)
"""
SESSIONS = """
select pid, state_change::text from pg_stat_activity
 where datname = current_database() and application_name = 'orchestrator folding'
"""
POLLED = """
select max(state_change) from pg_stat_activity
 where datname = current_database() and application_name ^@ 'orchestrator leader '
"""
ELECTED = "select max(epoch) from orchestrator.orchestrator_lock where holder <> 'stepped'"
LOCK = "select from orchestrator.cut_journal for update"


def admitted(stage: Stage, count: int) -> None:
    """Have so many more tasks admitted, each in a tick of its own."""
    for _ in range(count):
        ids = stage.enqueue(1)
        staged = "select not exists (select from orchestrator.staging_queue where task_id = %s)"
        until(partial(stage.one, staged, ids[0]), "it is admitted")


def test_the_tables_follow_the_journal_and_at_rest_nothing_is_asked(stage: Stage) -> None:
    stage.set_queue(ready_max=1_000)
    with replica_thread(stage.dsn, SETTINGS):
        admitted(stage, 5)
        until(partial(stage.one, FOLDED), "all is folded")
        dozes = f"select pg_sequence_last_value('{doze_sequence(1)}') > 1"
        until(partial(stage.one, dozes), "the leader dozes")
        before, polled_at = stage.rows(SESSIONS), stage.one(POLLED)
        until(lambda: stage.one(POLLED) > polled_at, "the leader looks as it does at rest")
        assert stage.rows(SESSIONS) == before
        # The same session goes on when there is something again.
        ack(stage.db, claim(stage.db, 5))
        admitted(stage, 1)
        until(partial(stage.one, FOLDED), "that is folded as well")
        ((pid, later),) = stage.rows(SESSIONS)
        assert [(pid, later)] != before == [(pid, before[0][1])]


def test_a_folding_that_lost_its_session_goes_on_with_another(stage: Stage) -> None:
    with replica_thread(stage.dsn, SETTINGS):
        admitted(stage, 1)
        until(partial(stage.one, FOLDED), "all is folded")
        for _ in range(2):
            assert stage.rows(f"select pg_terminate_backend(pid) from ({SESSIONS}) s")
            admitted(stage, 2)
            until(partial(stage.one, FOLDED), "what came since is folded")


def test_where_the_folding_gets_nowhere_the_leader_folds(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = threading.Event()

    def refused(*_: Any) -> Any:
        tried.set()
        raise DatabaseUnavailable("there is no session left")

    monkeypatch.setattr(folding, "open_beside", refused)
    monkeypatch.setattr(folding, "PATIENCE_S", 0.01)
    stage.set_queue(ready_max=1_000)
    with replica_thread(stage.dsn, SETTINGS):
        admitted(stage, 2)
        assert tried.wait(PATIENCE_S)
        until(partial(stage.one, FOLDED), "the leader has folded")
        admitted(stage, 2)
    # And what is left when it resigns.
    assert stage.one(FOLDED)


def test_while_nobody_can_fold_the_leader_leads_on(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folding, "PATIENCE_S", 0.01)
    failed, note = threading.Event(), Reign._note_unfolded

    def noted(reign: Reign, error: DatabaseUnavailable) -> None:
        note(reign, error)
        failed.set()

    monkeypatch.setattr(Reign, "_note_unfolded", noted)
    hasty = LeaderSettings(election_poll_s=0.05, lock_timeout_s=0.2)
    stage.set_queue(ready_max=1_000)
    stage.enqueue(1)
    leader = stage.leader()
    assert leader.reign.tick.tick().admitted == 1
    leader.close()
    with stage.connect() as holder, replica_thread(stage.dsn, Settings(leader=hasty)):
        epoch = until(partial(stage.one, ELECTED), "it is elected")
        admitted(stage, 1)
        with holder.transaction():
            # Whoever folds waits for this, and gives up.
            holder.execute("lock table orchestrator.org_state in exclusive mode")
            for _ in range(5):
                admitted(stage, 1)
            assert failed.wait(PATIENCE_S)
            admitted(stage, 1)
            assert stage.one("select count(*) from orchestrator.cut_journal") > 1
        until(partial(stage.one, FOLDED), "then all of it is folded")
        assert stage.one(ELECTED) == epoch


def test_a_folding_that_waits_for_a_lock_holds_up_no_stop(stage: Stage) -> None:
    leader = stage.leader()
    stage.enqueue(1)
    assert leader.reign.tick.tick().admitted == 1
    one = Folding(stage.dsn, 1, LeaderSettings())
    with stage.connect() as holder, holder.transaction():
        holder.execute(LOCK)
        one.start()
        one.note(1)
        waits = f"select cardinality(pg_blocking_pids(pid)) from ({SESSIONS}) s"
        until(lambda: stage.rows(waits) == [(1,)], "it waits")
        one.stop()
    leader.reign.fold()
    assert stage.one(FOLDED)


def test_who_never_began_can_be_stopped(stage: Stage) -> None:
    Folding(stage.dsn, 1, LeaderSettings()).stop()
    one = Folding(stage.dsn, 1, LeaderSettings())
    one.start()
    one.stop()
    assert stage.rows(SESSIONS) == []
