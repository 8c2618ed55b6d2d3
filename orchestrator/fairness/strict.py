"""The plain order: tier rank, then workload rank, then round robin over the orgs of that place.

For operators who want a lower tier to wait whenever a higher one has work. Starvation of the lower
tiers is what this policy means; the weighted policy is the default for that reason. Tags are kept
as in the weighted policy, so that a switch to it starts from sane ones.
"""

from __future__ import annotations

from orchestrator.fairness.line import Key
from orchestrator.fairness.scheduler import Scheduler, waiting
from orchestrator.fairness.state import FlowState, Seat


class StrictScheduler(Scheduler):
    """Admit the best tier first, inside it the best workload, inside that the org served longest
    ago.
    """

    def _key(self, seat: Seat) -> Key:
        return (seat.state.rank, self._choose(seat).rank, seat.state.last_admit)

    def _choose(self, seat: Seat) -> FlowState:
        return min(waiting(seat), key=lambda flow: (flow.rank, flow.workload))
