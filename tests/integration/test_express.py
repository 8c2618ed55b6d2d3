"""The express range of the task queue: claimed first, claimed alone, and never claimed twice."""

from __future__ import annotations

import re
from typing import Any
from uuid import uuid4

import pytest
from psycopg import Connection

from orchestrator.leader.admissions import dispatch_key
from orchestrator.model import PRIORITY_MAX, PRIORITY_MIN, Claim
from orchestrator.store import queue
from orchestrator.store.names import (
    EXPRESS_SHIFT,
    MAIN_MIN,
    express_floor_sequence,
    floor_sequence,
)
from orchestrator.store.sql import Batch, Call, run
from tests.support.ready import put_ready
from tests.support.stage import Stage


def claim(
    connection: Connection[Any],
    limit: int,
    *,
    main_limit: int | None = None,
    express_limit: int | None = None,
) -> list[int]:
    """Claim from the default queue; return the ids."""
    operation = queue.claim(
        1,
        "default",
        uuid4(),
        limit=limit,
        lease_s=30,
        worker="test",
        main_limit=main_limit,
        express_limit=express_limit,
    )
    claims: list[Claim] = run(connection, operation)
    return [claimed.id for claimed in claims]


def test_no_ordinary_key_is_in_the_express_range_nor_the_other_way_round() -> None:
    kappa_max, seq_max = 1_000_000, 2**56
    for priority in (PRIORITY_MIN, PRIORITY_MAX):
        for seq in (0, seq_max):
            for kappa in (0, kappa_max):
                key = dispatch_key(seq, kappa, priority)
                assert MAIN_MIN <= key < 2**63
                assert -(2**63) <= key - EXPRESS_SHIFT < MAIN_MIN


def test_express_work_is_claimed_before_ordinary_work_that_is_older(stage: Stage) -> None:
    ordinary = put_ready(stage, 3)
    express = put_ready(stage, 2, express=True)
    assert claim(stage.db, 1) == express[:1]
    assert claim(stage.db, 3) == [*express[1:], *ordinary[:2]]
    assert claim(stage.db, 3) == ordinary[2:]


def test_a_batch_that_mixes_both_is_one_lease(stage: Stage) -> None:
    ordinary = put_ready(stage, 2)
    express = put_ready(stage, 2, express=True)
    assert claim(stage.db, 10) == [*express, *ordinary]
    ((keys, ids),) = stage.rows("select dispatch_keys, task_ids from orchestrator.lease")
    assert ids == [*express, *ordinary]
    assert keys == sorted(keys)


@pytest.mark.parametrize("limit", [1, 2, 50])
def test_who_has_no_slot_for_ordinary_work_gets_express_work_alone(
    stage: Stage, limit: int
) -> None:
    put_ready(stage, 3)
    express = put_ready(stage, 2, express=True)
    assert claim(stage.db, limit, main_limit=0) == express[:limit]
    assert claim(stage.db, limit, main_limit=0) == express[limit:]
    assert claim(stage.db, limit, main_limit=0) == []


@pytest.mark.parametrize(
    ("limit", "main", "express", "taken"),
    [
        (10, 1, None, (4, 1)),
        (10, None, 1, (1, 5)),
        (5, 3, None, (4, 1)),
        (5, 4, 2, (2, 3)),
        (2, None, None, (2, 0)),
        # A part is never more than the whole.
        (3, 100, 100, (3, 0)),
    ],
)
def test_each_limit_holds(
    stage: Stage, limit: int, main: int | None, express: int | None, taken: tuple[int, int]
) -> None:
    put_ready(stage, 5)
    put_ready(stage, 4, express=True)
    claim(stage.db, limit, main_limit=main, express_limit=express)
    counts = stage.rows(
        "select count(*) filter (where reserved), count(*) filter (where not reserved)"
        " from orchestrator.task_queue where claim_id is not null"
    )
    assert counts == [taken]


def test_what_another_claim_holds_is_passed_over_in_both_ranges(stage: Stage) -> None:
    ordinary = put_ready(stage, 2)
    express = put_ready(stage, 2, express=True)
    other = stage.connect()
    with other.transaction(force_rollback=True):
        assert claim(other, 1) == express[:1]
        assert claim(stage.db, 2) == [express[1], ordinary[0]]
    assert claim(stage.db, 5) == [express[0], ordinary[1]]


def test_an_expired_express_task_is_not_claimed(stage: Stage) -> None:
    put_ready(stage, express=True, expires_at="-infinity")
    (ordinary,) = put_ready(stage)
    assert claim(stage.db, 5) == [ordinary]


