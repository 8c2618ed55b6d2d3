"""What a tick does is the same, whatever parts its statement is sent with."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from orchestrator.leader import transaction
from orchestrator.model import TaskSpec
from orchestrator.store.admission import Wanted
from orchestrator.store.lean import TICK, lean
from orchestrator.store.sql import Call
from tests.support.stage import Stage
from tests.support.stepping import SteppedLeader, ack, claim, enqueue, tasks

LEAN, WHOLE = 1, 2
STEPS = 60
RESERVED = -2
USUAL = [("task",), ("tasks",)]
# All that a tick writes, of tasks told apart by the order in which they came. What attempts
# cost is measured, and differs.
STATE = {
    "task_queue": """dispatch_key, rank() over (order by task_id), org_id, workload, priority,
        attempt, lost, expires_at::text, charged_us, weight, share, reserved, claim_id is null""",
    "staging_queue": """org_id, workload, neg_priority, rank() over (order by task_id), attempt,
        lost, expires_at::text""",
    "queue_state": """virtual_time, contended, express_virtual_time, express_contended, admit_seq,
        kappa""",
    "org_state": """org_id, tag, virtual_time, in_flight, eligible, express_tag,
        express_virtual_time, express_in_flight, express_eligible, last_admit""",
    "flow_state": "org_id, workload, tag, express_tag, backlog",
    "tick_log": "admit_seq, epoch, settled, admitted, ready, in_flight, orgs, workloads, counts",
}


class Twins:
    """Two queues with the same history: one leader leaves parts out, the other sends the whole."""

    def __init__(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stage = stage
        self.sent: set[bytes] = set()
        stage.do("insert into orchestrator.queue (name) values ('whole')")
        # What an attempt took must not decide who is next.
        stage.do(
            "update orchestrator.queue set cost_mode = 'count', express_reserve = 2, capacity = 9"
        )
        stage.do(
            "insert into orchestrator.workload (name, share, rank, express)"
            " values ('fast', 1, 1, true)"
        )
        stage.set_org("b", weight=3, burst_max=2)
        monkeypatch.setattr(transaction, "lean", self._lean)
        self.leaders: dict[int, SteppedLeader] = {
            queue: stage.leader(queue=queue) for queue in (LEAN, WHOLE)
        }

    def each(self, act: Callable[[int, SteppedLeader], Any]) -> Any:
        """Do the same in both; return what came of it, which is the same."""
        lean_one, whole = (act(queue, leader) for queue, leader in self.leaders.items())
        assert lean_one == whole
        return lean_one

    def stage_tasks(self, specs: Sequence[TaskSpec]) -> None:
        """Stage the same tasks in both."""
        if specs:
            self.each(lambda queue, _: len(enqueue(self.stage.db, specs, queue_id=queue)))

    def end_tasks(self, most: int) -> None:
        """Let up to so many of what is ready be claimed and end."""

        def end(queue: int, _: SteppedLeader) -> int:
            claims = claim(self.stage.db, most, queue_id=queue)
            return len(ack(self.stage.db, claims, queue_id=queue))

        self.each(end)

    def states(self) -> list[dict[str, Any]]:
        """Return what ticks have written down of both."""
        return [
            {
                table: sorted(
                    self.stage.rows(
                        f"select {columns} from orchestrator.{table} where queue = %s", queue
                    ),
                    key=repr,
                )
                for table, columns in STATE.items()
            }
            for queue in (LEAN, WHOLE)
        ]

    def _lean(self, tick: Call, wanted: Sequence[Wanted], overran: Sequence[int]) -> Call:
        if tick.params["queue"] == WHOLE:
            return TICK.call(("tasks", "overran"), **tick.params)
        call = lean(tick, wanted, overran)
        self.sent.add(call.statement)
        return call


@pytest.mark.parametrize("seed", range(3))
def test_a_tick_does_the_same_with_the_parts_left_out(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    twins, chance = Twins(stage, monkeypatch), random.Random(seed)
    reserved = False
    for _ in range(STEPS):
        org = chance.choice("aabc")
        # Only one org has two flows.
        workload = chance.choice(["default", "fast"] if org == "a" else ["default"])
        count, priority = chance.choice([0, 1, 1, 1, 4]), chance.randint(1, 10)
        twins.stage_tasks(tasks(count, org, workload=workload, priority=priority))
        twins.each(lambda _, leader: leader.tick())
        left, right = twins.states()
        assert left == right
        reserved |= any(row[RESERVED] for row in left["task_queue"])
        # Until nothing ended for a while, no slot of the reserve is needed.
        twins.end_tasks(9 if chance.random() < 0.2 else chance.choice([0, 0, 1]))
    assert reserved
    sent = [TICK.call(parts).statement in twins.sent for parts in USUAL]
    assert all(sent)
    assert twins.each(lambda _, leader: leader.sweep()) == []
