"""The workers of a simulation: slots, the reserve among them, and the ready window before them."""

from __future__ import annotations

from array import array
from heapq import heapify, heappop, heappush

from orchestrator.fairness.plan import Pick
from orchestrator.fairness.simulation.observe import Observer
from orchestrator.fairness.simulation.trace import Trace
from orchestrator.fairness.slots import Ready
from orchestrator.model import PRIORITY_MAX

# Tasks in a heap are whole numbers: what they are ordered by above, their place in the trace below.
TASK_BITS = 32
TASK_MASK: int = 2**TASK_BITS - 1


class Workers:
    """Run admitted tasks on `slots`, of which `reserve` run express tasks only.

    `picks` are the tasks that the leader believes in flight; a task that ended stays in it until
    the leader settles it. `ends` and `overruns` are heaps of instants and tasks. `check_us` is None
    where nobody asks whether tasks overran. `start_us` is when a task began for the first time,
    `used_us` what one took that was stopped, until the leader settles that.
    """

    def __init__(
        self,
        trace: Trace,
        observer: Observer,
        *,
        slots: int,
        reserve: int,
        kappa: int,
        check_us: int | None,
    ) -> None:
        self.trace = trace
        self.observer = observer
        self.slots = slots
        self.ordinary_slots = slots - reserve
        self.kappa = kappa
        self.check_us = check_us
        self.start_us = array("q", [-1]) * len(trace)
        self.picks: dict[int, Pick] = {}
        self.used_us: dict[int, int] = {}
        # Of tasks that were stopped: what is left of them, and when they began again.
        self._left_us: dict[int, int] = {}
        self._resumed_us: dict[int, int] = {}
        self.ends: list[int] = []
        self.overruns: list[int] = []
        self._express: list[int] = []
        self._ordinary: list[int] = []
        self._ordinary_running = 0

    @property
    def running(self) -> int:
        """Return how many tasks run."""
        return len(self.ends)

    @property
    def free(self) -> int:
        """Return how many slots are free for ordinary tasks."""
        return min(self.slots - len(self.ends), self.ordinary_slots - self._ordinary_running)

    @property
    def ready(self) -> Ready:
        """Return how many admitted tasks wait for a slot."""
        return Ready(len(self._ordinary), len(self._express))

    def queue(self, task: int, admit_seq: int) -> None:
        """Put an admitted task into the ready window."""
        # The key that workers claim by, as the leader writes it.
        priority = PRIORITY_MAX if self.trace.critical[task] else self.trace.priority[task]
        key = (admit_seq - self.kappa * priority) * 16 + PRIORITY_MAX - priority
        ready = self._express if self.picks[task].express else self._ordinary
        heappush(ready, key << TASK_BITS | task)

    def claim(self, now: int) -> int:
        """Give free slots to ready tasks, express ones first; return how many."""
        before = len(self.ends)
        while self._express and len(self.ends) < self.slots:
            self.start(heappop(self._express) & TASK_MASK, now)
        while self._ordinary and self.free > 0:
            self.start(heappop(self._ordinary) & TASK_MASK, now)
        return len(self.ends) - before

    def start(self, task: int, now: int) -> None:
        """Begin a task on a free slot."""
        pick, duration_us = self.picks[task], self.trace.duration_us[task]
        if task in self._left_us:
            duration_us, self._resumed_us[task] = self._left_us[task], now
        else:
            self.start_us[task] = now
        self._ordinary_running += not pick.express
        heappush(self.ends, (now + duration_us) << TASK_BITS | task)
        org = self.trace.org[task]
        self.observer.start(task, org, duration_us, now, reserved=pick.reserved)
        if pick.charged_us < duration_us:
            self.await_overrun(task, pick.charged_us)

    def end(self, now: int) -> list[int]:
        """End the tasks whose time has come, claim others in their place, and return them."""
        ended = []
        while self.ends and self.ends[0] >> TASK_BITS <= now:
            task = heappop(self.ends) & TASK_MASK
            self._ordinary_running -= not self.picks[task].express
            self.observer.end(task, now)
            ended.append(task)
        if ended:
            self.claim(now)
        return ended

    def stop(self, task: int, now: int) -> None:
        """End a running task before its time, and claim another in its place."""
        self.used_us[task] = used_us = now - self.began_us(task)
        self._left_us[task] = self.work_us(task) - used_us
        for heap in (self.ends, self.overruns):
            heap[:] = [entry for entry in heap if entry & TASK_MASK != task]
            heapify(heap)
        self._ordinary_running -= not self.picks[task].express
        self.observer.end(task, now)
        self.claim(now)

    def work_us(self, task: int) -> int:
        """Return how long a task will run from when it begins, or began, this time."""
        left_us = self._left_us
        return left_us[task] if task in left_us else self.trace.duration_us[task]

    def began_us(self, task: int) -> int:
        """Return when a task that runs began, the last time if it was stopped before."""
        return self._resumed_us.get(task, self.start_us[task])

    def await_overrun(self, task: int, charged_us: int) -> None:
        """Have `task` looked at once it has run longer than it was charged for, if it will."""
        if self.check_us is None:
            return
        started = self.began_us(task)
        due = ((started + charged_us) // self.check_us + 1) * self.check_us
        if due < started + self.work_us(task):
            heappush(self.overruns, due << TASK_BITS | task)

    def overran(self, now: int) -> list[int]:
        """Return the tasks that have run longer than they were charged for."""
        found = []
        while self.overruns and self.overruns[0] >> TASK_BITS <= now:
            found.append(heappop(self.overruns) & TASK_MASK)
        return found
