"""The database's clock jumps forward by an hour, as far as leases and delays can tell."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from orchestrator.client import Client
from tests.faults.chaos.server import Server
from tests.faults.judge import reading
from tests.faults.test_servers import TASK, finished, one, payload, working
from tests.support.waiting import until

pytestmark = pytest.mark.faults
# What is measured by the clock moves back, at one moment: to whoever looks, the clock is ahead. Due
# times move to the present and no further, as a leader remembers up to when it has looked. (Under
# libfaketime a server of ours stopped answering now and then.)
JUMP = """
with leases as (
  update orchestrator.lease set expires_at = expires_at - interval '1 hour' returning 1
), delays as (
  update orchestrator.scheduled_queue set run_at = clock_timestamp() returning 1
)
select (select count(*) from leases) * (select count(*) from delays) where %s
"""
LEASES = "select count(*) from orchestrator.lease where %s"
BEGUN = "select count(*) from orchestrator.task_queue where claim_id is not null and %s"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as started:
        started.make_template()
        yield started


def test_a_clock_that_jumps_forward_expires_leases_and_delays_and_loses_nothing(
    server: Server, tmp_path: Path
) -> None:
    dsn = server.dsn(server.create())
    with working(dsn, tmp_path), Client(dsn) as client:
        delayed = [client.enqueue(**TASK, payload=payload("late"), delay=1800).id for _ in range(5)]
        tasks = [client.enqueue(**TASK, payload=payload("long", ms=1500)).id for _ in range(3)]
        until(lambda: one(dsn, BEGUN, True) == len(tasks), "the long ones run", patience_s=40)
        assert one(dsn, JUMP, True) >= len(delayed)
        until(lambda: finished(dsn) == 8, "everything has run", patience_s=60)
    with psycopg.connect(dsn, autocommit=True) as connection:
        attempts = reading.attempts(connection)
        seen = reading.sample(connection)
    # Each ended once, some after their lease was over at a stroke.
    finals = [each for each in attempts if each.final]
    assert sorted(each.task for each in finals) == sorted(delayed + tasks)
    assert {each.status for each in finals} == {"succeeded"}
    # A task that lost its lease runs alone: what came with it is given back.
    others = {each.status for each in attempts if not each.final}
    assert "lost" in others
    assert others <= {"lost", "released"}
    assert [*seen.doubled, *seen.nowhere, *seen.shared, *seen.unleased] == []
    assert one(dsn, LEASES, True) == 0
