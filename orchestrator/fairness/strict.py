"""The plain order: tier rank, then workload rank, then round robin over the orgs of that place.

For operators who want a lower tier to wait whenever a higher one has work. Starvation of the lower
tiers is what this policy means; the weighted policy is the default for that reason.
"""

from __future__ import annotations

from orchestrator.fairness.costs import COUNT_COST_US, charge_of
from orchestrator.fairness.scheduler import Scheduler, _waiting
from orchestrator.fairness.state import FlowState, OrgState


class StrictScheduler(Scheduler):
    """Admit the best tier first, inside it the best workload, inside that the org served longest
    ago.
    """

    def _key(self, state: OrgState) -> tuple[int, ...]:
        return (state.rank, self._rank(self._choose(state)), state.last_admit)

    def _choose(self, state: OrgState) -> FlowState:
        return min(_waiting(state.flows.values()), key=lambda f: (self._rank(f), f.workload))

    def _charge(self, state: OrgState, flow: FlowState) -> int:
        # Tags keep moving, so that a switch to the weighted policy starts from sane ones.
        del flow
        state.tag = self.virtual_time
        return charge_of(COUNT_COST_US, state.weight)

    def _wake(self, state: OrgState) -> None:
        # Nothing to adjust: the order depends on ranks and turns, and neither is banked.
        return

    def _rank(self, flow: FlowState) -> int:
        return self._ranks.get(flow.workload, 0)
