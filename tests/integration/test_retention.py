"""Partitions come before the ids that need them, and go only when nothing in them matters."""

from __future__ import annotations

import pytest

from orchestrator.config import Settings
from orchestrator.errors import DatabaseUnavailable, TaskNotFound
from orchestrator.leader.chores import Chores
from orchestrator.store import retention
from orchestrator.store.retention import Partition
from orchestrator.store.sql import run
from tests.support.invariants import check
from tests.support.stage import Stage
from tests.support.stepping import ack, cancel, claim, enqueue, retry, tasks

WIDTH = 10
KEEP_S = 3600.0


@pytest.fixture
def small(stage: Stage) -> Stage:
    """Return the stage with partitions of ten ids, from id 1 on."""
    for low in (0, 1_000_000, 2_000_000):
        stage.do("select orchestrator.drop_partition(%s)", low)
    create_ahead(stage)
    return stage


def create_ahead(stage: Stage) -> list[Partition]:
    created: list[Partition] = run(stage.db, retention.create_ahead(WIDTH))
    return created


def partitions(stage: Stage) -> list[str]:
    query = """
        select relname from pg_inherits join pg_class on pg_class.oid = inhrelid
         where inhparent = 'orchestrator.task'::regclass and relname <> 'task_default'
         order by substring(relname from 7)::bigint"""
    return [name for (name,) in stage.rows(query)]


def age(stage: Stage) -> None:
    """Let everything that has ended have ended two hours ago."""
    stage.do("update orchestrator.task_attempt set ended_at = ended_at - interval '2 hours'")


def end_all(stage: Stage) -> None:
    """End every staged task."""
    leader = stage.leader()
    while leader.drain_ticks():
        ack(stage.db, claim(stage.db, 1_000))
    leader.close()


def may_go(stage: Stage, part: Partition) -> bool:
    answer: bool = run(stage.db, retention.droppable(part, KEEP_S))
    return answer


def drop(stage: Stage, part: Partition) -> bool:
    with stage.db.transaction():
        dropped: bool = run(stage.db, retention.drop(part, KEEP_S))
    return dropped


# Ahead -------------------------------------------------------------------------------------------


def test_two_partitions_lie_ahead_of_the_last_id(small: Stage) -> None:
    assert partitions(small) == ["task_p0", "task_p10", "task_p20"]
    assert create_ahead(small) == []
    small.enqueue(15)
    assert create_ahead(small) == [Partition(30, 40)]
    assert small.one("select count(*) from orchestrator.task_default") == 0


def test_ids_that_outrun_the_partitions_are_caught_and_stay_where_they_landed(
    small: Stage,
) -> None:
    staged = small.enqueue(45)
    assert small.one("select count(*) from orchestrator.task_default") == 16
    created = create_ahead(small)
    # Never over ids that have landed already.
    assert created[0].low > max(staged)
    assert len([part for part in created if part.low > max(staged)]) == 2
    small.enqueue(100)
    end_all(small)
    check(small.db)


def test_the_number_of_partitions_stays_bounded(small: Stage) -> None:
    for _ in range(60):
        small.do("select nextval('orchestrator.task_id') from generate_series(1, 20)")
        create_ahead(small)
    assert len(partitions(small)) <= retention.PARTITIONS_MAX + 8


def test_ten_who_create_ahead_at_once_leave_what_one_would(small: Stage) -> None:
    small.enqueue(15)
    ahead = [small.start(run, small.connect(), retention.create_ahead(WIDTH)) for _ in range(10)]
    for future in ahead:
        future.exception(20)
    # Some may have lost the race for a name; the next round finds nothing to do.
    assert create_ahead(small) == []
    assert partitions(small) == ["task_p0", "task_p10", "task_p20", "task_p30"]


# Gone --------------------------------------------------------------------------------------------


def test_a_partition_goes_once_everything_in_it_ended_long_ago(small: Stage) -> None:
    small.enqueue(15)
    part = Partition(0, 10)
    assert not may_go(small, part)
    end_all(small)
    # Ended, but a moment ago.
    assert not may_go(small, part)
    age(small)
    assert may_go(small, part)
    assert drop(small, part)
    assert partitions(small) == ["task_p10", "task_p20"]
    assert small.one("select min(id) from orchestrator.task") == 10