# The plan ----------------------------------------------------------------------------------------

Node = dict[str, Any]
ROWS = 2_000


def fill(stage: Stage, *, express: int, stale: bool) -> None:
    """Put in both kinds, the first half claimed and below the floors; the planner may believe that
    there are none.
    """
    stage.do("alter table orchestrator.task_queue set (autovacuum_enabled = off)")
    if stale:
        stage.do("analyze orchestrator.task_queue")
    for count, is_express, floor in (
        (ROWS, False, floor_sequence(1)),
        (express, True, express_floor_sequence(1)),
    ):
        put_ready(stage, count, express=is_express)
        keys = stage.rows(
            "select dispatch_key from orchestrator.task_queue"
            " where (dispatch_key < %s) = %s order by 1",
            MAIN_MIN,
            is_express,
        )
        middle = keys[count // 2][0] if keys else 16 * ROWS - EXPRESS_SHIFT
        stage.do("select setval(%s::regclass, %s)", floor, middle)
        stage.do(
            "update orchestrator.task_queue set claim_id = gen_random_uuid()"
            " where dispatch_key < %s and (dispatch_key < %s) = %s",
            middle,
            MAIN_MIN,
            is_express,
        )
    if not stale:
        stage.do("analyze orchestrator.task_queue")


def arms(stage: Stage, limit: int, *, main: int) -> dict[str, Node]:
    """Run a claim, undone afterwards; return the plan nodes of its two arms by name."""
    quota = queue.Quota(limit, main, limit)
    taking = queue.take(
        1, "default", uuid4(), quota=quota, lease_s=30, worker="test", few=limit <= queue.FEW
    )
    request = next(taking)
    call = request.calls[0] if isinstance(request, Batch) else request
    assert isinstance(call, Call)
    explain = b"explain (analyze, buffers, timing off, format json) " + call.statement
    with stage.db.transaction(force_rollback=True):
        row = stage.db.execute(explain, call.params).fetchone()
    assert row is not None
    found: dict[str, Node] = {}
    _collect(row[0][0]["Plan"], found)
    return found


def _collect(node: Node, found: dict[str, Node]) -> None:
    if node["Node Type"] == "Subquery Scan" and node["Alias"] in ("express", "main"):
        found[node["Alias"]] = node
    for child in node.get("Plans", []):
        _collect(child, found)


def _scan(node: Node) -> Node:
    """Return the index scan below an arm; there is nothing else that reads the table."""
    return node if node["Node Type"] == "Index Scan" else _scan(node["Plans"][-1])


@pytest.mark.parametrize("stale", [False, True], ids=["fresh statistics", "stale statistics"])
@pytest.mark.parametrize("limit", [1, 10, 600])
def test_both_arms_are_index_scans_from_their_floors_on(
    stage: Stage, stale: bool, limit: int
) -> None:
    fill(stage, express=ROWS, stale=stale)
    for main in (0, limit):
        for name, arm in arms(stage, limit, main=main).items():
            scan = _scan(arm)
            assert scan["Index Name"] == "task_queue_pkey"
            bounds = re.findall(r"dispatch_key (>=|<) ", scan["Index Cond"])
            assert bounds == ([">=", "<"] if name == "express" else [">="])
            # What lies below the floor is claimed: none of it was read.
            assert scan.get("Rows Removed by Filter", 0) == 0


@pytest.mark.parametrize("stale", [False, True], ids=["fresh statistics", "stale statistics"])
def test_ordinary_work_is_not_looked_at_once_express_work_fills_the_claim(
    stage: Stage, stale: bool
) -> None:
    fill(stage, express=ROWS, stale=stale)
    plan = arms(stage, 10, main=10)
    assert plan["express"]["Actual Rows"] == 10
    assert plan["main"]["Actual Loops"] == 0
    # Nor where none is asked for, whatever there is.
    plan = arms(stage, 5_000, main=0)
    assert _scan(plan["main"])["Actual Loops"] == 0


@pytest.mark.parametrize("stale", [False, True], ids=["fresh statistics", "stale statistics"])
def test_an_empty_express_range_costs_next_to_nothing(stage: Stage, stale: bool) -> None:
    fill(stage, express=0, stale=stale)
    arms(stage, 10, main=10)  # reads what a session reads once
    plan = arms(stage, 10, main=10)
    assert plan["main"]["Actual Rows"] == 10
    express = plan["express"]
    assert express["Shared Hit Blocks"] + express["Shared Read Blocks"] <= 3
