"""The staging queue of a simulation: what has arrived of a trace, flow by flow, and waits.

Inside a flow, critical tasks go first, in the order of arrival; then priority, then first in first
out. The leader sees at its next round what arrived since the last one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import islice
from typing import NamedTuple

from orchestrator.fairness.simulation.trace import Trace
from orchestrator.fairness.simulation.workers import TASK_BITS, TASK_MASK
from orchestrator.model import PRIORITY_MAX

# Later than any event.
NEVER = 2**62


class Staged(NamedTuple):
    """Tasks of one flow that were staged one after the other; org and workload by their place."""

    org: int
    workload: int
    tasks: int
    work_us: int
    critical: int


class Staging:
    """The tasks of a trace that wait for admission; those that the leader has not seen among them.

    `next_at` is when the next one arrives, `NEVER` if none is to come.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.next_at = trace.at_us[0] if len(trace) else NEVER
        self.has_critical = any(trace.critical)
        # Tasks from here on have not been seen, or have not arrived.
        self._seen = self._arrived = 0
        self._workloads = len(trace.workloads)
        # Flows by place of org and workload: the ordinary tasks that wait, most urgent first, and
        # the critical ones.
        self._flows: dict[int, list[int]] = {}
        self._critical: dict[int, deque[int]] = {}

    @property
    def has_news(self) -> bool:
        """Tell whether anything arrived that the leader has not seen."""
        return self._seen < self._arrived

    def arrive(self, now: int) -> int:
        """Stage the tasks whose time has come; return how many."""
        at_us, task = self.trace.at_us, self._arrived
        while task < len(at_us) and at_us[task] <= now:
            self.put(task)
            task += 1
        arrived, self._arrived = task - self._arrived, task
        self.next_at = at_us[task] if task < len(at_us) else NEVER
        return arrived

    def put(self, task: int) -> None:
        """Stage a task, in its place."""
        trace, flow = self.trace, self._flow(task)
        if trace.critical[task]:
            self._critical.setdefault(flow, deque()).append(task)
        else:
            place = (PRIORITY_MAX - trace.priority[task]) << TASK_BITS | task
            heappush(self._flows.setdefault(flow, []), place)

    def take(self, org: int, workload: int) -> int:
        """Take the first task of a flow out."""
        flow = org * self._workloads + workload
        if critical := self._critical.get(flow):
            return critical.popleft()
        return heappop(self._flows[flow]) & TASK_MASK

    def look(self) -> Iterator[Staged]:
        """Yield what the leader has not seen, run by run of one flow, in order."""
        trace, first = self.trace, self._seen
        while first < self._arrived:
            flow, after, work_us = self._flow(first), first + 1, trace.duration_us[first]
            while after < self._arrived and self._flow(after) == flow:
                work_us += trace.duration_us[after]
                after += 1
            critical = sum(trace.critical[first:after]) if self.has_critical else 0
            org, workload = trace.org[first], trace.workload[first]
            yield Staged(org, workload, after - first, work_us, critical)
            first = after
        self._seen = first

    def critical(self, org: int, workload: int, most: int) -> list[int]:
        """Return the priorities of the first `most` critical tasks of a flow, in their order."""
        found = self._critical.get(org * self._workloads + workload, ())
        return [self.trace.priority[task] for task in islice(found, most)]

    def _flow(self, task: int) -> int:
        return self.trace.org[task] * self._workloads + self.trace.workload[task]
