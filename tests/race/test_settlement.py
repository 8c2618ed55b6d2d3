"""Attempts that ended are settled once, and all that a tick learnt is saved with it."""

from __future__ import annotations

import pytest

from orchestrator.leader import cut
from orchestrator.leader.window import WINDOW_MIN
from orchestrator.model import AttemptStatus
from orchestrator.store import queue
from orchestrator.store.sql import run
from tests.support.invariants import check
from tests.support.stage import Stage
from tests.support.stepping import ack, claim, endings


def test_an_attempt_that_ended_beside_an_open_transaction_frees_one_slot(stage: Stage) -> None:
    leader = stage.leader()
    stage.set_org("a", burst_max=3)
    stage.enqueue(10)
    assert leader.drain_ticks() == 3
    # It has an id before the ack gets its own, and is still open in every snapshot from now on.
    other = stage.connect()
    other.execute("begin")
    other.execute("select pg_current_xact_id()")
    ack(stage.db, claim(stage.db, 1))
    assert leader.drain_ticks() == 1
    for _ in range(3):
        assert leader.drain_ticks() == 0
    assert leader.scheduler.in_flight == 3
    other.execute("commit")
    assert leader.drain_ticks() == 0
    assert leader.sweep() == []
    check(stage.db)


def test_a_takeover_leaves_those_that_wait_where_they_stood(stage: Stage) -> None:
    leader = stage.leader()
    for org in ("a", "b"):
        stage.enqueue(200, org)
    for _ in range(2):
        leader.tick()
        claims = claim(stage.db, 100)
        ended = [one._replace(cost_us=1) for one in endings(claims, AttemptStatus.SUCCEEDED)]
        closing = sorted({one.claim_id for one in ended})
        assert len(run(stage.db, queue.finish(1, ended, worker="test", closing=closing))) > 1
    # Admissions were charged a guess; what they really took puts both below the virtual time.
    leader.tick()
    before = {org.org: org.main.tag for org in leader.scheduler.orgs.values() if org.main.eligible}
    assert set(before) == {"a", "b"}
    assert max(before.values()) < leader.scheduler.virtual_time
    successor = stage.leader(lock=False)
    successor.scheduler.wake()
    assert {org.org: org.main.tag for org in successor.scheduler.orgs.values()} == before


def test_orgs_that_come_by_the_thousand_are_saved_in_portions_and_the_watchdog_hears_of_each(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cut, "ORGS_AT_ONCE", 7)
    heard: list[int] = []
    leader = stage.candidate(alive=lambda: heard.append(1)).elect()
    orgs = [f"org {number}" for number in range(50)]
    for org in orgs:
        stage.enqueue(2, org)
    before = len(heard)
    assert leader.tick().admitted == WINDOW_MIN
    # 50 orgs, seven a statement; the last ones go with the admissions.
    assert len(heard) - before >= 50 // 7
    assert stage.one("select count(*) from orchestrator.org_state") == 50
    successor = stage.leader(lock=False)
    successor.reign.tick.window.parked = 200
    successor.drain_ticks()
    assert stage.one("select count(*) from orchestrator.task_queue") == 100
    assert successor.sweep() == []
