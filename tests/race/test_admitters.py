"""Ten sessions that each believe they lead: caps hold, and no epoch admits after a younger one."""

from __future__ import annotations

import random
from concurrent.futures import Future
from functools import partial
from threading import Event
from typing import Any

from orchestrator.errors import LeadershipLost
from tests.support.invariants import check
from tests.support.stage import Stage
from tests.support.stepping import SteppedLeader, ack, claim
from tests.support.waiting import PATIENCE_S, until

ADMITTERS = 10
CAPS = {"a": 3, "b": 5, "c": 2}
ENDED = "select count(*) from orchestrator.task_attempt where final"


def admit(stage: Stage, seed: int, over: Event) -> int:
    """Stand and admit again and again; return how often the fence refused."""
    draw = random.Random(seed)
    refused = 0
    while not over.is_set():
        before = ticks(stage)
        leader = stage.candidate()
        try:
            leader.elect(lock=False)
            for _ in range(draw.randint(1, 3)):
                tick_until_something_is_admitted(leader, over)
        except LeadershipLost:
            refused += 1
        finally:
            leader.close()
        # Then it is somebody else's turn, or they would depose one another for ever.
        until(partial(moved_on, stage, over, before), "somebody admits")
    return refused


def tick_until_something_is_admitted(leader: SteppedLeader, over: Event) -> None:
    while not over.is_set() and not leader.tick().admitted:
        pass


def moved_on(stage: Stage, over: Event, seen: int) -> bool:
    return over.is_set() or ticks(stage) > seen


def ticks(stage: Stage) -> int:
    return int(stage.one("select count(*) from orchestrator.tick_log"))


def work(stage: Stage, over: Event) -> None:
    connection = stage.connect()
    while not over.is_set():
        ack(connection, claim(connection, 2))


def watch(stage: Stage, over: Event) -> None:
    """Look at every org's slots all the time."""
    connection = stage.connect()
    query = "select org_id, count(*) from orchestrator.task_queue group by org_id"
    while not over.is_set():
        for org, held in connection.execute(query).fetchall():
            assert held <= CAPS[org]


def test_ten_would_be_leaders_admit_no_task_twice_and_none_over_a_cap(stage: Stage) -> None:
    for org, cap in CAPS.items():
        stage.set_org(org, burst_max=cap)
    staged = [task_id for org in CAPS for task_id in stage.enqueue(25, org)]
    over = Event()
    admitters = [stage.start(admit, stage, seed, over) for seed in range(ADMITTERS)]
    others = [stage.start(work, stage, over), stage.start(watch, stage, over)]
    running: list[Future[Any]] = [*admitters, *others]
    try:
        until(
            lambda: stage.one(ENDED) == len(staged) or any(thread.done() for thread in running),
            "every task has ended",
        )
    finally:
        over.set()
    for other in others:
        other.result(PATIENCE_S)
    assert sum(admitter.result(PATIENCE_S) for admitter in admitters) > 0
    check(stage.db)
    finals = stage.rows("select task_id from orchestrator.task_attempt where final")
    assert sorted(task_id for (task_id,) in finals) == sorted(staged)
    # In the order of the admissions, the epoch never goes back.
    logged = stage.rows("select epoch, admitted from orchestrator.tick_log order by admit_seq")
    epochs = [epoch for epoch, _ in logged]
    assert epochs == sorted(epochs)
    assert len(set(epochs)) > 1
    assert sum(admitted for _, admitted in logged) == len(staged)
