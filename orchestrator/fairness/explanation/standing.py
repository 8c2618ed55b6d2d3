"""Where a staged task stands: what the policy admits before it, from tags and backlogs alone.

With start tags the order is known without playing it: a task that is admitted when virtual time
reaches T goes after every task whose own start tag lies below T. The start tags of an org are its
tag and so many charges; so how many of its tasks go first is a division. The same rule one level
down, by share, tells which tasks of the org's other workloads go first. Only critical ones do not
wait for their flow's turn: those of all flows of an org go before all else of it, and their charges
put their flows behind the others afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from orchestrator.fairness.costs import COUNT_COST_US, charge_of
from orchestrator.fairness.explanation.facts import Facts, FlowFacts, OrgFacts
from orchestrator.fairness.explanation.turns import Run, spread
from orchestrator.fairness.state import Lane
from orchestrator.model import CostMode, Policy


class Ahead(NamedTuple):
    """Tasks of one flow that go first, how many of them are critical, and the worker time that all
    of them take.
    """

    org: str
    workload: str
    tasks: int
    work_us: int
    critical: int = 0


class Standing(NamedTuple):
    """What goes before a task in one lane: of its own org, and of the others."""

    own: tuple[Ahead, ...]
    others: tuple[Ahead, ...]

    @property
    def own_tasks(self) -> int:
        """Return how many tasks of its own org go first."""
        return sum(flow.tasks for flow in self.own)

    @property
    def own_critical(self) -> int:
        """Return how many critical tasks of its own org go first."""
        return sum(flow.critical for flow in self.own)

    @property
    def tasks(self) -> int:
        """Return how many tasks go first."""
        return self.own_tasks + sum(flow.tasks for flow in self.others)

    @property
    def work_us(self) -> int:
        """Return the worker time of those that go first."""
        return sum(flow.work_us for flow in (*self.own, *self.others))

    @property
    def orgs(self) -> tuple[str, ...]:
        """Return the other orgs that go first, those with most tasks first."""
        tasks: dict[str, int] = {}
        for flow in self.others:
            tasks[flow.org] = tasks.get(flow.org, 0) + flow.tasks
        return tuple(sorted(tasks, key=lambda org: -tasks[org]))


def standing(facts: Facts, lane: Lane = Lane.MAIN) -> Standing:
    """Return what is admitted before the task in `lane`."""
    if facts.queue.policy is Policy.STRICT:
        return _strict(facts)
    own = _inside(facts, lane)
    spent = sum(
        flow.tasks * _charge(facts, _flow(facts.org, flow.workload), facts.org.weight)
        for flow in own
    )
    reached = _org_tag(facts, facts.org, lane) + spent
    others = [_before(facts, org, lane, reached) for org in facts.line if org.may_run]
    return Standing(own, tuple(flow for flows in others for flow in flows))


def _inside(facts: Facts, lane: Lane) -> tuple[Ahead, ...]:
    """Return the org's own tasks that go first: of this flow, and by share of its other ones.

    Of those the critical ones go first in any case, and before a critical task they alone.
    """
    flow, before = facts.flow, facts.task.ahead.tasks
    reached = _flow_tag(facts.org, flow, lane) + before * _charge(facts, flow, flow.share)
    first = [_of_flow(facts)]
    for other in _open(facts.org.flows, lane):
        if other.workload != flow.workload:
            tag, charge = _flow_tag(facts.org, other, lane), _charge(facts, other, other.share)
            wins_tie = (other.rank, other.workload) < (flow.rank, flow.workload)
            tasks = min(other.backlog, _below(tag, charge, reached + wins_tie))
            critical = min(other.backlog, other.critical)
            tasks = min(tasks, critical) if facts.task.critical else max(tasks, critical)
            first.append(_ahead(facts, facts.org, other, tasks))
    return tuple(each for each in first if each.tasks)


def _before(facts: Facts, org: OrgFacts, lane: Lane, reached: int) -> list[Ahead]:
    """Return the tasks of another org whose start tags lie below `reached`."""
    flows = sorted(_open(org.flows, lane), key=lambda flow: (flow.rank, flow.workload))
    room = reached - _org_tag(facts, org, lane)
    if room <= 0 or not flows:
        return []
    runs, urgent = [], []
    for flow in flows:
        charge = _charge(facts, flow, flow.share)
        critical = min(flow.backlog, flow.critical)
        tag, price = _flow_tag(org, flow, lane), _charge(facts, flow, org.weight)
        urgent.append(Run(tag, charge, price, critical))
        runs.append(Run(tag + critical * charge, charge, price, flow.backlog - critical))
    first = spread(urgent, room)
    left = room - sum(run.price * taken for run, taken in zip(urgent, first, strict=True))
    rest = spread(runs, left)
    return [
        _ahead(facts, org, flow, tasks)
        for flow, *counts in zip(flows, first, rest, strict=True)
        if (tasks := sum(counts))
    ]


def _strict(facts: Facts) -> Standing:
    """Return what goes first by rank: whole backlogs of better places, and turns in one's own."""
    own, flow = facts.org, facts.flow
    first = [
        _ahead(facts, own, other, other.backlog)
        for other in own.flows
        if (other.rank, other.workload) < (flow.rank, flow.workload) and other.backlog
    ]
    if facts.task.ahead.tasks:
        first.append(_of_flow(facts))
    turns = sum(ahead.tasks for ahead in first)
    others = []
    for org in facts.line:
        for other in org.flows if org.may_run else ():
            better = (org.rank, other.rank) < (own.rank, flow.rank)
            same = (org.rank, other.rank) == (own.rank, flow.rank)
            tasks = other.backlog if better else min(other.backlog, turns) if same else 0
            if tasks:
                others.append(_ahead(facts, org, other, tasks))
    return Standing(tuple(first), tuple(others))


