"""Plans of a tick, over backlogs that may have been counted up to a bound only."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from psycopg import Connection

from orchestrator.fairness import Plan, Slots
from orchestrator.leader.cut import CURSOR_START, Cut
from orchestrator.store import cut as stored
from orchestrator.store.sql import run

# How many staged tasks one count of flows may look at, where a count to the bound was not enough.
_FURTHER = 20_000


class Planner:
    """Has the scheduler of a cut plan, with all that the plan needs counted."""

    def __init__(self, connection: Connection[Any], cut: Cut) -> None:
        self._connection = connection
        self._cut = cut

    def plan(self, slots: Slots) -> Plan:
        """Plan up to `slots` admissions; what was counted up to a bound is counted on first."""
        scheduler = self._cut.scheduler
        while True:
            plan = scheduler.plan(slots.main, slots.express)
            exhausted = self._exhausted(plan)
            if not exhausted:
                return plan
            scheduler.undo(plan)
            self._count_further(exhausted, sum(slots))

    def _exhausted(self, plan: Plan) -> list[tuple[str, str]]:
        """Return the flows of which a plan took all that is believed, and that may hold more."""
        uncounted = self._cut.uncounted
        if not uncounted:
            return []
        waits = self._cut.scheduler.waits
        wanted = {(pick.org, pick.workload) for pick in plan.picks}
        return [flow for flow in uncounted & wanted if not waits(*flow)]

    def _count_further(self, flows: Collection[tuple[str, str]], slots: int) -> None:
        """Count the next stretch of `flows`, further than a plan of `slots` can reach."""
        # Further than a first count: each time it is not far enough, a plan is thrown away.
        most = max(stored.COUNT_MAX, _FURTHER // len(flows)) + slots
        for flow in flows:
            cursor = self._cut.cursors.get(flow, CURSOR_START)
            counting = stored.count_flow(
                self._cut.queue.id, *flow, cursor, self._cut.row.staging_snapshot, most
            )
            found = run(self._connection, counting)
            self._cut.scheduler.set_backlog(*flow, found)
            if found < most:
                self._cut.uncounted.discard(flow)
