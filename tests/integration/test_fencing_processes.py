"""Leaders that are processes or threads: stopped, resumed, terminated, left without wake-ups."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from psycopg import Connection

from orchestrator.config import LeaderSettings, Settings
from orchestrator.leader.replica import Replica
from orchestrator.store import leadership
from orchestrator.store.names import LOCK_CLASS, doze_sequence, staged_channel
from orchestrator.store.sql import run
from orchestrator.wakeup.waker import Waker
from tests.support.invariants import check
from tests.support.replica import replica_process, replica_thread
from tests.support.stage import Stage
from tests.support.stepping import SteppedLeader
from tests.support.waiting import PATIENCE_S, until

# The server ends a silent leader after this, so the tests need not wait longer.
SILENCE_S = 0.4
IMPATIENT = {
    "election_poll_s": 0.05,
    "idle_session_timeout_s": SILENCE_S,
    "idle_in_transaction_timeout_s": SILENCE_S,
    "tcp_user_timeout_s": SILENCE_S,
    "idle_poll_s": 0.1,
}


def leading(**leader: float) -> Settings:
    """Return the settings of a replica that leads like this."""
    return Settings(leader=LeaderSettings(**leader))


def leader_pid(stage: Stage) -> int:
    """Return the pid of the backend that holds the advisory lock, 0 if none does."""
    rows = stage.rows(
        "select pid from pg_locks where locktype = 'advisory' and classid = %s and objid = 1"
        " and database = (select oid from pg_database where datname = current_database())",
        LOCK_CLASS,
    )
    return int(rows[0][0]) if rows else 0


def sessions(stage: Stage, holder: str) -> set[int]:
    """Return the pids of the leader sessions of a replica, candidates too."""
    query = "select pid from pg_stat_activity where application_name = %s"
    return {pid for (pid,) in stage.rows(query, f"orchestrator leader {holder}")}


def epoch(stage: Stage) -> int:
    return int(stage.one("select epoch from orchestrator.orchestrator_lock where queue = 1"))


def admitted(stage: Stage) -> int:
    return int(stage.one("select count(*) from orchestrator.task_queue"))


def leads(stage: Stage, replica: Replica, term: int) -> bool:
    return epoch(stage) == term and replica.leading() == [1]


def has_admitted(stage: Stage, count: int) -> bool:
    return admitted(stage) == count


def admissions(stage: Stage) -> dict[int, int]:
    """Return how many tasks each epoch admitted."""
    query = "select epoch, sum(admitted)::integer from orchestrator.tick_log group by 1"
    return dict(stage.rows(query))


def take_over(stage: Stage) -> SteppedLeader:
    """Return a leader that was elected as soon as the lock was free."""
    candidate = stage.candidate()
    until(
        lambda: run(candidate.connection, leadership.try_lock(1, SILENCE_S))[0], "the lock is free"
    )
    return candidate.elect(lock=False)


def test_a_leader_stopped_while_it_looks_for_work_admits_nothing_when_resumed(
    stage: Stage,
) -> None:
    with replica_process(stage.dsn, "stopped", IMPATIENT) as process:
        until(lambda: epoch(stage) == 1, "the process leads")
        stage.enqueue(1)
        until(lambda: admitted(stage) == 1, "it admits")
        before = sessions(stage, "stopped")
        process.send_signal(signal.SIGSTOP)
        successor = take_over(stage)
        stage.enqueue(5)
        process.send_signal(signal.SIGCONT)
        until(lambda: sessions(stage, "stopped") - before, "it noticed, and stands again")
        assert admitted(stage) == 1
        assert successor.drain_ticks() == 5
        assert epoch(stage) == 2
        assert process.poll() is None
    assert admissions(stage) == {1: 1, 2: 5}
    check(stage.db)


BLOCKED = "select cardinality(pg_blocking_pids(%s)) > 0"


def hold_its_tick(stage: Stage, tasks: int) -> tuple[Connection[Any], int]:
    """Stage tasks, and keep the leader's tick waiting for the fence; return who holds that, and the
    leader's backend.
    """
    # What begins a term, and what goes before sleep, take the fence too, without a commit behind.
    asleep = "select coalesce(pg_sequence_last_value(%s::regclass), 0) >= 2"
    until(lambda: stage.one(asleep, doze_sequence(1)), "it has fallen asleep")
    holder = stage.connect()
    holder.execute("begin")
    holder.execute("select from orchestrator.orchestrator_lock for update")
    stage.enqueue(tasks)
    pid = leader_pid(stage)
    until(lambda: stage.one(BLOCKED, pid), "its tick waits for the fence")
    return holder, pid


def test_a_leader_stopped_inside_a_tick_admits_nothing_more_when_resumed(stage: Stage) -> None:
    with replica_process(stage.dsn, "stopped", IMPATIENT) as process:
        until(lambda: epoch(stage) == 1, "the process leads")
        holder, _ = hold_its_tick(stage, 5)
        before = sessions(stage, "stopped")
        process.send_signal(signal.SIGSTOP)
        # Its backend gets the fence, and with it all that there is to do, to the commit.
        holder.execute("commit")
        successor = take_over(stage)
        assert admissions(stage) == {1: 5}
        assert successor.scheduler.in_flight == 5
        stage.enqueue(2)
        process.send_signal(signal.SIGCONT)
        until(lambda: sessions(stage, "stopped") - before, "it noticed, and stands again")
        assert successor.drain_ticks() == 2
    assert admissions(stage) == {1: 5, 2: 2}
    check(stage.db)


def test_a_leader_deposed_and_stopped_inside_a_tick_admits_nothing(stage: Stage) -> None:
    with replica_process(stage.dsn, "stopped", IMPATIENT) as process:
        until(lambda: epoch(stage) == 1, "the process leads")
        holder, pid = hold_its_tick(stage, 5)
        before = sessions(stage, "stopped")
        process.send_signal(signal.SIGSTOP)
        # All that it wants to do lies at the server, which finds that another leads.
        run(holder, leadership.elect(1, "usurper"))
        holder.execute("commit")
        until(lambda: not stage.one(BLOCKED, pid), "its tick goes on")
        successor = take_over(stage)
        assert successor.drain_ticks() == 5
        process.send_signal(signal.SIGCONT)
        until(lambda: sessions(stage, "stopped") - before, "it noticed, and stands again")
    assert admissions(stage) == {3: 5}
    check(stage.db)


def silent_in_a_pipeline(leader: SteppedLeader) -> None:
    """Send a statement without the message that ends its transaction, as who is stopped midway."""
    pgconn = leader.connection.pgconn
    pgconn.enter_pipeline_mode()
    pgconn.send_query_params(b"select 1", None)
    pgconn.send_flush_request()
    pgconn.flush()


def silent_while_answered(leader: SteppedLeader) -> None:
    """Ask for more than the sockets hold and read nothing."""
    pgconn = leader.connection.pgconn
    pgconn.send_query_params(b"select repeat('x', 1000) from generate_series(1, 100000)", None)
    pgconn.flush()


@pytest.mark.parametrize("fall_silent", [silent_in_a_pipeline, silent_while_answered])
def test_a_leader_that_is_silent_where_no_timeout_runs_is_succeeded(
    stage: Stage, fall_silent: Callable[[SteppedLeader], None]
) -> None:
    silent = stage.candidate(settings=LeaderSettings(**IMPATIENT))
    silent.elect()
    backend = leader_pid(stage)
    fall_silent(silent)
    # The server's own timeouts are set, and would have ended a session that is idle.
    waits = (
        "select wait_event_type = 'Client' and state <> 'idle'"
        " and clock_timestamp() - state_change > make_interval(secs => %s)"
        " from pg_stat_activity where pid = %s"
    )
    until(lambda: stage.one(waits, 2 * SILENCE_S, backend), "it outlives every timeout")
    with replica_thread(stage.dsn, leading(**IMPATIENT)):
        until(lambda: epoch(stage) == 2, "the replica leads")
        stage.enqueue(3)
        until(lambda: admitted(stage) == 3, "it admits")


def test_who_stands_by_comes_when_a_silent_leader_is_due_to_be_ended(stage: Stage) -> None:
    silent = stage.candidate(settings=LeaderSettings(**IMPATIENT))
    silent.elect()
    # By its usual pace it would come far too late.
    with replica_thread(stage.dsn, leading(**IMPATIENT | {"election_poll_s": 60.0})):
        until(lambda: epoch(stage) == 2, "the replica leads")


def test_a_leader_that_sleeps_within_its_timeout_is_left_alone(stage: Stage) -> None:
    leader = stage.candidate().elect()
    candidate = stage.candidate()
    stage.enqueue(1)
    for _ in range(3):
        attempt = run(candidate.connection, leadership.try_lock(1, 30))
        assert (attempt.taken, attempt.ended) == (False, False)
        assert leader.tick() is not None
    assert admitted(stage) == 1


def test_a_killed_leader_is_succeeded_at_once(stage: Stage) -> None:
    with (
        replica_process(stage.dsn, "killed", IMPATIENT) as process,
        replica_process(stage.dsn, "other", IMPATIENT) as other,
    ):
        until(lambda: epoch(stage) == 1, "one of them leads")
        holder = stage.one("select holder from orchestrator.orchestrator_lock")
        leading = {"killed": process, "other": other}[holder]
        leading.kill()
        killed_at = time.monotonic()
        until(lambda: epoch(stage) == 2, "the other leads")
        assert time.monotonic() - killed_at < 10
        stage.enqueue(3)
        until(lambda: admitted(stage) == 3, "it admits")
    assert stage.one("select distinct epoch from orchestrator.tick_log") == 2


def test_a_replica_resigns_on_sigterm(stage: Stage) -> None:
    with replica_process(stage.dsn, "polite", IMPATIENT) as process:
        until(lambda: epoch(stage) == 1, "the process leads")
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
        assert leader_pid(stage) == 0
    events = stage.rows("select epoch, event from orchestrator.leadership_log order by id")
    assert events == [(1, "elected"), (1, "resigned")]


def test_a_replica_of_which_the_backend_is_terminated_comes_back_with_the_next_epoch(
    stage: Stage,
) -> None:
    with replica_thread(stage.dsn, leading(**IMPATIENT)) as replica:
        for turn in (1, 2, 3):
            until(partial(leads, stage, replica, turn), "it leads")
            stage.enqueue(2)
            until(partial(has_admitted, stage, 2 * turn), "it admits")
            assert run(stage.db, leadership.terminate(leader_pid(stage)))
        until(lambda: epoch(stage) == 4, "it leads again")
    epochs = stage.rows("select epoch from orchestrator.tick_log order by admit_seq")
    assert [number for (number,) in epochs] == sorted(number for (number,) in epochs)
    check(stage.db)


def test_a_term_that_has_just_ended_can_still_be_asked_to_stop() -> None:
    # What a signal does when it comes between the end of a term and its burial.
    waker = Waker()
    waker.close()
    waker.wake()


def until_parked(stage: Stage) -> None:
    """Return once the leader sleeps: it dozes, and has stopped looking on."""
    until(lambda: doze(stage) == 2, "the leader dozes")
    silent = (
        "select state = 'idle' and clock_timestamp() - state_change > '0.2 s'"
        " from pg_stat_activity where pid = %s"
    )
    until(lambda: stage.one(silent, leader_pid(stage)), "it has looked for the last time")


def doze(stage: Stage) -> int:
    return int(stage.one("select coalesce(pg_sequence_last_value('orchestrator.doze_1'), 0)"))


def test_a_lost_notification_costs_at_most_the_poll_interval(stage: Stage) -> None:
    with replica_thread(stage.dsn, leading(awake_s=0.05, idle_poll_s=1.0)):
        until_parked(stage)
        listener = stage.connect()
        listener.execute(f"listen {staged_channel(1)}".encode())
        # Who enqueues now believes that the leader is awake, and notifies nobody.
        stage.do("select setval('orchestrator.doze_1', 1)")
        stage.enqueue(1)
        staged_at = time.monotonic()
        until(lambda: admitted(stage) == 1, "it is found by polling")
        # Ten intervals: a slow machine is not a failing test, a lost task is.
        assert time.monotonic() - staged_at < 10
        assert list(listener.notifies(timeout=0)) == []


def test_a_notification_wakes_a_dozing_leader(stage: Stage) -> None:
    with replica_thread(
        stage.dsn, leading(awake_s=0.05, idle_poll_s=15, idle_session_timeout_s=60)
    ):
        until_parked(stage)
        stage.enqueue(1)
        until(lambda: admitted(stage) == 1, "it was woken", patience_s=5)
