"""Leaders that each believe they lead: who works and watches beside them, and what must hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from threading import Event
from typing import Any

from tests.support.invariants import check
from tests.support.stage import Stage
from tests.support.stepping import ack, claim
from tests.support.waiting import until


def work(stage: Stage, over: Event) -> None:
    """Claim and acknowledge until it is over."""
    connection = stage.connect()
    while not over.is_set():
        ack(connection, claim(connection, 2))


def watch(stage: Stage, caps: Mapping[str, int], over: Event) -> int:
    """Look all the time whether any org holds more slots than it may; return how often."""
    connection = stage.connect()
    query = "select org_id, count(*) from orchestrator.task_queue group by org_id"
    looks = 0
    while not over.is_set():
        for org, held in connection.execute(query).fetchall():
            assert held <= caps[org], f"{org} holds {held}"
        looks += 1
    return looks


def stage_capped(stage: Stage, caps: Mapping[str, int], count: int) -> list[int]:
    """Give each org its cap and stage `count` tasks of it; return their ids."""
    for org, cap in caps.items():
        stage.set_org(org, burst_max=cap)
    return [task_id for org in caps for task_id in stage.enqueue(count, org)]


def until_all_ended(
    stage: Stage, staged: Sequence[int], running: Sequence[Future[Any]], over: Event
) -> None:
    """Let them run until every task has ended or one of them has; then it is over."""
    ended = "select count(*) from orchestrator.task_attempt where final"
    try:
        until(
            lambda: stage.one(ended) == len(staged) or any(each.done() for each in running),
            "every task has ended",
        )
    finally:
        over.set()


def check_terms(stage: Stage, staged: Sequence[int]) -> None:
    """Check that each task was admitted once and ended once, and that no epoch ever went back."""
    check(stage.db)
    finals = stage.rows("select task_id from orchestrator.task_attempt where final")
    assert sorted(task_id for (task_id,) in finals) == sorted(staged)
    # In the order of the admissions.
    logged = stage.rows("select epoch, admitted from orchestrator.tick_log order by admit_seq")
    epochs = [epoch for epoch, _ in logged]
    assert epochs == sorted(epochs)
    assert len(set(epochs)) > 1
    assert sum(admitted for _, admitted in logged) == len(staged)
