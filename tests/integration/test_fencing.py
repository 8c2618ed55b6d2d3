"""Whoever was deposed admits nothing: the fence decides, not what a leader believes."""

from __future__ import annotations

from concurrent.futures import Future

import psycopg
import pytest

from orchestrator.errors import LeadershipLost, OrchestratorError
from orchestrator.leader.tick import Ticked
from orchestrator.store import leadership, queue
from orchestrator.store.sql import run
from tests.support.invariants import check
from tests.support.stage import Stage
from tests.support.stepping import ack, claim
from tests.support.waiting import PATIENCE_S, until_blocked


def admissions(stage: Stage) -> dict[int, int]:
    """Return how many tasks each epoch admitted."""
    query = "select epoch, sum(admitted)::integer from orchestrator.tick_log group by 1"
    return dict(stage.rows(query))


def test_stale_epoch_admits_nothing(stage: Stage) -> None:
    first = stage.leader()
    stage.enqueue(3)
    second = stage.leader(lock=False)
    with pytest.raises(LeadershipLost):
        first.tick()
    # Nor anything else that begins with the fence.
    with pytest.raises(LeadershipLost):
        first.reign.tick.publish_floor()
    first.close()
    assert second.tick().admitted == 3
    assert admissions(stage) == {2: 3}


def test_a_term_of_the_same_epoch_but_another_token_admits_nothing(stage: Stage) -> None:
    # What an asynchronous failover can bring about: the epoch is counted twice.
    leader = stage.leader()
    stage.enqueue(3)
    stage.do("update orchestrator.orchestrator_lock set term = gen_random_uuid()")
    with pytest.raises(LeadershipLost):
        leader.tick()
    with pytest.raises(LeadershipLost):
        leader.reign.tick.publish_floor()
    assert admissions(stage) == {}


def test_an_election_waits_for_the_tick_under_way_and_deposes_it_afterwards(stage: Stage) -> None:
    first = stage.leader()
    stage.enqueue(3)
    holder = stage.connect()
    holder.execute("begin")
    holder.execute("select from orchestrator.queue_state where queue = 1 for update")
    tick: Future[Ticked] = stage.start(first.tick)
    until_blocked(stage.db, first.connection, by=holder)
    second = stage.candidate()
    election = stage.start(second.elect, lock=False)
    until_blocked(stage.db, second.connection, by=first.connection)
    holder.execute("commit")
    assert tick.result(PATIENCE_S).admitted == 3
    election.result(PATIENCE_S)
    # It continues from what the other committed a moment ago.
    assert second.scheduler.in_flight == 3
    stage.enqueue(2)
    with pytest.raises(LeadershipLost):
        first.tick()
    assert second.tick().admitted == 2
    assert admissions(stage) == {1: 3, 2: 2}
    check(stage.db)


def test_a_tick_that_waited_behind_an_election_is_refused(stage: Stage) -> None:
    first = stage.leader()
    stage.enqueue(3)
    holder = stage.connect()
    holder.execute("begin")
    holder.execute("select from orchestrator.orchestrator_lock for update")
    second = stage.candidate()
    election = stage.start(second.elect, lock=False)
    until_blocked(stage.db, second.connection)
    tick = stage.start(first.tick)
    until_blocked(stage.db, first.connection)
    holder.execute("commit")
    # The row it waited for is there, under another epoch.
    assert isinstance(tick.exception(PATIENCE_S), LeadershipLost)
    first.close()
    assert election.result(PATIENCE_S).tick().admitted == 3
    assert admissions(stage) == {2: 3}


def test_a_terminated_backend_ends_the_term_and_nothing_of_its_tick_remains(stage: Stage) -> None:
    first = stage.leader()
    stage.enqueue(3)
    holder = stage.connect()
    holder.execute("begin")
    holder.execute("select from orchestrator.queue_state where queue = 1 for update")
    tick = stage.start(first.tick)
    until_blocked(stage.db, first.connection, by=holder)
    assert run(stage.db, leadership.terminate(first.connection.info.backend_pid))
    with pytest.raises((OrchestratorError, psycopg.Error)):
        tick.result(PATIENCE_S)
    holder.execute("commit")
    # The lock went with the session.
    second = stage.leader()
    assert second.tick().admitted == 3
    assert admissions(stage) == {2: 3}
    check(stage.db)


def test_housekeeping_of_a_deposed_leader_does_no_harm(stage: Stage) -> None:
    first = stage.leader()
    stage.enqueue(4)
    first.drain_ticks()
    claims = claim(stage.db, 4)
    second = stage.leader(lock=False)
    stage.expire_leases()
    with pytest.raises(LeadershipLost):
        first.step()
    assert ack(stage.db, claims) == set()
    assert second.drain_ticks() == 4
    assert second.sweep() == []
    check(stage.db)


def test_a_cut_that_others_moved_ends_the_term_before_anything_is_committed(stage: Stage) -> None:
    leader = stage.leader()
    stage.enqueue(1)
    leader.drain_ticks()
    # Hands, or a rewrite of the table: the row is not where the leader remembers it.
    stage.do("update orchestrator.queue_state set queue = queue")
    stage.enqueue(1)
    with pytest.raises(LeadershipLost):
        leader.drain_ticks()
    leader.close()
    assert admissions(stage) == {1: 1}
    successor = stage.leader()
    assert successor.drain_ticks() == 1
    assert successor.scheduler.in_flight == 2
    check(stage.db)


def test_a_new_leader_writes_down_what_it_changes_and_nothing_more(stage: Stage) -> None:
    stage.set_queue(ready_max=5)
    for number in range(40):
        stage.enqueue(3, f"org-{number}")
    before = stage.leader()
    before.drain_ticks()
    before.close()
    versions = "select org_id, xmin::text from orchestrator.{}"
    states, flows = (
        set(stage.rows(versions.format(table))) for table in ("org_state", "flow_state")
    )
    assert len(states) == len(flows) == 40
    ack(stage.db, claim(stage.db, 5))
    leader = stage.leader()
    assert leader.tick().admitted == 5
    for table, old in (("org_state", states), ("flow_state", flows)):
        assert 5 <= len(set(stage.rows(versions.format(table))) - old) <= 10


def test_a_cut_of_another_cluster_is_rebuilt_from_the_tables(stage: Stage) -> None:
    first = stage.leader()
    stage.set_org("a", burst_max=4)
    stage.enqueue(10)
    assert first.drain_ticks() == 4
    claims = claim(stage.db, 2)
    first.close()
    # As after a restore from a dump: the snapshots belong to transactions that never were here.
    stage.do(
        "update orchestrator.queue_state set system_identifier = 42,"
        " staging_snapshot = '9000000:9000000:', attempt_snapshot = '9000000:9000000:'"
    )
    second = stage.leader()
    assert (second.scheduler.in_flight, second.scheduler.backlog) == (4, 6)
    assert second.drain_ticks() == 0
    ack(stage.db, claims)
    assert second.drain_ticks() == 2
    assert second.sweep() == []
    check(stage.db)


def test_a_finished_task_frees_one_slot_however_often_it_is_acknowledged(stage: Stage) -> None:
    leader = stage.leader()
    stage.set_org("a", burst_max=2)
    stage.enqueue(5)
    assert leader.drain_ticks() == 2
    claims = claim(stage.db, 1)
    assert len(ack(stage.db, claims)) == 1
    assert ack(stage.db, claims) == set()
    assert run(stage.db, queue.give_back(1, [], worker=None)) == {}
    assert leader.drain_ticks() == 1
    assert leader.scheduler.in_flight == 2
