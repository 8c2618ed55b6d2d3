"""The plain order: tier rank, then workload rank, then round robin over the orgs of that place.

For operators who want a lower tier to wait whenever a higher one has work. Starvation of the lower
tiers is what this policy means; the weighted policy is the default for that reason. Tags are kept
as in the weighted policy, so that a switch to it starts from sane ones.

A critical task goes first in its flow, but no worse workload goes before a better one for its sake:
here the rank of a workload decides between orgs, too.
"""

from __future__ import annotations

from orchestrator.fairness.line import Key
from orchestrator.fairness.scheduler import Scheduler, waiting
from orchestrator.fairness.state import FlowState, OrgState, Seat


class StrictScheduler(Scheduler):
    """Admit the best tier first, inside it the best workload, inside that the org served longest
    ago.
    """

    def _key(self, seat: Seat) -> Key:
        return (seat.state.rank, self._choose(seat).rank, seat.state.last_admit)

    def _choose(self, seat: Seat) -> FlowState:
        return min(waiting(seat), key=lambda flow: (flow.rank, flow.workload))

    def critical_flows(self, state: OrgState) -> list[FlowState]:
        """Return the flow that is next, if it has critical tasks."""
        return [self._choose(state.main)] if self._next_is_critical(state) else []

    def _next_is_critical(self, state: OrgState) -> bool:
        return state.backlog > 0 and self._choose(state.main).critical > 0
