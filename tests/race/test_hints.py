"""A hint that one task was staged is answered before any feed tells of it; nothing it says is
believed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

import pytest
from psycopg import Connection

from orchestrator.config import LeaderSettings
from orchestrator.errors import LeadershipLost
from orchestrator.leader.reign import Doze
from orchestrator.leader.tick import Ticked
from orchestrator.store import admission, orgs, tasks
from orchestrator.store.names import staged_channel
from orchestrator.store.sql import run
from orchestrator.wakeup.hint import Hint, hint_of
from tests.support.invariants import check
from tests.support.stage import Stage
from tests.support.stepping import PATIENT, SteppedLeader, ack, cancel, claim
from tests.support.waiting import PATIENCE_S, until_blocked
from tests.unit.histories import snapshot

# A floor is published by a whole tick only; here it is not its turn.
NO_FLOOR = PATIENT.model_copy(update={"floor_interval_s": 3600.0})


class Caller:
    """A leader that knows the flow of org a and waits for work, and what it is told."""

    def __init__(self, stage: Stage, settings: LeaderSettings = NO_FLOOR) -> None:
        self.stage = stage
        self.listener: Connection[Any] = stage.connect()
        self.listener.execute(f"listen {staged_channel(1)}".encode())
        self.leader: SteppedLeader = stage.leader(settings=settings)
        stage.enqueue(1)
        assert self.leader.tick().admitted == 1
        run(stage.db, admission.set_doze(1, Doze.FOR_WORK))

    def stage_one(self, org: str = "a", **fields: Any) -> tuple[int, Hint]:
        """Stage a task; return its id, and the hint that the leader was notified of."""
        [task_id] = self.stage.enqueue(1, org, **fields)
        hint = self.hint()
        assert hint is not None
        assert hint.task_id == task_id
        return task_id, hint

    def hint(self) -> Hint | None:
        [notice] = self.listener.notifies(timeout=PATIENCE_S, stop_after=1)
        return hint_of([notice.payload])

    def answers(self, hint: Hint) -> bool:
        """Answer a hint; return whether its task was admitted."""
        done = self.leader.reign.tick.answer(hint)
        assert done is None or (done.admitted, done.staged, done.settled) == (1, 1, 0)
        return done is not None

    def admitted(self) -> list[int]:
        query = "select task_id from orchestrator.task_queue order by dispatch_key"
        return [row[0] for row in self.stage.rows(query)]

    def accounts(self) -> Any:
        """Return all that is believed of orgs and flows."""
        orgs_and_flows, *_ = cast("tuple[Any, ...]", snapshot(self.leader.scheduler))
        return orgs_and_flows

    def assert_sound(self) -> None:
        """Assert that neither this term nor the next one has anything to repair."""
        check(self.stage.db)
        assert self.leader.sweep() == []
        assert self.stage.leader(lock=False).sweep() == []


@pytest.fixture
def caller(stage: Stage) -> Caller:
    return Caller(stage)


def test_a_hint_is_answered_without_a_look_at_the_feeds(caller: Caller) -> None:
    before = snapshot_of(caller)
    first, hint = caller.stage_one()
    assert caller.answers(hint)
    assert caller.admitted()[1:] == [first]
    assert snapshot_of(caller) == before
    # And no feed tells of it later.
    done = caller.leader.tick()
    assert (done.staged, done.admitted) == (0, 0)
    caller.assert_sound()


def snapshot_of(caller: Caller) -> str:
    [[told]] = caller.stage.rows("select staging_snapshot::text from orchestrator.queue_state")
    return str(told)


def test_answers_and_ticks_in_turn_admit_everything_once(caller: Caller) -> None:
    ids = []
    for round_ in range(12):
        task_id, hint = caller.stage_one(priority=1 + round_ % 10)
        ids.append(task_id)
        if round_ % 3:
            assert caller.answers(hint)
        else:
            assert caller.leader.tick().admitted == 1
        if round_ % 4 == 1:
            ack(caller.stage.db, claim(caller.stage.db, 2))
    left = [row[0] for row in caller.stage.rows("select task_id from orchestrator.staging_queue")]
    assert left == []
    told = caller.stage.rows("select sum(admitted) from orchestrator.tick_log")
    assert told == [(len(ids) + 1,)]
    caller.leader.tick()
    caller.assert_sound()


def test_a_task_that_a_feed_has_told_of_is_not_admitted_by_its_hint_again(caller: Caller) -> None:
    _, hint = caller.stage_one()
    assert caller.leader.tick().admitted == 1
    assert not caller.answers(hint)
    assert len(caller.admitted()) == 2
    caller.assert_sound()


def test_a_hint_said_twice_is_answered_once(caller: Caller) -> None:
    _, hint = caller.stage_one()
    assert caller.answers(hint)
    assert not caller.answers(hint)
    caller.assert_sound()


def test_a_false_hint_changes_nothing(caller: Caller) -> None:
    known, hint = caller.stage_one()
    assert caller.answers(hint)
    before = caller.accounts()
    lies = [
        hint._replace(task_id=known + 1_000),
        hint._replace(task_id=10**17, neg_priority=-99),
        hint._replace(flow=hint.flow + 1, task_id=known + 2_000),
    ]
    for lie in lies:
        assert not caller.answers(lie)
    assert caller.accounts() == before
    task_id, hint = caller.stage_one()
    # Whoever lied has made the leader deaf for hints of this flow, which costs a look.
    assert not caller.answers(hint)
    assert caller.leader.tick().admitted == 1
    assert caller.admitted()[-1] == task_id
    caller.assert_sound()


def test_a_task_of_higher_priority_in_the_flow_is_admitted_in_its_place(caller: Caller) -> None:
    task_id, hint = caller.stage_one(priority=3)
    [urgent] = caller.stage.enqueue(1, priority=8)
    # The hint says where to look from; without one it is the head of the flow.
    assert caller.answers(hint._replace(neg_priority=-10))
    assert urgent in caller.admitted()
    assert task_id not in caller.admitted()
    assert caller.leader.tick().admitted == 1
    assert task_id in caller.admitted()
    caller.assert_sound()


def at_its_cap(caller: Caller) -> None:
    run(caller.stage.db, orgs.set_org("a", burst_max=1, actor="o"))


def paused(caller: Caller) -> None:
    run(caller.stage.db, orgs.pause_org("a", None, actor="o"))


def queue_paused(caller: Caller) -> None:
    run(caller.stage.db, orgs.pause_queue("default", paused=True, actor="o"))


def queue_full(caller: Caller) -> None:
    run(caller.stage.db, orgs.set_queue("default", capacity=1, actor="o"))


@pytest.mark.parametrize("known", [False, True], ids=["not known yet", "known"])
@pytest.mark.parametrize("change", [at_its_cap, paused, queue_paused, queue_full])
def test_what_operators_decided_holds_for_hints_too(
    caller: Caller, change: Callable[[Caller], None], known: bool
) -> None:
    with caller.stage.db.transaction():
        change(caller)
    if known:
        caller.leader.tick()
    _, hint = caller.stage_one()
    assert not caller.answers(hint)
    assert caller.leader.tick().admitted == 0
    assert len(caller.admitted()) == 1
    caller.assert_sound()


def test_an_org_with_work_that_waits_is_not_overtaken_by_a_hint(caller: Caller) -> None:
    with caller.stage.db.transaction():
        run(caller.stage.db, orgs.set_queue("default", capacity=1, actor="o"))
    caller.stage.enqueue(3, "b")
    assert caller.hint() is None
    assert caller.leader.tick().admitted == 0
    ack(caller.stage.db, claim(caller.stage.db, 1))
    _, hint = caller.stage_one()
    # Nobody has told the leader that the slot is free; a tick finds out, and it is not a's turn.
    assert not caller.answers(hint)
    assert caller.leader.tick().admitted == 1
    assert caller.stage.rows("select org_id from orchestrator.task_queue") == [("b",)]
    caller.assert_sound()


def test_a_task_cancelled_before_the_answer_is_not_missed_by_anybody(caller: Caller) -> None:
    task_id, hint = caller.stage_one()
    cancel(caller.stage.db, task_id)
    before = caller.accounts()
    assert not caller.answers(hint)
    assert caller.accounts() == before
    caller.assert_sound()


def test_a_task_cancelled_under_the_eyes_of_the_answer_leaves_no_trace(caller: Caller) -> None:
    task_id, hint = caller.stage_one()
    before = caller.accounts()
    holder = caller.stage.connect()
    holder.execute("begin")
    run(holder, tasks.cancel(task_id, reason="test"))
    answer = caller.stage.start(caller.answers, hint)
    until_blocked(caller.stage.db, caller.leader.connection, by=holder)
    holder.execute("commit")
    assert not answer.result(PATIENCE_S)
    assert caller.accounts() == before
    caller.assert_sound()


def test_whoever_comes_by_a_hint_starts_where_those_stand_that_run(caller: Caller) -> None:
    caller.stage.enqueue(5, "b")
    assert caller.hint() is None
    assert caller.leader.tick().admitted == 5
    _, hint = caller.stage_one()
    assert caller.answers(hint)
    caller.leader.reign.fold()
    tags = dict(caller.stage.rows("select org_id, tag from orchestrator.org_state"))
    assert tags["a"] > tags["b"], "who was idle has saved nothing up"


def test_where_a_floor_is_overdue_a_whole_tick_looks_first(stage: Stage) -> None:
    caller = Caller(stage, PATIENT.model_copy(update={"floor_interval_s": 0.0}))
    _, hint = caller.stage_one()
    assert not caller.answers(hint)
    assert caller.leader.tick().admitted == 1
    caller.assert_sound()


def test_whoever_was_deposed_answers_nobody(caller: Caller) -> None:
    task_id, hint = caller.stage_one()
    successor = caller.stage.leader(lock=False)
    with pytest.raises(LeadershipLost):
        caller.answers(hint)
    assert successor.tick().admitted == 1
    assert caller.admitted()[-1] == task_id


def test_a_critical_task_is_left_to_a_whole_tick(caller: Caller) -> None:
    caller.stage.enqueue(1, critical=True, priority=10)
    assert caller.hint() is None


def test_a_keyed_task_is_told_of_too_and_one_that_was_there_before_is_not(caller: Caller) -> None:
    task_id, hint = caller.stage_one(idempotency_key="k")
    assert hint.task_id == task_id
    assert caller.answers(hint)
    assert caller.stage.enqueue(1, idempotency_key="k") == [task_id]
    caller.stage.enqueue(2, "other")
    assert caller.hint() is None, "two at once, and nothing of the one that was not stored"


def test_names_are_not_told_to_whoever_listens(caller: Caller) -> None:
    caller.stage.enqueue(1, "acme")
    [notice] = caller.listener.notifies(timeout=PATIENCE_S, stop_after=1)
    assert "acme" not in notice.payload
    assert "default" not in notice.payload


@pytest.mark.parametrize(("tasks", "first"), [(1, "answer"), (2, "tick")])
def test_a_leader_that_was_called_does_that_first_and_looks_at_the_house_after_it(
    caller: Caller, monkeypatch: pytest.MonkeyPatch, tasks: int, first: str
) -> None:
    reign = caller.leader.reign
    done: list[str] = []
    for owner, name in ((reign.tick, "answer"), (reign.tick, "tick"), (reign, "_look")):
        monkeypatch.setattr(owner, name, noted(done, getattr(owner, name), name))
    caller.stage.enqueue(tasks)
    reign._sleep(PATIENCE_S)
    # Long ago.
    reign._looked_at = float("-inf")
    worked, ticked = reign._turn(Ticked(), time.monotonic())
    assert worked
    assert ticked.admitted == tasks
    assert done == [first, "_look"]


def noted(done: list[str], act: Callable[..., Any], name: str) -> Callable[..., Any]:
    def noting(*args: Any) -> Any:
        done.append(name)
        return act(*args)

    return noting
