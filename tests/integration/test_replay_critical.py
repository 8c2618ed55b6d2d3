"""Critical tasks in a simulation: who is asked, who yields and what is admitted, as on a queue."""

from __future__ import annotations

import random
from typing import NamedTuple

import pytest

from orchestrator.fairness.simulation.baselines import Rule
from orchestrator.fairness.simulation.policy import OrgSetting, SimPolicy
from orchestrator.fairness.simulation.simulate import simulate
from orchestrator.fairness.simulation.trace import Arrival, Trace, trace_of
from orchestrator.model import AttemptStatus, Claim
from orchestrator.policyfile import SEEDED
from tests.support.stage import Stage
from tests.support.stepping import SteppedLeader, ack, claim, give_back

SECOND = 1_000_000
SLOTS = 5
BURST_MAX = {"a": 2, "b": 3, "c": None}
WORKLOADS = ("api", "etl")


def drawn(seed: int) -> Trace:
    """Draw a trace in whole seconds; no two ordinary tasks of an org have the same priority, so
    that the rule alone decides who yields.
    """
    dice = random.Random(seed)
    arrivals = []
    for org in BURST_MAX:
        for priority in dice.sample(range(1, 10), 9):
            at_us, took_us = dice.randint(0, 12) * SECOND, dice.randint(3, 12) * SECOND
            arrivals.append(Arrival(at_us, org, dice.choice(WORKLOADS), priority, took_us))
        for _ in range(6):
            at_us, took_us = dice.randint(2, 40) * SECOND, dice.randint(1, 4) * SECOND
            workload, priority = dice.choice(WORKLOADS), dice.choice([6, 10])
            arrivals.append(Arrival(at_us, org, workload, priority, took_us, critical=True))
    return trace_of(sorted(arrivals))


class Run(NamedTuple):
    order: list[int]
    yields: int


class Queue:
    """A real queue, second by second, with handlers that yield a second after they are asked."""

    def __init__(self, stage: Stage, leader: SteppedLeader, trace: Trace) -> None:
        self.stage = stage
        self.leader = leader
        self.trace = trace
        self.left_s = {task: took // SECOND for task, took in enumerate(trace.duration_us)}
        self.ids: dict[int, int] = {}
        self.running: dict[int, tuple[Claim, int]] = {}
        self.asked: set[int] = set()
        self.yields = 0

    def play(self) -> Run:
        second = 0
        while len(self.ids) < len(self.trace) or self.running:
            # One tick, and only where there is news: the simulator has no rounds besides.
            if self._end(second) | self._enqueue(second):
                self.leader.tick()
            while claimed := claim(self.stage.db, 1):
                self.running[self.ids[claimed[0].id]] = (claimed[0], second)
            # It looks at what runs by now, too.
            self.leader.reign.tick.preemption.step()
            self.asked = self._told()
            second += 1
        rows = self.stage.rows("select dispatch_key, task_id from orchestrator.task_attempt")
        # With a kappa of 0 keys are in the order of admission.
        return Run([self.ids[task] for _, task in sorted(rows)], self.yields)

    def _end(self, second: int) -> bool:
        """End whoever is done, and let those yield that have been asked for a second; tell whether
        anybody did.
        """
        running = len(self.running)
        for task, (held, since) in list(self.running.items()):
            if since + self.left_s[task] == second:
                assert ack(self.stage.db, [held])
            elif held.id in self.asked:
                give_back(self.stage.db, [held], AttemptStatus.SNOOZED)
                self.left_s[task] -= second - since
                self.yields += 1
            else:
                continue
            del self.running[task]
        return len(self.running) < running

    def _enqueue(self, second: int) -> bool:
        known = len(self.ids)
        for task, (at_us, org, workload, priority, _, critical) in enumerate(self.trace):
            if at_us == second * SECOND:
                (made,) = self.stage.enqueue(
                    1, org, workload=workload, priority=priority, critical=critical
                )
                self.ids[made] = task
        return len(self.ids) > known

    def _told(self) -> set[int]:
        rows = self.stage.rows(
            "select q.task_id from orchestrator.lease l, unnest(l.yielding) as k(dispatch_key)"
            " join orchestrator.task_queue q on q.dispatch_key = k.dispatch_key"
        )
        return {task for (task,) in rows}


@pytest.mark.parametrize("rule", [Rule.COUNT, Rule.STRICT])
@pytest.mark.parametrize("seed", [0, 1, 5])
def test_the_same_tasks_yield_and_are_admitted_as_on_a_real_queue(
    stage: Stage, rule: Rule, seed: int
) -> None:
    policy = "strict" if rule is Rule.STRICT else "weighted"
    stage.set_queue(capacity=SLOTS, kappa=0, cost_mode="count", policy=policy)
    for org, burst_max in BURST_MAX.items():
        stage.set_org(org, burst_max=burst_max)
    leader = stage.leader()
    leader.reign.tick.preemption.interval_s = 0.0
    trace = drawn(seed)
    real = Queue(stage, leader, trace).play()
    simulated = simulate(
        trace,
        SimPolicy(
            rule=rule,
            slots=SLOTS,
            yield_us=SECOND,
            tiers=SEEDED.tiers,
            workloads=SEEDED.workloads,
            orgs={org: OrgSetting(burst_max=each) for org, each in BURST_MAX.items()},
        ),
    )
    assert (list(simulated.order), simulated.yields) == real
    # Some yielded, and were admitted again.
    assert real.yields > 1
    assert len(real.order) == len(trace) + real.yields
