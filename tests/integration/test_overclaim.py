"""A claim never takes more than was asked for, whatever the planner believes of the table."""

from __future__ import annotations

from typing import Any, LiteralString
from uuid import uuid4

import psycopg
import pytest
from psycopg import Connection

from orchestrator.model import Claim
from orchestrator.store import queue
from orchestrator.store.names import EXPRESS_SHIFT
from orchestrator.store.sql import run, session_options
from tests.support.stage import Stage

ROWS = 50
# So many of them are express: their keys come first.
EXPRESS = 20
KEYS = [n - EXPRESS_SHIFT if n <= EXPRESS else n for n in range(1, ROWS + 1)]
# The ways queues on PostgreSQL are usually written. A nested loop runs the inner query again for
# each row of the outer one, and each run skips what the one before took: all rows are claimed.
UNSAFE: dict[str, LiteralString] = {
    "in": """
        update orchestrator.task_queue set claim_id = %(claim_id)s
         where queue = 1 and dispatch_key in (
           select dispatch_key from orchestrator.task_queue
            where queue = 1 and claim_id is null and expires_at > clock_timestamp()
            order by queue, dispatch_key limit %(limit)s for update skip locked)
        returning dispatch_key""",
    "from": """
        update orchestrator.task_queue q set claim_id = %(claim_id)s
          from (select dispatch_key from orchestrator.task_queue
                 where queue = 1 and claim_id is null and expires_at > clock_timestamp()
                 order by queue, dispatch_key limit %(limit)s for update skip locked) picked
         where q.queue = 1 and q.dispatch_key = picked.dispatch_key
        returning q.dispatch_key""",
    "in, by place": """
        update orchestrator.task_queue set claim_id = %(claim_id)s
         where queue = 1 and ctid in (
           select ctid from orchestrator.task_queue
            where queue = 1 and claim_id is null and expires_at > clock_timestamp()
            order by queue, dispatch_key limit %(limit)s for update skip locked)
        returning dispatch_key""",
    "from, by place": """
        update orchestrator.task_queue q set claim_id = %(claim_id)s
          from (select ctid as place from orchestrator.task_queue
                 where queue = 1 and claim_id is null and expires_at > clock_timestamp()
                 order by queue, dispatch_key limit %(limit)s for update skip locked) picked
         where q.queue = 1 and q.ctid = picked.place
        returning q.dispatch_key""",
}
SESSIONS: dict[str, dict[str, str] | None] = {
    "pinned": {},
    "as the server has it": None,
    "bent to nested loops": {
        "enable_hashjoin": "off",
        "enable_mergejoin": "off",
        "enable_material": "off",
        "enable_hashagg": "off",
        "enable_sort": "off",
    },
    "without tid scans": {"enable_tidscan": "off", "enable_indexscan": "off"},
    "planned anew": {"plan_cache_mode": "force_custom_plan"},
}


def make_ready(stage: Stage, *, stale: bool) -> None:
    """Put `ROWS` tasks into the task queue, which the planner may believe to be empty."""
    stage.do("alter table orchestrator.task_queue set (autovacuum_enabled = off)")
    if stale:
        stage.do("analyze orchestrator.task_queue")
    stage.do(
        "insert into orchestrator.task_queue (queue, dispatch_key, task_id, org_id, workload,"
        " priority, attempt, lost, expires_at, charged_us, weight, share, reserved)"
        " select 1, key, n, 'a', 'etl', 5, 0, 0, 'infinity', 1, 1, 1, false"
        " from unnest(%s::bigint[]) with ordinality as k (key, n)",
        KEYS,
    )
    if not stale:
        stage.do("analyze orchestrator.task_queue")


def session(stage: Stage, settings: dict[str, str] | None) -> Connection[Any]:
    """Return a session with our pins and `settings`, or without any where they are None."""
    options = "" if settings is None else session_options(settings)
    return psycopg.connect(stage.dsn, autocommit=True, options=options)


def claim(
    connection: Connection[Any], limit: int, *, main: int | None = None, few: bool = False
) -> list[Claim]:
    quota = queue.Quota(limit, limit if main is None else min(limit, main), limit)
    operation = queue.take(1, "default", uuid4(), quota=quota, lease_s=30, worker="test", few=few)
    claimed: list[Claim] = run(connection, operation)
    return claimed


@pytest.mark.parametrize("shape", UNSAFE)
def test_the_usual_shapes_claim_everything_when_statistics_are_stale(
    stage: Stage, shape: str
) -> None:
    make_ready(stage, stale=True)
    with session(stage, None) as connection:
        claimed = connection.execute(UNSAFE[shape], {"claim_id": uuid4(), "limit": 2}).fetchall()
    assert len(claimed) == ROWS


@pytest.mark.parametrize("few", [False, True], ids=["many", "few"])
@pytest.mark.parametrize("stale", [False, True], ids=["fresh statistics", "stale statistics"])
@pytest.mark.parametrize("settings", SESSIONS)
def test_our_claim_takes_what_was_asked_for(
    stage: Stage, settings: str, stale: bool, few: bool
) -> None:
    make_ready(stage, stale=stale)
    with session(stage, SESSIONS[settings]) as connection:
        for limit in (1, 2, 3, ROWS - 1, ROWS, ROWS + 1, 10_000):
            with connection.transaction(force_rollback=True):
                claims = claim(connection, limit, few=few)
                assert [c.dispatch_key for c in claims] == KEYS[:limit]
                leased = connection.execute("select dispatch_keys from orchestrator.lease")
                assert leased.fetchall() == [([c.dispatch_key for c in claims],)]


@pytest.mark.parametrize("few", [False, True], ids=["many", "few"])
@pytest.mark.parametrize("stale", [False, True], ids=["fresh statistics", "stale statistics"])
@pytest.mark.parametrize("settings", SESSIONS)
def test_ordinary_work_is_limited_by_itself(
    stage: Stage, settings: str, stale: bool, few: bool
) -> None:
    make_ready(stage, stale=stale)
    with session(stage, SESSIONS[settings]) as connection:
        for limit, main in ((ROWS, 0), (1, 0), (ROWS, 1), (EXPRESS + 2, 5), (ROWS, 10_000)):
            with connection.transaction(force_rollback=True):
                claims = claim(connection, limit, main=main, few=few)
                assert [c.dispatch_key for c in claims] == KEYS[: min(limit, EXPRESS + main)]


@pytest.mark.parametrize("few", [False, True], ids=["many", "few"])
def test_nothing_ready_leases_nothing(stage: Stage, few: bool) -> None:
    with session(stage, {}) as connection:
        assert claim(connection, 10, few=few) == []
    assert stage.one("select count(*) from orchestrator.lease") == 0
