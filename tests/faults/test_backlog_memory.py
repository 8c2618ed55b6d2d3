"""What a replica holds in memory beside a million staged tasks."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from benchmarks.load import stage_tasks
from benchmarks.processes import memory
from tests.faults.chaos.server import Server
from tests.faults.test_servers import command, one
from tests.support.stepping import ack, claim
from tests.support.waiting import until

pytestmark = pytest.mark.faults
TASKS, ORGS = 1_000_000, 1_000
MOST = 200e6
ADMITTED = "select admit_seq from orchestrator.queue_state where queue = 1 and %s"
STAGED = "select count(*) from orchestrator.staging_queue where %s"


def test_a_replica_beside_a_million_staged_tasks_stays_below_200_mb(tmp_path: Path) -> None:
    with Server({"synchronous_commit": "off", "shared_buffers": "256MB"}) as server:
        server.make_template()
        dsn = server.dsn(server.create())
        with psycopg.connect(dsn, autocommit=True) as db:
            stage_tasks(db, TASKS, ORGS)
            db.execute("analyze orchestrator.staging_queue")
        with command(dsn, tmp_path, "run") as replica:
            # It has loaded every org, and has filled what may be ready.
            until(lambda: one(dsn, ADMITTED, True) > 0, "it admits", patience_s=40)
            with psycopg.connect(dsn, autocommit=True) as db:
                drain(db)
            assert one(dsn, ADMITTED, True) > 1_000
            found = memory(replica)
            assert found.peak < MOST, found
        assert (
            one(dsn, "select count(*) from orchestrator.staging_queue where %s", True) > TASKS / 2
        )


def drain(db: psycopg.Connection[tuple[object, ...]]) -> None:
    """Work as fast as the replica admits, for some thousands of tasks."""
    done = 0
    while done < 5_000:
        claims = claim(db, 500)
        ack(db, claims)
        done += len(claims)
