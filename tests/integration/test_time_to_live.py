"""A time to live: the database's clock starts with the enqueue, and ends what nobody claimed."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator import AttemptStatus, Client, TaskSpec
from orchestrator.leader.replica import Replica
from tests.integration.conftest import ask
from tests.support.waiting import until


@pytest.mark.parametrize("extra", [{}, {"idempotency_key": "k"}, {"delay": 5.0}], ids=str)
def test_it_counts_from_the_enqueue_by_the_databases_clock(
    client: Client, dsn: str, extra: dict[str, Any]
) -> None:
    # Alone and in a batch: two statements.
    one = client.enqueue("t", org="a", expires_in=60, **extra)
    specs = [TaskSpec(name="t", org="b", expires_in=60, **extra), TaskSpec(name="t", org="b")]
    other, endless = client.enqueue_many(specs)
    life = "select extract(epoch from expires_at - created_at) from orchestrator.task where id = %s"
    for task in (one, other):
        assert ask(dsn, life, task.id) == pytest.approx(60, abs=0.5)
    assert client.get(endless.id).expires_at is None
    place = "scheduled" if "delay" in extra else "staging"
    waits = f"select expires_at from orchestrator.{place}_queue where task_id = %s"
    assert ask(dsn, waits, one.id) == client.get(one.id).expires_at


def test_what_nobody_claimed_in_time_ends(replica: Replica, client: Client) -> None:
    client.pause_org("a")
    task = client.enqueue("t", org="a", urgency="info", expires_in=0.05)
    assert client.get(task.id).priority == 1
    until(lambda: client.get(task.id).status is AttemptStatus.EXPIRED, "its time is over")


def test_the_depth_told_to_a_producer_leaves_out_what_has_expired(client: Client, dsn: str) -> None:
    # Without a leader: nobody ends them.
    for _ in range(3):
        client.enqueue("t", org="a", expires_in=0.001)
    gone = "select count(*) from orchestrator.task where expires_at < clock_timestamp()"
    until(lambda: ask(dsn, gone) == 3, "their time is over")
    assert client.enqueue("t", org="a", expires_in=3600, with_depth=True).depth == 1
    assert client.enqueue("t", org="a", with_depth=True).depth == 2
