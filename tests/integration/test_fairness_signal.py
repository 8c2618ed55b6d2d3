"""What the leader says of its own fairness, window by window."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.config import LeaderSettings, Settings
from orchestrator.leader import reign
from orchestrator.model import CostMode, FairnessReport
from orchestrator.store import fairness, leadership, orgs
from orchestrator.store.sql import run
from orchestrator.store.status import queue_status
from tests.support.replica import replica_thread
from tests.support.stage import Stage
from tests.support.stepping import SteppedLeader, ack, claim
from tests.support.waiting import PATIENCE_S, until


def set_queue(stage: Stage, **fields: Any) -> None:
    with stage.db.transaction():
        run(stage.db, orgs.set_queue("default", actor="test", **fields))


def serve(stage: Stage, leader: SteppedLeader, rounds: int) -> None:
    for _ in range(rounds):
        leader.tick()
        ack(stage.db, claim(stage.db, 4))


def close(leader: SteppedLeader) -> FairnessReport | None:
    return leader.reign.tick.fairness.close(leader.scheduler, 10.0)


@pytest.fixture
def leader(stage: Stage) -> SteppedLeader:
    set_queue(stage, cost_mode=CostMode.COUNT, ready_max=8)
    return stage.leader()


def test_orgs_that_wait_together_are_compared_by_weight(
    stage: Stage, leader: SteppedLeader
) -> None:
    for org, weight in (("a", 1), ("b", 2), ("c", 4)):
        stage.set_org(org, weight=weight)
        stage.enqueue(300, org)
    serve(stage, leader, 2)
    close(leader)
    serve(stage, leader, 60)
    report = close(leader)
    assert report is not None
    assert (report.compared, report.served, report.starved) == (3, 3, 0)
    assert report.jain is not None
    assert report.jain > 0.999
    assert 0 < report.lag <= report.lag_bound
    assert not report.bound_broken
    assert report.lag_unit == "tasks"


def test_an_org_at_its_cap_or_without_work_is_not_compared(
    stage: Stage, leader: SteppedLeader
) -> None:
    stage.set_org("capped", burst_max=1)
    for org in ("a", "b", "capped"):
        stage.enqueue(300, org)
    serve(stage, leader, 2)
    close(leader)
    stage.enqueue(4, "late")
    serve(stage, leader, 40)
    report = close(leader)
    assert report is not None
    assert (report.compared, report.served) == (2, 4)


def test_nothing_is_compared_across_a_change_of_weights(
    stage: Stage, leader: SteppedLeader
) -> None:
    for org in ("a", "b"):
        stage.enqueue(300, org)
    serve(stage, leader, 2)
    close(leader)
    serve(stage, leader, 10)
    stage.set_org("a", weight=50)
    serve(stage, leader, 10)
    report = close(leader)
    assert report is not None
    assert (report.compared, report.jain) == (0, None)


def test_a_broken_promise_is_told(stage: Stage, leader: SteppedLeader) -> None:
    # Hands on the leader's memory: somebody is served as if he had never been.
    for org in ("a", "b"):
        stage.enqueue(300, org)
    serve(stage, leader, 2)
    close(leader)
    for _ in range(20):
        leader.scheduler.orgs["a"].main.tag = -(2**50)
        leader.scheduler._update(leader.scheduler.orgs["a"])
        serve(stage, leader, 1)
    window = leader.reign.tick.fairness
    # What the hand took off the tag was no service.
    window._org("a").charged = 80 * 512_000_000
    window._org("b").charged = 0
    report = close(leader)
    assert report is not None
    assert report.bound_broken
    assert (report.ahead, report.behind, report.starved) == ("a", "b", 1)
    run(stage.db, fairness.record(1, report))
    (queue,) = run(stage.db, leadership.queues())
    with stage.db.transaction():
        status = run(stage.db, queue_status(queue))
    assert status.fairness is not None
    assert status.fairness.report == report
    assert [alarm.split(":")[0] for alarm in status.alarms] == [
        "fairness bound broken",
        "1 orgs starved in the last 10 s",
    ]


def test_a_queue_where_nothing_happens_writes_nothing(leader: SteppedLeader) -> None:
    assert close(leader) is None
    leader.tick()
    assert close(leader) is None


def test_a_leader_writes_its_windows_down(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reign, "FAIRNESS_WINDOW_S", 0.2)
    set_queue(stage, ready_max=8)
    for org in ("a", "b"):
        stage.enqueue(50, org)
    with replica_thread(stage.dsn, Settings(leader=LeaderSettings(election_poll_s=0.05))):
        until(lambda: run(stage.db, fairness.recent(1, 5)), "a window is written down")
    newest = run(stage.db, fairness.recent(1, 1))[0]
    assert newest.report.window_s >= 0.2
    assert newest.ago_s < PATIENCE_S