def _of_flow(facts: Facts) -> Ahead:
    """Return the tasks of its own flow that go first; before a critical one all are critical."""
    before = facts.task.ahead.tasks
    ahead = _ahead(facts, facts.org, facts.flow, before)
    return ahead._replace(critical=before) if facts.task.critical else ahead


def _ahead(facts: Facts, org: OrgFacts, flow: FlowFacts, tasks: int) -> Ahead:
    critical = min(tasks, flow.critical)
    return Ahead(org.org, flow.workload, tasks, tasks * _cost(facts, flow), critical)


def _open(flows: Sequence[FlowFacts], lane: Lane) -> list[FlowFacts]:
    return [f for f in flows if f.backlog > 0 and (f.express or lane is Lane.MAIN)]


def _flow(org: OrgFacts, workload: str) -> FlowFacts:
    return next(flow for flow in org.flows if flow.workload == workload)


def _cost(facts: Facts, flow: FlowFacts) -> int:
    return flow.cost_us or facts.queue.cost_us or COUNT_COST_US


def _charge(facts: Facts, flow: FlowFacts, weight: int) -> int:
    counted = facts.queue.cost_mode is CostMode.COUNT
    return charge_of(COUNT_COST_US if counted else _cost(facts, flow), weight)


def _below(tag: int, charge: int, reached: int) -> int:
    """Return how many of the start tags `tag`, `tag + charge`, … lie below `reached`."""
    return max(0, -((tag - reached) // charge))


def _org_tag(facts: Facts, org: OrgFacts, lane: Lane) -> int:
    """Return the tag that `org` starts from: whoever was not in line is given no credit."""
    if lane is Lane.EXPRESS:
        tag, eligible = org.express_tag, org.express_eligible
        return tag if eligible else max(tag, facts.queue.express_virtual_time)
    return org.tag if org.eligible else max(org.tag, facts.queue.virtual_time)


def _flow_tag(org: OrgFacts, flow: FlowFacts, lane: Lane) -> int:
    """Return the tag that `flow` starts from: beside those of its org that wait, or at the org's
    virtual time. Critical tasks push that beyond the flows that let them pass.
    """
    if not flow.fresh:
        return _tag(flow, lane)
    now = org.express_virtual_time if lane is Lane.EXPRESS else org.virtual_time
    waiting = [_tag(other, lane) for other in _open(org.flows, lane) if not other.fresh]
    return max(_tag(flow, lane), min([now, *waiting]))


def _tag(flow: FlowFacts, lane: Lane) -> int:
    return flow.express_tag if lane is Lane.EXPRESS else flow.tag
