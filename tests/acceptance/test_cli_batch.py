"""Cancel and retry of many tasks at once: what each statement takes, frees and leaves alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator.model import AttemptStatus, Place
from orchestrator.store import batch, queue, tasks
from orchestrator.store.queue import Ending
from orchestrator.store.sql import run
from tests.support.stage import Stage
from tests.support.stepping import claim


@pytest.fixture
def stage(dsn: str) -> Iterator[Stage]:
    with Stage(dsn) as opened:
        yield opened


def cancel(stage: Stage, ids: list[int]) -> set[int]:
    with stage.db.transaction():
        gone: set[int] = run(stage.db, batch.cancel(1, ids, reason="enough"))
    return gone


def retry(stage: Stage, ids: list[int]) -> set[int]:
    with stage.db.transaction():
        staged: set[int] = run(stage.db, batch.retry(1, ids))
    return staged


def place(stage: Stage, task_id: int) -> Any:
    return run(stage.db, tasks.get(task_id)).place


def test_whatever_waits_is_cancelled_and_what_runs_is_left(stage: Stage) -> None:
    admitted = stage.enqueue(3)
    leader = stage.leader()
    leader.drain_ticks()
    (running,) = claim(stage.db, 1)
    staged = stage.enqueue(2, priority=9)
    lifted = stage.enqueue(1, "b")
    stage.do("update orchestrator.staging_queue set neg_priority = -11 where org_id = 'b'")
    scheduled = stage.enqueue(2, delay=60.0)
    kept = stage.enqueue(1)
    ids = admitted + staged + lifted + scheduled

    assert cancel(stage, [*ids, 987654321]) == set(ids) - {running.id}
    assert place(stage, running.id) is Place.CLAIMED
    assert place(stage, kept[0]) is Place.STAGED
    ended = stage.rows(
        "select status, final, error, dispatch_key is not null from orchestrator.task_attempt"
    )
    assert (
        sorted(ended)
        == [("cancelled", True, "enough", False)] * 5 + [("cancelled", True, "enough", True)] * 2
    )
    # The feed frees the slots of those that were admitted, and of no other.
    leader.drain_ticks()
    assert leader.sweep() == []
    assert cancel(stage, ids) == set()


def test_a_row_that_somebody_holds_is_passed_over_without_waiting(stage: Stage) -> None:
    ids = stage.enqueue(3)
    holder = stage.connect()
    with holder.transaction():
        holder.execute(
            b"select from orchestrator.staging_queue where task_id = %s for update", [ids[1]]
        )
        assert cancel(stage, ids) == {ids[0], ids[2]}
    assert place(stage, ids[1]) is Place.STAGED


def test_cancelling_frees_the_key_and_retrying_takes_it_again(stage: Stage) -> None:
    ids = [stage.enqueue(1, idempotency_key=f"k{n}")[0] for n in range(3)]
    assert cancel(stage, ids) == set(ids)
    (rival,) = stage.enqueue(1, idempotency_key="k1")
    assert retry(stage, [*ids, rival]) == {ids[0], ids[2]}
    held = stage.rows("select key, task_id from orchestrator.idempotency_key order by key")
    assert held == [("k0", ids[0]), ("k1", rival), ("k2", ids[2])]
    assert place(stage, ids[1]) is Place.ENDED


def test_only_what_has_ended_is_staged_again_and_once(stage: Stage) -> None:
    dead, running, *_ = stage.enqueue(2)
    leader = stage.leader()
    leader.drain_ticks()
    first, _ = claim(stage.db, 1), claim(stage.db, 1)
    ending = Ending(first[0].dispatch_key, first[0].claim_id, AttemptStatus.DEAD, "why")
    run(stage.db, queue.finish(1, [ending], worker="w"))
    scheduled = stage.enqueue(1, delay=60.0)
    waiting = stage.enqueue(1)
    everything = [dead, running, *scheduled, *waiting]
    assert retry(stage, everything) == {dead}
    assert retry(stage, everything) == set()
    assert place(stage, dead) is Place.STAGED
    leader.drain_ticks()
    assert place(stage, dead) is Place.READY
    assert retry(stage, everything) == set()
