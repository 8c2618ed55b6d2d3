"""`task cancel --older-than`: what has waited too long is dropped, scoped, and with its reason."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.cli import batch
from orchestrator.model import AttemptStatus, Place
from orchestrator.store import tasks
from orchestrator.store.sql import run
from tests.acceptance.cli import Shell
from tests.support.fixtures import stage
from tests.support.stage import Stage
from tests.support.stepping import claim

__all__ = ["stage"]


@pytest.fixture
def shell(stage: Stage, tmp_path: Any) -> Shell:
    """Return a shell on the stage's database."""
    return Shell(stage.dsn, tmp_path)


def age(stage: Stage, ids: list[int]) -> None:
    """Let these tasks have been enqueued an hour ago."""
    stage.do(
        "update orchestrator.task set created_at = created_at - interval '1 hour'"
        " where id = any (%s)",
        ids,
    )


def status(stage: Stage, task_id: int) -> Any:
    info = run(stage.db, tasks.get(task_id))
    return info.status or info.place


def test_only_what_waits_and_is_older_is_dropped_with_its_reason(
    stage: Stage, shell: Shell
) -> None:
    running, ready = stage.enqueue(2)
    leader = stage.leader()
    leader.drain_ticks()
    claim(stage.db, 1)
    stale = stage.enqueue(1, critical=True) + stage.enqueue(1, delay=7200.0)
    others = stage.enqueue(1, "b")
    age(stage, [running, ready, *stale, *others])
    (fresh,) = stage.enqueue(1)
    chosen = "task cancel --org a --older-than 10m"
    would = shell(*chosen.split(), "--dry-run", "--json").json
    assert sorted(would["ids"]) == sorted([ready, *stale])
    assert shell(*chosen.split(), "--yes", "--json").json == {"cancelled": 3, "left": 0}
    assert [status(stage, task_id) for task_id in (ready, *stale)] == [AttemptStatus.CANCELLED] * 3
    assert [status(stage, task_id) for task_id in (running, *others, fresh)] == [
        Place.CLAIMED,
        Place.STAGED,
        Place.STAGED,
    ]
    reasons = stage.rows("select distinct error from orchestrator.task_attempt")
    assert reasons == [("waited longer than 10m",)]
    # Nobody scoped it further, and another reason was given.
    said = shell("task", "cancel", "--older-than", "10m", "--reason", "too late", "--yes").out
    assert said == "1 cancelled, 0 left: they moved on meanwhile\n"
    assert stage.one("select error from orchestrator.task_attempt where org_id = 'b'") == "too late"


def test_what_was_claimed_between_look_and_drop_is_left_alone(stage: Stage) -> None:
    (task_id,) = stage.enqueue(1)
    stage.leader().drain_ticks()
    claim(stage.db, 1)
    dropping = batch.Dropping(stage.db, "stale")
    dropping.many("default", [task_id])
    assert dropping.counts == {"cancelled": 0, "left": 1}
    assert status(stage, task_id) is Place.CLAIMED
    assert stage.one("select cancelled from orchestrator.lease") == []


def test_what_runs_is_not_stale(shell: Shell) -> None:
    asked = "task cancel --older-than 10m --status claimed"
    assert "--older-than is for what waits" in shell.refused(*asked.split(), code=2)
