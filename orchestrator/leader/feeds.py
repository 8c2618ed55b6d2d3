"""What a tick learns before it plans: slots that ended attempts freed, and work that was staged.

Both feeds are differences of two snapshots, so nothing is missed and nothing is read twice. They
are read outside any transaction of ours: because this session has no transaction id yet, everything
it writes later lies beyond that snapshot.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import structlog
from psycopg import Connection

from orchestrator.fairness import Plan, Settled
from orchestrator.leader.configuration import Configuration
from orchestrator.leader.cut import Cut
from orchestrator.leader.hints import Hints
from orchestrator.leader.preemption import Preemption
from orchestrator.leader.shadow import Shadowing, WatchedWindow
from orchestrator.store import admission
from orchestrator.store.admission import Ended, Probe, Staged
from orchestrator.store.sql import run

log = structlog.get_logger()


class News(NamedTuple):
    """How many attempts ended and tasks were staged, and what is ready."""

    settled: int
    staged: int
    probe: Probe


class Feeds:
    """Reads both feeds of one term, and tells the scheduler and whoever watches it."""

    def __init__(
        self,
        connection: Connection[Any],
        cut: Cut,
        configuration: Configuration,
        preemption: Preemption,
        fairness: WatchedWindow,
        shadow: Shadowing,
        hints: Hints,
    ) -> None:
        self._connection = connection
        self._cut = cut
        self._configuration = configuration
        self._preemption = preemption
        self._fairness = fairness
        self._shadow = shadow
        self._hints = hints

    def read(self) -> News:
        """Take over what ended and what was staged since the last time."""
        reading = admission.feeds(self._cut.queue.id, self._cut.row)
        ended, staged, probe = run(self._connection, reading)
        settled = sum(self._settle(attempts) for attempts in ended)
        # Before the new work: who waits from now on starts at a virtual time that forgave.
        self._cut.scheduler.wake()
        self._shadow.wake()
        if sum(work.tasks for work in staged) >= admission.FEED_MAX:
            return News(settled, self._count_all(), probe)
        return News(settled, self._arrive(staged), probe)

    def _settle(self, attempts: Ended) -> int:
        """Free the slots of attempts that ended; return how many."""
        ended, scheduler = attempts.settled, self._cut.scheduler
        self._free(ended)
        self._fairness.settle(ended, attempts.largest_us, scheduler.cost_mode)
        self._cut.settled_overruns.extend(attempts.overran)
        return ended.slots

    def _free(self, ended: Settled) -> None:
        scheduler = self._cut.scheduler
        self._configuration.introduce(ended.org)
        held = scheduler.org(ended.org).seats[ended.reserved].in_flight
        if ended.slots > held:
            # Only hands on the tables do this. The sweep counts the rows; here, never below zero.
            log.warning("tick.repaired", org=ended.org, ended=ended.slots, in_flight=held)
            ended = ended._replace(slots=held)
        scheduler.settle(ended)

    def _arrive(self, staged: Sequence[Staged]) -> int:
        """Note work that was staged; return how many tasks."""
        for work in staged:
            self._configuration.introduce(work.org)
            self._cut.scheduler.arrive(work.org, work.workload, work.tasks)
            self._shadow.arrive(work.org, work.workload, work.tasks)
            self._cut.lower_cursor(work.org, work.workload, work.neg_priority, work.task_id)
            self._preemption.note(work)
            self._hints.learn(work)
        return sum(work.tasks for work in staged)

    def _count_all(self) -> int:
        """Learn the backlogs from the tables: more was staged than a feed may read."""
        staged = 0
        for org, workload, found in self._cut.counted_flows(self._connection):
            self._configuration.introduce(org)
            self._cut.recount(org, workload, found)
            staged += found
        self._shadow.correct(Plan())
        self._preemption.load()
        return staged
