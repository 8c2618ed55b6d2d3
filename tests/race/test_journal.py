"""Whoever folds the journal of the cut, in whatever order: nothing of it is lost or undone."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.leader.tick import Ticked
from orchestrator.store import cut, leadership
from orchestrator.store.sql import Operation
from tests.support.interleave import Actor, Cast, explore, together
from tests.support.stage import Stage
from tests.support.stepping import SteppedLeader, ack, claim
from tests.support.waiting import until_blocked

ORGS = ("a", "b", "c")
ORG_ROWS = "select org_id, tag, in_flight, last_admit from orchestrator.org_state order by 1"
FLOW_ROWS = "select org_id, workload, tag, backlog, cost_us from orchestrator.flow_state order by 1"
JOURNALED = "select count(*) from orchestrator.cut_journal"


def tick(leader: SteppedLeader) -> Ticked:
    """Tick, and leave what it wrote down in the journal."""
    return leader.reign.tick.tick()


def work(stage: Stage, leader: SteppedLeader, rounds: int = 3) -> None:
    """Let so many ticks change the same orgs, and not be folded."""
    for _ in range(rounds):
        for org in ORGS:
            stage.enqueue(2, org)
        assert tick(leader).admitted
        ack(stage.db, claim(stage.db, 4))


def believed(leader: SteppedLeader) -> tuple[list[Any], list[Any]]:
    """Return what the tables have to say once all is folded, but for what was settled since."""
    orgs = sorted(leader.scheduler.orgs.values(), key=lambda org: org.org)
    flows = [(org.org, flow) for org in orgs for flow in org.flows.values()]
    return (
        [(org.org, org.main.tag, org.in_flight, org.last_admit) for org in orgs],
        [(org, flow.workload, flow.tags[0], flow.backlog, flow.cost_us) for org, flow in flows],
    )


def test_a_tick_changes_no_row_of_an_org_and_the_last_one_holds_once_folded(stage: Stage) -> None:
    leader = stage.leader()
    work(stage, leader)
    assert stage.one(JOURNALED) == 3
    assert stage.rows(ORG_ROWS) == stage.rows(FLOW_ROWS) == []
    leader.reign.fold()
    assert (stage.rows(ORG_ROWS), stage.rows(FLOW_ROWS)) == believed(leader)
    work(stage, leader, 1)
    leader.reign.fold()
    assert (stage.rows(ORG_ROWS), stage.rows(FLOW_ROWS)) == believed(leader)
    assert stage.one(JOURNALED) == 0


def test_a_fold_goes_no_further_than_asked_and_does_not_look_back(stage: Stage) -> None:
    leader = stage.leader()
    work(stage, leader, 4)
    first, *_, last = (row[0] for row in stage.rows("select seq from orchestrator.cut_journal"))
    fold = "select orchestrator.fold_cut(1, %s, %s)"
    # Each holds three orgs and as many flows.
    assert stage.one(fold, first, 7) == first + 2
    assert stage.one(fold, first, 1) == last
    assert stage.one(fold, first, 1) is None
    assert stage.one(JOURNALED) == 1
    # Of another queue it takes nothing.
    assert stage.one("select orchestrator.fold_cut(2, 0, 99)") is None


def test_a_journal_row_of_very_many_orgs_is_folded_with_those_before_it(stage: Stage) -> None:
    leader = stage.leader()
    work(stage, leader, 1)
    for number in range(300):
        stage.enqueue(1, f"org {number}")
    tick(leader)
    leader.reign.fold()
    assert (stage.rows(ORG_ROWS), stage.rows(FLOW_ROWS)) == believed(leader)


@pytest.mark.parametrize("commit", [True, False], ids=["committed", "rolled back"])
def test_two_who_fold_beside_an_election_leave_what_the_leader_believed(
    stage: Stage, commit: bool
) -> None:
    one, two, three = stage.connect(), stage.connect(), stage.connect()
    leaders: list[SteppedLeader] = []

    def scene() -> Cast:
        for leader in leaders:
            leader.close()
        leaders[:] = [SteppedLeader(stage.dsn).elect(lock=False)]
        work(stage, leaders[0])
        return {
            "fold": Actor(one, together(one, folding(), commit=commit)),
            "again": Actor(two, together(two, folding())),
            "elect": Actor(three, together(three, leadership.elect(1, "next"))),
        }

    def outcome(cast: Cast) -> None:
        assert not any(actor.error for actor in cast.values())
        assert stage.one(JOURNALED) == 0
        assert (stage.rows(ORG_ROWS), stage.rows(FLOW_ROWS)) == believed(leaders[0])

    assert explore(stage.db, scene, outcome, most=60) > 10
    leaders[0].close()


def folding() -> Operation:
    """Fold twice, two rows at a time."""
    for _ in range(2):
        yield cut.SQL.call("fold", queue=1, after=0, most=7)


def test_an_election_of_whatever_version_leaves_nothing_to_be_folded(stage: Stage) -> None:
    leader = stage.leader()
    work(stage, leader)
    # The statement of an older version, which knows of no journal.
    stage.do("update orchestrator.orchestrator_lock set epoch = epoch + 1 where queue = 1")
    assert stage.one(JOURNALED) == 0
    assert (stage.rows(ORG_ROWS), stage.rows(FLOW_ROWS)) == believed(leader)


def test_who_elects_need_not_be_allowed_to_fold(stage: Stage) -> None:
    # An older version grants what it knows, and takes the rest away.
    leader = stage.leader()
    work(stage, leader)
    role = f"elector_{stage.db.info.dbname}"
    stage.do(f"create role {role}")
    try:
        stage.do(f"grant usage on schema orchestrator to {role}")
        stage.do(f"grant select, update on orchestrator.orchestrator_lock to {role}")
        with stage.db.transaction():
            stage.do(f"set local role {role}")
            stage.do("update orchestrator.orchestrator_lock set epoch = epoch + 1")
        assert stage.one(JOURNALED) == 0
    finally:
        stage.do(f"drop owned by {role}")
        stage.do(f"drop role {role}")


def test_what_a_killed_leader_left_in_the_journal_is_known_to_the_next(stage: Stage) -> None:
    leader = stage.leader()
    work(stage, leader)
    before = believed(leader)
    leader.close()
    successor = stage.leader()
    assert believed(successor) == before
    assert successor.sweep() == []


def test_a_tick_waits_for_nobody_who_folds(stage: Stage) -> None:
    leader = stage.leader()
    work(stage, leader)
    with stage.connect() as folder, folder.transaction():
        folder.execute("select orchestrator.fold_cut(1, 0, 7)")
        stage.enqueue(1, "a")
        assert tick(leader).admitted == 1
        # Who folds as well waits, and finds what is left.
        with stage.connect() as second:
            rest = stage.start(second.execute, "select orchestrator.fold_cut(1, 0, 99)")
            until_blocked(stage.db, second, by=folder)
            folder.execute("commit")
            rest.result(20)
    assert stage.one(JOURNALED) == 0
    assert (stage.rows(ORG_ROWS), stage.rows(FLOW_ROWS)) == believed(leader)
