"""Which flows hints are about, and which of them tell something new.

A hint names its flow by a number, which a feed tells of every flow that was staged into. So only
what a feed has told of before is known here: the first task of a flow is not.
"""

from __future__ import annotations

from orchestrator.store.admission import Staged
from orchestrator.wakeup.hint import Hint

# With more flows all are forgotten, and learnt again as they come: some ten megabytes at most.
FLOWS_MAX = 50_000


class Hints:
    """The flows that were told of during one term."""

    def __init__(self) -> None:
        # With the last task that is known of each.
        self._flows: dict[int, tuple[str, str, int]] = {}

    def learn(self, work: Staged) -> None:
        """Note a flow that a feed told of."""
        if len(self._flows) >= FLOWS_MAX:
            self._flows.clear()
        self._flows[work.number] = work.org, work.workload, work.task_id

    def knows(self, hint: Hint) -> bool:
        """Tell whether a hint is about a known flow, and about a task that, as far as is known, was
        not told of yet.
        """
        known = self._flows.get(hint.flow)
        return known is not None and known[2] < hint.task_id

    def take(self, hint: Hint) -> tuple[str, str]:
        """Return the flow (org, workload) of a hint that is known; its task is told of now."""
        org, workload, _ = self._flows[hint.flow]
        self._flows[hint.flow] = org, workload, hint.task_id
        return org, workload
