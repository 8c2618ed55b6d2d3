"""What `status` tells: in which order, of which tasks, and at what cost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from psycopg import Connection

from orchestrator.model import AttemptStatus, Place, QueueConfig
from orchestrator.store import leadership, loads, orgs, queue
from orchestrator.store.loads import QUIET_BELOW
from orchestrator.store.queue import Ending
from orchestrator.store.sql import run
from orchestrator.store.status import SQL, QueueStatus, queue_status, unfinished
from tests.acceptance.cli import Shell
from tests.support.stage import Stage
from tests.support.stepping import claim

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


@pytest.fixture
def stage(dsn: str) -> Iterator[Stage]:
    with Stage(dsn) as opened:
        yield opened


def ask(db: Connection[Any], number: int = 0) -> QueueStatus:
    queues: list[QueueConfig] = run(db, leadership.queues())
    with db.transaction():
        status: QueueStatus = run(db, queue_status(queues[number]))
    return status


def make_older(stage: Stage, ids: list[int], seconds: int) -> None:
    stage.do(
        "update orchestrator.task set created_at = created_at - %s * interval '1 second'"
        " where id = any (%s)",
        seconds,
        ids,
    )


def oldest(status: QueueStatus) -> tuple[int | None, int | None]:
    """Return the ids of the oldest waiting task, overall and of quiet orgs."""
    overall, quiet = status.oldest, status.oldest_quiet
    return overall.id if overall else None, quiet.id if quiet else None


# The order


def test_the_order_of_the_answers_is_fixed(dsn: str, tmp_path: Path, stage: Stage) -> None:
    stage.enqueue(3, "acme")
    out = Shell(dsn, tmp_path)("status").out
    answers = [
        "oldest waiting",
        "oldest of quiet orgs",
        "backlog",
        "slots",
        "acme ",
        "in / out",
        "leader",
        "expired leases",
        "dead letters",
    ]
    places = [out.index(answer) for answer in answers]
    assert places == sorted(places)
    assert "NOBODY" in out


def test_json_has_the_same_keys_whether_there_is_work_or_not(
    dsn: str, tmp_path: Path, stage: Stage
) -> None:
    shell = Shell(dsn, tmp_path)
    (idle,) = shell("status", "--json").json["queues"]
    stage.enqueue(3, "acme", priority=7)
    stage.leader().drain_ticks()
    (busy,) = shell("status", "--queue", "default", "--json").json["queues"]
    assert list(busy) == list(idle)
    assert idle["oldest_waiting"] is None
    assert busy["oldest_waiting"]["priority"] == 7
    assert busy["slots"] == {"ready": 3, "claimed": 0, "capacity": None}
    assert (busy["leader"]["alive"], busy["leader"]["epoch"]) == (True, 1)
    assert busy["last_tick"]["admitted"] == 3
    assert json.dumps(busy).isascii()


def test_an_unknown_queue_is_refused(dsn: str, tmp_path: Path) -> None:
    assert "no queue 'nope'" in Shell(dsn, tmp_path).refused("status", "--queue", "nope", code=1)


# Who waits


def test_the_oldest_of_quiet_orgs_is_not_hidden_by_a_flood(stage: Stage) -> None:
    flood = stage.enqueue(QUIET_BELOW, "flood")
    (quiet,) = stage.enqueue(1, "quiet")
    assert oldest(ask(stage.db)) == (flood[0], quiet)


def test_the_oldest_is_found_behind_newer_tasks_of_higher_priority(stage: Stage) -> None:
    (old,) = stage.enqueue(1, "a", priority=1)
    stage.enqueue(5, "a", priority=9)
    stage.enqueue(5, "a", workload="api")
    assert oldest(ask(stage.db)) == (old, old)


def test_a_paused_org_does_not_count_as_waiting(stage: Stage) -> None:
    stage.enqueue(1, "paused")
    (waiting,) = stage.enqueue(1, "a")
    with stage.db.transaction():
        run(stage.db, orgs.pause_org("paused", None, actor="test"))
    assert oldest(ask(stage.db)) == (waiting, waiting)


def test_a_ready_task_waits_and_a_claimed_one_does_not(stage: Stage) -> None:
    first, second = stage.enqueue(2, "a")
    stage.leader().drain_ticks()
    assert oldest(ask(stage.db)) == (first, first)
    claim(stage.db, 1)
    assert oldest(ask(stage.db)) == (second, second)


def test_a_task_waits_since_it_was_due_not_since_it_was_enqueued(stage: Stage) -> None:
    (scheduled,) = stage.enqueue(1, "scheduler", delay=1000.0)
    (plain,) = stage.enqueue(1, "a")
    make_older(stage, [scheduled, plain], 60)
    stage.do("update orchestrator.task set run_at = clock_timestamp() where id = %s", scheduled)
    stage.do("update orchestrator.scheduled_queue set run_at = clock_timestamp()")
    assert run(stage.db, queue.promote(1, since=LONG_AGO, limit=9)) == 1
    status = ask(stage.db)
    assert status.oldest is not None
    assert status.oldest.id == plain
    assert status.oldest.age_s > 59


# Who holds the slots


def test_shares_are_compared_with_what_weight_and_demand_give(stage: Stage) -> None:
    stage.set_org("big", tier="enterprise")
    stage.set_org("capped", tier="enterprise", burst_max=2)
    for org in ("big", "capped", "small"):
        stage.enqueue(50, org)
    stage.set_queue(capacity=14)
    stage.leader().drain_ticks()
    claim(stage.db, 4)
    status = ask(stage.db)
    held = {org.org: org for org in status.orgs}
    assert sum(org.in_flight for org in status.orgs) == 14
    assert sum(org.claimed for org in status.orgs) == 4
    assert (held["capped"].in_flight, held["capped"].burst_max) == (2, 2)
    assert held["capped"].share == held["capped"].fair_share == pytest.approx(2 / 14)
    assert held["big"].fair_share == pytest.approx(10 / 14)  # 10 to 2 of the 12 that are left
    assert held["small"].fair_share == pytest.approx(2 / 14)
    assert (held["big"].tier, held["small"].tier) == ("enterprise", "standard")
    assert [org.in_flight for org in status.orgs] == sorted(
        (org.in_flight for org in status.orgs), reverse=True
    )


def test_a_short_backlog_is_exact_and_a_long_one_is_the_leaders_count(stage: Stage) -> None:
    stage.enqueue(QUIET_BELOW - 1, "short")
    stage.enqueue(300, "long")
    status = ask(stage.db)
    assert status.backlog == QUIET_BELOW - 1 + QUIET_BELOW  # nobody has counted further yet
    assert not status.backlog_exact
    stage.set_queue(capacity=20)
    stage.leader().drain_ticks()
    after = {org.org: org for org in ask(stage.db).orgs}
    assert after["short"].staged_exact
    assert after["long"].staged == 300 - after["long"].in_flight
    assert not after["long"].staged_exact


# What comes and goes


def test_rates_count_the_last_minute_of_this_queue_alone(stage: Stage) -> None:
    with stage.db.transaction():
        run(stage.db, orgs.set_queue("other", actor="test"))
    old = stage.enqueue(40)
    make_older(stage, old, 61)
    stage.enqueue(7)
    stage.leader().drain_ticks()
    taken = claim(stage.db, 30)
    ends = [
        (5, AttemptStatus.SUCCEEDED),
        (3, AttemptStatus.DISCARDED),
        (2, AttemptStatus.DEAD),
    ]
    done = 0
    for count, status in ends:
        endings = [
            Ending(each.dispatch_key, each.claim_id, status) for each in taken[done : done + count]
        ]
        run(stage.db, queue.finish(1, endings, worker="w"))
        done += count
    failed = [
        Ending(each.dispatch_key, each.claim_id, AttemptStatus.FAILED) for each in taken[10:14]
    ]
    with stage.db.transaction():
        run(stage.db, queue.give_back(1, failed, worker="w"))
    stage.do(
        "update orchestrator.task_attempt set ended_at = ended_at - interval '61 seconds'"
        " where status = 'succeeded'"
    )
    flow = ask(stage.db).flow
    assert flow.enqueued == 7
    assert flow.ended == 5
    assert flow.retried == 4
    assert flow.by_status == {
        AttemptStatus.DISCARDED: 3,
        AttemptStatus.DEAD: 2,
        AttemptStatus.FAILED: 4,
    }
    other = ask(stage.db, 1).flow
    assert (other.enqueued, other.ended, dict(other.by_status)) == (0, 0, {})


def test_expired_leases_and_what_was_lost_are_told(stage: Stage) -> None:
    stage.enqueue(4)
    stage.leader().drain_ticks()
    claim(stage.db, 1)
    claim(stage.db, 2)
    stage.expire_leases()
    claim(stage.db, 1)
    status = ask(stage.db)
    assert (status.leases, status.expired_leases) == (1, 2)
    with stage.db.transaction():
        run(stage.db, queue.reap(1, limit=10))
    status = ask(stage.db)
    assert (status.leases, status.expired_leases) == (1, 0)
    assert status.flow.by_status == {AttemptStatus.LOST: 3}
    assert status.flow.retried == 3


# What it costs


def test_no_question_walks_the_backlog(stage: Stage) -> None:
    for org in ("a", "b"):
        stage.do(
            "insert into orchestrator.staging_queue"
            " (queue, org_id, workload, neg_priority, task_id)"
            " select 1, %s, 'etl', -1 - n %% 3, nextval('orchestrator.task_id')"
            " from generate_series(1, 20000) n",
            org,
        )
    with stage.db.transaction():
        run(stage.db, _just(SQL.call("steady")))
        explain = b"explain (analyze, format json) " + loads.SQL["staged_flows"]
        row = stage.db.execute(explain, {"queue": 1, "most": QUIET_BELOW}).fetchone()
    assert row is not None
    assert _rows_touched(row[0][0]["Plan"]) < 20 * QUIET_BELOW


def test_windows_are_found_by_bisection_not_by_reading_all(stage: Stage) -> None:
    stage.do(
        "insert into orchestrator.task (queue, id, org_id, workload, priority, name, max_attempts,"
        " created_at) select 1, nextval('orchestrator.task_id'), 'a', 'etl', 5, 't', 5,"
        " clock_timestamp() - interval '1 hour' from generate_series(1, 20000)"
    )
    stage.enqueue(10)
    with stage.db.transaction():
        run(stage.db, _just(SQL.call("steady")))
        explain = b"explain (analyze, format json) " + SQL["enqueued"]
        row = stage.db.execute(explain, {"queue": 1, "window_s": 60.0}).fetchone()
    assert row is not None
    assert _rows_touched(row[0][0]["Plan"]) < 1_000


def _just(call: Any) -> Any:
    return (yield call)


def _rows_touched(plan: dict[str, Any]) -> float:
    """Return how many rows the scans of a plan returned or threw away, all loops together."""
    own = plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)
    below = sum(map(_rows_touched, plan.get("Plans", ())))
    return float(own * plan["Actual Loops"] + below)


# Which tasks a filter chooses


def test_a_filter_finds_tasks_in_every_place_page_by_page(stage: Stage) -> None:
    wanted = stage.enqueue(1_100, "a", workload="api") + stage.enqueue(1_100, "a", priority=9)
    stage.enqueue(5, "b")
    scheduled = stage.enqueue(3, "a", delay=60.0)

    def find(place: Place, org: str | None = "a", name: str | None = None) -> list[int]:
        found: list[int] = run(stage.db, unfinished(1, place, org=org, name=name))
        return found

    assert sorted(find(Place.STAGED)) == sorted(wanted)
    assert len(find(Place.STAGED, org=None)) == 2_205
    assert find(Place.STAGED, name="t") == find(Place.STAGED)
    assert find(Place.STAGED, name="other") == []
    assert find(Place.SCHEDULED) == scheduled
    stage.set_queue(ready_max=20)
    stage.leader().drain_ticks()
    assert len(find(Place.READY, org=None)) == 20
    claim(stage.db, 5)
    assert len(find(Place.CLAIMED, org=None)) == 5
    assert len(find(Place.READY, org=None)) == 15
