"""Preemption in a simulation: running tasks are asked to yield, and do so a while later.

Who is asked is decided by the leader's own rule, after each round, where a critical task waits for
an org at `burst_max`. (The leader looks at once where new ones arrive, else every 0.1 s.) So those
are asked first that ran before the round: when the leader looks, what it has just admitted is not
claimed yet. Every handler is taken to look: it gives its task back `yield_us` after it was asked,
unless it ended before that or the request was withdrawn. What is left of the task waits in its old
place.
"""

from __future__ import annotations

from heapq import heappop, heappush
from uuid import UUID

from orchestrator.fairness.preemption import Running, requests
from orchestrator.fairness.scheduler import Scheduler
from orchestrator.fairness.simulation.staging import NEVER, Staging
from orchestrator.fairness.simulation.trace import Trace
from orchestrator.fairness.simulation.workers import TASK_BITS, TASK_MASK, Workers
from orchestrator.fairness.state import OrgState
from orchestrator.model import EPOCH, after

# As many critical tasks of a flow as the leader looks at.
_TASKS_MAX = 100


class Yielding:
    """The requests of one simulation: whose turn they are, and when each is obeyed."""

    def __init__(
        self,
        trace: Trace,
        scheduler: Scheduler,
        staging: Staging,
        workers: Workers,
        yield_us: int,
    ) -> None:
        self.yields = 0
        self._trace = trace
        self._scheduler = scheduler
        self._staging = staging
        self._workers = workers
        self._yield_us = yield_us
        self._workloads = {name: place for place, name in enumerate(trace.workloads)}
        # Places of orgs that may hold critical tasks, in a steady order.
        self._orgs: dict[int, None] = {}
        # Orgs of which somebody was asked, as of the last look.
        self._open: set[int] = set()
        # Running tasks that are asked, and when they obey; the heap may hold more than those.
        self._asked: dict[int, int] = {}
        self._due: list[int] = []

    @property
    def next_at(self) -> int:
        """Return when the next request is obeyed, `NEVER` if none is open."""
        while self._due:
            at, task = self._due[0] >> TASK_BITS, self._due[0] & TASK_MASK
            if self._asked.get(task) == at:
                return at
            heappop(self._due)
        return NEVER

    def note(self, org: int) -> None:
        """Note that critical tasks of an org, named by its place, were staged."""
        self._orgs[org] = None

    def forget(self, task: int) -> None:
        """Note that a task has ended by itself."""
        self._asked.pop(task, None)

    def obey(self, now: int) -> list[int]:
        """Stop the tasks that yield by now; return them."""
        stopped = []
        while self.next_at <= now:
            task = heappop(self._due) & TASK_MASK
            del self._asked[task]
            self._workers.stop(task, now)
            stopped.append(task)
        self.yields += len(stopped)
        return stopped

    def look(self, now: int) -> None:
        """Ask, and withdraw, as the leader does once a round is done."""
        for org in list(self._orgs):
            state = self._scheduler.orgs[self._trace.orgs[org]]
            for before in (now, now + 1):
                if org in self._open or _at_cap(state):
                    self._decide(org, state, before, now + self._yield_us)
            if org not in self._open and not any(flow.critical for flow in state.flows.values()):
                del self._orgs[org]

    def _decide(self, org: int, state: OrgState, before: int, obeyed_at: int) -> None:
        """Compare who waits with those who ran before an instant."""
        free = _TASKS_MAX
        if state.burst_max is not None:
            free = max(0, state.burst_max - state.in_flight)
        running = self._running(org, before)
        told = requests(self._waiting(org, state), running, free)
        for task in told.withdraw:
            del self._asked[task.task_id]
        for task in told.ask:
            self._asked[task.task_id] = obeyed_at
            heappush(self._due, obeyed_at << TASK_BITS | task.task_id)
        # As the leader, which looks once more after the last of them.
        if told.ask or any(task.asked for task in running):
            self._open.add(org)
        else:
            self._open.discard(org)

    def _waiting(self, org: int, state: OrgState) -> list[int]:
        """Return the priorities of the critical tasks that the next slots of an org go to."""
        if state.paused:
            return []
        return [
            priority
            for flow in self._scheduler.critical_flows(state)
            for priority in self._staging.critical(org, self._workloads[flow.workload], _TASKS_MAX)
        ]

    def _running(self, org: int, before: int) -> list[Running]:
        """Return the ordinary tasks of an org that began before an instant and run."""
        trace, found = self._trace, []
        for end in self._workers.ends:
            task = end & TASK_MASK
            if trace.org[task] != org or trace.critical[task]:
                continue
            began_us = self._workers.began_us(task)
            if began_us < before:
                found.append(
                    Running(
                        org=trace.orgs[org],
                        claim_id=UUID(int=task),
                        dispatch_key=task,
                        task_id=task,
                        priority=trace.priority[task],
                        claimed_at=after(EPOCH, began_us / 1e6),
                        asked=task in self._asked,
                        cancelled=False,
                    )
                )
        return found


def _at_cap(state: OrgState) -> bool:
    return state.burst_max is not None and state.in_flight >= state.burst_max
