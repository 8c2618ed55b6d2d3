"""The staging queue of a simulation: what has arrived of a trace, flow by flow, and waits.

Inside a flow, critical tasks go first, in the order of arrival; then priority, then first in first
out. The leader sees at its next round what arrived since the last one.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from itertools import islice

from orchestrator.fairness.simulation.trace import Trace
from orchestrator.fairness.simulation.workers import TASK_BITS, TASK_MASK
from orchestrator.model import PRIORITY_MAX

# Later than any event.
NEVER = 2**62


# Tasks of one flow that were staged one after the other: the places of org and workload, how many
# tasks, their work in microseconds, and how many of them are critical.
Staged = tuple[int, int, int, int, int]


class Staging:
    """The tasks of a trace that wait for admission; those that the leader has not seen among them.

    `next_at` is when the next one arrives, `NEVER` if none is to come; `has_news` tells whether any
    arrived that the leader has not seen.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.next_at = trace.at_us[0] if len(trace) else NEVER
        self.has_critical = any(trace.critical)
        self.has_news = False
        # Tasks from here on have not been seen, or have not arrived.
        self._seen = self._arrived = 0
        self._workloads = len(trace.workloads)
        # Flows by place of org and workload: the ordinary tasks that wait, most urgent first, and
        # the critical ones.
        self._flows: dict[int, list[int]] = {}
        self._critical: dict[int, deque[int]] = {}

    def arrive(self, now: int) -> int:
        """Stage the tasks whose time has come; return how many."""
        at_us, task = self.trace.at_us, self._arrived
        while task < len(at_us) and at_us[task] <= now:
            self.put(task)
            task += 1
        arrived, self._arrived = task - self._arrived, task
        self.has_news = True
        self.next_at = at_us[task] if task < len(at_us) else NEVER
        return arrived

    def put(self, task: int) -> None:
        """Stage a task, in its place."""
        trace = self.trace
        flow = trace.org[task] * self._workloads + trace.workload[task]
        if self.has_critical and trace.critical[task]:
            self._critical.setdefault(flow, deque()).append(task)
        else:
            place = (PRIORITY_MAX - trace.priority[task]) << TASK_BITS | task
            heappush(self._flows.setdefault(flow, []), place)

    def take(self, org: int, workload: int) -> int:
        """Take the first task of a flow out."""
        flow = org * self._workloads + workload
        if self.has_critical and (critical := self._critical.get(flow)):
            return critical.popleft()
        return heappop(self._flows[flow]) & TASK_MASK

    def look(self) -> list[Staged]:
        """Return what the leader has not seen, run by run of one flow, in order; it has now."""
        trace, first, end = self.trace, self._seen, self._arrived
        orgs, workloads, found = trace.org, trace.workload, []
        while first < end:
            org, workload = orgs[first], workloads[first]
            after, work_us = first + 1, trace.duration_us[first]
            while after < end and orgs[after] == org and workloads[after] == workload:
                work_us += trace.duration_us[after]
                after += 1
            critical = sum(trace.critical[first:after]) if self.has_critical else 0
            found.append((org, workload, after - first, work_us, critical))
            first = after
        self._seen, self.has_news = first, False
        return found

    def critical(self, org: int, workload: int, most: int) -> list[int]:
        """Return the priorities of the first `most` critical tasks of a flow, in their order."""
        found = self._critical.get(org * self._workloads + workload, ())
        return [self.trace.priority[task] for task in islice(found, most)]
