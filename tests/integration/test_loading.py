"""A new term begins with exactly what the last commit of the one before left."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.errors import LeadershipLost
from orchestrator.fairness import TAG_LIMIT, TAG_MIN
from orchestrator.model import Policy
from orchestrator.store import cut, leadership, orgs
from orchestrator.store.sql import run
from tests.support.stage import Stage
from tests.support.stepping import claim, give_back
from tests.unit.histories import snapshot

ORGS = ("a", "b", "ba", "c", "org 9", "Ä")


def configure(stage: Stage, **fields: Any) -> None:
    """Make `chat` an express workload, and configure the queue."""
    with stage.db.transaction():
        run(stage.db, orgs.set_workload("chat", share=3, express=True, actor="test"))
        run(stage.db, orgs.set_queue("default", actor="test", **fields))


@pytest.mark.parametrize("policy", Policy)
@pytest.mark.parametrize("chunk", [1, 2, 5, 10_000])
def test_a_cut_is_loaded_as_it_was_saved_in_chunks_of_any_size(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, chunk: int, policy: Policy
) -> None:
    configure(stage, policy=policy, capacity=30, headroom=0.5, express_reserve=4)
    stage.set_org("b", tier="premium", burst_max=3)
    stage.set_org("c", weight=7)
    leader = stage.leader()
    for org in ORGS:
        stage.enqueue(20, org)
        stage.enqueue(4, org, workload="chat")
    leader.drain_ticks()
    give_back(stage.db, claim(stage.db, 9))
    stage.set_org("a", tier="enterprise")
    # What a tick without an admission finds is not persisted, but found again.
    assert leader.tick().admitted
    assert any(org.express.in_flight for org in leader.scheduler.orgs.values())

    monkeypatch.setattr(cut, "_CHUNK", chunk)
    heard: list[int] = []
    successor = stage.candidate(alive=lambda: heard.append(1)).elect(lock=False)
    assert snapshot(successor.scheduler) == snapshot(leader.scheduler)
    old, new = leader.reign.cut, successor.reign.cut
    assert new.row.place == old.row.place
    # A persisted backlog may have been counted to the bound only.
    flows = [(org.org, flow) for org in new.scheduler.orgs.values() for flow in org.flows.values()]
    assert new.uncounted == {(org, flow.workload) for org, flow in flows if flow.backlog}
    assert not new.scheduler.dirty
    assert len(heard) >= 2 * len(ORGS) // chunk
    # It writes where it read, and goes on.
    give_back(stage.db, claim(stage.db, 9))
    successor.drain_ticks()
    assert successor.sweep() == []


def test_a_takeover_leaves_those_that_wait_for_the_reserve_where_they_stood(stage: Stage) -> None:
    configure(stage, capacity=1, express_reserve=1)
    leader = stage.leader()
    for org in ("a", "b", "c"):
        stage.enqueue(3, org, workload="chat")
    leader.drain_ticks()
    # Refunds leave those that wait below the virtual time.
    stage.do("update orchestrator.queue_state set express_virtual_time = 1000")
    stage.do("update orchestrator.org_state set express_tag = ascii(org_id)")
    waited = stage.rows("select org_id, express_eligible from orchestrator.org_state order by 1")
    assert waited == [("a", True), ("b", True), ("c", True)]
    successor = stage.leader(lock=False)
    successor.scheduler.wake()
    tags = {org.org: org.express.tag for org in successor.scheduler.orgs.values()}
    assert tags == {org: ord(org) for org in tags}


def test_tags_that_nobody_moves_outlast_any_number_of_renormalisations(stage: Stage) -> None:
    """Each takes the virtual time off them once more, and they have only so many digits."""
    leader = stage.leader()
    stage.enqueue(1, "idle")
    stage.enqueue(1, "busy")
    leader.drain_ticks()
    tags = "select tag from orchestrator.org_state where org_id = 'idle'"
    for _ in range(20):
        stage.do("update orchestrator.queue_state set virtual_time = %s", 2 * TAG_LIMIT)
        stage.do(
            "update orchestrator.org_state set virtual_time = %s where org_id = 'busy'",
            2 * TAG_LIMIT,
        )
        leader.close()
        leader = stage.leader()
        assert leader.scheduler.virtual_time == 0
    assert stage.one(tags) == TAG_MIN
    # It starts where everybody does who was away.
    stage.enqueue(1, "idle")
    assert leader.tick().admitted == 1
    assert stage.one(tags) > 0


def test_whoever_is_deposed_while_it_loads_renormalises_nothing(stage: Stage) -> None:
    stage.leader().close()
    stage.do("update orchestrator.queue_state set virtual_time = %s", 2 * TAG_LIMIT)

    def depose() -> None:
        with stage.db.transaction():
            run(stage.db, leadership.elect(1, "successor"))

    with pytest.raises(LeadershipLost):
        stage.candidate(alive=depose).elect()
    assert stage.one("select virtual_time from orchestrator.queue_state") == 2 * TAG_LIMIT
