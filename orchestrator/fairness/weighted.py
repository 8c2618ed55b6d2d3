"""The default policy: the org that was charged least for its weight goes next."""

from __future__ import annotations

from orchestrator.fairness.line import Key
from orchestrator.fairness.scheduler import Scheduler, waiting
from orchestrator.fairness.state import FlowState, Seat


class WeightedScheduler(Scheduler):
    """Start-time fair queueing by weight, and inside an org by share, but
    critical work first.
    """

    _by_decision = False

    def _key(self, seat: Seat) -> Key:
        return (seat.tag, seat.in_flight > 0, seat.state.last_admit)

    def _choose(self, seat: Seat) -> FlowState:
        every = seat.state.flows
        if len(every) == 1:
            # The usual case, and no question: an org that is eligible has work.
            return next(iter(every.values()))
        flows = waiting(seat)
        if len(flows) == 1:
            return flows[0]
        lane = seat.lane
        return min(
            flows,
            key=lambda flow: (not flow.critical, flow.tags[lane], flow.rank, flow.workload),
        )