@pytest.mark.parametrize("station", ["staged", "scheduled", "ready", "claimed"])
def test_an_unfinished_task_is_never_dropped(small: Stage, station: str) -> None:
    small.enqueue(5)
    end_all(small)
    (kept,) = small.enqueue(1, delay=30 * 86400 if station == "scheduled" else None)
    if station in ("ready", "claimed"):
        small.leader().drain_ticks()
    if station == "claimed":
        claim(small.db, 1)
    small.enqueue(20)
    age(small)
    part = Partition(0, 10)
    assert not may_go(small, part)
    assert not drop(small, part)
    assert small.one("select count(*) from orchestrator.task where id = %s", kept) == 1


def test_a_task_retried_between_the_look_and_the_lock_is_not_dropped(small: Stage) -> None:
    (kept,) = small.enqueue(1)
    small.enqueue(14)
    for task_id in range(kept, kept + 15):
        cancel(small.db, task_id)
    age(small)
    part = Partition(0, 10)
    assert may_go(small, part)
    retry(small.db, kept)
    assert not drop(small, part)
    assert partitions(small)[0] == "task_p0"


def test_a_task_that_is_enqueued_for_so_long_that_its_partition_could_go_keeps_it(
    small: Stage,
) -> None:
    writer = small.connect()
    writer.execute("begin")
    (slow,) = enqueue(writer, tasks(1))
    small.enqueue(15)
    end_all(small)
    age(small)
    part = Partition(0, 10)
    # Nobody can see it, but it holds the partition.
    assert may_go(small, part)
    with pytest.raises(DatabaseUnavailable, match="lock timeout"):
        drop(small, part)
    writer.execute("commit")
    assert not drop(small, part)
    assert small.one("select count(*) from orchestrator.task where id = %s", slow.id) == 1


def test_a_drop_gives_up_behind_a_reader_and_holds_up_nobody(small: Stage) -> None:
    small.enqueue(15)
    end_all(small)
    age(small)
    reader = small.connect()
    reader.execute("begin")
    reader.execute("select from orchestrator.task where id = 5")
    with pytest.raises(DatabaseUnavailable, match="lock timeout"):
        drop(small, Partition(0, 10))
    assert partitions(small)[0] == "task_p0"
    small.enqueue(1)
    reader.execute("commit")
    assert drop(small, Partition(0, 10))


def test_a_task_of_which_the_partition_is_gone_is_simply_not_found(small: Stage) -> None:
    staged = small.enqueue(15)
    end_all(small)
    age(small)
    assert drop(small, Partition(0, 10))
    with pytest.raises(TaskNotFound):
        cancel(small.db, staged[0])


def test_a_slot_stays_free_though_nothing_tells_any_more_how_it_became_so(small: Stage) -> None:
    small.set_org("a", burst_max=1)
    small.enqueue(1)
    leader = small.leader()
    assert leader.drain_ticks() == 1
    ack(small.db, claim(small.db, 1))
    # It learns of that, and has nothing to admit; then nothing comes for long.
    assert leader.tick().settled == 1
    leader.reign.sweep()
    age(small)
    assert drop(small, Partition(0, WIDTH))
    leader.close()
    small.enqueue(1)
    assert small.leader().drain_ticks() == 1


def test_one_task_that_waits_for_long_does_not_keep_all_that_came_after_it(small: Stage) -> None:
    small.enqueue(1, delay=365 * 86400)
    small.enqueue(25)
    end_all(small)
    age(small)
    chores = Chores(
        small.dsn, Settings(retention={"task_s": KEEP_S, "attempt_s": KEEP_S}), lambda: [1]
    )
    chores.start()
    try:
        chores.drop_partitions()
    finally:
        chores.stop()
    assert "task_p10" not in partitions(small)
    assert small.one("select count(*) from orchestrator.scheduled_queue") == 1
    check(small.db)


def test_old_lines_of_the_logs_are_trimmed(stage: Stage) -> None:
    leader = stage.leader()
    stage.enqueue(1)
    leader.drain_ticks()
    stage.set_org("a", burst_max=1)
    logs = ("tick_log", "leadership_log", "audit_log")
    for log in logs:
        stage.do(f"update orchestrator.{log} set at = at - interval '2 hours'")
    stage.enqueue(1, "b")
    leader.drain_ticks()
    run(stage.db, retention.trim(ticks_s=KEEP_S, leadership_s=3 * KEEP_S, audit_s=KEEP_S))
    counts = {log: stage.one(f"select count(*) from orchestrator.{log}") for log in logs}
    assert counts == {"tick_log": 1, "leadership_log": 1, "audit_log": 0}
