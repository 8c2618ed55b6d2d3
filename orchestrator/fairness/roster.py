"""Who there is to serve: the orgs of one queue, their flows, the slots they hold, the workloads.

Facts only; what follows from them is the scheduler's.
"""

from __future__ import annotations

from typing import NamedTuple

from orchestrator.fairness.line import Line
from orchestrator.fairness.state import FlowState, Lane, OrgState


class WorkloadClass(NamedTuple):
    """What operators decide of a workload, for every org."""

    share: int = 1
    rank: int = 0
    express: bool = False
    # A flow of which the tasks take longer than this is express in name only; None = no bound.
    express_max_us: int | None = None


_UNKNOWN = WorkloadClass()


class Roster:
    """Orgs, flows, workloads and both lanes of one queue.

    `dirty` collects the orgs whose persisted rows are out of date; the owner clears it once they
    are written.
    """

    def __init__(self, virtual_time: int, express_virtual_time: int) -> None:
        self.in_flight = 0
        self.backlog = 0
        self.main = Line(Lane.MAIN, virtual_time)
        self.express = Line(Lane.EXPRESS, express_virtual_time)
        self.lines = (self.main, self.express)
        self.orgs: dict[str, OrgState] = {}
        self.dirty: set[str] = set()
        self._workloads: dict[str, WorkloadClass] = {}
        # Whose place in line is to be looked at again at the next `wake`.
        self._touched: dict[str, OrgState] = {}
        self._running: dict[str, OrgState] = {}
        self._appeared = 0

    @property
    def has_express(self) -> bool:
        """Tell whether any workload is express."""
        return any(workload.express for workload in self._workloads.values())

    def waits(self, org: str, workload: str) -> bool:
        """Tell whether the flow (org, workload) is believed to hold work."""
        state = self.orgs.get(org)
        flow = state.flows.get(workload) if state else None
        return flow is not None and flow.backlog > 0

    def set_critical(self, org: str, workload: str, count: int) -> None:
        """Set how many tasks at the head of the flow (org, workload) are critical.

        The next slots of the org go there; which org is next does not depend on it.
        """
        self._flow(self.org(org), workload).critical = count

    def set_workload(
        self,
        workload: str,
        *,
        share: int,
        rank: int,
        express: bool = False,
        express_max_us: int | None = None,
    ) -> None:
        """Set what operators decide of a workload, for every org."""
        wanted = WorkloadClass(share, rank, express, express_max_us)
        if self._workloads.get(workload) == wanted:
            return
        self._workloads[workload] = wanted
        for org in self.orgs.values():
            if flow := org.flows.get(workload):
                self._classify(org, flow)
                # Not at once: a leader that has just loaded its orgs configures them next.
                self._touched[org.org] = org

    def org(self, name: str) -> OrgState:
        """Return the state of org `name`, a new one that was never in line if unknown."""
        state = self.orgs.get(name)
        if state is None:
            self._appeared += 1
            state = OrgState(name, last_admit=self._appeared - 2**62)
            self.orgs[name] = state
        return state

    def _flow(self, state: OrgState, workload: str) -> FlowState:
        flow = state.flows.get(workload)
        if flow is None:
            flow = state.flows[workload] = FlowState(workload)
            self._classify(state, flow)
        return flow

    def _classify(self, state: OrgState, flow: FlowState) -> None:
        """Bring up to date what `flow` is due, and whether the reserve is open to it."""
        workload = self._workloads.get(flow.workload, _UNKNOWN)
        flow.share, flow.rank = workload.share, workload.rank
        express = workload.express and (
            workload.express_max_us is None or flow.cost_us <= workload.express_max_us
        )
        if express != flow.express:
            flow.express = express
            state.express_backlog += flow.backlog if express else -flow.backlog

    def _hold(self, state: OrgState, lane: Lane, slots: int) -> None:
        """Give `state` that many more slots of a lane, or take them."""
        state.seats[lane].in_flight += slots
        state.in_flight += slots
        self.lines[lane].in_flight += slots
        self.in_flight += slots
        self._note_running(state)

    def _note_running(self, state: OrgState) -> None:
        if state.in_flight:
            self._running[state.org] = state
        else:
            self._running.pop(state.org, None)

    def _touch(self, state: OrgState) -> None:
        self.dirty.add(state.org)
        self._touched[state.org] = state
