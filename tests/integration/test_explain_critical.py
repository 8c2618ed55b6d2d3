"""What `explain` says where critical tasks wait is what the leader then does, task by task."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchestrator.fairness.explanation.standing import standing
from orchestrator.fairness.state import Lane
from orchestrator.model import ReasonKind
from tests.support.explaining import explain, facts, reason_of
from tests.support.stage import Stage
from tests.support.stepping import SteppedLeader, ack, claim


def behind_own(stage: Stage, task_id: int) -> int:
    """Return how many tasks of its own org `explain` puts before a task."""
    counts = {each.kind: each.count for each in explain(stage, task_id).reasons}
    return counts.get(ReasonKind.BEHIND_OWN_TASKS) or 0


def leading(stage: Stage, **columns: object) -> SteppedLeader:
    """Return a leader that admits one task a tick, each of which is charged the same."""
    stage.set_queue(cost_mode="count", ready_max=1, **columns)
    leader = stage.leader()
    leader.step()
    return leader


def admissions(stage: Stage, leader: SteppedLeader) -> Iterator[tuple[int, str]]:
    """Tick and work until nothing waits; yield (id, org) in the order of admission."""
    while True:
        leader.step()
        claims = claim(stage.db, 1)
        if not claims:
            return
        yield from ((each.id, each.org) for each in claims)
        ack(stage.db, claims)


def known(leader: SteppedLeader) -> None:
    """Let the leader hear of what was staged, with the one slot of the window taken."""
    assert leader.step() is not None


def ahead_in_truth(order: list[tuple[int, str]], task_id: int, org: str) -> tuple[int, int]:
    """Return how many tasks went before one: of its own org, and of the others."""
    before = order[: [each for each, _ in order].index(task_id)]
    own = sum(each == org for _, each in before)
    return own, len(before) - own


def test_every_task_of_an_org_is_told_what_of_it_goes_first(stage: Stage) -> None:
    """Two workloads, critical tasks at the head of both: what is said is what happens."""
    stage.do("update orchestrator.workload set share = case name when 'api' then 3 else 1 end")
    leader = leading(stage)
    stage.enqueue(1, "z")  # takes the one place of the window
    known(leader)
    ids = stage.enqueue(6, workload="etl") + stage.enqueue(12, workload="api")
    ids += stage.enqueue(3, workload="etl", critical=True)
    ids += stage.enqueue(5, workload="api", critical=True)
    known(leader)

    told = {task_id: behind_own(stage, task_id) for task_id in ids}

    order = [each for each in admissions(stage, leader) if each[1] == "a"]
    assert told == {task_id: place for place, (task_id, _) in enumerate(order)}
    assert set(dict(order[:8])) == set(ids[-8:])


def test_what_waits_behind_critical_tasks_of_another_workload_is_told_of_them(
    stage: Stage,
) -> None:
    leader = leading(stage)
    stage.enqueue(1, "z")
    known(leader)
    (waits,) = stage.enqueue(1, workload="etl")
    stage.enqueue(4, workload="api", critical=True)
    known(leader)
    found = reason_of(explain(stage, waits), ReasonKind.BEHIND_OWN_TASKS)
    assert (found.count, found.count_exact) == (4, True)
    assert "4 in api; all of them critical" in found.text


@pytest.mark.parametrize("told_of", [True, False], ids=["the leader knows", "just staged"])
def test_a_critical_task_is_told_of_critical_ones_alone(stage: Stage, told_of: bool) -> None:
    leader = leading(stage)
    stage.enqueue(1, "z")
    stage.enqueue(20, workload="api")
    stage.enqueue(20, workload="etl")
    known(leader)
    first, second = stage.enqueue(2, workload="etl", critical=True)
    if told_of:
        known(leader)
    said = [behind_own(stage, task_id) for task_id in (first, second)]
    order = [each for each in admissions(stage, leader) if each[1] == "a"]
    assert said == [order.index((first, "a")), order.index((second, "a"))] == [0, 1]


def test_critical_tasks_of_several_orgs_move_nobody_s_turn_but_their_org_s_own(
    stage: Stage,
) -> None:
    """Orgs of unequal weight, all with critical tasks in one of two workloads: of each task the
    own ones are told exactly, those of others but for ties.
    """
    for org, weight in (("a", 1), ("b", 3), ("c", 2)):
        stage.set_org(org, weight=weight)
    leader = leading(stage)
    ids: dict[int, str] = {}
    for org in "abc":
        for workload in ("api", "etl"):
            ids |= dict.fromkeys(stage.enqueue(15, org, workload=workload), org)
    known(leader)
    for _ in range(9):
        ack(stage.db, claim(stage.db, 1))
        leader.step()
    for org, workload, count in (("a", "etl", 4), ("b", "api", 6), ("c", "etl", 5)):
        ids |= dict.fromkeys(stage.enqueue(count, org, workload=workload, critical=True), org)
    # What the leader knows of others' backlogs is told once a tick has written it down.
    ack(stage.db, claim(stage.db, 1))
    leader.step()
    waiting = {each for (each,) in stage.rows("select task_id from orchestrator.staging_queue")}

    told = {task_id: standing(facts(stage, task_id)) for task_id in waiting}

    ack(stage.db, claim(stage.db, 1))
    order = list(admissions(stage, leader))
    for task_id, first in told.items():
        own, others = ahead_in_truth(order, task_id, ids[task_id])
        assert first.own_tasks == own
        assert abs(first.tasks - first.own_tasks - others) <= 2


def test_in_the_express_lane_only_critical_express_tasks_go_first(stage: Stage) -> None:
    """The ordinary slots are held by long work; the reserve goes by its own tags."""
    stage.do("update orchestrator.workload set express = name <> 'etl'")
    stage.do(
        "insert into orchestrator.workload (name, share, rank, express) values"
        " ('chat', 1, 0, true) on conflict (name) do update set express = true"
    )
    leader = leading(stage, capacity=4, express_reserve=1)
    stage.enqueue(4, "z")
    for _ in range(3):
        leader.step()
        assert len(claim(stage.db, 1)) == 1
    ids: dict[int, str] = {}
    for org in "ab":
        stage.enqueue(3, org, critical=True)
        for workload in ("api", "chat"):
            ids |= dict.fromkeys(stage.enqueue(8, org, workload=workload), org)
        ids |= dict.fromkeys(stage.enqueue(4, org, workload="chat", critical=True), org)
    known(leader)
    waiting = {each for (each,) in stage.rows("select task_id from orchestrator.staging_queue")}

    told = {i: standing(facts(stage, i), Lane.EXPRESS) for i in ids if i in waiting}
    said = {task_id: behind_own(stage, task_id) for task_id in told}

    ack(stage.db, claim(stage.db, 1))
    order = [each for each in admissions(stage, leader) if each[0] in told]
    assert len(order) == len(told) > 20
    for task_id, first in told.items():
        own, others = ahead_in_truth(order, task_id, ids[task_id])
        assert first.own_tasks == said[task_id] == own
        assert abs(first.tasks - first.own_tasks - others) <= 1


def test_under_the_strict_policy_the_better_workload_is_told_to_go_first(stage: Stage) -> None:
    leader = leading(stage, policy="strict")
    stage.enqueue(1, "z")
    known(leader)
    ids = stage.enqueue(3, workload="api") + stage.enqueue(3, workload="etl")
    ids += stage.enqueue(2, workload="etl", critical=True)
    known(leader)
    told = {task_id: behind_own(stage, task_id) for task_id in ids}
    order = [each for each in admissions(stage, leader) if each[1] == "a"]
    assert told == {task_id: place for place, (task_id, _) in enumerate(order)}


def test_a_critical_task_at_the_cap_is_told_who_was_asked_for_its_slot(stage: Stage) -> None:
    stage.set_org("a", burst_max=2)
    leader = stage.leader()
    leader.reign.tick.preemption.interval_s = 0.0
    low, high = stage.enqueue(1, priority=2) + stage.enqueue(1, priority=9)
    leader.drain_ticks()
    assert len(claim(stage.db, 2)) == 2
    (waits,) = stage.enqueue(1)
    (critical,) = stage.enqueue(1, critical=True, priority=10)
    leader.tick()

    found = reason_of(explain(stage, critical), ReasonKind.BURST_MAX)
    assert set(found.tasks) == {low, high}
    assert f"; task {low} asked to yield" in found.text
    assert found.unblock is not None
    assert "yields" in found.unblock
    # Nobody makes room for the others.
    assert "yield" not in reason_of(explain(stage, waits), ReasonKind.BURST_MAX).text


def test_a_critical_task_that_is_due_later_is_told_of_critical_ones_alone(stage: Stage) -> None:
    leading(stage)
    stage.enqueue(5)
    stage.enqueue(2, critical=True)
    (later,) = stage.enqueue(1, critical=True, delay=60.0)
    assert standing(facts(stage, later)).own_tasks == 2
    assert facts(stage, later).task.critical
